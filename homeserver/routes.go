package homeserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Route is one endpoint under one version prefix, as data.
type Route struct {
	// Group is the name of the endpoint group.
	Group string
	// Method is the HTTP method.
	Method string
	// Path is the path with its version, parameters in braces: "/_matrix/client/v3/rooms/{roomId}/leave".
	Path string
	// Affinity says by what a load balancer should pick the instance.
	Affinity Affinity
	// Stream is the stream whose writer serves the route best, or "".
	Stream string
	// Auth is what a request must show.
	Auth Auth
	// Resource is the listener resource that carries the route.
	Resource string
	// Limit is the class of the rate limit, or "".
	Limit string
}

// Routes returns all routes of the groups, in the order of groups, endpoints and versions.
func Routes(groups ...Group) []Route {
	var out []Route
	for gi := range groups {
		g := &groups[gi]
		for ei := range g.Endpoints {
			for _, path := range g.Endpoints[ei].paths() {
				out = append(out, g.route(&g.Endpoints[ei], path))
			}
		}
	}
	return out
}

// route returns one route with the group's defaults filled in.
func (g *Group) route(e *Endpoint, path string) Route {
	r := Route{
		Group:    g.Name,
		Method:   e.Method,
		Path:     path,
		Affinity: e.Affinity,
		Stream:   e.Stream,
		Auth:     e.Auth,
		Resource: g.Resource,
		Limit:    e.Limit,
	}
	if r.Affinity == AffinityDefault {
		r.Affinity = g.Affinity
	}
	if r.Affinity == AffinityDefault {
		r.Affinity = AnyInstance
	}
	if r.Stream == "" {
		r.Stream = g.Stream
	}
	if r.Resource == "" {
		r.Resource = ResourceClient
	}
	return r
}

// paths returns the endpoint's path for each of its versions.
func (e *Endpoint) paths() []string {
	if !strings.Contains(e.Path, "{v}") {
		return []string{e.Path}
	}
	out := make([]string, len(e.Versions))
	for i, v := range e.Versions {
		out[i] = strings.Replace(e.Path, "{v}", v, 1)
	}
	return out
}

// validateGroups checks what can be known of groups before they are mounted.
func validateGroups(groups []Group) error {
	var errs []error
	seen := map[string]bool{}
	for i := range groups {
		g := &groups[i]
		if g.Name == "" {
			errs = append(errs, fmt.Errorf("group %d has no Name", i))
		} else if seen[g.Name] {
			errs = append(errs, fmt.Errorf("group %q is there twice", g.Name))
		}
		seen[g.Name] = true
		for j := range g.Endpoints {
			if err := g.Endpoints[j].validate(); err != nil {
				errs = append(errs, fmt.Errorf("group %q: %w", g.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (e *Endpoint) validate() error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("endpoint %s %s: "+format, append([]any{e.Method, e.Path}, args...)...))
	}
	switch e.Method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
	case "*":
		if e.Raw == nil {
			fail("Method \"*\" needs Raw")
		}
	default:
		fail("Method must be an HTTP method other than OPTIONS")
	}
	if !strings.HasPrefix(e.Path, "/") {
		fail("Path must begin with /")
	}
	if hasV := strings.Contains(e.Path, "{v}"); hasV && len(e.Versions) == 0 {
		fail("Path has {v} and Versions is empty")
	} else if !hasV && len(e.Versions) > 0 {
		fail("Versions is set and Path has no {v}")
	}
	if (e.Handle == nil) == (e.Raw == nil) {
		fail("one of Handle and Raw is required")
	}
	if e.MaxBody < 0 {
		fail("MaxBody must not be negative")
	}
	var names []string
	segments := strings.Split(strings.Replace(e.Path, "{v}", "v", 1), "/")
	for i, s := range segments {
		name, isParam := paramName(s)
		switch {
		case !isParam && strings.ContainsAny(s, "{}:*"):
			fail("segment %q is neither a parameter nor plain", s)
		case isParam && strings.HasSuffix(name, "...") && i != len(segments)-1:
			fail("%s must come last", s)
		case isParam && (name == "" || slices.Contains(names, name)):
			fail("parameter %s has no name or one that is there twice", s)
		}
		if isParam {
			names = append(names, name)
		}
	}
	if len(names) > maxParams {
		fail("has %d parameters, at most %d are possible", len(names), maxParams)
	}
	return errors.Join(errs...)
}

// paramName returns the name of a segment that is a parameter.
func paramName(segment string) (string, bool) {
	if len(segment) >= 2 && segment[0] == '{' && segment[len(segment)-1] == '}' {
		return segment[1 : len(segment)-1], true
	}
	return "", false
}
