package federation_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/federation/federationtest"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/internal/iprange"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// tlsServer answers HTTPS with a certificate for some names, and returns its name with the port.
func tlsServer(t *testing.T, n *federationtest.Network, handler http.HandlerFunc, hosts ...string) string {
	t.Helper()
	if len(hosts) == 0 {
		hosts = []string{"localhost"}
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{n.Certificate(t, hosts...)}}
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = discard
	srv.StartTLS()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	return "localhost:" + port
}

var clientKey = event.Signer{ServerName: "here.example", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}

// newClient returns a client that trusts the network's authority.
func newClient(t *testing.T, n *federationtest.Network, change func(*federation.ClientConfig)) *federation.Client {
	t.Helper()
	cfg := federation.ClientConfig{
		Signer: clientKey, TLS: federation.TLSConfig{Roots: n.Roots()}, Timeout: 20 * time.Second,
		Backoff: federation.BackoffConfig{Min: time.Hour},
	}
	if change != nil {
		change(&cfg)
	}
	if cfg.DB == nil {
		cfg.DB = storagetest.New(t)
	}
	c, err := federation.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func isDown(t *testing.T, c *federation.Client, server string) bool {
	t.Helper()
	at, err := c.RetryAt(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	return !at.IsZero()
}

// noFiles is hosts without well-known files.
type noFiles struct{}

func (noFiles) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("no file") }

type srv map[string][]*net.SRV

func (s srv) LookupSRV(_ context.Context, service, _, name string) (string, []*net.SRV, error) {
	if records := s[service+" "+name]; records != nil {
		return name, records, nil
	}
	return "", nil, &net.DNSError{IsNotFound: true}
}

// TestSignedRequest has a server check what the client sends with the keys that the client's server would publish.
func TestSignedRequest(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	keys := &keys{m: map[string]ed25519.PublicKey{}}
	keys.add(clientKey)
	var auth atomic.Pointer[federation.ServerAuth]
	name := tlsServer(t, n, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		origin, err := auth.Load().AuthenticateServer(r.Context(), r, body)
		if err != nil || origin != clientKey.ServerName {
			t.Errorf("%s %s: %q, %v", r.Method, r.RequestURI, origin, err)
		}
		if r.ProtoMajor != 2 {
			t.Errorf("spoke %s", r.Proto)
		}
		_, _ = io.WriteString(w, `{"room_id":"!a:b","servers":[],"pdus":{"$x":{"error":"no"}}}`)
	})
	a, err := federation.NewServerAuth(federation.ServerAuthConfig{ServerName: name, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	auth.Store(a)
	c := newClient(t, n, nil)
	if got, err := c.QueryDirectory(t.Context(), name, "#ü &?/%:x"); err != nil || got.RoomID != "!a:b" {
		t.Errorf("got %+v, %v", got, err)
	}
	results, err := c.SendTransaction(t.Context(), name, "a/b c", &federation.Transaction{
		Origin: clientKey.ServerName, PDUs: []json.RawMessage{[]byte(`{"content":{"body":"<é\u2028>","n":1}}`)},
	})
	if err != nil || results["$x"].Error != "no" {
		t.Errorf("got %+v, %v", results, err)
	}
	var any map[string]any
	if err := c.Hierarchy(t.Context(), name, "!a/b%c:d", true, &any); err != nil {
		t.Error(err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	var zeros bytes.Buffer
	gz := gzip.NewWriter(&zeros)
	if _, err := gz.Write(bytes.Repeat([]byte(" "), federation.MaxResponse+1000)); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	forever := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
				return
			}
		}
	}
	for _, test := range []struct {
		name    string
		answer  http.HandlerFunc
		code    string // of the Matrix error; "" where there is none
		backOff bool
	}{
		{"Matrix error", status(403, `{"errcode":"M_FORBIDDEN","error":"no"}`), "M_FORBIDDEN", false},
		{"own error code", status(418, `{"errcode":"TEA","error":"no"}`), "TEA", false},
		{"plain 404", status(404, `not found`), "M_UNKNOWN", false},
		{"its own failure", status(500, `{"errcode":"M_UNKNOWN","error":"broken"}`), "M_UNKNOWN", false},
		{"gateway", status(502, `<html>Bad gateway</html>`), "", true},
		{"gateway with JSON", status(503, `{"errcode":"M_UNKNOWN","error":"down"}`), "", true},
		{"plain 500", status(500, `oops`), "", true},
		{"no JSON", status(200, `<html>`), "", false},
		{"another type", status(200, `[]`), "", false},
		{"empty", status(200, ``), "", false},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+"/", http.StatusFound)
		}, "", false},
		{"endless", forever, "", false},
		{"a bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zeros.Bytes())
		}, "", false},
		{"endless error", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			forever(w, r)
		}, "M_UNKNOWN", false},
		{"long headers", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 200<<10))
			_, _ = io.WriteString(w, `{}`)
		}, "", true},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"a":`)
		}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			name := tlsServer(t, n, test.answer)
			c := newClient(t, n, nil)
			_, err := c.QueryDirectory(t.Context(), name, "#a:b")
			var ce *federation.ConnectionError
			mx, _ := mxerr.As(err)
			switch {
			case test.code == "" && !errors.As(err, &ce):
				t.Errorf("got %v", err)
			case test.code != "" && (mx == nil || mx.Code != test.code || errors.As(err, &ce)):
				t.Errorf("got %v", err)
			}
			if got := isDown(t, c, name); got != test.backOff {
				t.Errorf("kept away from: %v", got)
			}
		})
	}
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// TestSlowServers have a request end although bytes keep coming, or none do.
func TestSlowServers(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	for name, answer := range map[string]http.HandlerFunc{
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"drip": func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-r.Context().Done():
					return
				case <-tick.C:
					_, _ = io.WriteString(w, " ")
					w.(http.Flusher).Flush()
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := tlsServer(t, n, answer)
			c := newClient(t, n, func(cfg *federation.ClientConfig) { cfg.Timeout = 100 * time.Millisecond })
			begun := time.Now()
			_, err := c.QueryDirectory(t.Context(), server, "#a:b")
			var ce *federation.ConnectionError
			if !errors.As(err, &ce) || time.Since(begun) > 10*time.Second {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	n, other := federationtest.New(t), federationtest.New(t)
	ok := status(200, `{"server":{"name":"x"}}`)
	good := tlsServer(t, n, ok)
	wrongName := tlsServer(t, n, ok, "elsewhere.example")
	wrongCA := tlsServer(t, other, ok)
	_, port, _ := strings.Cut(good, ":")
	_, namedPort, _ := strings.Cut(tlsServer(t, n, ok, "named.example"), ":")
	dns := srv{"matrix-fed named.example": {target(namedPort)}, "matrix other.example": {target(namedPort)}}
	for _, test := range []struct {
		name, server string
		tls          federation.TLSConfig
		ok           bool
	}{
		{"good", good, federation.TLSConfig{Roots: n.Roots()}, true},
		{"another name", wrongName, federation.TLSConfig{Roots: n.Roots()}, false},
		{"another authority", wrongCA, federation.TLSConfig{Roots: n.Roots()}, false},
		{"the system's authorities", good, federation.TLSConfig{}, false},
		{"unchecked", wrongCA, federation.TLSConfig{InsecureSkipVerify: true}, true},
		{"unchecked for it", wrongName, federation.TLSConfig{Roots: n.Roots(), SkipVerifyFor: []string{"LOCAL*:*"}}, true},
		{"unchecked for another", wrongName, federation.TLSConfig{Roots: n.Roots(), SkipVerifyFor: []string{"*.onion"}}, false},
		{"an address", "127.0.0.1:" + port, federation.TLSConfig{Roots: n.Roots()}, false},
		{"by SRV, for the name", "named.example", federation.TLSConfig{Roots: n.Roots()}, true},
		{"by SRV, for another name", "other.example", federation.TLSConfig{Roots: n.Roots()}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, n, func(cfg *federation.ClientConfig) { cfg.TLS, cfg.DNS = test.tls, dns })
			c.SetWeb(noFiles{})
			_, err := c.Version(t.Context(), test.server)
			if (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func target(port string) *net.SRV {
	r := &net.SRV{Target: "localhost."}
	_, _ = fmt.Sscan(port, &r.Port)
	return r
}

// TestDeniedAddresses keeps the client out of its own network, whatever leads there.
func TestDeniedAddresses(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	var asked atomic.Int32
	name := tlsServer(t, n, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, `{}`)
	})
	_, port, _ := strings.Cut(name, ":")
	filter, err := iprange.Parse([]string{"127.0.0.0/8", "::1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, n, func(cfg *federation.ClientConfig) {
		cfg.Addresses, cfg.DNS = filter, srv{"matrix-fed a.example": {target(port)}}
	})
	c.SetWeb(noFiles{})
	for _, server := range []string{name, "127.0.0.1:" + port, "[::ffff:127.0.0.1]:" + port, "[::1]:" + port, "a.example"} {
		var ce *federation.ConnectionError
		if _, err := c.Version(t.Context(), server); !errors.As(err, &ce) || !errors.Is(err, iprange.ErrDenied) {
			t.Errorf("%s: %v", server, err)
		}
		if isDown(t, c, server) {
			t.Errorf("%s counts as down", server)
		}
	}
	if asked.Load() > 0 {
		t.Error("the server was asked")
	}
}

func TestNotAsked(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	var asked atomic.Int32
	name := tlsServer(t, n, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, `{"server":{}}`)
	})
	c := newClient(t, n, func(cfg *federation.ClientConfig) { cfg.Allowed = &[]string{"other.example"} })
	if _, err := c.Version(t.Context(), name); !errors.Is(err, federation.ErrNotAllowed) {
		t.Errorf("not on the list: %v", err)
	}
	c = newClient(t, n, nil)
	for _, server := range []string{clientKey.ServerName, "", "a b", "a:0", "a/../b", "user@" + name} {
		var ce *federation.ConnectionError
		if _, err := c.Version(t.Context(), server); !errors.As(err, &ce) {
			t.Errorf("%q: %v", server, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.State(gone, name, "!a:b", "$c"); !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone got %v", err)
	}
	if isDown(t, c, name) || asked.Load() > 0 {
		t.Errorf("down: %v, asked %d times", isDown(t, c, name), asked.Load())
	}
}

// TestBackoff has two processes of one server meet a server that is down, and comes back.
func TestBackoff(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	db := storagetest.New(t)
	var broken atomic.Bool
	var asked atomic.Int32
	name := tlsServer(t, n, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if broken.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, `{"server":{"name":"x"}}`)
	})
	up := make(chan string, 10)
	client := func() *federation.Client {
		return newClient(t, n, func(cfg *federation.ClientConfig) {
			cfg.DB, cfg.OnUp = db, func(server string) { up <- server }
		})
	}
	one, two := client(), client()
	ask := func(c *federation.Client) error {
		_, err := c.Version(t.Context(), name)
		return err
	}
	for _, c := range []*federation.Client{one, two} {
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
	}
	broken.Store(true)
	var ce *federation.ConnectionError
	if err := ask(one); !errors.As(err, &ce) {
		t.Fatal(err)
	}
	var be *federation.BackoffError
	if err := ask(one); !errors.As(err, &be) || time.Until(be.RetryAt) < 40*time.Minute || time.Until(be.RetryAt) > 61*time.Minute {
		t.Errorf("got %v", err)
	}
	// A third process starts: it reads the database.
	if err := ask(client()); !errors.As(err, &be) || asked.Load() != 3 {
		t.Errorf("got %v, asked %d times", err, asked.Load())
	}
	// The second has not looked there since; its failure changes nothing.
	before, err := storage.GetDestinationRetry(t.Context(), db, name)
	if err != nil || before.FailureTS == 0 {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := ask(two); !errors.As(err, &ce) {
		t.Errorf("got %v", err)
	}
	if after, err := storage.GetDestinationRetry(t.Context(), db, name); err != nil || after != before {
		t.Errorf("got %+v, %v, had %+v", after, err, before)
	}
	if err := ask(two); !errors.As(err, &be) {
		t.Errorf("got %v", err)
	}
	// It is heard of again: by one process, which tells the other.
	broken.Store(false)
	one.Seen(name)
	if got := <-up; got != name {
		t.Errorf("%s is up", got)
	}
	if err := ask(one); err != nil {
		t.Error(err)
	}
	if err := ask(two); !errors.As(err, &be) {
		t.Errorf("got %v", err)
	}
	two.ServerUp(name)
	if err := ask(two); err != nil {
		t.Error(err)
	}
	if after, err := storage.GetDestinationRetry(t.Context(), db, name); err != nil || after != (storage.DestinationRetry{}) {
		t.Errorf("got %+v, %v", after, err)
	}
	if len(up) > 0 {
		t.Error("told twice")
	}
}

// TestBrokenConnectionsAreTriedAgain has a server break connections in the middle.
func TestBrokenConnectionsAreTriedAgain(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	var asked atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"server":{"name":"x"}}`)
	}))
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{n.Certificate(t, "localhost")}}
	srv.Config.ErrorLog = discard
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	c := newClient(t, n, func(cfg *federation.ClientConfig) { cfg.MaxRetryDelay = time.Millisecond })
	if _, err := c.Version(t.Context(), "localhost:"+port); err != nil || asked.Load() != 3 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	// What is not known to be harmless twice is not sent twice.
	asked.Store(0)
	if _, err := c.GetMissingEvents(t.Context(), "localhost:"+port, "!a:b", federation.MissingEvents{}); err == nil || asked.Load() != 1 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}

// discard is where servers log what tests provoke.
var discard = log.New(io.Discard, "", 0)
