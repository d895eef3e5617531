package homeserver

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/ratelimit"
)

// RouterConfig configures a Router.
type RouterConfig struct {
	// Groups are the endpoint groups to serve. Required.
	Groups []Group
	// Resources are the listener resources to serve. Defaults to all.
	Resources []string
	// Authenticator checks access tokens. Required where an endpoint asks for a user.
	Authenticator Authenticator
	// ServerAuthenticator checks signatures of servers. Required where an endpoint asks for one.
	ServerAuthenticator ServerAuthenticator
	// Limits limits request rates. Defaults to none.
	Limits *ratelimit.Limiter
	// Log defaults to silence.
	Log zerolog.Logger
	// Registerer takes the metrics of requests. Defaults to none.
	Registerer prometheus.Registerer

	metrics *httpMetrics // shared by the routers of one process
	ids     *requestIDs
}

// Router serves endpoint groups over HTTP: it finds the endpoint, authenticates, applies limits, calls the handler, and
// writes and logs the response. It is an http.Handler, safe for concurrent use. A process makes one for each listener;
// tests and programs that embed groups elsewhere make their own.
type Router struct {
	table   *table
	auth    Authenticator
	server  ServerAuthenticator
	limits  *ratelimit.Limiter
	log     zerolog.Logger
	metrics *httpMetrics
	ids     *requestIDs
	opts    listenerOptions
}

// listenerOptions are what a listener believes and offers.
type listenerOptions struct {
	forwarded bool   // X-Forwarded-For tells the client's address
	idHeader  string // header with the reverse proxy's request id, or ""
	compress  bool
	tag       string
}

// NewRouter builds the routing table. It fails where two routes clash, a name is missing, or an endpoint needs an
// authenticator that is not there.
func NewRouter(cfg RouterConfig) (*Router, error) {
	if err := validateGroups(cfg.Groups); err != nil {
		return nil, err
	}
	rt := &Router{
		auth:    cfg.Authenticator,
		server:  cfg.ServerAuthenticator,
		limits:  cfg.Limits,
		log:     cfg.Log,
		metrics: cfg.metrics,
		ids:     cfg.ids,
	}
	var errs []error
	if rt.metrics == nil && cfg.Registerer != nil {
		m, err := newHTTPMetrics(cfg.Registerer)
		if err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
		rt.metrics = m
	}
	if rt.ids == nil {
		rt.ids = newRequestIDs()
	}
	var eps []*endpoint
	for gi := range cfg.Groups {
		g := &cfg.Groups[gi]
		for ei := range g.Endpoints {
			e := &g.Endpoints[ei]
			if err := rt.needs(g, e); err != nil {
				errs = append(errs, err)
			}
			metrics := routeMetrics{new(atomic.Pointer[routeSeries])}
			for _, path := range e.paths() {
				r := g.route(e, path)
				if len(cfg.Resources) > 0 && !slices.Contains(cfg.Resources, r.Resource) {
					continue
				}
				eps = append(eps, &endpoint{
					route: r, template: e.Path, maxBody: e.MaxBody, handle: e.Handle, raw: e.Raw, metrics: metrics,
				})
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t, err := newTable(eps)
	if err != nil {
		return nil, err
	}
	rt.table = t
	return rt, nil
}

// needs checks that what an endpoint asks for is there.
func (rt *Router) needs(g *Group, e *Endpoint) error {
	var errs []error
	switch e.Auth {
	case AuthNone:
	case AuthServer:
		if rt.server == nil {
			errs = append(errs, errors.New("needs a ServerAuthenticator"))
		}
	default:
		if rt.auth == nil {
			errs = append(errs, errors.New("needs an Authenticator"))
		}
	}
	if e.Limit != "" && !ratelimit.Known(e.Limit) {
		errs = append(errs, fmt.Errorf("has the unknown rate limit %q", e.Limit))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("group %q: endpoint %s %s %w", g.Name, e.Method, e.Path, errors.Join(errs...))
}

// requestIDs makes ids that are unique across processes and short: a random part made once, and a counter.
type requestIDs struct {
	prefix string
	n      atomic.Uint64
}

func newRequestIDs() *requestIDs {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return &requestIDs{prefix: strings.ToLower(base32.StdEncoding.EncodeToString(b[:])) + "-"}
}

func (r *requestIDs) next() string {
	var b [32]byte
	return string(strconv.AppendUint(append(b[:0], r.prefix...), r.n.Add(1), 36))
}

// ServeHTTP serves one request.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange{rt: rt, w: w}
	x.serve(r)
}
