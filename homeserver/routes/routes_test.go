package routes

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver"
)

func noop(context.Context, *homeserver.Request) (any, error) { return nil, nil }

func groups() []homeserver.Group {
	client := []string{"v3", "r0", "api/v1"}
	ep := func(method, path string, versions ...string) homeserver.Endpoint {
		return homeserver.Endpoint{Method: method, Path: path, Versions: versions, Auth: homeserver.AuthUser, Handle: noop}
	}
	return []homeserver.Group{
		{Name: "sync", Affinity: homeserver.ByUser, Endpoints: []homeserver.Endpoint{ep("GET", "/_matrix/client/{v}/sync", client...)}},
		{Name: "rooms", Affinity: homeserver.ByRoom, Endpoints: []homeserver.Endpoint{
			ep("PUT", "/_matrix/client/{v}/rooms/{roomId}/send/{eventType}/{txnId}", client...),
			ep("GET", "/_matrix/client/{v}/rooms/{roomId}/state/{eventType}/{stateKey}", client...),
			ep("PUT", "/_matrix/client/{v}/rooms/{roomId}/state/{eventType}/{stateKey}", client...),
		}},
		{Name: "typing", Affinity: homeserver.ByRoom, Stream: "typing", Endpoints: []homeserver.Endpoint{ep("PUT", "/_matrix/client/{v}/rooms/{roomId}/typing/{userId}", client...)}},
		{Name: "federation", Affinity: homeserver.ByOrigin, Resource: homeserver.ResourceFederation, Endpoints: []homeserver.Endpoint{
			ep("GET", "/_matrix/federation/v1/query/{queryType}"),
			{Method: "GET", Path: "/_matrix/federation/v1/query/directory", Affinity: homeserver.SingleInstance, Handle: noop},
		}},
		{Name: "admin", Affinity: homeserver.SingleInstance, Endpoints: []homeserver.Endpoint{ep("POST", "/_synapse/admin/v1/purge")}},
	}
}

func sample() Config {
	return Config{
		Groups: groups(),
		Upstreams: []Upstream{
			{Name: "master", Address: "127.0.0.1:8008", Main: true},
			{Name: "worker1", Address: "unix:/run/weft/worker1.sock", Groups: []string{"sync", "rooms", "federation"}},
			{Name: "worker2", Address: "http://127.0.0.1:8082", Groups: []string{"sync", "rooms", "federation"}},
			{Name: "typist", Address: "127.0.0.1:8083", Groups: []string{}},
		},
		StreamWriters: map[string][]string{"typing": {"typist"}},
	}
}

func TestTSV(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := TSV(&b, groups()[:1]); err != nil {
		t.Fatal(err)
	}
	want := "group\tmethod\tpath\taffinity\tstream\tauth\n" +
		"sync\tGET\t/_matrix/client/v3/sync\tuser\t\tuser\n" +
		"sync\tGET\t/_matrix/client/r0/sync\tuser\t\tuser\n" +
		"sync\tGET\t/_matrix/client/api/v1/sync\tuser\t\tuser\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// cases say where a request should go: a pool of several by what it is chosen by, or one process.
var cases = []struct{ method, path, to string }{
	{"GET", "/_matrix/client/v3/sync", "user"},
	{"GET", "/_matrix/client/api/v1/sync", "user"},
	{"POST", "/_matrix/client/v3/sync", "master"},
	{"GET", "/_matrix/client/v3/syncx", "master"},
	{"PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", "room"},
	{"PUT", "/_matrix/client/v3/rooms/%21r%3Ax/send/a%2Fb/1", "room"},
	{"GET", "/_matrix/client/r0/rooms/!r:x/state/m.room.name", "room"},
	{"GET", "/_matrix/client/r0/rooms/!r:x/state/m.room.name/", "room"},
	{"PUT", "/_matrix/client/r0/rooms/!r:x/state/m.room.name/a", "room"},
	{"DELETE", "/_matrix/client/r0/rooms/!r:x/state/m.room.name/a", "master"},
	{"PUT", "/_matrix/client/r0/rooms/!r:x/typing/@u:x", "typist"},
	{"GET", "/_matrix/federation/v1/query/profile", "origin"},
	{"GET", "/_matrix/federation/v1/query/directory", "master"},
	{"POST", "/_synapse/admin/v1/purge", "master"},
	{"GET", "/nope", "master"},
}

func TestPlan(t *testing.T) {
	t.Parallel()
	cfg := sample()
	cfg.Upstreams[3].Groups = []string{"none"}
	p, err := newPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range cases {
		got := "master"
		for _, r := range p.rules {
			if regexp.MustCompile("^"+r.pattern+"$").MatchString(tc.path) && strings.Contains(strings.Join(r.methods, " "), tc.method) {
				got = r.pool.affinity.String()
				if len(r.pool.servers) == 1 {
					got = r.pool.servers[0].Name
				}
				break
			}
		}
		if got != tc.to {
			t.Errorf("%s %s goes to %s, want %s", tc.method, tc.path, got, tc.to)
		}
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"no main":      func(c *Config) { c.Upstreams[0].Main = false },
		"two mains":    func(c *Config) { c.Upstreams[1].Main = true },
		"name taken":   func(c *Config) { c.Upstreams[1].Name = "master" },
		"bad address":  func(c *Config) { c.Upstreams[1].Address = "ftp://x" },
		"injection":    func(c *Config) { c.Upstreams[1].Address = "x; } server {" },
		"server name":  func(c *Config) { c.ServerName = "x; }" },
		"empty target": func(c *Config) { c.Upstreams[1].Address = "" },
	} {
		cfg := sample()
		change(&cfg)
		for _, write := range []func(io.Writer, Config) error{Nginx, HAProxy, Caddy} {
			if err := write(io.Discard, cfg); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
}

func TestCaddyfile(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	cfg := sample()
	cfg.ServerName = "matrix.example.org"
	if err := Caddy(&b, cfg); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"matrix.example.org:8008 {", "lb_policy header X-Weft-User", "unix//run/weft/worker1.sock 127.0.0.1:8082",
		"vars_regexp {uri} `^/_matrix/client/(?:v3|r0|api/v1)/sync(?:\\?.*)?$`",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if strings.Count(b.String(), "{") != strings.Count(b.String(), "}") {
		t.Error("braces do not match")
	}
}

// backends starts processes that answer with their name, and returns a configuration for them.
func backends(t *testing.T) Config {
	cfg := sample()
	cfg.Upstreams[3].Groups = []string{"none"}
	for i := range cfg.Upstreams {
		u := &cfg.Upstreams[i]
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s", u.Name, r.RequestURI)
		}))
		t.Cleanup(srv.Close)
		u.Address = srv.URL
	}
	return cfg
}

// TestRealProxies sends requests through nginx and HAProxy, where they are installed.
func TestRealProxies(t *testing.T) {
	t.Parallel()
	for _, proxy := range []struct {
		binary string
		config func(t *testing.T, dir string, cfg Config) (args []string)
	}{
		{"nginx", func(t *testing.T, dir string, cfg Config) []string {
			var b strings.Builder
			if err := Nginx(&b, cfg); err != nil {
				t.Fatal(err)
			}
			conf := fmt.Sprintf("pid %[1]s/pid;\nerror_log stderr;\ndaemon off;\nmaster_process off;\nevents {}\nhttp {\naccess_log off;\nclient_body_temp_path %[1]s/b;\nproxy_temp_path %[1]s/p;\nfastcgi_temp_path %[1]s/f;\nuwsgi_temp_path %[1]s/u;\nscgi_temp_path %[1]s/s;\n%s}\n", dir, b.String())
			path := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"-c", path, "-p", dir}
		}},
		{"haproxy", func(t *testing.T, dir string, cfg Config) []string {
			b := strings.Builder{}
			b.WriteString("defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n\n")
			if err := HAProxy(&b, cfg); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "haproxy.cfg")
			if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"-db", "-f", path}
		}},
	} {
		t.Run(proxy.binary, func(t *testing.T) {
			t.Parallel()
			bin, err := exec.LookPath(proxy.binary)
			if err != nil {
				t.Skipf("%s is not installed", proxy.binary)
			}
			cfg := backends(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			cfg.Listen = l.Addr().String()
			_ = l.Close()
			cmd := exec.Command(bin, proxy.config(t, t.TempDir(), cfg)...)
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			cmd.WaitDelay = time.Second
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan struct{})
			go func() { _ = cmd.Wait(); close(exited) }()
			t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
			tr := &http.Transport{}
			t.Cleanup(tr.CloseIdleConnections)
			ask := func(method, path, token string) (string, error) {
				req, err := http.NewRequestWithContext(t.Context(), method, "http://"+cfg.Listen+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+token)
				res, err := (&http.Client{Transport: tr}).Do(req)
				if err != nil {
					return "", err
				}
				defer res.Body.Close()
				b, _ := io.ReadAll(res.Body)
				if res.StatusCode != 200 {
					return "", fmt.Errorf("%d %s", res.StatusCode, b)
				}
				return string(b), nil
			}
			deadline := time.Now().Add(15 * time.Second)
			for {
				if _, err := ask("GET", "/", ""); err == nil {
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("does not answer: %v", err)
				}
				select {
				case <-exited:
					t.Fatalf("exited: %s", out.String())
				case <-time.After(20 * time.Millisecond):
				}
			}
			for _, tc := range cases {
				got, err := ask(tc.method, tc.path, "syt_YQ_x_y")
				name, uri, _ := strings.Cut(got, " ")
				want := tc.to
				if tc.to == "user" || tc.to == "room" || tc.to == "origin" {
					want = "worker1 or worker2"
				}
				if err != nil || !strings.Contains(want, name) || uri != tc.path {
					t.Errorf("%s %s: %q %v, want %s", tc.method, tc.path, got, err, want)
				}
			}
			// One user's requests reach one process whatever the token, one room's whatever the user; both spread.
			where := map[string]string{}
			used := map[string]bool{}
			for i := range 40 {
				user := fmt.Sprintf("user%d", i%20)
				got, err := ask("GET", "/_matrix/client/v3/sync", fmt.Sprintf("syt_%s_%d_y", user, i))
				if err != nil {
					t.Fatal(err)
				}
				name, _, _ := strings.Cut(got, " ")
				used[name] = true
				if was, seen := where[user]; seen && was != name {
					t.Errorf("%s went to %s and to %s", user, was, name)
				}
				where[user] = name
				room := fmt.Sprintf("!room%d:x", i%20)
				got, err = ask("PUT", "/_matrix/client/v3/rooms/"+room+"/send/a/"+fmt.Sprint(i), fmt.Sprint("token", i))
				if err != nil {
					t.Fatal(err)
				}
				name, _, _ = strings.Cut(got, " ")
				if was, seen := where[room]; seen && was != name {
					t.Errorf("%s went to %s and to %s", room, was, name)
				}
				where[room] = name
			}
			if len(used) != 2 {
				t.Errorf("20 users all went to %v", used)
			}
		})
	}
}
