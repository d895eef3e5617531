package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/replication/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type pair struct {
	A string `json:"a"`
	N int    `json:"n"`
}

var pairMethod = rpc.Method[pair, pair]{Name: "pair", Args: func(p pair) []string { return []string{p.A, "", ".."} }}

func node(t *testing.T, cfg rpc.Config) *rpc.Node {
	t.Helper()
	n, err := rpc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// listen serves a node on l until the test ends or the returned server is closed.
func serve(t *testing.T, n *rpc.Node, l net.Listener) *http.Server {
	t.Helper()
	srv := &http.Server{Handler: n.Handler()}
	rpc.ConfigureServer(srv)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return srv
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func socket(t *testing.T) string { return filepath.Join(t.TempDir(), "rpc.sock") }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func caller(t *testing.T, cfg rpc.Config, path string) *rpc.Node {
	cfg.Instance = "caller"
	cfg.Instances = map[string]rpc.Address{"callee": {Path: path}}
	return node(t, cfg)
}

func TestCallOverEveryTransport(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		tls  bool
		unix bool
		h2   bool
	}{{name: "tcp"}, {name: "unix", unix: true}, {name: "tcp h2c", h2: true}, {name: "unix h2c", unix: true, h2: true}, {name: "tls", tls: true}, {name: "tls h2", tls: true, h2: true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			callee := node(t, rpc.Config{Instance: "callee", Secret: "s3cret"})
			rpc.Register(callee, pairMethod, func(_ context.Context, p pair) (pair, error) {
				return pair{p.A + "!", p.N + 1}, nil
			})
			rpc.Register(callee, echoMethod, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
			var proto atomic.Value
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				proto.Store(r.Proto)
				callee.Handler().ServeHTTP(w, r)
			}))
			cfg := rpc.Config{Instance: "caller", Secret: "s3cret", HTTP2: tc.h2}
			addr := rpc.Address{Host: "127.0.0.1", TLS: tc.tls}
			if tc.unix {
				addr = rpc.Address{Path: socket(t)}
				srv.Listener.Close()
				srv.Listener = listen(t, addr.Path)
			}
			if tc.tls {
				srv.EnableHTTP2 = true
				srv.StartTLS()
				cfg.TLSClient = srv.Client().Transport.(*http.Transport).TLSClientConfig
			} else {
				rpc.ConfigureServer(srv.Config)
				srv.Start()
			}
			defer srv.Close()
			if !tc.unix {
				addr.Port = srv.Listener.Addr().(*net.TCPAddr).Port
			}
			cfg.Instances = map[string]rpc.Address{"callee": addr}
			n := node(t, cfg)
			defer n.Close()
			ctx := testContext(t)
			got, err := rpc.Call(ctx, n, "callee", pairMethod, pair{"!room/ü:x", 41})
			if want := (pair{"!room/ü:x!", 42}); err != nil || got != want {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
			want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[tc.h2]
			if proto.Load() != want {
				t.Errorf("call came as %v, want %v", proto.Load(), want)
			}
			large := []byte(strings.Repeat("0123456789", 200_000))
			if b, err := rpc.Call(ctx, n, "callee", echoMethod, large); err != nil || string(b) != string(large) {
				t.Errorf("echo of %d bytes gave %d bytes, %v", len(large), len(b), err)
			}
		})
	}
}

func TestOwnInstance(t *testing.T) {
	t.Parallel()
	n := node(t, rpc.Config{})
	own := errors.New("as it is")
	rpc.Register(n, pairMethod, func(_ context.Context, p pair) (pair, error) { return p, own })
	if _, err := rpc.Call(testContext(t), n, "master", pairMethod, pair{}); err != own { //nolint:errorlint // the very value, not one wrapped
		t.Errorf("got error %v, want the function's own", err)
	}
	if _, err := rpc.Call(testContext(t), n, "master", echoMethod, nil); !errors.Is(err, rpc.ErrNoMethod) {
		t.Errorf("got %v, want ErrNoMethod", err)
	}
	other := rpc.Method[string, string]{Name: "pair"}
	if _, err := rpc.Call(testContext(t), n, "master", other, ""); err == nil {
		t.Error("call with other types succeeded")
	}
	if _, err := rpc.Call(testContext(t), n, "nobody", pairMethod, pair{}); !errors.Is(err, rpc.ErrUnknownInstance) {
		t.Errorf("got %v, want ErrUnknownInstance", err)
	}
}

type coded struct{ error }

func (coded) RPCError() *rpc.Error {
	return &rpc.Error{
		Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "slow down",
		Fields: map[string]json.RawMessage{"retry_after_ms": json.RawMessage("70")},
	}
}

func TestErrorsCross(t *testing.T) {
	t.Parallel()
	path := socket(t)
	callee := node(t, rpc.Config{Instance: "callee"})
	var fail error
	rpc.Register(callee, pairMethod, func(context.Context, pair) (pair, error) { return pair{}, fail })
	serve(t, callee, listen(t, path))
	n := caller(t, rpc.Config{}, path)
	for _, tc := range []struct {
		name string
		err  error
		want rpc.Error
	}{
		{"coder", fmt.Errorf("wrapped: %w", coded{errors.New("x")}), *coded{}.RPCError()},
		{"error", &rpc.Error{Status: 403, Code: "M_FORBIDDEN", Message: "no"}, rpc.Error{Status: 403, Code: "M_FORBIDDEN", Message: "no"}},
		{"plain", errors.New("password is hunter2"), rpc.Error{Status: 500, Code: "M_UNKNOWN", Message: "Internal server error"}},
		{"deadline", context.DeadlineExceeded, rpc.Error{Status: 504, Code: "M_UNKNOWN", Message: "Timed out"}},
		{"bad status", &rpc.Error{Status: 200, Code: "M_X"}, rpc.Error{Status: 500, Code: "M_UNKNOWN", Message: "Internal server error"}},
		{"bad field", &rpc.Error{Status: 400, Code: "M_X", Message: "y", Fields: map[string]json.RawMessage{"f": json.RawMessage("{")}}, rpc.Error{Status: 400, Code: "M_X", Message: "y"}},
	} {
		fail = tc.err
		_, err := rpc.Call(testContext(t), n, "callee", pairMethod, pair{})
		var got *rpc.Error
		if !errors.As(err, &got) {
			t.Errorf("%s: got %v, want an *Error", tc.name, err)
			continue
		}
		if fmt.Sprint(*got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.name, *got, tc.want)
		}
	}
	fail = nil
	rpc.Register(callee, rpc.Method[pair, pair]{Name: "panics"}, func(context.Context, pair) (pair, error) { panic("x") })
	_, err := rpc.Call(testContext(t), n, "callee", rpc.Method[pair, pair]{Name: "panics"}, pair{})
	var got *rpc.Error
	if !errors.As(err, &got) || got.Status != 500 {
		t.Errorf("got %v from a method that panics, want a 500", err)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		secret, bearer string
		remote         string
		forwarded      bool
		want           int
	}{
		{"secret", "s", "Bearer s", "203.0.113.1:5", false, 200},
		{"secret through a proxy", "s", "Bearer s", "203.0.113.1:5", true, 200},
		{"wrong secret", "s", "Bearer t", "127.0.0.1:5", false, 401},
		{"no secret given", "s", "", "127.0.0.1:5", false, 401},
		{"prefix of the secret", "secret", "Bearer secre", "127.0.0.1:5", false, 401},
		{"loopback", "", "", "127.0.0.1:5", false, 200},
		{"loopback v6", "", "", "[::1]:5", false, 200},
		{"mapped loopback", "", "", "[::ffff:127.0.0.1]:5", false, 200},
		{"needless secret", "", "Bearer s", "127.0.0.1:5", false, 200},
		{"far away", "", "", "203.0.113.1:5", false, 401},
		{"far away v6", "", "", "[2001:db8::1]:5", false, 401},
		{"proxy on this machine", "", "", "127.0.0.1:5", true, 401},
		{"no address", "", "", "", false, 401},
	} {
		n := node(t, rpc.Config{Secret: tc.secret})
		rpc.Register(n, echoMethod, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
		r := httptest.NewRequest("POST", "/_synapse/replication/echo/1", strings.NewReader("hello"))
		r.RemoteAddr = tc.remote
		if tc.bearer != "" {
			r.Header.Set("Authorization", tc.bearer)
		}
		if tc.forwarded {
			r.Header.Set("X-Forwarded-For", "203.0.113.9")
		}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s: status %d, want %d", tc.name, w.Code, tc.want)
		}
	}
	path := socket(t)
	callee := node(t, rpc.Config{Secret: "right"})
	serve(t, callee, listen(t, path))
	if _, err := rpc.Call(testContext(t), caller(t, rpc.Config{Secret: "wrong"}, path), "callee", echoMethod, nil); !errors.Is(err, rpc.ErrRefused) {
		t.Errorf("got %v with the wrong secret, want ErrRefused", err)
	}
	if _, err := rpc.Call(testContext(t), caller(t, rpc.Config{Secret: "right"}, path), "callee", echoMethod, nil); !errors.Is(err, rpc.ErrNoMethod) {
		t.Errorf("got %v for a method that is not there, want ErrNoMethod", err)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	n := node(t, rpc.Config{MaxBodyBytes: 100})
	rpc.Register(n, pairMethod, func(_ context.Context, p pair) (pair, error) { return p, nil })
	for _, tc := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/_synapse/replication/pair/x/1", "{}", 200},
		{"GET", "/_synapse/replication/pair/2", "", 405},
		{"POST", "/_synapse/replication/pair/3", "[", 400},
		{"POST", "/_synapse/replication/pair/4", `{"n":"x"}`, 400},
		{"POST", "/_synapse/replication/pair/5", `{"a":"` + strings.Repeat("x", 200) + `"}`, 413},
		{"POST", "/_synapse/replication/pair/", "{}", 404},
		{"POST", "/_synapse/replication/pair", "{}", 404},
		{"POST", "/_synapse/replication/", "{}", 404},
		{"POST", "/_synapse/replication/nothing/1", "{}", 404},
		{"POST", "/elsewhere/pair/1", "{}", 404},
		{"POST", "/_synapse/replication/pair/" + strings.Repeat("x", 200), "{}", 404},
	} {
		r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s %s %.20s: status %d, want %d", tc.method, tc.path, tc.body, w.Code, tc.want)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: body is not JSON: %q", tc.method, tc.path, w.Body)
		}
	}
}

func TestDeadlineTravels(t *testing.T) {
	t.Parallel()
	path := socket(t)
	callee := node(t, rpc.Config{})
	rpc.Register(callee, pairMethod, func(ctx context.Context, p pair) (pair, error) {
		deadline, ok := ctx.Deadline()
		if !ok {
			return pair{}, errors.New("no deadline")
		}
		return pair{N: int(time.Until(deadline).Milliseconds())}, nil
	})
	stuck := rpc.Method[pair, pair]{Name: "stuck"}
	rpc.Register(callee, stuck, func(ctx context.Context, _ pair) (pair, error) {
		<-ctx.Done()
		return pair{}, ctx.Err()
	})
	serve(t, callee, listen(t, path))
	n := caller(t, rpc.Config{Timeout: 7 * time.Second}, path)

	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if got, err := rpc.Call(ctx, n, "callee", pairMethod, pair{}); err != nil || got.N > 3000 || got.N < 500 {
		t.Errorf("the callee had %d ms left, %v, want a little under 3000", got.N, err)
	}
	if got, err := rpc.Call(context.Background(), n, "callee", pairMethod, pair{}); err != nil || got.N > 7000 || got.N < 3500 {
		t.Errorf("the callee had %d ms left, %v, want a little under the default of 7000", got.N, err)
	}
	own := pairMethod
	own.Timeout = 2 * time.Second
	if got, err := rpc.Call(context.Background(), n, "callee", own, pair{}); err != nil || got.N > 2000 || got.N < 200 {
		t.Errorf("the callee had %d ms left, %v, want a little under the method's 2000", got.N, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := rpc.Call(short, n, "callee", stuck, pair{})
	var remote *rpc.Error
	if !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &remote) && remote.Status == http.StatusGatewayTimeout) {
		t.Errorf("got %v, want a timeout", err)
	}
}

// cutConn breaks when the callee begins to answer.
type cutListener struct {
	net.Listener
	cuts atomic.Int32 // connections still to be cut
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil && l.cuts.Add(-1) >= 0 {
		return &cutConn{c}, nil
	}
	return c, err
}

type cutConn struct{ net.Conn }

func (c *cutConn) Write([]byte) (int, error) {
	c.Conn.Close()
	return 0, net.ErrClosed
}

func TestBrokenConnectionActsOnce(t *testing.T) {
	t.Parallel()
	path := socket(t)
	callee := node(t, rpc.Config{})
	var runs atomic.Int32
	rpc.Register(callee, pairMethod, func(_ context.Context, p pair) (pair, error) {
		return pair{p.A, int(runs.Add(1))}, nil
	})
	l := &cutListener{Listener: listen(t, path)}
	l.cuts.Store(3)
	serve(t, callee, l)
	n := caller(t, rpc.Config{}, path)
	for i := range 2 {
		got, err := rpc.Call(testContext(t), n, "callee", pairMethod, pair{A: "x"})
		if want := (pair{"x", i + 1}); err != nil || got != want {
			t.Errorf("call %d: got %v, %v, want %v", i, got, err, want)
		}
	}
	if l.cuts.Load() > 0 {
		t.Error("no connection was cut")
	}
}

func TestSameRequestJoins(t *testing.T) {
	t.Parallel()
	callee := node(t, rpc.Config{})
	var runs atomic.Int32
	started, finish := make(chan struct{}), make(chan struct{})
	rpc.Register(callee, pairMethod, func(ctx context.Context, p pair) (pair, error) {
		close(started)
		<-finish
		return pair{N: int(runs.Add(1))}, ctx.Err()
	})
	post := func(ctx context.Context) string {
		r := httptest.NewRequest("POST", "/_synapse/replication/pair/same", strings.NewReader("{}")).WithContext(ctx)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		callee.Handler().ServeHTTP(w, r)
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	gone, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	answers := make([]string, 5)
	wg.Go(func() { answers[0] = post(gone) })
	<-started
	cancel() // the first caller goes away; the call must not
	for i := 1; i < len(answers); i++ {
		wg.Go(func() { answers[i] = post(context.Background()) })
	}
	close(finish)
	wg.Wait()
	for i, a := range append(answers, post(context.Background())) {
		if want := `200 {"a":"","n":1}`; a != want {
			t.Errorf("answer %d is %q, want %q", i, a, want)
		}
	}
}

func TestCalleeComesUpLater(t *testing.T) {
	t.Parallel()
	path := socket(t)
	n := caller(t, rpc.Config{}, path)
	result := make(chan error, 1)
	go func() {
		_, err := rpc.Call(testContext(t), n, "callee", echoMethod, []byte("x"))
		result <- err
	}()
	callee := node(t, rpc.Config{})
	rpc.Register(callee, echoMethod, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	serve(t, callee, listen(t, path))
	if err := <-result; err != nil {
		t.Error(err)
	}
	gone := caller(t, rpc.Config{RetryFor: 20 * time.Millisecond}, socket(t))
	if _, err := rpc.Call(testContext(t), gone, "callee", echoMethod, nil); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v from an instance that never comes up, want its own error", err)
	}
}

func TestRestartDuringCall(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*rpc.Method[pair, pair])
		ok     bool
	}{
		{"default", func(*rpc.Method[pair, pair]) {}, false},
		{"durable", func(m *rpc.Method[pair, pair]) { m.Durable = true }, true},
		{"repeatable", func(m *rpc.Method[pair, pair]) { m.Repeatable = true }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := socket(t)
			m := rpc.Method[pair, pair]{Name: "pair"}
			tc.change(&m)
			first := node(t, rpc.Config{})
			arrived, finish := make(chan struct{}), make(chan struct{})
			rpc.Register(first, echoMethod, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
			rpc.Register(first, m, func(context.Context, pair) (pair, error) {
				close(arrived)
				<-finish
				return pair{N: 1}, nil
			})
			srv := serve(t, first, listen(t, path))
			n := caller(t, rpc.Config{}, path)
			if _, err := rpc.Call(testContext(t), n, "callee", echoMethod, nil); err != nil {
				t.Fatal(err)
			}
			result := make(chan error, 1)
			var got pair
			go func() {
				var err error
				got, err = rpc.Call(testContext(t), n, "callee", m, pair{})
				result <- err
			}()
			<-arrived
			srv.Close()
			close(finish)
			second := node(t, rpc.Config{})
			rpc.Register(second, m, func(context.Context, pair) (pair, error) { return pair{N: 2}, nil })
			serve(t, second, listen(t, path))
			err := <-result
			if tc.ok && (err != nil || got.N != 2) {
				t.Errorf("got %v, %v, want the second process's answer", got, err)
			}
			if !tc.ok && !errors.Is(err, rpc.ErrOutcomeUnknown) {
				t.Errorf("got %v, %v, want ErrOutcomeUnknown", got, err)
			}
		})
	}
}

func TestAnswerOfSomebodyElseIsRetried(t *testing.T) {
	t.Parallel()
	path := socket(t)
	callee := node(t, rpc.Config{})
	rpc.Register(callee, echoMethod, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	var asked atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 {
			io.Copy(io.Discard, r.Body)
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		callee.Handler().ServeHTTP(w, r)
	}))
	srv.Listener.Close()
	srv.Listener = listen(t, path)
	srv.Start()
	defer srv.Close()
	n := caller(t, rpc.Config{}, path)
	defer n.Close()
	if b, err := rpc.Call(testContext(t), n, "callee", echoMethod, []byte("hello")); err != nil || string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	_, err := rpc.New(rpc.Config{Instances: map[string]rpc.Address{
		"a": {Host: "x"}, "b": {Port: 1}, "c": {Path: "/x", Port: 1}, "d": {Host: "x", Port: 70000}, "ok": {Host: "x", Port: 7},
	}, Timeout: -1})
	for _, want := range []string{"instance_map.a", "instance_map.b", "instance_map.c", "instance_map.d", "Timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}
