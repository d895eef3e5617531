package federation

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/internal/memo"
)

// defaultPort is the port of servers that name none.
const defaultPort = 8448

// resolution is where and how to reach a server.
type resolution struct {
	// host is the Host header of requests.
	host string
	// tlsName is the DNS name or IP address that the certificate must be for.
	tlsName string
	// targets are "host:port", the best first.
	targets []string
	expires time.Time
}

// Lookups are the parts of DNS that server discovery needs. *net.Resolver has them.
type Lookups interface {
	// LookupSRV is net.Resolver.LookupSRV: records in the order to try them in.
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)
}

const (
	// srvTimeout bounds a lookup of SRV records; a name server that does not answer must not hold up what needs none.
	srvTimeout = 4 * time.Second
	// srvTTL is how long found records are kept: Go's resolver does not tell their own time.
	srvTTL = 5 * time.Minute
	// resolutionTTL bounds how long a way to a server is kept beside what it was made of.
	resolutionTTL = time.Hour
	// maxResolutions bounds the servers remembered.
	maxResolutions = 50_000
	maxSRVTargets  = 8
)

// resolver finds servers by name (spec: "Resolving server names").
type resolver struct {
	dns Lookups
	// web fetches .well-known files.
	web *http.Client
	now func() time.Time

	found     memo.Cache[string, *resolution]
	wellKnown memo.Cache[string, *wellKnown]
	flight    singleflight.Group
}

func newResolver(dns Lookups, web *http.Client) *resolver {
	return &resolver{
		dns: dns, web: web, now: time.Now,
		found: memo.New[string, *resolution](maxResolutions), wellKnown: memo.New[string, *wellKnown](maxResolutions),
	}
}

// resolve returns how to reach a server. Concurrent calls for one server share the work.
func (r *resolver) resolve(ctx context.Context, server string) (*resolution, error) {
	name, err := id.ParseServerName(server)
	if err != nil {
		return nil, err
	}
	if name.IP.IsValid() || name.Port != 0 {
		return direct(name, server), nil
	}
	if found, ok := r.found.GetIfPresent(server); ok && r.now().Before(found.expires) {
		return found, nil
	}
	ch := r.flight.DoChan(server, func() (any, error) {
		// The work outlives a caller who gives up: others may wait for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wellKnownTimeout+2*srvTimeout)
		defer cancel()
		found := r.discover(ctx, server)
		r.found.Set(server, found)
		return found, nil
	})
	select {
	case res := <-ch:
		return res.Val.(*resolution), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget drops what is known of a server, after it could not be reached that way.
func (r *resolver) forget(server string) { r.found.Invalidate(server) }

// direct is for names that say everything: IP literals (steps 1 and 3.1) and explicit ports (steps 2 and 3.2).
func direct(name id.ServerName, server string) *resolution {
	port := name.Port
	if port == 0 {
		port = defaultPort
	}
	return &resolution{host: server, tlsName: name.Host, targets: []string{net.JoinHostPort(name.Host, strconv.Itoa(port))}}
}

// discover finds a server that is named by a host name alone: steps 3 to 6.
func (r *resolver) discover(ctx context.Context, host string) *resolution {
	// The records are looked up beside the well-known file: most servers have only one of the two, and neither should
	// wait for the other to fail.
	srv := make(chan *resolution, 1)
	go func() { srv <- r.bySRV(ctx, host) }()
	known := r.delegate(ctx, host)
	if known.server == "" {
		found := <-srv
		if found.expires.After(known.expires) {
			found.expires = known.expires
		}
		return found
	}
	name, err := id.ParseServerName(known.server)
	if err == nil && (name.IP.IsValid() || name.Port != 0) {
		found := direct(name, known.server)
		found.expires = known.expires
		return found
	}
	var found *resolution
	if known.server == host {
		found = <-srv
	} else {
		found = r.bySRV(ctx, known.server)
	}
	if found.expires.After(known.expires) {
		found.expires = known.expires
	}
	return found
}

// delegate returns what the host's well-known file says, from the cache while that holds. When the file cannot be read
// any more, what it last said is still better than nothing.
func (r *resolver) delegate(ctx context.Context, host string) *wellKnown {
	old, ok := r.wellKnown.GetIfPresent(host)
	if ok && r.now().Before(old.expires) {
		return old
	}
	server, ttl, err := fetchWellKnown(ctx, r.web, host, r.now())
	next := &wellKnown{server: server}
	if err != nil {
		if ok {
			next.failures = old.failures + 1
			if next.failures <= maxStaleFailures {
				next.server = old.server
			}
		}
		ttl = min(wellKnownErrorTTL<<min(next.failures, 10), wellKnownMaxErrorTTL)
	}
	next.expires = r.now().Add(ttl)
	r.wellKnown.Set(host, next)
	return next
}

// maxStaleFailures is after how many failures a delegation is no longer believed: about two hours.
const maxStaleFailures = 6

// bySRV finds a host by its SRV records, or at the default port if it has none: steps 3.3 to 3.5 and 4 to 6.
func (r *resolver) bySRV(ctx context.Context, host string) *resolution {
	found := &resolution{host: host, tlsName: host, expires: r.now().Add(srvTTL)}
	// Both services are asked for at once; the registered one counts first.
	deprecated := make(chan []string, 1)
	go func() { deprecated <- r.lookup(ctx, "matrix", host) }()
	if found.targets = r.lookup(ctx, "matrix-fed", host); found.targets != nil {
		return found
	}
	if found.targets = <-deprecated; found.targets != nil {
		return found
	}
	found.targets = []string{net.JoinHostPort(host, strconv.Itoa(defaultPort))}
	found.expires = r.now().Add(resolutionTTL)
	return found
}

// lookup returns the targets of a service, nil if there are none or DNS does not tell.
func (r *resolver) lookup(ctx context.Context, service, host string) []string {
	ctx, cancel := context.WithTimeout(ctx, srvTimeout)
	defer cancel()
	_, records, err := r.dns.LookupSRV(ctx, service, "tcp", host)
	if err != nil {
		return nil
	}
	var targets []string
	for _, rec := range records {
		target := strings.TrimSuffix(rec.Target, ".")
		if target == "" { // "the service is decidedly not available"
			continue
		}
		if targets = append(targets, net.JoinHostPort(target, strconv.Itoa(int(rec.Port)))); len(targets) == maxSRVTargets {
			break
		}
	}
	return targets
}
