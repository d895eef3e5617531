package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/replication"
)

// route forwards the requests of one endpoint.
type route struct {
	proxy     *Proxy
	affinity  homeserver.Affinity
	before    string // the literal path segment before the room id, for homeserver.ByRoom
	upstreams []*upstream
	byName    map[string]*upstream
	names     []string
}

func (p *Proxy) route(g homeserver.Group, e homeserver.Endpoint) *route {
	r := &route{proxy: p, affinity: e.Affinity, byName: make(map[string]*upstream)}
	if r.affinity == homeserver.AffinityDefault {
		r.affinity = g.Affinity
	}
	r.upstreams = p.candidates(g.Name)
	if r.affinity == homeserver.SingleInstance {
		r.upstreams = []*upstream{p.main}
	}
	stream := e.Stream
	if stream == "" {
		stream = g.Stream
	}
	if writers := p.writers(stream); len(writers) > 0 {
		r.upstreams = writers
	}
	for _, u := range r.upstreams {
		r.byName[u.Name] = u
		r.names = append(r.names, u.Name)
	}
	if r.affinity == homeserver.ByRoom {
		r.before = segmentBefore(e.Path, "{roomId")
	}
	return r
}

// writers returns the upstreams that write a stream.
func (p *Proxy) writers(stream string) []*upstream {
	var out []*upstream
	for _, u := range p.upstreams {
		if slices.Contains(p.cfg.StreamWriters[stream], u.Name) {
			out = append(out, u)
		}
	}
	return out
}

// ServeHTTP implements http.Handler.
func (r *route) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if len(r.upstreams) == 1 {
		r.proxy.try(w, req, r.upstreams)
		return
	}
	first := r.pick(req)
	order := make([]*upstream, 1, len(r.upstreams)+1)
	order[0] = first
	for _, u := range r.upstreams {
		if u != first {
			order = append(order, u)
		}
	}
	r.proxy.try(w, req, append(order, r.proxy.main))
}

// pick chooses the upstream by affinity, among those that are not known to be down.
func (r *route) pick(req *http.Request) *upstream {
	names := r.names
	now := time.Now().UnixNano()
	for i, u := range r.upstreams {
		if u.downUntil.Load() <= now {
			continue
		}
		if len(names) == len(r.names) {
			names = slices.Clone(r.names[:i])
		}
		for _, v := range r.upstreams[i+1:] {
			if v.downUntil.Load() <= now {
				names = append(names, v.Name)
			}
		}
		break
	}
	if len(names) == 0 {
		names = r.names
	}
	if key := r.key(req); key != "" {
		return r.byName[replication.Rendezvous(names, key)]
	}
	return r.byName[names[r.proxy.next.Add(1)%uint64(len(names))]]
}

// key is what requests that should reach the same process have in common, "" where any will do.
func (r *route) key(req *http.Request) string {
	switch r.affinity {
	case homeserver.ByUser:
		return userKey(homeserver.AccessToken(req))
	case homeserver.ByRoom:
		return segmentAfter(req.URL.EscapedPath(), r.before)
	case homeserver.ByOrigin:
		return origin(req)
	default:
		return ""
	}
}

// userKey finds the user in an access token of the form syt_<localpart>_<random>_<checksum>; other tokens
// stand for themselves.
func userKey(token string) string {
	rest, ok := strings.CutPrefix(token, "syt_")
	if !ok {
		return token
	}
	encoded, _, ok := strings.Cut(rest, "_")
	if !ok {
		return token
	}
	localpart, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		return token
	}
	return string(localpart)
}

// origin is the server that signed a federation request, or the address it comes from.
func origin(req *http.Request) string {
	_, rest, ok := strings.Cut(req.Header.Get("Authorization"), "origin=")
	if ok {
		name, _, _ := strings.Cut(rest, ",")
		return strings.Trim(name, `" `)
	}
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		return req.RemoteAddr
	}
	return host
}

// segmentBefore returns the literal segment before the first segment of a template that starts with prefix.
func segmentBefore(template, prefix string) string {
	before, _, ok := strings.Cut(template, "/"+prefix)
	if !ok {
		return ""
	}
	return before[strings.LastIndexByte(before, '/')+1:]
}

// segmentAfter returns the unescaped segment of path that follows the segment before.
func segmentAfter(path, before string) string {
	if before == "" {
		return ""
	}
	_, rest, ok := strings.Cut(path, "/"+before+"/")
	if !ok {
		return ""
	}
	segment, _, _ := strings.Cut(rest, "/")
	if s, err := url.PathUnescape(segment); err == nil {
		return s
	}
	return segment
}

// attempt is how the ErrorHandler of a reverse proxy tells try that the upstream never got the request.
type attempt struct{ unreached bool }

type attemptKey struct{}

// try forwards to the first upstream that can be reached. A request that may have reached a process is never
// sent again: only the client knows whether it may be.
func (p *Proxy) try(w http.ResponseWriter, req *http.Request, order []*upstream) {
	for i, u := range order {
		a := &attempt{}
		u.forward.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), attemptKey{}, a)))
		if !a.unreached {
			return
		}
		u.downUntil.Store(time.Now().Add(p.cfg.RetryAfter).UnixNano())
		if i == len(order)-1 {
			homeserver.WriteError(w, req, mxerr.Unknown.WithStatus(http.StatusBadGateway).WithMessage("The server is starting or overloaded; try again"))
		}
	}
}

// buffers are shared by all copies of response bodies.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }

func (p *Proxy) reverseProxy(u *upstream, target *url.URL, transport *http.Transport) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:  transport,
		BufferPool: &buffers{},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host
			if r.In.Body != nil && r.In.Body != http.NoBody {
				// The transport closes a body that it could not send; the next upstream needs it whole.
				r.Out.Body = io.NopCloser(r.In.Body)
			}
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			var dialErr *net.OpError
			if errors.As(err, &dialErr) && dialErr.Op == "dial" {
				if a, ok := req.Context().Value(attemptKey{}).(*attempt); ok {
					a.unreached = true
					return
				}
			}
			if req.Context().Err() != nil {
				return // the client has gone
			}
			p.cfg.Log.Warn().Err(err).Str("instance", u.Name).Msg("forwarding failed")
			homeserver.WriteError(w, req, mxerr.Unknown.WithStatus(http.StatusBadGateway).WithMessage("The connection within the server broke; try again"))
		},
	}
}
