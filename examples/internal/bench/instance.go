package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/examples/internal/unlimited"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/cluster"
	"github.com/weft-im/weft/homeserver/config"
)

// startTimeout bounds the start of a cluster.
const startTimeout = 2 * time.Minute

// instance is a running cluster.
type instance struct {
	dir      string
	url      string // of the router, or of the only process
	database string // connection string
	state    cluster.State
	stop     func() error
}

// startInstance runs a topology in a directory of its own until stop is called.
func startInstance(ctx context.Context, cfg Config, processes []cluster.Process) (_ *instance, err error) {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return nil, err
	}
	i := &instance{dir: dir}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	// The private PostgreSQL may run as another user, who has to reach its directory.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s, err := cluster.New(cluster.Config{
		Dir: dir, BinDir: cfg.BinDir, Listen: []string{listen},
		Topology: cluster.Topology{ServerName: "bench", Processes: processes, Options: unlimited.Options()},
	}, zerolog.New(os.Stderr).Level(zerolog.ErrorLevel))
	if err != nil {
		return nil, err
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Run(runCtx) }()
	i.stop = func() error {
		cancel()
		err := <-done
		_ = os.RemoveAll(dir)
		return err
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-s.Ready():
	case err := <-done:
		cancel()
		return nil, fmt.Errorf("start the cluster: %w", err)
	case <-timeout.C:
		return nil, fmt.Errorf("the cluster is not ready after %s: %w", startTimeout, i.stop())
	case <-ctx.Done():
		_ = i.stop()
		return nil, ctx.Err()
	}
	i.url = s.URL()
	if i.state, err = cluster.ReadState(dir); err != nil {
		_ = i.stop()
		return nil, err
	}
	shared, err := config.Load(i.state.ConfigPath)
	if err != nil {
		_ = i.stop()
		return nil, err
	}
	i.database = shared.ConnString()
	return i, nil
}

// usage reads the CPU times of all processes of the cluster.
func (i *instance) usage() (usage, error) {
	names := map[int]string{}
	for _, p := range i.state.Processes {
		names[p.PID] = p.Name
	}
	return readUsage(names)
}

// spent has work done, and returns the CPU time that all processes took meanwhile and how long it was.
func (i *instance) spent(work func() error) (usage, time.Duration, error) {
	before, err := i.usage()
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	if err := work(); err != nil {
		return nil, 0, err
	}
	elapsed := time.Since(start)
	after, err := i.usage()
	if err != nil {
		return nil, 0, err
	}
	return after.since(before), elapsed, nil
}

// clientAddress is where a process itself, without the router, serves clients.
func (i *instance) clientAddress(process string) (string, error) {
	cfg, err := config.Load(i.state.ConfigPath, filepath.Join(filepath.Dir(i.state.ConfigPath), process+".yaml"))
	if err != nil {
		return "", err
	}
	for _, l := range cfg.ActiveListeners() {
		if l.Path != "" && slices.Contains(l.Names(), homeserver.ResourceClient) {
			return "unix:" + l.Path, nil
		}
	}
	return "", fmt.Errorf("%s serves no clients", process)
}

// oneProcess is a homeserver of a single process.
func oneProcess() []cluster.Process {
	return []cluster.Process{{Name: config.MainName, App: cluster.AppHomeserver}}
}

// smallCluster is a router, a generic worker and an event persister, beside the main process, over Redis.
func smallCluster() []cluster.Process {
	return append(oneProcess(),
		cluster.Process{Name: "worker1", App: cluster.AppGenericWorker},
		cluster.Process{Name: "persister1", App: cluster.AppEventPersister},
		cluster.Process{Name: "router", App: cluster.AppRouter})
}

// Supported reports why there can be no figures on this system, or nil.
func Supported() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("bench reads /proc, which %s does not have", runtime.GOOS)
	}
	return nil
}
