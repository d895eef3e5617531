package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver"
)

// Upstream is a process that requests are forwarded to.
type Upstream struct {
	// Name is the process's name. Required.
	Name string
	// URL is where it listens: "unix:PATH" or "http://HOST:PORT". Required.
	URL string
	// Main marks the main process: it gets what no other serves, and what belongs to a single instance.
	Main bool
	// Groups are the endpoint groups sent to it. Defaults to all.
	Groups []string
}

// Config says what to forward, and where to.
type Config struct {
	// Groups are the endpoint groups of the processes behind the proxy; their handlers are not called. Required.
	Groups []homeserver.Group
	// Upstreams are the processes. Required; exactly one is Main.
	Upstreams []Upstream
	// StreamWriters says which instances write a stream, as in the configuration. A writer that is an upstream
	// gets the routes of its stream.
	StreamWriters map[string][]string
	// RetryAfter is how long an upstream that could not be reached is passed over while another is there.
	// Defaults to 1 second.
	RetryAfter time.Duration
	// Log is silent by default.
	Log zerolog.Logger
}

// Proxy forwards requests. It is safe for concurrent use.
type Proxy struct {
	cfg       Config
	upstreams []*upstream
	main      *upstream
	next      atomic.Uint64
}

type upstream struct {
	Upstream
	forward *httputil.ReverseProxy
	// downUntil is when it may be tried again, in nanoseconds since the Unix epoch.
	downUntil atomic.Int64
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Proxy, error) {
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = time.Second
	}
	p := &Proxy{cfg: cfg}
	var errs []error
	names := make(map[string]bool)
	for _, u := range cfg.Upstreams {
		switch {
		case u.Name == "":
			errs = append(errs, errors.New("proxy: an upstream has no name"))
			continue
		case names[u.Name]:
			errs = append(errs, fmt.Errorf("proxy: two upstreams are named %q", u.Name))
			continue
		}
		names[u.Name] = true
		up := &upstream{Upstream: u}
		target, transport, err := dial(u.URL)
		if err != nil {
			errs = append(errs, fmt.Errorf("proxy: upstream %s: %w", u.Name, err))
			continue
		}
		up.forward = p.reverseProxy(up, target, transport)
		p.upstreams = append(p.upstreams, up)
		if u.Main {
			if p.main != nil {
				errs = append(errs, fmt.Errorf("proxy: both %s and %s are the main process", p.main.Name, u.Name))
			}
			p.main = up
		}
	}
	if p.main == nil {
		errs = append(errs, errors.New("proxy: no upstream is the main process"))
	}
	return p, errors.Join(errs...)
}

// Groups returns groups with the routes of the configured ones, each forwarding to the process that should
// serve it. Authentication and rate limits are theirs.
func (p *Proxy) Groups() []homeserver.Group {
	out := make([]homeserver.Group, 0, len(p.cfg.Groups))
	for _, g := range p.cfg.Groups {
		forwarding := homeserver.Group{Name: g.Name, Resource: g.Resource, Affinity: g.Affinity, Stream: g.Stream}
		for _, e := range g.Endpoints {
			r := p.route(g, e)
			forwarding.Endpoints = append(forwarding.Endpoints, homeserver.Endpoint{
				Method: e.Method, Path: e.Path, Versions: e.Versions, Affinity: e.Affinity, Stream: e.Stream, Raw: r,
			})
		}
		out = append(out, forwarding)
	}
	return out
}

// dial returns how to reach an upstream. Connections are kept: a proxy and a process behind it exchange
// nearly all requests of a server.
func dial(rawURL string) (*url.URL, *http.Transport, error) {
	t := &http.Transport{
		MaxIdleConnsPerHost: 512,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		ReadBufferSize:      16 << 10,
		WriteBufferSize:     16 << 10,
	}
	var d net.Dialer
	if path, ok := strings.CutPrefix(rawURL, "unix:"); ok {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
		return &url.URL{Scheme: "http", Host: "unix"}, t, nil
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, nil, fmt.Errorf("parse URL: %w", err)
	}
	if u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, nil, fmt.Errorf("%q is neither unix:PATH nor a URL", rawURL)
	}
	return u, t, nil
}

// candidates returns the upstreams that carry a group, workers first choice, main only where no worker does.
func (p *Proxy) candidates(group string) []*upstream {
	var workers []*upstream
	for _, u := range p.upstreams {
		if !u.Main && (len(u.Groups) == 0 || slices.Contains(u.Groups, group)) {
			workers = append(workers, u)
		}
	}
	if len(workers) == 0 {
		return []*upstream{p.main}
	}
	return workers
}
