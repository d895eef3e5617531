package cluster

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// The apps that a topology may name, besides every worker app of the configuration.
const (
	AppHomeserver       = "homeserver"
	AppGenericWorker    = "generic_worker"
	AppEventPersister   = "event_persister"
	AppFederationSender = "federation_sender"
	AppPusher           = "pusher"
	AppRouter           = "router"
)

// Topology says which processes make up a homeserver.
type Topology struct {
	// ServerName is the Matrix server name. Defaults to "localhost".
	ServerName string `yaml:"server_name"`
	// Processes are the processes to run. Exactly one has the app "homeserver"; at most one is a
	// router. Required.
	Processes []Process `yaml:"processes"`
	// Options are options of the shared configuration file, by Synapse's names. They win over what
	// the cluster fills in: a database or redis section here means that none is started.
	Options map[string]any `yaml:"options"`
}

// Process is one process of a topology.
type Process struct {
	// Name is the process's unique name (worker_name). Defaults to "master" for the main process and
	// to the app's name for others.
	Name string `yaml:"name"`
	// App is the worker application: "homeserver", "generic_worker", "event_persister",
	// "federation_sender", "pusher", "router" or
	// another program that stands beside these. Required.
	App string `yaml:"app"`
	// Streams are the streams this process writes (stream_writers). An event persister writes
	// "events" unless it says otherwise.
	Streams []string `yaml:"streams"`
	// Options are options of this process's own configuration file.
	Options map[string]any `yaml:"options"`
	// Groups limits what the router sends to this process to the named endpoint groups. Defaults to
	// all for the main process and generic workers, none for others.
	Groups []string `yaml:"groups"`
}

// Default is the topology that `make run` starts: a main process, two generic workers, two event
// persisters and a router.
func Default() Topology {
	return Topology{
		ServerName: "localhost",
		Processes: []Process{
			{Name: "master", App: AppHomeserver},
			{Name: "worker1", App: AppGenericWorker},
			{Name: "worker2", App: AppGenericWorker},
			{Name: "persister1", App: AppEventPersister},
			{Name: "persister2", App: AppEventPersister},
			{Name: "router", App: AppRouter},
		},
		// The default cluster listens on loopback only, so anybody who reaches it may have an account.
		Options: map[string]any{
			"enable_registration":                      true,
			"enable_registration_without_verification": true,
		},
	}
}

// ReadTopology reads a topology file (YAML).
func ReadTopology(path string) (Topology, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Topology{}, fmt.Errorf("read topology: %w", err)
	}
	var t Topology
	if err := yaml.UnmarshalWithOptions(data, &t, yaml.Strict()); err != nil {
		return Topology{}, fmt.Errorf("topology %s: %w", path, err)
	}
	return t, nil
}

func (t Topology) withDefaults() Topology {
	if t.ServerName == "" {
		t.ServerName = "localhost"
	}
	t.Processes = slices.Clone(t.Processes)
	for i := range t.Processes {
		p := &t.Processes[i]
		p.App = strings.TrimPrefix(p.App, "synapse.app.")
		if p.Name == "" {
			p.Name = p.App
			if p.App == AppHomeserver {
				p.Name = "master"
			}
		}
		if p.App == AppEventPersister && len(p.Streams) == 0 {
			p.Streams = []string{"events"}
		}
	}
	return t
}

func (t Topology) validate() error {
	var errs []error
	apps := make(map[string]int)
	names := make(map[string]bool)
	for i, p := range t.Processes {
		if p.App == "" {
			errs = append(errs, fmt.Errorf("processes[%d]: app is missing", i))
		}
		if names[p.Name] {
			errs = append(errs, fmt.Errorf("processes[%d]: the name %q is taken", i, p.Name))
		}
		if strings.ContainsAny(p.Name, "/ \t\n") {
			errs = append(errs, fmt.Errorf("processes[%d]: the name %q has a slash or a space in it", i, p.Name))
		}
		names[p.Name] = true
		apps[p.App]++
		if p.App == AppHomeserver && p.Name != "master" {
			errs = append(errs, fmt.Errorf("processes[%d]: the main process is named master, not %q", i, p.Name))
		}
	}
	if n := apps[AppHomeserver]; n != 1 {
		errs = append(errs, fmt.Errorf("processes: %d have the app %q, expected one", n, AppHomeserver))
	}
	if n := apps[AppRouter]; n > 1 {
		errs = append(errs, fmt.Errorf("processes: %d have the app %q, expected one at most", n, AppRouter))
	}
	return errors.Join(errs...)
}

// publicAPI reports whether the process serves requests from outside.
func (p *Process) publicAPI() bool {
	return p.App != AppEventPersister && p.App != AppFederationSender && p.App != AppPusher
}

// running are the processes that run an app in place of main, nil where main does its work.
func (t Topology) running(app string) []string {
	var names []string
	for _, p := range t.Processes {
		if p.App == app {
			names = append(names, p.Name)
		}
	}
	return names
}

// streamWriters is the stream_writers section that the processes' Streams amount to.
func (t Topology) streamWriters() map[string][]string {
	writers := make(map[string][]string)
	for _, p := range t.Processes {
		for _, s := range p.Streams {
			writers[s] = append(writers[s], p.Name)
		}
	}
	return writers
}
