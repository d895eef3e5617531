package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage/embedded"
)

// backends are the servers that the cluster runs for its processes because none are configured.
type backends struct {
	postgres *embedded.Server
	redis    *exec.Cmd
	redisEnd chan error
	fork     *forker
}

// startBackends starts what the topology does not bring and fills in where it is.
func (s *Supervisor) startBackends(ctx context.Context) (_ *backends, err error) {
	b := &backends{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop())
		}
	}()
	if _, ok := s.cfg.Topology.Options["database"]; !ok && s.cfg.DatabaseArgs == nil {
		b.postgres, err = embedded.Start(ctx, embedded.Config{Dir: filepath.Join(s.cfg.Dir, "postgres"), Log: s.log})
		if err != nil {
			return b, err
		}
		if s.cfg.DatabaseArgs, err = databaseArgs(b.postgres.ConnString()); err != nil {
			return b, err
		}
	}
	if _, ok := s.cfg.Topology.Options["redis"]; !ok && s.cfg.Redis == nil && len(s.cfg.Topology.Processes) > 1 {
		socket, err := b.startRedis(ctx, s.cfg.Dir)
		if err != nil {
			return b, err
		}
		s.cfg.Redis = map[string]any{"enabled": true, "path": socket}
	}
	return b, nil
}

// databaseArgs turns a connection string into database.args.
func databaseArgs(conn string) (map[string]any, error) {
	c, err := pgx.ParseConfig(conn)
	if err != nil {
		return nil, fmt.Errorf("read connection string of the private PostgreSQL: %w", err)
	}
	args := map[string]any{"host": c.Host, "port": int(c.Port), "user": c.User, "dbname": c.Database, "cp_min": 1, "cp_max": 10}
	if c.Password != "" {
		args["password"] = c.Password
	}
	return args, nil
}

// startRedis starts a Redis that keeps nothing: it only passes messages on. It returns the path of
// its socket.
func (b *backends) startRedis(ctx context.Context, dir string) (socket string, err error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("redis-server is not installed (Debian: apt-get install redis-server), and no redis section is configured")
	}
	data := filepath.Join(dir, "redis")
	run, err := socketDir(dir)
	if err != nil {
		return "", err
	}
	for _, d := range []string{data, filepath.Join(dir, "run")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", fmt.Errorf("make Redis directory: %w", err)
		}
	}
	socket = filepath.Join(run, "redis.sock")
	_ = os.Remove(socket) // left by one that was killed
	logFile, err := os.OpenFile(filepath.Join(data, "redis.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("open log of Redis: %w", err)
	}
	defer func() { _ = logFile.Close() }()
	b.fork = newForker()
	b.redis, err = b.fork.startCommand(exec.Command(bin,
		"--port", "0", "--unixsocket", socket, "--unixsocketperm", strconv.FormatInt(0o700, 8),
		"--dir", data, "--save", "", "--appendonly", "no", "--daemonize", "no"), logFile)
	if err != nil {
		return "", fmt.Errorf("start Redis: %w", err)
	}
	b.redisEnd = make(chan error, 1)
	go func() { b.redisEnd <- b.redis.Wait() }()
	return socket, b.waitRedis(ctx, socket)
}

// waitRedis waits until the socket is there; its making gives no other sign.
func (b *backends) waitRedis(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		if conn, err := d.DialContext(ctx, "unix", socket); err == nil {
			return conn.Close()
		}
		select {
		case err := <-b.redisEnd:
			b.redis = nil
			return fmt.Errorf("redis ended at its start: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("wait for Redis: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// died delivers an error when a backend ends by itself.
func (b *backends) died() <-chan error {
	out := make(chan error, 2)
	if b.postgres != nil {
		go func() { <-b.postgres.Done(); out <- errors.New("the private PostgreSQL has ended") }()
	}
	if b.redis != nil {
		go func() {
			err := <-b.redisEnd
			b.redisEnd <- err
			out <- fmt.Errorf("the private Redis has ended: %w", err)
		}()
	}
	return out
}

// stop ends the servers in bounded time, also when the caller's context has ended.
//
//nolint:contextcheck // see above
func (b *backends) stop() error {
	var errs []error
	if b.redis != nil {
		// Redis keeps nothing, so how it ends does not matter.
		_ = terminate(b.redis.Process, b.redisEnd)
	}
	if b.fork != nil {
		b.fork.close()
	}
	if b.postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		errs = append(errs, b.postgres.Stop(ctx))
	}
	return errors.Join(errs...)
}
