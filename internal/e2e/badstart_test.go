package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/cluster"
	"github.com/weft-im/weft/storage/storagetest"
)

// site is a directory with the configuration of a server, for processes that are started one by one.
type site struct {
	t        *testing.T
	dir, bin string
}

// newSite writes homeserver.yaml with the database, the Redis and further lines of YAML given.
func newSite(t *testing.T, database *pgx.ConnConfig, redis, more string) *site {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "weft") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t, dir, bin}
	host, port, err := net.SplitHostPort(redis)
	if err != nil {
		t.Fatal(err)
	}
	s.write("homeserver.yaml", fmt.Sprintf(`server_name: test
signing_key_path: %[1]s/signing.key
registration_shared_secret: s
database: {name: psycopg2, args: {host: %[2]q, port: %[3]d, user: %[4]q, password: %[5]q, dbname: %[6]q, connect_timeout: 2}}
redis: {enabled: true, host: %[7]s, port: %[8]s}
listeners: [{type: http, path: %[1]s/master.sock, resources: [{names: [replication, health]}]}]
instance_map:
  main: {path: %[1]s/master.sock}
  worker1: {path: %[1]s/worker1.sock}
%[9]s`, dir, database.Host, database.Port, database.User, database.Password, database.Database, host, port, more))
	s.write("worker1.yaml", s.worker("worker1", "generic_worker"))
	return s
}

func (s *site) worker(name, app string) string {
	return fmt.Sprintf("worker_app: %s\nworker_name: %s\nworker_listeners: [{type: http, path: %s/%s.sock, resources: [{names: [replication, health]}]}]\n", app, name, s.dir, name)
}

func (s *site) write(file, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, file), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// process is a program that runs until the test ends.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan error
}

func (s *site) start(program string, files ...string) *process {
	s.t.Helper()
	var args []string
	for _, f := range files {
		args = append(args, "-c", filepath.Join(s.dir, f))
	}
	p := &process{cmd: exec.Command(filepath.Join(s.bin, program), args...), ended: make(chan error, 1)}
	p.cmd.Stderr = &p.stderr
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { p.ended <- p.cmd.Wait(); close(done) }()
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			_ = p.cmd.Process.Kill()
			s.t.Errorf("%s does not end", program)
		}
	})
	return p
}

// mustFail waits for the end of a process and returns what it said that is no log.
func (p *process) mustFail(t *testing.T) string {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		t.Fatalf("it runs: %s", p.stderr.Bytes())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	var said []string
	for line := range strings.Lines(p.stderr.String()) {
		if !strings.HasPrefix(line, `{"level":`) {
			said = append(said, strings.TrimSpace(line))
		}
	}
	if len(said) != 1 {
		t.Errorf("it said %d lines, want one: %q", len(said), said)
	}
	return strings.Join(said, "\n")
}

// status asks a process for /ready; nil when it does not answer.
func (s *site) status(ctx context.Context, name string) (status *homeserver.Status, code int) {
	client, base := cluster.HTTPClient("unix:" + filepath.Join(s.dir, name+".sock"))
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/ready", nil)
	if err != nil {
		return nil, 0
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0
	}
	defer resp.Body.Close()
	status = &homeserver.Status{}
	if err := json.NewDecoder(resp.Body).Decode(status); err != nil {
		return nil, 0
	}
	return status, resp.StatusCode
}

// waitReason waits until /ready says that a component is not ready, for a reason.
func (s *site) waitReason(ctx context.Context, name, component, reason string) {
	s.t.Helper()
	waitFor(ctx, s.t, component+" is not ready: "+reason, func() bool {
		status, code := s.status(ctx, name)
		if status == nil || code != http.StatusServiceUnavailable {
			return false
		}
		for _, c := range status.Components {
			if c.Name == component && !c.Ready && strings.Contains(c.Reason, reason) {
				return true
			}
		}
		return false
	})
}

func (s *site) waitReady(ctx context.Context, name string) {
	s.t.Helper()
	waitFor(ctx, s.t, name+" is ready", func() bool {
		_, code := s.status(ctx, name)
		return code == http.StatusOK
	})
}

func testDatabase(t *testing.T) *pgx.ConnConfig {
	t.Helper()
	c, err := pgx.ParseConfig(storagetest.NewConnString(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A process that cannot run as it is told to says in one line which option of which file is wrong.
func TestBadStarts(t *testing.T) {
	t.Parallel()
	database, redis := testDatabase(t), miniredis.RunT(t).Addr()
	missing := *database
	missing.Database = "weft_no_such_database"
	for name, tc := range map[string]struct {
		database *pgx.ConnConfig
		more     string
		program  string
		files    []string
		want     string // DIR stands for the directory
	}{
		"another program's worker_app": {
			program: "event_persister", files: []string{"homeserver.yaml", "user_dir.yaml"},
			want: "DIR/user_dir.yaml:1: worker_app: expected event_persister or generic_worker, got user_dir",
		},
		"a worker started as main": {
			program: "homeserver", files: []string{"homeserver.yaml", "worker1.yaml"},
			want: "DIR/worker1.yaml:1: worker_app: expected homeserver, got generic_worker",
		},
		"main started as a worker": {
			program: "generic_worker", files: []string{"homeserver.yaml"},
			want: "worker_app: expected generic_worker, got no worker_app",
		},
		"a misspelt worker_app": {
			program: "generic_worker", files: []string{"homeserver.yaml", "misspelt.yaml"},
			want: `DIR/misspelt.yaml:1: worker_app: unknown application "synapse.app.generic_wroker"`,
		},
		"a stream writer that is no instance": {
			more: "stream_writers: {typing: worker7}\n", program: "homeserver", files: []string{"homeserver.yaml"},
			want: "DIR/homeserver.yaml:10: stream_writers.typing:",
		},
		"a database that does not exist": {
			database: &missing, program: "homeserver", files: []string{"homeserver.yaml"},
			want: "DIR/homeserver.yaml:4: database.args:",
		},
		"a missing file": {
			program: "homeserver", files: []string{"nowhere.yaml"}, want: "nowhere.yaml",
		},
		"no YAML": {
			program: "homeserver", files: []string{"homeserver.yaml", "broken.yaml"}, want: "DIR/broken.yaml:1:",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.database == nil {
				tc.database = database
			}
			s := newSite(t, tc.database, redis, tc.more)
			s.write("user_dir.yaml", s.worker("worker1", "user_dir"))
			s.write("misspelt.yaml", s.worker("worker1", "synapse.app.generic_wroker"))
			s.write("broken.yaml", "worker_app: [\n")
			said := s.start(tc.program, tc.files...).mustFail(t)
			if want := strings.ReplaceAll(tc.want, "DIR", s.dir); !strings.Contains(said, want) {
				t.Errorf("it said\n%s\nwant\n%s", said, want)
			}
		})
	}
}

// Of two processes with one name the second one ends, and the first one goes on.
func TestStartUnderATakenName(t *testing.T) {
	t.Parallel()
	s := newSite(t, testDatabase(t), miniredis.RunT(t).Addr(), "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.start("homeserver", "homeserver.yaml")
	s.start("generic_worker", "homeserver.yaml", "worker1.yaml")
	s.waitReady(ctx, "worker1")
	s.write("again.yaml", strings.Replace(s.worker("worker1", "generic_worker"), "worker1.sock", "again.sock", 1))
	said := s.start("generic_worker", "homeserver.yaml", "again.yaml").mustFail(t)
	if want := s.dir + `/again.yaml:2: worker_name: "worker1": another process is running under this name`; said != want {
		t.Errorf("it said\n%s\nwant\n%s", said, want)
	}
	s.waitReady(ctx, "worker1")
}

// A Redis or a database that is not there yet is waited for, and /ready says so.
func TestStartBeforeItsServers(t *testing.T) {
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		redis := miniredis.RunT(t)
		addr := redis.Addr()
		redis.Close()
		s := newSite(t, testDatabase(t), addr, "")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s.start("homeserver", "homeserver.yaml")
		s.start("generic_worker", "homeserver.yaml", "worker1.yaml")
		s.waitReason(ctx, "master", "replication", "connection refused")
		s.waitReason(ctx, "worker1", "replication", "connection refused")
		if err := redis.StartAddr(addr); err != nil {
			t.Fatal(err)
		}
		s.waitReady(ctx, "master")
		s.waitReady(ctx, "worker1")
	})
	t.Run("database", func(t *testing.T) {
		t.Parallel()
		// The database is behind a door that opens later.
		database := testDatabase(t)
		front := freeAddress(t)
		closed := *database
		host, port, err := net.SplitHostPort(front)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(port, &closed.Port); err != nil {
			t.Fatal(err)
		}
		closed.Host = host
		s := newSite(t, &closed, miniredis.RunT(t).Addr(), "")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s.start("homeserver", "homeserver.yaml")
		s.waitReason(ctx, "master", "database", "connection refused")
		passOn(t, front, database)
		s.waitReady(ctx, "master")
	})
}

// passOn accepts connections at address and passes on what they say to the database.
func passOn(t *testing.T, address string, database *pgx.ConnConfig) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	network, target := "tcp", net.JoinHostPort(database.Host, fmt.Sprint(database.Port))
	if strings.HasPrefix(database.Host, "/") {
		network, target = "unix", filepath.Join(database.Host, fmt.Sprintf(".s.PGSQL.%d", database.Port))
	}
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial(network, target)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { defer in.Close(); defer out.Close(); _, _ = io.Copy(out, in) }()
			go func() { defer in.Close(); defer out.Close(); _, _ = io.Copy(in, out) }()
		}
	}()
}
