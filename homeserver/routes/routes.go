// Package routes writes the routes of endpoint groups down for people and for reverse proxies: as TSV, and as
// configuration of nginx, HAProxy and Caddy that sends each request to the process that serves it best.
//
// Every choice these files make is one of speed only. A request that reaches another process is forwarded, never failed;
// so a file of last week goes on working when a worker is added.
package routes

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-im/weft/homeserver"
)

// TSV writes the routes as tab-separated values: a header, then one line for each method, path and version. Parameters
// stand in braces, as the specification writes them.
func TSV(w io.Writer, groups []homeserver.Group) error {
	var b strings.Builder
	b.WriteString("group\tmethod\tpath\taffinity\tstream\tauth\n")
	for _, r := range homeserver.Routes(groups...) {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Group, r.Method, r.Path, r.Affinity, r.Stream, r.Auth)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Upstream is a process a reverse proxy sends requests to.
type Upstream struct {
	// Name is the process's name. Required, unique.
	Name string
	// Address is where it listens: "127.0.0.1:8008", "http://127.0.0.1:8008", "unix:/run/weft/worker1.sock". Required.
	Address string
	// Main marks the main process, which gets what nobody else serves. Exactly one is.
	Main bool
	// Groups are the endpoint groups sent to it. Defaults to all.
	Groups []string
}

// Config says what to write a reverse proxy's configuration for.
type Config struct {
	// Groups are the endpoint groups the processes serve. Required.
	Groups []homeserver.Group
	// Upstreams are the processes. Required.
	Upstreams []Upstream
	// StreamWriters says which instances write a stream, as in the configuration. Writers that are upstreams get the
	// routes of their stream.
	StreamWriters map[string][]string
	// Listen is where the proxy listens, in its own syntax. Defaults to "8008".
	Listen string
	// ServerName is the name the proxy answers to. Defaults to any.
	ServerName string
	// MaxBodyBytes is the largest request body. Defaults to 100 MiB: media limits its own.
	MaxBodyBytes int64
}

// pool is a set of processes with a way to choose among them.
type pool struct {
	name     string
	affinity homeserver.Affinity
	servers  []Upstream
}

// rule sends the requests of one path pattern to a pool.
type rule struct {
	methods []string // sorted; nil is any
	pattern string   // regular expression of the whole escaped path, without ^ and $
	rank    string   // orders rules: plain segments before parameters
	pool    *pool
	group   string
}

// plan is what all three writers work from.
type plan struct {
	Config
	main  Upstream
	pools []*pool
	rules []rule
}

func newPlan(cfg Config) (*plan, error) {
	p := &plan{Config: cfg}
	if p.Listen == "" {
		p.Listen = "8008"
	}
	if p.MaxBodyBytes == 0 {
		p.MaxBodyBytes = 100 << 20
	}
	var errs []error
	names := map[string]bool{}
	mains := 0
	for i, u := range cfg.Upstreams {
		if u.Name == "" || names[u.Name] {
			errs = append(errs, fmt.Errorf("upstream %d: the name %q is missing or taken", i, u.Name))
		}
		names[u.Name] = true
		if _, _, err := address(u); err != nil {
			errs = append(errs, err)
		}
		if u.Main {
			mains++
			p.main = u
		}
	}
	if mains != 1 {
		errs = append(errs, fmt.Errorf("%d upstreams are the main process, expected one", mains))
	}
	if strings.ContainsAny(cfg.ServerName+cfg.Listen, ";{}\n'\"") {
		errs = append(errs, errors.New("Listen and ServerName must be plain"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	pools := map[string]*pool{}
	rules := map[string]int{}
	for _, g := range cfg.Groups {
		for i := range g.Endpoints {
			e := &g.Endpoints[i]
			first := homeserver.Routes(homeserver.Group{
				Name: g.Name, Affinity: g.Affinity, Stream: g.Stream, Resource: g.Resource, Endpoints: []homeserver.Endpoint{*e},
			})
			if len(first) == 0 {
				continue
			}
			po := p.pool(pools, first[0])
			pattern, rank := patterns(e)
			key := pattern + "\x00" + po.name
			if j, ok := rules[key]; ok {
				r := &p.rules[j]
				if !slices.Contains(r.methods, e.Method) {
					r.methods = append(r.methods, e.Method)
					slices.Sort(r.methods)
				}
				continue
			}
			rules[key] = len(p.rules)
			p.rules = append(p.rules, rule{methods: []string{e.Method}, pattern: pattern, rank: rank, pool: po, group: g.Name})
		}
	}
	slices.SortStableFunc(p.rules, func(a, b rule) int { return cmp.Compare(a.rank, b.rank) })
	// What goes to main alone needs no rule unless an earlier one would catch it.
	p.rules = slices.DeleteFunc(p.rules, func(r rule) bool {
		return len(r.pool.servers) == 1 && r.pool.servers[0].Name == p.main.Name && !p.shadowed(r)
	})
	return p, nil
}

// shadowed reports whether another pool's rule also matches some of the paths of r.
func (p *plan) shadowed(r rule) bool {
	sample := strings.NewReplacer(`[^/]*`, "x", `\.`, ".", ".*", "x").Replace(r.pattern)
	if i := strings.Index(sample, "(?:"); i >= 0 {
		end := strings.IndexByte(sample[i:], ')') + i
		sample = sample[:i] + strings.SplitN(sample[i+3:end], "|", 2)[0] + sample[end+1:]
	}
	sample = strings.TrimSuffix(sample, "?")
	for _, o := range p.rules {
		if o.pool == r.pool {
			continue
		}
		if re, err := regexp.Compile("^" + o.pattern + "$"); err == nil && re.MatchString(sample) {
			return true
		}
	}
	return false
}

// pool returns the processes for a route.
func (p *plan) pool(pools map[string]*pool, r homeserver.Route) *pool {
	var servers []Upstream
	if r.Stream != "" {
		for _, u := range p.Upstreams {
			if slices.Contains(p.StreamWriters[r.Stream], u.Name) {
				servers = append(servers, u)
			}
		}
	}
	if len(servers) == 0 {
		for _, u := range p.Upstreams {
			// The main process takes part only where nobody else does.
			if !u.Main && (len(u.Groups) == 0 || slices.Contains(u.Groups, r.Group)) {
				servers = append(servers, u)
			}
		}
	}
	if len(servers) == 0 || r.Affinity == homeserver.SingleInstance {
		servers = []Upstream{p.main}
	}
	affinity := r.Affinity
	if len(servers) == 1 {
		affinity = homeserver.AnyInstance
	}
	key := affinity.String()
	for _, s := range servers {
		key += "\x00" + s.Name
	}
	if po, ok := pools[key]; ok {
		return po
	}
	po := &pool{affinity: affinity, servers: servers, name: "weft_" + affinity.String()}
	if len(servers) == 1 {
		po.name = "weft_at_" + ident(servers[0].Name)
	}
	for name, n := po.name, 2; slices.ContainsFunc(p.pools, func(o *pool) bool { return o.name == po.name }); n++ {
		po.name = name + "_" + strconv.Itoa(n)
	}
	pools[key] = po
	p.pools = append(p.pools, po)
	return po
}

// patterns returns an endpoint's path as a regular expression, and a rank by which plain segments sort before parameters.
func patterns(e *homeserver.Endpoint) (pattern, rank string) {
	var pat, rk strings.Builder
	path := e.Path
	versions := make([]string, len(e.Versions))
	for i, v := range e.Versions {
		versions[i] = regexp.QuoteMeta(v)
	}
	segs := strings.Split(path, "/")[1:]
	for i, s := range segs {
		last := i == len(segs)-1
		switch {
		case s == "{v}":
			pat.WriteString("/(?:" + strings.Join(versions, "|") + ")")
			rk.WriteString("/0v")
		case last && strings.HasPrefix(s, "{") && strings.HasSuffix(s, "...}"):
			pat.WriteString("/.*")
			rk.WriteString("/2")
		case last && s == "{stateKey}":
			pat.WriteString("(?:/[^/]*)?")
			rk.WriteString("/1")
		case strings.HasPrefix(s, "{"):
			pat.WriteString("/[^/]*")
			rk.WriteString("/1")
		default:
			pat.WriteString("/" + regexp.QuoteMeta(s))
			rk.WriteString("/0" + s)
		}
	}
	return pat.String(), rk.String()
}

// address splits an upstream's address into "unix" and a path, or "tcp" and host:port.
func address(u Upstream) (network, addr string, err error) {
	switch {
	case strings.HasPrefix(u.Address, "unix:"):
		network, addr = "unix", strings.TrimPrefix(u.Address, "unix:")
	case strings.Contains(u.Address, "://"):
		parsed, perr := url.Parse(u.Address)
		if perr != nil || parsed.Scheme != "http" || parsed.Host == "" {
			return "", "", fmt.Errorf("upstream %s: expected an address like 127.0.0.1:8008 or unix:/path, got %q", u.Name, u.Address)
		}
		network, addr = "tcp", parsed.Host
	default:
		network, addr = "tcp", u.Address
	}
	if addr == "" || strings.ContainsAny(addr, " ;{}\n'\"") {
		return "", "", fmt.Errorf("upstream %s: expected an address like 127.0.0.1:8008 or unix:/path, got %q", u.Name, u.Address)
	}
	return network, addr, nil
}

var notIdent = regexp.MustCompile(`[^A-Za-z0-9_]+`)

func ident(s string) string { return notIdent.ReplaceAllString(s, "_") }

// The regular expressions that find what an affinity goes by. Access tokens name their user; other tokens are taken
// whole.
const (
	userToken = `syt_([^_]+)_`
	roomPath  = `^/_matrix/(?:client|federation)/(?:api/)?[^/]+/(?:rooms|join|knock|directory/list/room|send_join|send_leave|make_join|make_leave|invite|state|state_ids|backfill)/([^/?]+)`
)
