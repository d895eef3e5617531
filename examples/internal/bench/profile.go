package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/cluster"
)

// profileSeconds is how long a profile is: less than a full measurement takes.
const profileSeconds = 5

// measure is spent with profiles of the processes, where there are to be some.
func (i *instance) measure(ctx context.Context, cfg Config, scenario string, work func() error) (usage, time.Duration, error) {
	finish, err := i.profile(ctx, cfg, scenario)
	if err != nil {
		return nil, 0, err
	}
	spent, elapsed, err := i.spent(work)
	return spent, elapsed, errors.Join(err, finish())
}

// profile takes a CPU profile of every process of Weft, where there is to be one, from now on. finish waits until a file is
// there for each, SCENARIO-PROCESS.pprof.
func (i *instance) profile(ctx context.Context, cfg Config, scenario string) (finish func() error, err error) {
	if cfg.ProfileDir == "" {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(cfg.ProfileDir, 0o755); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range i.state.Processes {
		g.Go(func() error { return writeProfile(ctx, p, filepath.Join(cfg.ProfileDir, scenario+"-"+p.Name+".pprof")) })
	}
	return g.Wait, nil
}

func writeProfile(ctx context.Context, p cluster.ProcessState, path string) error {
	c, url := cluster.HTTPClient(p.Address)
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", url, profileSeconds), nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile %s: %s", p.Name, resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
