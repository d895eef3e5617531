package homeserver

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/julienschmidt/httprouter"
)

// maxParams bounds the parameters of one path; the Matrix APIs have at most five.
const maxParams = 8

// endpoint is a mounted route.
type endpoint struct {
	route    Route
	template string // the label of metrics and logs: the path with {v} left in
	names    []string
	index    []int // where each parameter stands among the parameters of the table's path
	maxBody  int64
	handle   Handler
	raw      http.Handler
	metrics  routeMetrics
}

// table finds the endpoint of a path. httprouter wants, at each position of a path, either plain segments or one
// parameter; the Matrix APIs have both (pushrules/global beside pushrules/{scope}). So where any path has a parameter,
// the table's path has one for all, and the plain segments of the others are compared after the match.
//
// One tree serves all methods, so that one look tells a wrong method (405) from an unknown path (404).
type table struct {
	tree     *httprouter.Router
	prefixes []prefix // routes that end in {name...}, longest first
}

// shape is all routes that share one path of the tree.
type shape struct {
	candidates []*candidate // the more plain segments, and the earlier, the sooner
}

// candidate is one path: what its plain segments are where the tree has parameters, and what serves it.
type candidate struct {
	statics []static
	methods []methodEndpoint
	segs    []string
}

type static struct {
	param int
	value string
}

type methodEndpoint struct {
	method string
	*endpoint
}

// prefix is a route that ends in {name...}.
type prefix struct {
	path string
	candidate
}

// match carries the result of a lookup through httprouter's handle signature.
type match struct {
	http.ResponseWriter
	shape *shape
}

// treeMethod is the one method of the tree.
const treeMethod = http.MethodGet

// newTable mounts endpoints. Two that answer the same method and path are an error.
func newTable(eps []*endpoint) (*table, error) {
	t := &table{tree: &httprouter.Router{}} // redirects are off unless httprouter.New is used
	var cands []*candidate
	byPath := map[string]*candidate{}
	var errs []error
	add := func(ep *endpoint, segs []string, names []string) {
		key := pathKey(segs)
		c := byPath[key]
		if c == nil {
			c = &candidate{segs: segs}
			byPath[key] = c
			cands = append(cands, c)
		}
		for _, m := range c.methods {
			if m.method == ep.route.Method || m.method == "*" || ep.route.Method == "*" {
				errs = append(errs, fmt.Errorf("duplicate route %s %s: groups %q and %q", ep.route.Method, ep.route.Path, m.route.Group, ep.route.Group))
				return
			}
		}
		own := *ep
		own.names = names
		c.methods = append(c.methods, methodEndpoint{ep.route.Method, &own})
	}
	for _, ep := range eps {
		segs := strings.Split(ep.route.Path, "/")[1:]
		var names []string
		for _, s := range segs {
			if n, ok := paramName(s); ok {
				names = append(names, n)
			}
		}
		last := segs[len(segs)-1]
		switch {
		case strings.HasSuffix(last, "...}"):
			names[len(names)-1] = strings.TrimSuffix(names[len(names)-1], "...")
			add(ep, segs, names)
		case last == "{stateKey}":
			add(ep, segs, names)
			// A name without a value is "" to Param.
			add(ep, append(slices.Clone(segs[:len(segs)-1]), ""), names[:len(names)-1])
			add(ep, segs[:len(segs)-1], names[:len(names)-1])
		default:
			add(ep, segs, names)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cands = slices.DeleteFunc(cands, func(c *candidate) bool {
		n := len(c.segs) - 1
		if !strings.HasSuffix(c.segs[n], "...}") {
			return false
		}
		for _, s := range c.segs[:n] {
			if _, ok := paramName(s); ok {
				errs = append(errs, fmt.Errorf("route %s: {name...} cannot follow another parameter", c.methods[0].route.Path))
			}
		}
		t.prefixes = append(t.prefixes, prefix{path: "/" + strings.Join(append(slices.Clone(c.segs[:n]), ""), "/"), candidate: *c})
		return true
	})
	slices.SortStableFunc(t.prefixes, func(a, b prefix) int { return len(b.path) - len(a.path) })
	t.mount("", 0, 0, cands)
	return t, errors.Join(errs...)
}

// mount registers candidates that agree on the path up to depth.
func (t *table) mount(path string, depth, params int, cands []*candidate) {
	var ends []*candidate
	plain := map[string][]*candidate{}
	var order []string
	anyParam := false
	for _, c := range cands {
		if depth == len(c.segs) {
			ends = append(ends, c)
			continue
		}
		s := c.segs[depth]
		if _, ok := paramName(s); ok {
			anyParam = true
		}
		if plain[s] == nil {
			order = append(order, s)
		}
		plain[s] = append(plain[s], c)
	}
	if len(ends) > 0 {
		t.register(path, ends)
	}
	var merged []*candidate
	for _, s := range order {
		// The empty segment behind a final slash does not clash with a parameter.
		if !anyParam || s == "" {
			t.mount(path+"/"+s, depth+1, params, plain[s])
			continue
		}
		for _, c := range plain[s] {
			if _, ok := paramName(s); ok {
				for i := range c.methods {
					c.methods[i].index = append(c.methods[i].index, params)
				}
			} else {
				c.statics = append(c.statics, static{params, s})
			}
			merged = append(merged, c)
		}
	}
	if len(merged) > 0 {
		t.mount(path+"/:p"+strconv.Itoa(params), depth+1, params+1, merged)
	}
}

func (t *table) register(path string, cands []*candidate) {
	slices.SortStableFunc(cands, func(a, b *candidate) int {
		for i := range min(len(a.segs), len(b.segs)) {
			_, pa := paramName(a.segs[i])
			_, pb := paramName(b.segs[i])
			if pa != pb {
				if pa {
					return 1
				}
				return -1
			}
		}
		return 0
	})
	s := &shape{cands}
	t.tree.Handle(treeMethod, path, func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		w.(*match).shape = s
	})
}

// find returns the endpoint of an escaped path, and the values of the tree's parameters. Where no route has the path,
// allow is nil; where one has it for other methods, ep is nil and allow lists them.
func (t *table) find(m *match, method, path string) (ep *endpoint, values httprouter.Params, rest string, allow []string) {
	if h, ps, _ := t.tree.Lookup(treeMethod, path); h != nil {
		h(m, nil, nil)
	next:
		for _, c := range m.shape.candidates {
			for _, s := range c.statics {
				if ps[s.param].Value != s.value {
					continue next
				}
			}
			if ep := c.endpoint(method); ep != nil {
				return ep, ps, "", nil
			}
			for _, me := range c.methods {
				allow = append(allow, me.method)
			}
		}
	}
	for i := range t.prefixes {
		p := &t.prefixes[i]
		if strings.HasPrefix(path, p.path) {
			if ep := p.endpoint(method); ep != nil {
				return ep, nil, path[len(p.path):], nil
			}
			for _, me := range p.methods {
				allow = append(allow, me.method)
			}
		}
	}
	return nil, nil, "", allow
}

func (c *candidate) endpoint(method string) *endpoint {
	for i := range c.methods {
		if m := c.methods[i].method; m == method || m == "*" {
			return c.methods[i].endpoint
		}
	}
	return nil
}

// pathKey is a path with the names of its parameters left out.
func pathKey(segs []string) string {
	var b strings.Builder
	for _, s := range segs {
		b.WriteByte('/')
		if n, ok := paramName(s); ok {
			s = "{}"
			if strings.HasSuffix(n, "...") {
				s = "{...}"
			}
		}
		b.WriteString(s)
	}
	return b.String()
}
