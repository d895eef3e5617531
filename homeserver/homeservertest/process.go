// Package homeservertest runs homeserver processes in tests, as net/http/httptest runs HTTP servers: one process, or a
// whole cluster with a database and a bus of its own, all in the test binary.
//
//	p := homeservertest.Start(t, homeserver.Config{Groups: groups})
//	status, body := p.Do(t, "GET", "/_matrix/client/versions", "", nil)
//
//	c := homeservertest.NewCluster(t, homeservertest.ClusterConfig{
//		Workers: []homeservertest.Worker{{Name: "worker1"}, {Name: "persister1", Streams: []string{"events"}}},
//		Parts: func(core *homeserver.Core) homeserver.Config { return core.Process(groups(core)) },
//	})
//	c.Process("worker1").Do(t, "GET", "/_matrix/client/v3/sync", token, nil)
//
// Nothing here sleeps: processes are waited for by their Ready channel. Everything is stopped when the test ends, and a
// process that does not drain cleanly fails the test.
package homeservertest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
)

// startTimeout bounds the wait for a process to be ready.
const startTimeout = 30 * time.Second

// Process is a process that runs in a test.
type Process struct {
	*homeserver.Process
	name   string
	client *http.Client
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	stop   func() error
}

// Start runs a process until the test ends and waits until it is ready. What cfg leaves out is filled in: Instance
// "test", and one listener on a free port of 127.0.0.1 that serves all resources for clients and servers.
func Start(tb testing.TB, cfg homeserver.Config) *Process {
	tb.Helper()
	p := launch(tb, cfg)
	p.waitReady(tb)
	return p
}

// launch starts a process without waiting.
func launch(tb testing.TB, cfg homeserver.Config) *Process {
	tb.Helper()
	if cfg.Instance == "" {
		cfg.Instance = "test"
	}
	if len(cfg.Listeners) == 0 {
		cfg.Listeners = []config.Listener{listener("client", "federation", "media", "keys", "openid", "consent", "static")}
	}
	hs, err := homeserver.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Process{Process: hs, name: cfg.Instance, cancel: cancel, done: make(chan struct{})}
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 100}
	p.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	go func() {
		defer close(p.done)
		p.err = hs.Run(ctx)
	}()
	p.stop = sync.OnceValue(func() error {
		transport.CloseIdleConnections()
		cancel()
		<-p.done
		transport.CloseIdleConnections()
		return p.err
	})
	tb.Cleanup(func() {
		if err := p.stop(); err != nil {
			tb.Errorf("process %s: %v", p.name, err)
		}
	})
	return p
}

func listener(resources ...string) config.Listener {
	return config.Listener{Type: "http", BindAddresses: []string{"127.0.0.1"}, Resources: []config.ListenerResource{{Names: resources}}}
}

// dial connects to addresses of unix sockets too, which stand in URLs as the host "unix" and are told apart by a dialer
// of their own; see Do.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if path, ok := ctx.Value(socketKey{}).(string); ok {
		network, addr = "unix", path
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

type socketKey struct{}

func (p *Process) waitReady(tb testing.TB) {
	tb.Helper()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-p.Ready():
	case <-p.done:
		tb.Fatalf("process %s stopped while it started: %v", p.name, p.err)
	case <-timer.C:
		status, _ := json.Marshal(p.Status(context.Background()))
		tb.Fatalf("process %s is not ready after %s: %s", p.name, startTimeout, status)
	}
}

// Name returns the process's instance name.
func (p *Process) Name() string { return p.name }

// URL returns the address of a listener with the resource ("client"), "http://127.0.0.1:12345".
func (p *Process) URL(tb testing.TB, resource string) string {
	tb.Helper()
	addrs := p.Addresses(resource)
	if len(addrs) == 0 {
		tb.Fatalf("process %s has no open listener with the resource %s", p.name, resource)
	}
	return addrs[0]
}

// Stop drains the process before the test ends, and returns what Run returned.
func (p *Process) Stop() error { return p.stop() }

// Client returns an HTTP client whose connections end with the process.
func (p *Process) Client() *http.Client { return p.client }

// Do sends a request to the client listener and returns the status and the body. A body other than nil is sent as JSON,
// json.RawMessage and []byte as they are. token is the access token, "" for none.
func (p *Process) Do(tb testing.TB, method, path, token string, body any) (status int, response []byte) {
	tb.Helper()
	var rd io.Reader
	switch v := body.(type) {
	case nil:
	case []byte:
		rd = bytes.NewReader(v)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		rd = bytes.NewReader(b)
	}
	ctx, url := tb.Context(), p.URL(tb, homeserver.ResourceClient)
	if sock, ok := strings.CutPrefix(url, "unix:"); ok {
		ctx, url = context.WithValue(ctx, socketKey{}, sock), "http://unix"
	}
	req, err := http.NewRequestWithContext(ctx, method, url+path, rd)
	if err != nil {
		tb.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := p.client.Do(req)
	if err != nil {
		tb.Fatalf("%s %s on %s: %v", method, path, p.name, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("%s %s on %s: %v", method, path, p.name, err)
	}
	return res.StatusCode, b
}

// Call is Do for what must succeed: any status but 200 fails the test. The body is decoded into out, unless that is nil.
func (p *Process) Call(tb testing.TB, method, path, token string, body, out any) {
	tb.Helper()
	status, b := p.Do(tb, method, path, token, body)
	if status != http.StatusOK {
		tb.Fatalf("%s %s on %s: %d %s", method, path, p.name, status, b)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(b, out); err != nil {
		tb.Fatalf("%s %s on %s: %v in %s", method, path, p.name, err, b)
	}
}
