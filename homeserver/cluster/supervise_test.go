package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"
	"github.com/rs/zerolog"
)

// binDir links the names of all programs to the test binary.
func binDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, app := range []string{AppHomeserver, AppGenericWorker, AppEventPersister, AppRouter} {
		if err := os.Symlink(self, filepath.Join(dir, app)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stub is a configuration with which no backends are started.
func stub(t *testing.T, workers ...string) Config {
	t.Helper()
	top := Topology{Processes: []Process{{App: AppHomeserver}, {App: AppRouter}}}
	for _, name := range workers {
		top.Processes = append(top.Processes, Process{Name: name, App: AppGenericWorker})
	}
	return Config{
		Dir: t.TempDir(), Topology: top, BinDir: binDir(t), DatabaseArgs: map[string]any{"host": "nowhere", "dbname": "none"},
		Redis: map[string]any{"enabled": true, "host": "nowhere"},
	}
}

type run struct {
	*Supervisor
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, cfg Config) *run {
	t.Helper()
	s, err := New(cfg, zerolog.New(zerolog.NewTestWriter(t)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{s, cancel, make(chan error, 1)}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.done:
		case <-time.After(time.Minute):
			t.Error("the supervisor does not stop")
		}
	})
	return r
}

func (r *run) waitReady(t *testing.T) {
	t.Helper()
	select {
	case <-r.Ready():
	case err := <-r.done:
		r.done <- err
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
}

// stop ends the run and returns what Run returned.
func (r *run) stop() error {
	r.cancel()
	err := <-r.done
	r.done <- err
	return err
}

// eventually waits for a condition that gives no other sign.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func processState(t *testing.T, dir, name string) ProcessState {
	t.Helper()
	state, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(state.Processes, func(p ProcessState) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("no %s in %+v", name, state)
	}
	return state.Processes[i]
}

func TestRunsAndStopsInOrder(t *testing.T) {
	t.Parallel()
	cfg := stub(t, "worker1")
	r := start(t, cfg)
	r.waitReady(t)
	if got := processState(t, cfg.Dir, "worker1"); got.PID == 0 || got.App != AppGenericWorker || !strings.HasPrefix(got.Address, "unix:") {
		t.Errorf("state of worker1: %+v", got)
	}
	other, err := New(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second cluster in the directory: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	stopped, _ := os.ReadFile(filepath.Join(cfg.Dir, "stopped"))
	if got := strings.Fields(string(stopped)); !slices.Equal(got, []string{"router", "worker1", "master"}) {
		t.Errorf("stopped in the order %v", got)
	}
	if _, err := ReadState(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state after the end: %v", err)
	}
}

func TestStartsAgainWhatDies(t *testing.T) {
	t.Parallel()
	cfg := stub(t, "worker1")
	r := start(t, cfg)
	r.waitReady(t)
	for restarts := 1; restarts <= 2; restarts++ {
		if err := syscall.Kill(processState(t, cfg.Dir, "worker1").PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "worker1 is started again", func() bool { return processState(t, cfg.Dir, "worker1").Restarts == restarts })
	}
	if got := processState(t, cfg.Dir, "master").Restarts; got != 0 {
		t.Errorf("master was restarted %d times", got)
	}
}

func TestFailingStarts(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"broken": "broken ended at its start: broken: nothing works (broken.log)",
		"stuck":  "stuck is not ready after 2s: replication: connection refused",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := stub(t, name)
			cfg.ReadyTimeout = 2 * time.Second
			r := start(t, cfg)
			err := <-r.done
			r.done <- err
			if err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

// A private Redis and a private PostgreSQL that die are started again, at the same addresses.
func TestStartsAgainItsServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { // PostgreSQL may run as another user
			break
		}
	}
	s, err := New(Config{Dir: dir, BinDir: dir, Topology: Default()}, zerolog.New(zerolog.NewTestWriter(t)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.startBackends(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	postgres, redis := b.postgres, b.redis
	postgresDone := postgres.Done()
	if err := syscall.Kill(redis.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	postmaster, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(postmaster, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-postgresDone
	eventually(t, "Redis answers", func() bool {
		c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{b.socket}, DialCtxFn: dialUnix, DisableCache: true})
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	eventually(t, "PostgreSQL answers", func() bool {
		conn, err := pgx.Connect(t.Context(), postgres.ConnString())
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err == nil
	})
	if err := b.stop(); err != nil {
		t.Error(err)
	}
}

func dialUnix(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
	return d.DialContext(ctx, "unix", path)
}
