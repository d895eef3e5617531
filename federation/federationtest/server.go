package federationtest

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weft-im/weft/federation/node"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// Config says what server to start.
type Config struct {
	// Workers are the processes beside main.
	Workers []homeservertest.Worker
	// Groups returns the endpoint groups of each process beside those of federation: the client-server API, in tests that
	// use it. Optional.
	Groups func(core *homeserver.Core) []homeserver.Group
	// Configure changes what all processes share before they are opened. Optional.
	Configure func(cfg *config.Config)
}

// Server is a homeserver that federates.
type Server struct {
	// Cluster is its processes.
	*homeservertest.Cluster
	// Name is its server name, "localhost:12345".
	Name string

	front   *front
	mu      sync.Mutex
	nodes   map[*homeserver.Core]*node.Node
	via     atomic.Pointer[string]
	next    atomic.Int64
	proxy   *httputil.ReverseProxy
	started atomic.Bool
}

// Start starts a server and waits until it is ready. Requests of other servers go to its processes in turn; see Via.
func (n *Network) Start(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	s := &Server{nodes: map[*homeserver.Core]*node.Node{}}
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	s.proxy = &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", s.upstream(tb) },
		Transport: transport, ErrorLog: log.New(io.Discard, "", 0), //nolint:forbidigo // what net/http takes
	}
	tb.Cleanup(func() {
		transport.CloseIdleConnections()
		for _, n := range s.nodes {
			n.Close()
		}
	})
	s.front = newFront(tb, n, http.HandlerFunc(s.serve))
	s.Name = s.front.name
	s.Cluster = homeservertest.NewCluster(tb, homeservertest.ClusterConfig{
		ServerName: s.Name, Workers: cfg.Workers,
		Configure: func(c *config.Config) {
			c.FederationCustomCAList = []string{n.CAFile}
			c.IPRangeBlacklist, c.TrustedKeyServers = nil, nil
			if cfg.Configure != nil {
				cfg.Configure(c)
			}
		},
		Federate: func(ctx context.Context, core *homeserver.Core) (homeserver.Remotes, error) {
			fed, err := node.New(ctx, core)
			if err != nil {
				return homeserver.Remotes{}, fmt.Errorf("federate: %w", err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.nodes[core] = fed
			return fed.Remotes(), nil
		},
		Parts: func(core *homeserver.Core) homeserver.Config {
			groups := s.nodeOf(core).Groups()
			if cfg.Groups != nil {
				groups = append(groups, cfg.Groups(core)...)
			}
			return core.Process(groups)
		},
	})
	s.started.Store(true)
	return s
}

func (s *Server) nodeOf(core *homeserver.Core) *node.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[core]
}

// Node returns the federation of a process by its name, "master" for the main process.
func (s *Server) Node(process string) *node.Node { return s.nodeOf(s.Core(process)) }

// Via has all further requests of other servers go to one process, or with "" to all in turn.
func (s *Server) Via(process string) { s.via.Store(&process) }

// Cut makes the server unreachable for others, and breaks their connections; it can still reach them.
func (s *Server) Cut() { s.front.Cut() }

// Mend makes it reachable again.
func (s *Server) Mend(tb testing.TB) { tb.Helper(); s.front.Mend(tb) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !s.started.Load() {
		http.Error(w, "starting", http.StatusBadGateway)
		return
	}
	s.proxy.ServeHTTP(w, r)
}

// upstream is the address of the process that takes the next request.
func (s *Server) upstream(tb testing.TB) string {
	names := s.Names()
	name := names[int(s.next.Add(1))%len(names)]
	if via := s.via.Load(); via != nil && *via != "" {
		name = *via
	}
	u, err := url.Parse(s.Process(name).URL(tb, homeserver.ResourceFederation))
	if err != nil {
		tb.Error(err)
		return ""
	}
	return u.Host
}
