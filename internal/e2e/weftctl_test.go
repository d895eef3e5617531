package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/homeserver/cluster"
	"github.com/weft-im/weft/storage/storagetest"
)

// weftctl runs the operator's tool and returns its exit status and what it printed.
func weftctl(t *testing.T, env []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	// Not the test's context: a set of processes is stopped in a cleanup too.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(bin, "weftctl"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, append(os.Environ(), env...)
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("weftctl %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// mustCtl is weftctl for what must succeed.
func mustCtl(t *testing.T, env []string, args ...string) string {
	t.Helper()
	status, out, errs := weftctl(t, env, args...)
	if status != 0 {
		t.Fatalf("weftctl %v: status %d\n%s%s", args, status, out, errs)
	}
	return out
}

// request makes a JSON request and returns the status and the body.
func request(t *testing.T, method, url string, body any) (int, []byte) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// What an operator asks of a cluster that runs.
func TestWeftctlOnACluster(t *testing.T) {
	t.Parallel()
	url, dir := startCluster(t, cluster.Default())
	env := []string{"WEFT_DIR=" + dir}
	conf := func(name string) string { return filepath.Join(dir, "conf", name+".yaml") }

	t.Run("ps", func(t *testing.T) {
		type process struct {
			Name, App, Address string
			PID                int
			Status             *struct {
				Streams []struct {
					Stream  string
					Written bool
					Writers []struct {
						Writer        string
						Position, Lag int64
					}
				}
			}
		}
		var ps []process
		if err := json.Unmarshal([]byte(mustCtl(t, env, "ps", "--json")), &ps); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range ps {
			var written []string
			if p.Status != nil {
				for _, s := range p.Status.Streams {
					if s.Written && (s.Stream == "events" || s.Stream == "typing") {
						written = append(written, s.Stream)
					}
				}
			}
			got = append(got, fmt.Sprint(p.Name, " ", p.App, " ", written))
			if err := syscall.Kill(p.PID, 0); err != nil {
				t.Errorf("%s: process %d: %v", p.Name, p.PID, err)
			}
		}
		want := []string{
			"master homeserver [typing]", "worker1 generic_worker []", "worker2 generic_worker []",
			"persister1 event_persister [events]", "persister2 event_persister [events]", "router router []",
		}
		if !slices.Equal(got, want) {
			t.Errorf("processes %q, want %q", got, want)
		}
		text := mustCtl(t, env, "ps")
		for _, line := range []string{"NAME", "router", "persister1", "POSITION", "LAG"} {
			if !strings.Contains(text, line) {
				t.Errorf("no %s in\n%s", line, text)
			}
		}
		if status, _, errs := weftctl(t, []string{"WEFT_DIR=" + t.TempDir()}, "ps"); status != 1 || !strings.Contains(errs, "no cluster runs in") {
			t.Errorf("ps where no cluster is: %d %q", status, errs)
		}
	})

	t.Run("register", func(t *testing.T) {
		password := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(password, []byte("correct horse\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out := mustCtl(t, env, "register", "-c", conf("homeserver"), "-u", "carol", "--password-file", password, "--admin", url)
		if !strings.Contains(out, "registered @carol:localhost") {
			t.Errorf("printed %q", out)
		}
		status, body := request(t, "POST", url+"/_matrix/client/v3/login", map[string]any{
			"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": "carol"}, "password": "correct horse",
		})
		if status != 200 {
			t.Errorf("login: %d %s", status, body)
		}
		if status, _, errs := weftctl(t, env, "register", "-c", conf("homeserver"), "-u", "carol", "-p", "other", url); status != 1 || !strings.Contains(errs, "M_USER_IN_USE") {
			t.Errorf("the same name again: %d %q", status, errs)
		}
		if status, _, errs := weftctl(t, env, "register", "-k", "wrong", "-u", "dave", "-p", "other", url); status != 1 || !strings.Contains(errs, "403") {
			t.Errorf("with the wrong secret: %d %q", status, errs)
		}
		for _, args := range [][]string{{"-u", "dave", "-p", "x"}, {"-k", "s", "-p", "x"}, {"-k", "s", "-u", "dave"}, {"-k", "s", "-u", "dave", "-p", "x", "a", "b"}} {
			if status, _, errs := weftctl(t, env, append([]string{"register"}, args...)...); status != 2 || !strings.Contains(errs, "weftctl register: ") {
				t.Errorf("%v: %d %q", args, status, errs)
			}
		}
	})

	t.Run("migrate", func(t *testing.T) {
		if out := mustCtl(t, env, "migrate", "-c", conf("homeserver")); !strings.Contains(out, "up to date") {
			t.Errorf("printed %q", out)
		}
	})

	t.Run("config check", func(t *testing.T) {
		for _, files := range [][]string{{"homeserver"}, {"homeserver", "worker1"}, {"homeserver", "persister2"}, {"homeserver", "router"}} {
			args := []string{"config", "check"}
			for _, f := range files {
				args = append(args, "-c", conf(f))
			}
			if out := mustCtl(t, env, args...); !strings.Contains(out, "no errors") {
				t.Errorf("%v: printed %q", files, out)
			}
		}
		bad := filepath.Join(t.TempDir(), "bad.yaml")
		if err := os.WriteFile(bad, []byte("worker_app: generic_wroker\nworker_name: master\nworker_listeners: 5\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		status, _, errs := weftctl(t, env, "config", "check", "-c", conf("homeserver"), "-c", bad)
		if status != 1 || !strings.Contains(errs, bad+":3: worker_listeners: ") {
			t.Errorf("a broken configuration: %d %q", status, errs)
		}
	})

	t.Run("routes", func(t *testing.T) {
		for _, format := range []string{"nginx", "haproxy", "caddy"} {
			out := mustCtl(t, env, "routes", "--format", format, "-c", conf("homeserver"), "-c", conf("router"))
			for _, p := range []string{"master.sock", "worker1.sock", "worker2.sock"} {
				if !strings.Contains(out, p) {
					t.Errorf("%s: %s is not in the configuration", format, p)
				}
			}
		}
		if status, _, errs := weftctl(t, env, "routes", "--format", "apache"); status != 2 || !strings.Contains(errs, `unknown format "apache"`) {
			t.Errorf("an unknown format: %d %q", status, errs)
		}
	})
}

// A set of processes that weftctl starts and stops, as synctl does.
func TestWeftctlRunsWorkers(t *testing.T) {
	t.Parallel()
	set := newWorkerSet(t)
	all := []string{"-c", set.shared, "-a", set.workers}
	ctl := func(command string, args ...string) string {
		return mustCtl(t, nil, append([]string{command}, args...)...)
	}
	t.Cleanup(func() { _, _, _ = weftctl(t, nil, append([]string{"stop"}, all...)...) })

	for _, want := range []string{"started", "already running"} {
		out := ctl("start", all...)
		if strings.Count(out, want) != 2 || !strings.HasPrefix(out, "master: ") {
			t.Errorf("start printed\n%s, want main first, and both %s", out, want)
		}
	}
	first := set.pids(t)
	for _, url := range set.urls {
		if status, body := request(t, "GET", url+"/_matrix/client/versions", nil); status != 200 {
			t.Errorf("%s: %d %s", url, status, body)
		}
	}

	if out := ctl("restart", all...); strings.Index(out, "worker1: stopped") > strings.Index(out, "master: stopped") || strings.Count(out, "started") != 2 {
		t.Errorf("restart printed\n%s, want workers stopped before main, and both started", out)
	}
	second := set.pids(t)
	if first["master"] == second["master"] || first["worker1"] == second["worker1"] {
		t.Errorf("processes %v before and %v after", first, second)
	}

	// A broken configuration stops nothing.
	broken := filepath.Join(set.workers, "worker2.yaml")
	if err := os.WriteFile(broken, []byte("worker_app: generic_worker\nworker_listeners: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := weftctl(t, nil, append([]string{"restart"}, all...)...); status != 1 || !strings.Contains(errs, broken+":2: worker_listeners: ") {
		t.Errorf("restart with a broken file: %d %s%s", status, out, errs)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if third := set.pids(t); third["master"] != second["master"] || third["worker1"] != second["worker1"] {
		t.Errorf("processes %v before and %v after", second, third)
	}

	// One worker alone, and one that was killed and left its pid file.
	one := []string{"-c", set.shared, "-w", filepath.Join(set.workers, "worker1.yaml")}
	if out := ctl("stop", one...); out != "worker1: stopped\n" {
		t.Errorf("stop of one printed %q", out)
	}
	if _, err := os.Stat(set.pidFiles["worker1"]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pid file of a worker that stopped: %v", err)
	}
	if out := ctl("stop", one...); out != "worker1: not running\n" {
		t.Errorf("stop of one that does not run printed %q", out)
	}
	ctl("start", one...)
	killed := set.pids(t)["worker1"]
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	set.awaitEnd(t, killed)
	if out := ctl("start", one...); !strings.HasPrefix(out, "worker1: started") {
		t.Errorf("start after a kill printed %q", out)
	}

	if out := ctl("stop", all...); strings.Count(out, "stopped") != 2 {
		t.Errorf("stop printed\n%s", out)
	}
	for name, path := range set.pidFiles {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the pid file of %s is still there: %v", name, err)
		}
	}
	for _, args := range [][]string{{"start"}, {"stop", "-c", set.shared, "-a", set.workers, "-w", "x.yaml"}} {
		if status, _, errs := weftctl(t, nil, args...); status != 2 || !strings.Contains(errs, "weftctl "+args[0]+": ") {
			t.Errorf("%v: %d %q", args, status, errs)
		}
	}
}

// workerSet is the configuration of a main process and a worker.
type workerSet struct {
	shared, workers string
	urls            []string
	pidFiles        map[string]string
}

func newWorkerSet(t *testing.T) *workerSet {
	t.Helper()
	pc, err := pgx.ParseConfig(storagetest.NewConnString(t))
	if err != nil {
		t.Fatal(err)
	}
	redisHost, redisPort, err := net.SplitHostPort(miniredis.RunT(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &workerSet{
		shared: filepath.Join(dir, "homeserver.yaml"), workers: filepath.Join(dir, "workers"),
		pidFiles: map[string]string{"master": filepath.Join(dir, "master.pid"), "worker1": filepath.Join(dir, "worker1.pid")},
	}
	address := func() (port string) {
		addr := freeAddress(t)
		_, port, _ = net.SplitHostPort(addr)
		s.urls = append(s.urls, "http://"+addr)
		return port
	}
	mainPort, workerPort := address(), address()
	_, replicationPort, _ := net.SplitHostPort(freeAddress(t))
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(s.workers, 0o700); err != nil {
		t.Fatal(err)
	}
	write(s.shared, fmt.Sprintf(`server_name: set.test
pid_file: %s
signing_key_path: %s
worker_replication_secret: secret
database: {name: psycopg2, args: {host: %q, port: %d, user: %q, password: %q, dbname: %q}}
redis: {enabled: true, host: %s, port: %s}
instance_map: {main: {host: 127.0.0.1, port: %s}}
listeners:
- {port: %s, bind_addresses: [127.0.0.1], type: http, resources: [{names: [client]}]}
- {port: %s, bind_addresses: [127.0.0.1], type: http, resources: [{names: [replication]}]}
`, s.pidFiles["master"], filepath.Join(dir, "signing.key"), pc.Host, pc.Port, pc.User, pc.Password, pc.Database,
		redisHost, redisPort, replicationPort, mainPort, replicationPort))
	write(filepath.Join(s.workers, "worker1.yaml"), fmt.Sprintf(`worker_app: synapse.app.generic_worker
worker_name: worker1
worker_pid_file: %s
worker_listeners:
- {port: %s, bind_addresses: [127.0.0.1], type: http, resources: [{names: [client]}]}
`, s.pidFiles["worker1"], workerPort))
	return s
}

// pids reads the process ids that the pid files hold.
func (s *workerSet) pids(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for name, path := range s.pidFiles {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if out[name], err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// awaitEnd waits until a process that is nobody's child here is gone, or a zombie that nobody has reaped yet.
func (s *workerSet) awaitEnd(t *testing.T, pid int) {
	t.Helper()
	waitFor(t.Context(), t, fmt.Sprintf("the end of process %d", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
}
