package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
)

// Config says what to generate a cluster from, and where.
type Config struct {
	// Dir is the cluster's directory; see the package comment. Made when missing. Required.
	Dir string
	// Topology says which processes there are. Required.
	Topology Topology
	// Listen are the router's public addresses, or the main process's where there is no router:
	// "HOST:PORT". Defaults to "127.0.0.1:8008".
	Listen []string
	// ListenTLS are addresses served with TLS, for federation. Optional.
	ListenTLS []string
	// TLSCertificatePath and TLSPrivateKeyPath are PEM files. Required with ListenTLS.
	TLSCertificatePath string
	TLSPrivateKeyPath  string
	// BinDir holds the programs, one named like each app. Required.
	BinDir string
	// DatabaseArgs are database.args of the configuration. Defaults to a private PostgreSQL.
	DatabaseArgs map[string]any
	// Redis is the redis section of the configuration. Defaults to a private Redis where there is more than
	// one process.
	Redis map[string]any
	// ReadyTimeout is how long the processes may take to be ready. Defaults to 2 minutes.
	ReadyTimeout time.Duration
	// LogToStderr passes the logs of all processes on to standard error instead of one file a process.
	LogToStderr bool
}

// command is how to start one process.
type command struct {
	process Process
	path    string
	args    []string
	log     string
	// address is where the process listens for other processes and for operators.
	address string
}

// plan is what Generate made.
type plan struct {
	url        string
	configPath string
	commands   []command
}

// generate writes the configuration files of every process and returns how to start them.
func generate(cfg Config) (*plan, error) {
	t := cfg.Topology
	if err := t.validate(); err != nil {
		return nil, err
	}
	if len(cfg.Listen) == 0 {
		cfg.Listen = []string{"127.0.0.1:8008"}
	}
	for _, d := range []string{"conf", "run", "logs"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("make cluster directory: %w", err)
		}
	}
	g := generator{cfg: cfg, t: t, confDir: filepath.Join(cfg.Dir, "conf")}
	g.router = slices.ContainsFunc(t.Processes, func(p Process) bool { return p.App == AppRouter })
	var err error
	if g.runDir, err = makeSocketDir(cfg); err != nil {
		return nil, err
	}
	return g.run()
}

type generator struct {
	cfg     Config
	t       Topology
	confDir string
	runDir  string
	router  bool
}

func (g *generator) run() (*plan, error) {
	sharedPath := filepath.Join(g.confDir, "homeserver.yaml")
	shared, err := g.shared()
	if err != nil {
		return nil, err
	}
	if err := writeYAML(sharedPath, shared); err != nil {
		return nil, err
	}
	p := &plan{url: "http://" + g.cfg.Listen[0], configPath: sharedPath}
	for _, proc := range g.t.Processes {
		c := command{
			process: proc,
			path:    filepath.Join(g.cfg.BinDir, proc.App),
			log:     filepath.Join(g.cfg.Dir, "logs", proc.Name+".log"),
			address: "unix:" + g.socket(proc.Name+private),
		}
		ownPath := filepath.Join(g.confDir, proc.Name+".yaml")
		switch proc.App {
		case AppRouter:
			c.args = []string{"-c", sharedPath, "-c", ownPath}
			err = writeYAML(ownPath, g.routerOptions(proc))
		case AppHomeserver:
			c.args = []string{"-c", sharedPath}
		default:
			c.args = []string{"-c", sharedPath, "-c", ownPath}
			err = writeYAML(ownPath, g.workerOptions(proc))
		}
		if err != nil {
			return nil, err
		}
		p.commands = append(p.commands, c)
	}
	return p, nil
}

// private is the end of the name of a process's second socket, for other processes and for operators. It is there
// before the process is ready, to say what it waits for; the first is for what the router forwards.
const private = "-private"

func (g *generator) socket(name string) string { return filepath.Join(g.runDir, name+".sock") }

// shared is the shared configuration file. The main process has no other.
func (g *generator) shared() (map[string]any, error) {
	secrets, err := loadSecrets(filepath.Join(g.confDir, "secrets.yaml"))
	if err != nil {
		return nil, err
	}
	instances := make(map[string]any)
	for _, p := range g.t.Processes {
		if p.App != AppRouter {
			name := p.Name
			if p.App == AppHomeserver {
				name = "main"
			}
			instances[name] = map[string]any{"path": g.socket(p.Name + private)}
		}
	}
	listeners := []any{g.listener("master", "client", "federation", "media"), g.privateListener("master")}
	if !g.router {
		for _, l := range g.publicListeners() {
			listeners = append(listeners, l)
		}
	}
	out := map[string]any{
		"server_name":                 g.t.ServerName,
		"public_baseurl":              "http://" + g.cfg.Listen[0] + "/",
		"signing_key_path":            filepath.Join(g.confDir, g.t.ServerName+".signing.key"),
		"media_store_path":            filepath.Join(g.cfg.Dir, "media_store"),
		"listeners":                   listeners,
		"instance_map":                instances,
		"stream_writers":              g.t.streamWriters(),
		"database":                    map[string]any{"name": "psycopg2", "args": g.cfg.DatabaseArgs},
		"redis":                       g.cfg.Redis,
		"report_stats":                false,
		"trusted_key_servers":         []any{},
		"suppress_key_server_warning": true,
	}
	if senders := g.t.running(AppFederationSender); len(senders) > 0 {
		out["send_federation"], out["federation_sender_instances"] = false, senders
	}
	if pushers := g.t.running(AppPusher); len(pushers) > 0 {
		out["start_pushers"], out["pusher_instances"] = false, pushers
	}
	if g.cfg.Redis == nil {
		delete(out, "redis")
	}
	if len(g.cfg.ListenTLS) > 0 {
		out["tls_certificate_path"] = g.cfg.TLSCertificatePath
		out["tls_private_key_path"] = g.cfg.TLSPrivateKeyPath
	}
	maps.Copy(out, secrets)
	for _, p := range g.t.Processes {
		if p.App == AppHomeserver {
			maps.Copy(out, p.Options)
		}
	}
	maps.Copy(out, g.t.Options)
	return out, nil
}

func (g *generator) workerOptions(p Process) map[string]any {
	var listeners []any
	if p.publicAPI() {
		listeners = append(listeners, g.listener(p.Name, "client", "federation", "media"))
	}
	out := map[string]any{
		"worker_app":       p.App,
		"worker_name":      p.Name,
		"worker_listeners": append(listeners, g.privateListener(p.Name)),
	}
	maps.Copy(out, p.Options)
	return out
}

func (g *generator) listener(name string, resources ...string) map[string]any {
	return map[string]any{
		"type":        "http",
		"path":        g.socket(name),
		"mode":        "600",
		"x_forwarded": true,
		"resources":   []any{map[string]any{"names": resources}},
	}
}

func (g *generator) privateListener(name string) map[string]any {
	return g.listener(name+private, "replication", "metrics", "health")
}

// publicListeners are those of the router, or of a main process that stands alone.
func (g *generator) publicListeners() []map[string]any {
	var out []map[string]any
	add := func(addr string, tls bool) {
		host, port := splitAddress(addr)
		l := map[string]any{
			"type": "http", "port": port, "bind_addresses": []string{host},
			"resources": []any{map[string]any{"names": []string{"client", "federation", "media"}}},
		}
		if tls {
			l["tls"] = true
		}
		out = append(out, l)
	}
	for _, a := range g.cfg.Listen {
		add(a, false)
	}
	for _, a := range g.cfg.ListenTLS {
		add(a, true)
	}
	return out
}

// routerOptions are those of the router: what it listens on, and the processes behind it.
func (g *generator) routerOptions(p Process) map[string]any {
	var upstreams []any
	for _, u := range g.t.Processes {
		carries := u.App == AppHomeserver || u.App == AppGenericWorker || len(u.Groups) > 0
		if !carries {
			continue
		}
		upstream := map[string]any{"name": u.Name, "url": "unix:" + g.socket(u.Name)}
		if u.App == AppHomeserver {
			upstream["main"] = true
		}
		if len(u.Groups) > 0 {
			upstream["groups"] = u.Groups
		}
		upstreams = append(upstreams, upstream)
	}
	listeners := []any{g.listener(p.Name+private, "metrics", "health")}
	for _, l := range g.publicListeners() {
		listeners = append(listeners, l)
	}
	out := map[string]any{
		"worker_app":       p.App,
		"worker_name":      p.Name,
		"worker_listeners": listeners,
		"router":           map[string]any{"upstreams": upstreams},
	}
	maps.Copy(out, p.Options)
	return out
}

// loadSecrets reads the cluster's secrets, or makes them the first time.
func loadSecrets(path string) (map[string]any, error) {
	secrets := make(map[string]any)
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := yaml.Unmarshal(data, &secrets); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return secrets, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	for _, name := range []string{"registration_shared_secret", "macaroon_secret_key", "form_secret", "worker_replication_secret"} {
		b := make([]byte, 24)
		_, _ = rand.Read(b) // never fails, by its documentation
		secrets[name] = hex.EncodeToString(b)
	}
	return secrets, writeYAML(path, secrets)
}

func writeYAML(path string, v map[string]any) error {
	data, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
