package embedded_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage/embedded"
)

// childDir names the directory in which a child of the test binary starts a
// server and then waits to be killed.
const childDir = "WEFT_TEST_EMBEDDED_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if _, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, Settings: fast()}); err != nil {
			panic(err)
		}
		if _, err := os.Stdout.WriteString("started\n"); err != nil {
			panic(err)
		}
		select {}
	}
	os.Exit(m.Run())
}

func fast() map[string]string { return map[string]string{"fsync": "off", "shared_buffers": "16MB"} }

func needBinaries(t *testing.T) {
	t.Helper()
	if _, err := embedded.FindBinaries(t.Context(), 0); errors.Is(err, embedded.ErrNoBinaries) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
}

func start(t *testing.T, dir string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Settings: fast()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exec1(t *testing.T, s *embedded.Server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(got, " ")
}

func TestDataOutlivesTheServer(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	// The directories of tests are closed to other users, as a home directory
	// often is.
	dir := filepath.Join(t.TempDir(), "it's here")
	s := start(t, dir)
	exec1(t, s, `CREATE TABLE t AS SELECT 'kept' AS v`)
	if got := exec1(t, s, `SELECT lower('É')`); got != "é" {
		t.Errorf("lower('É') = %q, want é", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	default:
		t.Error("Done is open after Stop")
	}
	s = start(t, dir)
	if got := exec1(t, s, `SELECT v FROM t`); got != "kept" {
		t.Errorf("after a restart the table holds %q", got)
	}
	// A crash: what was committed is there afterwards.
	exec1(t, s, `INSERT INTO t VALUES ('late')`)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir)
	if got := exec1(t, s, `SELECT v FROM t ORDER BY v`); got != "kept late" {
		t.Errorf("after a crash the table holds %q", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOneProcessADirectory(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	dir := t.TempDir()
	s := start(t, dir)
	_, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "another process runs the server") {
		t.Errorf("second start: error %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestServerDiesWithItsProcess(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 100)); n == 0 {
		t.Fatalf("child did not start a server: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil {
		t.Fatal("child was not killed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := embedded.Start(ctx, embedded.Config{Dir: dir, Settings: fast()})
	if err != nil {
		t.Fatalf("start after the process was killed: %v", err)
	}
	if got := exec1(t, s, `SELECT 'up'`); got != "up" {
		t.Errorf("got %q", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestStaleProcessFile(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	dir := t.TempDir()
	s := start(t, dir)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A process that is alive and no server, as after a restart of a container.
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = sleeper.Process.Kill(), sleeper.Wait() }()
	pid := []byte(strconv.Itoa(sleeper.Process.Pid) + "\n" + filepath.Join(dir, "data") + "\n")
	if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), pid, 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process that the stale file named was hurt: %v", err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	needBinaries(t)
	_, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), BinDir: "/nowhere"})
	if err == nil || !strings.Contains(err.Error(), "/nowhere") || strings.Contains(err.Error(), "\n") {
		t.Errorf("missing binaries: error %v", err)
	}
	_, err = embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Settings: map[string]string{"shared_buffers": "lots"}})
	if err == nil || !strings.Contains(err.Error(), "shared_buffers") || strings.Contains(err.Error(), "\n") {
		t.Errorf("bad setting: error %v", err)
	}
}
