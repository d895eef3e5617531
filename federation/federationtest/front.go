package federationtest

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// front is the TLS listener of a server, whose address stays the same while the server behind it is cut off.
type front struct {
	// name is "localhost:" and the port.
	name    string
	handler http.Handler
	tls     *tls.Config

	mu     sync.Mutex
	server *http.Server
	done   chan struct{}
}

func newFront(tb testing.TB, n *Network, handler http.Handler) *front {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	f := &front{
		name: "localhost:" + port, handler: handler,
		tls: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{n.Certificate(tb, "localhost")}},
	}
	f.serve(l)
	tb.Cleanup(f.Cut)
	return f
}

func (f *front) serve(l net.Listener) {
	srv := &http.Server{
		Handler: f.handler, TLSConfig: f.tls.Clone(), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), //nolint:forbidigo // what net/http takes
	}
	done := make(chan struct{})
	f.server, f.done = srv, done
	go func() {
		defer close(done)
		_ = srv.ServeTLS(l, "", "")
	}()
}

// Cut makes the server unreachable for others, and breaks their connections.
func (f *front) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		return
	}
	_ = f.server.Close()
	<-f.done
	f.server = nil
}

// Mend makes it reachable again.
func (f *front) Mend(tb testing.TB) {
	tb.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server != nil {
		return
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", strings.Replace(f.name, "localhost", "127.0.0.1", 1))
	if err != nil {
		tb.Fatal(err)
	}
	f.serve(l)
}
