package homeserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/ratelimit"
	"github.com/weft-im/weft/homeserver/task"
)

// DefaultDrainTimeout is how long a stopping process waits for what is in flight.
const DefaultDrainTimeout = 20 * time.Second

// Config configures a Process.
type Config struct {
	// Instance is the process's unique name in its cluster: worker_name, or "master". Required.
	Instance string
	// Listeners are the sockets to serve. A listener of type "replication" (the TCP relay) belongs to a component and is
	// passed over. Defaults to none.
	Listeners []config.Listener
	// TLSCertificatePath and TLSPrivateKeyPath are PEM files, required where a listener has TLS. They are read again when
	// they change.
	TLSCertificatePath string
	TLSPrivateKeyPath  string
	// ImpliedResources makes "client" and "federation" listeners serve what Synapse's main process serves with them
	// without being told: client implies media and static, federation implies keys, media and openid. Workers name each
	// resource.
	ImpliedResources bool
	// Groups are the endpoint groups of the process. A listener serves those of its resources.
	Groups []Group
	// Components are the parts that run as long as the process: they are started in this order, each when the one before
	// is ready, and stopped in reverse once requests have drained.
	Components []Component
	// Tasks are the background tasks; they run in a component after Components. Background is required with them.
	Tasks []Task
	// Background configures the runner of Tasks. Its Instance, Log and Tasks are filled in.
	Background *task.Config
	// Authenticator checks access tokens. Required where an endpoint asks for a user.
	Authenticator Authenticator
	// ServerAuthenticator checks signatures of servers. Required where an endpoint asks for one.
	ServerAuthenticator ServerAuthenticator
	// Limits limits request rates. Defaults to none.
	Limits *ratelimit.Limiter
	// Log defaults to silence.
	Log zerolog.Logger
	// Registry holds the metrics /metrics shows. Defaults to a new one with Go's and the process's own.
	Registry *prometheus.Registry
	// DrainTimeout bounds the time from the end of Run's context to its return. Defaults to DefaultDrainTimeout.
	DrainTimeout time.Duration
	// PIDFile is a file that holds the process id while the process runs, or "".
	PIDFile string
	// NotifySocket is where the service manager waits for READY=1: the value of NOTIFY_SOCKET, or "".
	NotifySocket string
}

// Process is one process of a homeserver.
type Process struct {
	cfg        Config
	log        zerolog.Logger
	listeners  []*listener
	components []*component
	runner     *task.Runner
	ready      chan struct{}
	draining   chan struct{}
	ran        sync.Once
}

// New checks that the parts fit together and returns a process. It does no I/O and starts nothing. All problems are
// reported in one error: clashing routes, endpoints whose needs are not met, names that are taken, bad listeners.
func New(cfg Config) (*Process, error) {
	var errs []error
	if cfg.Instance == "" {
		errs = append(errs, errors.New("Instance is required"))
	}
	if cfg.DrainTimeout < 0 {
		errs = append(errs, errors.New("DrainTimeout must not be negative"))
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = DefaultDrainTimeout
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
		cfg.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	p := &Process{
		cfg:      cfg,
		log:      cfg.Log.With().Str("instance", cfg.Instance).Logger(),
		ready:    make(chan struct{}),
		draining: make(chan struct{}),
	}
	if cfg.Log.GetLevel() == zerolog.Disabled {
		p.log = cfg.Log
	}
	if err := p.addTasks(); err != nil {
		errs = append(errs, err)
	}
	names := map[string]bool{}
	for i, c := range p.cfg.Components {
		if c == nil {
			errs = append(errs, fmt.Errorf("component %d is nil", i))
			continue
		}
		if names[c.Name()] {
			errs = append(errs, fmt.Errorf("component %q is there twice", c.Name()))
		}
		names[c.Name()] = true
		p.components = append(p.components, newComponent(c))
	}
	if err := p.addListeners(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("homeserver process %q: %w", cfg.Instance, err)
	}
	return p, nil
}

func (p *Process) addTasks() error {
	if len(p.cfg.Tasks) == 0 {
		return nil
	}
	if p.cfg.Background == nil {
		return errors.New("Background is required with Tasks")
	}
	tc := *p.cfg.Background
	tc.Instance, tc.Log, tc.Tasks = p.cfg.Instance, p.log, slices.Concat(tc.Tasks, p.cfg.Tasks)
	if tc.Registerer == nil {
		tc.Registerer = p.cfg.Registry
	}
	r, err := task.New(tc)
	if err != nil {
		return err
	}
	p.runner = r
	p.cfg.Components = append(slices.Clone(p.cfg.Components), r)
	return nil
}

// addListeners builds a routing table for each listener. All groups are mounted once in one table too, so that a clash
// shows even between groups no listener serves together.
func (p *Process) addListeners() error {
	metrics, err := newHTTPMetrics(p.cfg.Registry)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	own := p.ownGroups()
	base := RouterConfig{
		Groups:              append(slices.Clone(p.cfg.Groups), own...),
		Authenticator:       p.cfg.Authenticator,
		ServerAuthenticator: p.cfg.ServerAuthenticator,
		Limits:              p.cfg.Limits,
		Log:                 p.log,
		metrics:             metrics,
		ids:                 newRequestIDs(),
	}
	if _, err := NewRouter(base); err != nil {
		return err
	}
	var errs []error
	for i := range p.cfg.Listeners {
		lc := &p.cfg.Listeners[i]
		if lc.Type != "http" && lc.Type != "metrics" {
			continue
		}
		if lc.TLS && (p.cfg.TLSCertificatePath == "" || p.cfg.TLSPrivateKeyPath == "") {
			errs = append(errs, fmt.Errorf("listener %s: tls needs TLSCertificatePath and TLSPrivateKeyPath", listenerName(lc)))
		}
		rc := base
		rc.Resources = p.resources(lc)
		router, err := NewRouter(rc)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		router.opts = listenerOptions{forwarded: lc.Forwarded(), idHeader: http.CanonicalHeaderKey(lc.RequestIDHeader), tag: lc.Tag}
		for _, r := range lc.Resources {
			router.opts.compress = router.opts.compress || r.Compress
		}
		p.listeners = append(p.listeners, &listener{cfg: lc, name: listenerName(lc), router: router, log: p.log})
	}
	return errors.Join(errs...)
}

// The resources of the groups every process has.
const (
	resourceReady    = "ready"    // on listeners that are not public
	resourceProfiles = "profiles" // on listeners that carry nothing for clients and servers
)

// resources returns what a listener serves, with what its names imply.
func (p *Process) resources(lc *config.Listener) []string {
	out := append(lc.Names(), ResourceHealth)
	implied := func(name string, more ...string) {
		if slices.Contains(out, name) {
			out = append(out, more...)
		}
	}
	if p.cfg.ImpliedResources {
		implied(ResourceClient, ResourceMedia, ResourceStatic)
		implied(ResourceFederation, ResourceKeys, ResourceMedia, ResourceOpenID)
	}
	// Signing keys and openid belong to every federation listener: a server cannot be talked to without them.
	implied(ResourceFederation, ResourceKeys, ResourceOpenID)
	if operational(lc) {
		out = append(out, resourceReady, ResourceMetrics)
		if private(lc) {
			out = append(out, resourceProfiles)
		}
	}
	return out
}

// operational reports whether a listener serves /ready and /metrics: those that carry replication, metrics or health by
// name, which must not be public.
func operational(lc *config.Listener) bool {
	for _, n := range lc.Names() {
		if n == ResourceReplication || n == ResourceMetrics || n == ResourceHealth {
			return true
		}
	}
	return false
}

// private reports whether a listener carries nothing for clients and other servers. Such a listener opens at once, so
// that /ready can say what the process waits for and other processes can call it; the rest open when it is ready.
func private(lc *config.Listener) bool {
	for _, n := range lc.Names() {
		if n != ResourceReplication && n != ResourceMetrics && n != ResourceHealth {
			return false
		}
	}
	return true
}

// Ready returns a channel that is closed when the process serves: all components are ready and all listeners open.
func (p *Process) Ready() <-chan struct{} { return p.ready }

// Routes returns the routes of the process's groups.
func (p *Process) Routes() []Route { return Routes(p.cfg.Groups...) }

// Tasks returns the runner of the process's tasks, or nil where it has none.
func (p *Process) Tasks() *task.Runner { return p.runner }

// Addresses returns the addresses of the listeners that are open, as "http://127.0.0.1:8008", "https://...", or
// "unix:/path", of those that serve the resource; "" means any.
func (p *Process) Addresses(resource string) []string {
	var out []string
	for _, l := range p.listeners {
		if resource == "" || slices.Contains(p.resources(l.cfg), resource) {
			out = append(out, l.addresses()...)
		}
	}
	return out
}

// Run runs the process until ctx ends, then drains: listeners stop accepting, requests in flight finish, components stop
// in reverse order. It returns nil after a clean drain, and an error where a part failed or the drain took longer than
// DrainTimeout. It can be called once.
func (p *Process) Run(ctx context.Context) error {
	err := errors.New("homeserver: Run was called before")
	p.ran.Do(func() { err = p.run(ctx) })
	return err
}

func (p *Process) run(ctx context.Context) (err error) {
	started := time.Now()
	if p.cfg.PIDFile != "" {
		if err := os.WriteFile(p.cfg.PIDFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return fmt.Errorf("write pid file: %w", err)
		}
		defer func() { _ = os.Remove(p.cfg.PIDFile) }()
	}
	// What runs outlives ctx: the drain decides when each part ends.
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	base = context.WithValue(base, drainingKey{}, (<-chan struct{})(p.draining))
	failed := make(chan error, len(p.listeners)+len(p.components))

	err = p.start(ctx, base, failed)
	if err == nil {
		p.log.Info().Dur("duration_ms", time.Since(started)).Strs("addresses", p.Addresses("")).Msg("ready")
		close(p.ready)
		p.notify("READY=1")
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	if err != nil && ctx.Err() == nil {
		p.log.Error().Err(err).Msg("stopping because a part failed")
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // stopped while it was starting
	}
	p.notify("STOPPING=1")
	close(p.draining)
	err = errors.Join(err, p.drain(base, cut))
	p.log.Info().Msg("stopped")
	return err
}

// start opens private listeners, starts the components one after the other, and opens the other listeners.
func (p *Process) start(ctx, base context.Context, failed chan<- error) error {
	certs := &certificates{certPath: p.cfg.TLSCertificatePath, keyPath: p.cfg.TLSPrivateKeyPath, log: p.log}
	for _, l := range p.listeners {
		if !private(l.cfg) {
			continue
		}
		if err := l.open(ctx, base, certs, failed); err != nil {
			return err
		}
	}
	for _, c := range p.components {
		c.start(base, failed)
		if err := c.wait(ctx, p.log); err != nil {
			return err
		}
	}
	for _, l := range p.listeners {
		if private(l.cfg) {
			continue
		}
		if err := l.open(ctx, base, certs, failed); err != nil {
			return err
		}
	}
	return nil
}

// drain stops everything in the reverse of start's order, in DrainTimeout at most.
func (p *Process) drain(base context.Context, cut context.CancelCauseFunc) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(base), p.cfg.DrainTimeout)
	defer cancel()
	var errs []error
	// Public listeners first, while other processes can still call this one. A quarter of the time is kept for
	// components: requests that take longer are cut off with 503.
	requests, cancelRequests := context.WithTimeout(ctx, p.cfg.DrainTimeout*3/4)
	defer cancelRequests()
	for _, priv := range []bool{false, true} {
		var wg sync.WaitGroup
		results := make([]error, len(p.listeners))
		for i, l := range p.listeners {
			if private(l.cfg) == priv {
				wg.Go(func() { results[i] = l.shutdown(requests) })
			}
		}
		wg.Wait()
		errs = append(errs, results...)
	}
	cut(errStopping)
	for _, l := range p.listeners {
		l.close()
	}
	for _, c := range slices.Backward(p.components) {
		if err := c.stop(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
