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
)

// redisServer is a private Redis. It keeps nothing: it only passes messages on.
type redisServer struct {
	cmd *exec.Cmd
	// exited delivers how it ended, and is closed then.
	exited chan error
}

// redisSocket is where the private Redis of a cluster listens.
func redisSocket(cfg Config) (string, error) {
	run, err := makeSocketDir(cfg)
	return filepath.Join(run, "redis.sock"), err
}

// startRedis starts a Redis on a socket, with its log under dir, and returns when it accepts connections.
func startRedis(ctx context.Context, fork *forker, dir, socket string) (*redisServer, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not installed (Debian: apt-get install redis-server), and no redis section is configured")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make Redis directory: %w", err)
	}
	_ = os.Remove(socket) // left by one that was killed
	logFile, err := os.OpenFile(filepath.Join(dir, "redis.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of Redis: %w", err)
	}
	defer func() { _ = logFile.Close() }()
	r := &redisServer{exited: make(chan error, 1)}
	r.cmd, err = fork.startCommand(exec.Command(bin,
		"--port", "0", "--unixsocket", socket, "--unixsocketperm", strconv.FormatInt(0o700, 8),
		"--dir", dir, "--save", "", "--appendonly", "no", "--daemonize", "no"), logFile)
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	go func() {
		r.exited <- r.cmd.Wait()
		close(r.exited)
	}()
	if err := r.waitReady(ctx, socket); err != nil {
		return nil, err
	}
	return r, nil
}

// waitReady waits until the socket is there; its making gives no other sign.
func (r *redisServer) waitReady(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		if conn, err := d.DialContext(ctx, "unix", socket); err == nil {
			return conn.Close()
		}
		select {
		case err := <-r.exited:
			return fmt.Errorf("redis ended at its start: %w", err)
		case <-ctx.Done():
			r.stop()
			return fmt.Errorf("wait for Redis: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stop ends it. It keeps nothing, so how it ends does not matter.
func (r *redisServer) stop() { _ = terminate(r.cmd.Process, r.exited) }
