package homeserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
)

// running is a process in a test.
type running struct {
	*homeserver.Process
	stop func() error // drains, and returns what Run returned
}

// start runs a process until the test ends. It does not wait for it to be ready.
func start(t *testing.T, cfg homeserver.Config) *running {
	t.Helper()
	if cfg.Instance == "" {
		cfg.Instance = "test"
	}
	p, err := homeserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return &running{p, stop}
}

func (r *running) waitReady(t *testing.T) {
	t.Helper()
	select {
	case <-r.Ready():
	case <-time.After(10 * time.Second):
		t.Fatalf("not ready: %+v", r.Status(context.Background()))
	}
}

// client makes requests to "http://host:port" or "unix:/path" addresses without keeping connections.
func get(t *testing.T, addr, path string, headers ...string) (int, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	url := addr + path
	if sock, ok := strings.CutPrefix(addr, "unix:"); ok {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", sock)
		}
		url = "http://unix" + path
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

func listen(resources ...string) config.Listener {
	return config.Listener{Type: "http", BindAddresses: []string{"127.0.0.1"}, Resources: []config.ListenerResource{{Names: resources}}}
}

// part is a component whose life the test drives.
type part struct {
	name    string
	ready   chan struct{}
	stopped chan struct{} // closed by the test to let Run return; nil returns at once
	fail    chan error
	order   *recorded
}

type recorded struct {
	mu     sync.Mutex
	events []string
}

func (r *recorded) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, s)
}

func (r *recorded) get() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func newPart(name string, order *recorded) *part {
	return &part{name: name, ready: make(chan struct{}), fail: make(chan error, 1), order: order}
}

func (p *part) Name() string           { return p.name }
func (p *part) Ready() <-chan struct{} { return p.ready }
func (p *part) Check(context.Context) error {
	select {
	case <-p.ready:
		return nil
	default:
		return errors.New("waiting for " + p.name + "'s database")
	}
}

func (p *part) Run(ctx context.Context) error {
	p.order.add("start " + p.name)
	select {
	case <-ctx.Done():
	case err := <-p.fail:
		return err
	}
	if p.stopped != nil {
		<-p.stopped
	}
	p.order.add("stop " + p.name)
	return nil
}

func pingGroup(h homeserver.Handler) homeserver.Group {
	if h == nil {
		h = func(_ context.Context, r *homeserver.Request) (any, error) {
			return map[string]string{"ip": r.ClientIP(), "id": r.ID()}, nil
		}
	}
	return homeserver.Group{Name: "ping", Endpoints: []homeserver.Endpoint{{Method: "GET", Path: "/ping", Handle: h}}}
}

func TestReadyGateAndOrder(t *testing.T) {
	t.Parallel()
	order := &recorded{}
	a, b := newPart("a", order), newPart("b", order)
	p := start(t, homeserver.Config{
		Listeners:  []config.Listener{listen("client"), listen("replication")},
		Groups:     []homeserver.Group{pingGroup(nil), {Name: "rpc", Resource: "replication", Endpoints: []homeserver.Endpoint{{Method: "GET", Path: "/_synapse/replication/x", Handle: echo()}}}},
		Components: []homeserver.Component{a, b},
	})
	// The private listener is open, says what is missing, and serves other processes; the public one is closed.
	var private string
	for private == "" {
		if addrs := p.Addresses("replication"); len(addrs) > 0 {
			private = addrs[0]
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	status, body := get(t, private, "/ready")
	var s homeserver.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || status != 503 || s.Ready || len(s.Components) != 2 || s.Components[0].Reason == "" || s.Components[1].Ready {
		t.Fatalf("/ready before: %d %s", status, body)
	}
	if status, _ := get(t, private, "/_synapse/replication/x"); status != 200 {
		t.Errorf("replication before ready: %d", status)
	}
	if addrs := p.Addresses("client"); len(addrs) != 0 {
		t.Errorf("public listener is open before it can serve: %v", addrs)
	}
	close(a.ready)
	close(b.ready)
	p.waitReady(t)
	status, body = get(t, private, "/ready")
	if status != 200 || !strings.Contains(body, `"ready":true`) {
		t.Errorf("/ready after: %d %s", status, body)
	}
	public := p.Addresses("client")[0]
	if status, body := get(t, public, "/ping"); status != 200 {
		t.Errorf("ping: %d %s", status, body)
	}
	for path, want := range map[string]int{"/health": 200, "/ready": 404, "/metrics": 404, "/_synapse/replication/x": 404} {
		if status, body := get(t, public, path); status != want {
			t.Errorf("public %s: %d %s, want %d", path, status, body, want)
		}
	}
	if status, body := get(t, public, "/health"); status != 200 || body != "OK" {
		t.Errorf("/health: %d %q", status, body)
	}
	if status, _ := get(t, private, "/ping"); status != 404 {
		t.Errorf("the private listener serves a client group: %d", status)
	}
	if status, body := get(t, private, "/metrics"); status != 200 || !strings.Contains(body, `weft_http_requests_total{method="GET",route="/ping",status="200"} 1`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("/metrics: %d %s", status, body)
	}
	if err := p.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	want := []string{"start a", "start b", "stop b", "stop a"}
	if got := order.get(); !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if err := p.Run(context.Background()); err == nil {
		t.Error("Run can be called twice")
	}
}

func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	order := &recorded{}
	a, b := newPart("a", order), newPart("b", order)
	p := start(t, homeserver.Config{Components: []homeserver.Component{a, b}})
	for len(order.get()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := p.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if got := order.get(); !slices.Equal(got, []string{"start a", "stop a"}) {
		t.Errorf("order %v", got)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	t.Run("component fails while serving", func(t *testing.T) {
		t.Parallel()
		a := newPart("a", &recorded{})
		close(a.ready)
		p, err := homeserver.New(homeserver.Config{Instance: "x", Components: []homeserver.Component{a}})
		if err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		go func() {
			<-p.Ready()
			a.fail <- boom
		}()
		if err := p.Run(t.Context()); !errors.Is(err, boom) || !strings.Contains(err.Error(), "component a") {
			t.Errorf("Run = %v", err)
		}
	})
	t.Run("component fails before it is ready", func(t *testing.T) {
		t.Parallel()
		a := newPart("a", &recorded{})
		a.fail <- errors.New("boom")
		p, err := homeserver.New(homeserver.Config{Instance: "x", Components: []homeserver.Component{a}})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "boom") {
			t.Errorf("Run = %v", err)
		}
	})
	t.Run("component panics", func(t *testing.T) {
		t.Parallel()
		p, err := homeserver.New(homeserver.Config{Instance: "x", Components: []homeserver.Component{homeserver.ComponentFunc("bad", func(context.Context) error { panic("ouch") })}})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "component bad panicked: ouch") {
			t.Errorf("Run = %v", err)
		}
	})
	t.Run("port in use", func(t *testing.T) {
		t.Parallel()
		sock, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer sock.Close()
		l := listen("client")
		l.Port = sock.Addr().(*net.TCPAddr).Port
		p, err := homeserver.New(homeserver.Config{Instance: "x", Listeners: []config.Listener{l}})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), "port "+strconv.Itoa(l.Port)) {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	tlsListener := listen("client")
	tlsListener.TLS = true
	a := homeserver.ComponentFunc("a", func(context.Context) error { return nil })
	_, err := homeserver.New(homeserver.Config{
		DrainTimeout: -1,
		Components:   []homeserver.Component{a, a, nil},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"Instance is required", "DrainTimeout must not be negative", `component "a" is there twice`, "component 2 is nil"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	for want, cfg := range map[string]homeserver.Config{
		"duplicate route GET /ping":     {Instance: "x", Groups: []homeserver.Group{pingGroup(nil), {Name: "other", Resource: "media", Endpoints: pingGroup(nil).Endpoints}}},
		"needs TLSCertificatePath":      {Instance: "x", Listeners: []config.Listener{tlsListener}},
		"needs an Authenticator":        {Instance: "x", Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{{Method: "GET", Path: "/x", Auth: homeserver.AuthUser, Handle: echo()}}}}},
		`group "health" is there twice`: {Instance: "x", Groups: []homeserver.Group{{Name: "health"}}},
		"Background is required":        {Instance: "x", Tasks: []homeserver.Task{homeserver.Periodic{}}},
	} {
		if _, err := homeserver.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestDrainFinishesRequests(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	order := &recorded{}
	a := newPart("a", order)
	close(a.ready)
	p := start(t, homeserver.Config{
		Listeners:  []config.Listener{listen("client")},
		Components: []homeserver.Component{a},
		Groups: []homeserver.Group{pingGroup(func(ctx context.Context, r *homeserver.Request) (any, error) {
			close(entered)
			<-r.Draining()
			<-release
			order.add("request")
			return nil, ctx.Err()
		})},
	})
	p.waitReady(t)
	addr := p.Addresses("client")[0]
	result := make(chan string, 1)
	go func() {
		status, body := get(t, addr, "/ping")
		result <- strconv.Itoa(status) + body
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- p.stop() }()
	// The listener closes while the request goes on.
	for {
		if status, _ := get(t, addr, "/health"); status == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	if got := <-result; got != "200{}" {
		t.Errorf("request in flight: %s", got)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
	if got := order.get(); !slices.Equal(got, []string{"start a", "request", "stop a"}) {
		t.Errorf("order %v: components must outlive requests", got)
	}
}

func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	p := start(t, homeserver.Config{
		Listeners:    []config.Listener{listen("client")},
		DrainTimeout: 200 * time.Millisecond,
		Groups: []homeserver.Group{pingGroup(func(ctx context.Context, _ *homeserver.Request) (any, error) {
			close(entered)
			<-ctx.Done()
			return nil, ctx.Err()
		})},
	})
	p.waitReady(t)
	addr := p.Addresses("client")[0]
	result := make(chan int, 1)
	go func() {
		status, _ := get(t, addr, "/ping")
		result <- status
	}()
	<-entered
	began := time.Now()
	if err := p.stop(); err == nil || !strings.Contains(err.Error(), "did not finish") {
		t.Errorf("Run = %v, want an error about the drain", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("drain took %s", d)
	}
	if got := <-result; got != 0 && got != 503 {
		t.Errorf("request got %d", got)
	}

	stuck := newPart("stuck", &recorded{})
	stuck.stopped = make(chan struct{})
	close(stuck.ready)
	q := start(t, homeserver.Config{Components: []homeserver.Component{stuck}, DrainTimeout: 50 * time.Millisecond})
	q.waitReady(t)
	if err := q.stop(); err == nil || !strings.Contains(err.Error(), "component stuck did not stop in time") {
		t.Errorf("Run = %v", err)
	}
	close(stuck.stopped)
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "weft") // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	// A socket left by a killed process.
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()

	l := listen("client")
	l.Path, l.Mode, l.BindAddresses = path, 0o600, nil
	p := start(t, homeserver.Config{Listeners: []config.Listener{l}, Groups: []homeserver.Group{pingGroup(nil)}})
	p.waitReady(t)
	if got := p.Addresses("client"); !slices.Equal(got, []string{"unix:" + path}) {
		t.Errorf("Addresses = %v", got)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v %v", st, err)
	}
	if status, body := get(t, "unix:"+path, "/ping", "X-Forwarded-For", "203.0.113.9, 10.0.0.1"); status != 200 || !strings.Contains(body, `"ip":"203.0.113.9"`) {
		t.Errorf("%d %s", status, body)
	}
	other, err := homeserver.New(homeserver.Config{Instance: "other", Listeners: []config.Listener{l}})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("second process on the socket: %v", err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("socket is left behind: %v", err)
	}
}

func TestForwarded(t *testing.T) {
	t.Parallel()
	yes := true
	trusting, plain := listen("client"), listen("client")
	trusting.XForwarded, trusting.RequestIDHeader = &yes, "x-my-id"
	p := start(t, homeserver.Config{Listeners: []config.Listener{plain, trusting}, Groups: []homeserver.Group{pingGroup(nil)}})
	p.waitReady(t)
	addrs := p.Addresses("client")
	headers := []string{"X-Forwarded-For", "203.0.113.9", "X-My-Id", "from-proxy"}
	if _, body := get(t, addrs[0], "/ping", headers...); !strings.Contains(body, `"ip":"127.0.0.1"`) || strings.Contains(body, "from-proxy") {
		t.Errorf("a plain listener believes headers: %s", body)
	}
	if _, body := get(t, addrs[1], "/ping", headers...); !strings.Contains(body, `"ip":"203.0.113.9"`) || !strings.Contains(body, `"id":"from-proxy"`) {
		t.Errorf("x_forwarded: %s", body)
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	group := func(resource string) homeserver.Group {
		return homeserver.Group{Name: resource, Resource: resource, Endpoints: []homeserver.Endpoint{{Method: "GET", Path: "/" + resource, Handle: echo()}}}
	}
	groups := []homeserver.Group{group("client"), group("federation"), group("media"), group("keys"), group("openid"), group("replication")}
	for _, tc := range []struct {
		resources []string
		main      bool
		want      string
	}{
		{[]string{"client"}, true, "client media health"},
		{[]string{"client"}, false, "client health"},
		{[]string{"federation"}, true, "federation media keys openid health"},
		{[]string{"client", "federation"}, false, "client federation keys openid health"},
		{[]string{"media"}, false, "media health"},
		{[]string{"replication"}, false, "replication health ready metrics"},
		{[]string{"metrics"}, false, "health ready metrics"},
		{[]string{"health"}, false, "health ready metrics"},
	} {
		p := start(t, homeserver.Config{Listeners: []config.Listener{listen(tc.resources...)}, Groups: groups, ImpliedResources: tc.main})
		p.waitReady(t)
		var got []string
		for _, path := range []string{"client", "federation", "media", "keys", "openid", "replication", "health", "ready", "metrics"} {
			if status, _ := get(t, p.Addresses("")[0], "/"+path); status == 200 {
				got = append(got, path)
			}
		}
		want := strings.Fields(tc.want)
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%v (main %t) serves %v, want %v", tc.resources, tc.main, got, want)
		}
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	}
}

// certificate writes a self-signed certificate and key with a serial number.
func certificate(t *testing.T, dir string, serial int64) (certPath, keyPath string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPath, keyPath = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certPath: {Type: "CERTIFICATE", Bytes: der}, keyPath: {Type: "PRIVATE KEY", Bytes: kb}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certPath, keyPath
}

func TestTLSIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := certificate(t, dir, 1)
	l := listen("client")
	l.TLS = true
	p := start(t, homeserver.Config{Listeners: []config.Listener{l}, TLSCertificatePath: cert, TLSPrivateKeyPath: key, Groups: []homeserver.Group{pingGroup(nil)}})
	p.waitReady(t)
	addr := p.Addresses("client")[0]
	if status, body := get(t, addr, "/ping"); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	serial := func() int64 {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(addr, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial %d, want 1", got)
	}
	// Half-written files must not break the listener.
	if err := os.WriteFile(cert, []byte("not yet"), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate(t, dir, 2)
	deadline := time.Now().Add(10 * time.Second)
	for serial() != 2 {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not served")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestH2CBetweenProcesses(t *testing.T) {
	t.Parallel()
	rpc := homeserver.Group{Name: "rpc", Resource: "replication", Endpoints: []homeserver.Endpoint{{
		Method: "*", Path: "/_synapse/replication/{rest...}",
		Raw: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }),
	}}}
	p := start(t, homeserver.Config{Listeners: []config.Listener{listen("replication")}, Groups: []homeserver.Group{rpc}})
	p.waitReady(t)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Post(p.Addresses("")[0]+"/_synapse/replication/send_event/x", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "HTTP/2.0" {
		t.Errorf("spoke %s", b)
	}
	if _, body := get(t, p.Addresses("")[0], "/_synapse/replication/x"); body != "HTTP/1.1" {
		t.Errorf("HTTP/1.1: %s", body)
	}
}

func TestServiceManagerAndPIDFile(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "weft")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	pid := filepath.Join(dir, "pid")
	p := start(t, homeserver.Config{NotifySocket: filepath.Join(dir, "n"), PIDFile: pid})
	read := func() string {
		_ = sock.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 100)
		n, err := sock.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	if got := read(); got != "READY=1" {
		t.Errorf("notified %q", got)
	}
	if b, err := os.ReadFile(pid); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(os.Getpid()) {
		t.Errorf("pid file: %q %v", b, err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if got := read(); got != "STOPPING=1" {
		t.Errorf("notified %q", got)
	}
	if _, err := os.Stat(pid); !os.IsNotExist(err) {
		t.Error("pid file is left behind")
	}
}

func TestBindAddresses(t *testing.T) {
	t.Parallel()
	l := listen("client")
	l.BindAddresses = []string{"::", "0.0.0.0"} // Synapse's default, which clashes on a dual-stack socket
	p := start(t, homeserver.Config{Listeners: []config.Listener{l}, Groups: []homeserver.Group{pingGroup(nil)}})
	p.waitReady(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.Addresses("")[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, "http://127.0.0.1:"+port, "/ping"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	l := listen("client")
	l.Resources[0].Compress = true
	long := strings.Repeat("x", 5000)
	p := start(t, homeserver.Config{Listeners: []config.Listener{l}, Groups: []homeserver.Group{pingGroup(func(_ context.Context, r *homeserver.Request) (any, error) {
		if r.HasQuery("long") {
			return map[string]string{"a": long}, nil
		}
		return nil, nil
	})}})
	p.waitReady(t)
	for path, compressed := range map[string]bool{"/ping?long": true, "/ping": false} {
		tr := &http.Transport{DisableKeepAlives: true}
		res, err := (&http.Client{Transport: tr}).Get(p.Addresses("")[0] + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.Uncompressed != compressed || !json.Valid(b) {
			t.Errorf("%s: compressed %t, want %t (%v)", path, res.Uncompressed, compressed, err)
		}
	}
}
