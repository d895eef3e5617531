package cluster

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-im/weft/homeserver/config"
)

// Every process can read what is generated for it.
func TestGeneratedFilesAreValid(t *testing.T) {
	t.Parallel()
	cfg := stub(t)
	cfg.Topology = Default()
	cfg.Listen = []string{"127.0.0.1:8123"}
	cfg.Topology.Processes = append(cfg.Topology.Processes, Process{Name: "edu1", App: AppGenericWorker, Streams: []string{"typing", "receipts"}})
	cfg.Topology = cfg.Topology.withDefaults()
	p, err := generate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if p.url != "http://127.0.0.1:8123" {
		t.Errorf("URL %s", p.url)
	}
	for _, c := range p.commands {
		got, err := config.LoadArgs(c.args, os.Stdout)
		if err != nil {
			t.Fatalf("%s: %v", c.process.Name, err)
		}
		if got.InstanceName() != c.process.Name {
			t.Errorf("%s runs as %s", c.process.Name, got.InstanceName())
		}
		// Each has a socket of its own for operators, on which nothing is public.
		private := slices.IndexFunc(got.ActiveListeners(), func(l config.Listener) bool { return "unix:"+l.Path == c.address })
		if private < 0 || slices.Contains(got.ActiveListeners()[private].Names(), "client") {
			t.Errorf("%s: listeners %+v, address %s", c.process.Name, got.ActiveListeners(), c.address)
		}
		if c.process.App == AppRouter {
			if n := len(got.Router.Upstreams); n != 4 {
				t.Errorf("%d upstreams: %+v", n, got.Router.Upstreams)
			}
			continue
		}
		if w := got.Writers("typing"); !slices.Equal(w, []string{"edu1"}) {
			t.Errorf("%s: typing is written by %v", c.process.Name, w)
		}
		want := []string{"edu1", "main", "persister1", "persister2", "worker1", "worker2"}
		if m := slices.Sorted(maps.Keys(got.InstanceMap)); !slices.Equal(m, want) {
			t.Errorf("%s: instance_map %v", c.process.Name, m)
		}
	}
}

// Secrets stay what they are when the files are generated again.
func TestSecretsStay(t *testing.T) {
	t.Parallel()
	cfg := stub(t)
	cfg.Topology = cfg.Topology.withDefaults()
	var secrets []string
	for range 2 {
		p, err := generate(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(p.configPath)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, c.WorkerReplicationSecret.Reveal(), c.MacaroonSecretKey.Reveal())
	}
	if len(secrets[0]) < 32 || secrets[0] != secrets[2] || secrets[1] != secrets[3] {
		t.Errorf("secrets changed or are short: %q", secrets)
	}
}

// A directory whose path is too long for sockets has them elsewhere: always in the same place, which is removed in the end.
func TestLongDirectory(t *testing.T) {
	t.Parallel()
	cfg := stub(t, "worker1")
	cfg.Dir = filepath.Join(cfg.Dir, strings.Repeat("long", 25))
	r := start(t, cfg)
	r.waitReady(t)
	first := processState(t, cfg.Dir, "worker1").Address
	if len(first) > maxSocketPath+len("unix:") {
		t.Errorf("address %s", first)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(strings.TrimPrefix(first, "unix:"))); err == nil {
		t.Errorf("%s is still there", first)
	}
	again := start(t, cfg)
	again.waitReady(t)
	if second := processState(t, cfg.Dir, "worker1").Address; second != first {
		t.Errorf("the second start has %s, the first had %s", second, first)
	}
}

func TestBadTopologies(t *testing.T) {
	t.Parallel()
	main := "processes: [{app: homeserver}]\n"
	for name, tc := range map[string]struct{ yaml, want string }{
		"nothing":            {"", `0 have the app "homeserver", expected one`},
		"no main process":    {"processes: [{app: generic_worker}]", `0 have the app "homeserver", expected one`},
		"two main processes": {"processes: [{app: homeserver}, {app: synapse.app.homeserver, name: other}]", `2 have the app "homeserver", expected one`},
		"main by other name": {"processes: [{app: homeserver, name: boss}]", "the main process is named master"},
		"two routers":        {"processes: [{app: homeserver}, {app: router}, {app: router, name: r2}]", `2 have the app "router"`},
		"a name twice":       {"processes: [{app: homeserver}, {app: generic_worker}, {app: generic_worker}]", `processes[2]: the name "generic_worker" is taken`},
		"no app":             {"processes: [{app: homeserver}, {name: w}]", "processes[1]: app is missing"},
		"a path for a name":  {"processes: [{app: homeserver}, {app: generic_worker, name: ../w}]", "has a slash"},
		"unknown field":      {main + "proceses: []", "proceses"},
		"wrong type":         {"processes: 3", "topology"},
		"not YAML":           {"processes: [", "topology"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "topology.yaml")
			if err := os.WriteFile(path, []byte(tc.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			top, err := ReadTopology(path)
			if err == nil {
				err = top.withDefaults().validate()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
