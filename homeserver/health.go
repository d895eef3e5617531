package homeserver

import (
	"context"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Status is what /ready shows.
type Status struct {
	// Ready is set while the process serves.
	Ready bool `json:"ready"`
	// Instance is the process's name.
	Instance string `json:"instance"`
	// Stopping is set while the process drains.
	Stopping bool `json:"stopping,omitempty"`
	// Components are the parts of the process, in the order they start.
	Components []ComponentStatus `json:"components"`
}

// ComponentStatus is how one component is.
type ComponentStatus struct {
	// Name is the component's name.
	Name string `json:"name"`
	// Ready is set while it works.
	Ready bool `json:"ready"`
	// Reason says why it does not, or is "".
	Reason string `json:"reason,omitempty"`
}

// Status says whether the process serves, and if not, why.
func (p *Process) Status(ctx context.Context) Status {
	s := Status{Instance: p.cfg.Instance, Ready: isClosed(p.ready), Stopping: isClosed(p.draining), Components: []ComponentStatus{}}
	for _, c := range p.components {
		cs := ComponentStatus{Name: c.Name(), Ready: true}
		if err := c.check(ctx); err != nil {
			cs.Ready, cs.Reason = false, err.Error()
			s.Ready = false
		}
		s.Components = append(s.Components, cs)
	}
	s.Ready = s.Ready && !s.Stopping
	return s
}

// ownGroups are the endpoints every process has.
func (p *Process) ownGroups() []Group {
	metrics := promhttp.HandlerFor(p.cfg.Registry, promhttp.HandlerOpts{})
	return []Group{
		{
			Name:     "health",
			Resource: ResourceHealth,
			Endpoints: []Endpoint{{
				Method: http.MethodGet, Path: "/health",
				Handle: func(context.Context, *Request) (any, error) {
					return &Response{ContentType: "text/plain; charset=utf-8", Body: []byte("OK")}, nil
				},
			}},
		},
		{
			Name:     "ready",
			Resource: resourceReady,
			Endpoints: []Endpoint{{
				Method: http.MethodGet, Path: "/ready",
				Handle: func(ctx context.Context, _ *Request) (any, error) {
					s := p.Status(ctx)
					if !s.Ready {
						return &Response{Status: http.StatusServiceUnavailable, JSON: s}, nil
					}
					return s, nil
				},
			}},
		},
		{
			Name:     "metrics",
			Resource: ResourceMetrics,
			Endpoints: []Endpoint{
				{Method: http.MethodGet, Path: "/metrics", Raw: metrics},
				{Method: http.MethodGet, Path: "/_synapse/metrics", Raw: metrics},
			},
		},
		profiles(),
	}
}

// notify tells the service manager about a change of state (sd_notify). A manager that is not there is no error.
func (p *Process) notify(state string) {
	if p.cfg.NotifySocket == "" {
		return
	}
	addr := p.cfg.NotifySocket
	if addr[0] == '@' { // abstract socket
		addr = "\x00" + addr[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		p.log.Warn().Err(err).Msg("service manager cannot be notified")
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		p.log.Warn().Err(err).Msg("service manager cannot be notified")
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
