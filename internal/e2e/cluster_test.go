package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/cluster"
)

// built is the directory of the worker apps, once there is one.
var built atomic.Pointer[string]

// programs builds the worker apps once for all tests of the package and returns the directory they are in.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "weft-e2e-bin-")
	if err != nil {
		return "", err
	}
	built.Store(&dir)
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "github.com/weft-im/weft/examples/...")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the worker apps: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir := built.Load(); dir != nil {
		_ = os.RemoveAll(*dir)
	}
	os.Exit(code)
}

// startCluster runs a topology until the test ends and returns where clients find it, and its directory.
func startCluster(t *testing.T, topology cluster.Topology) (url, dir string) {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	// The private PostgreSQL may run as another user, who has to reach its directory.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			break
		}
	}
	s, err := cluster.New(cluster.Config{
		Dir: dir, Topology: topology, BinDir: bin, Listen: []string{freeAddress(t)},
	}, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the cluster did not stop cleanly: %v", err)
		}
		if t.Failed() {
			showLogs(t, dir)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		showLogs(t, dir)
		t.Fatalf("the cluster did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the cluster is not ready after a minute")
	}
	return s.URL(), dir
}

func showLogs(t *testing.T, dir string) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		const most = 8 << 10
		if len(data) > most {
			data = data[len(data)-most:]
		}
		t.Logf("%s:\n%s", filepath.Base(path), data)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
