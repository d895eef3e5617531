package redisbus_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/redisbus"
	"github.com/weft-im/weft/replication/replicationtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a private redis-server.
type server struct {
	t    testing.TB
	args []string
	cmd  *exec.Cmd
	addr string
}

// startRedis starts a redis-server on a unix socket with further arguments.
func startRedis(t testing.TB, args ...string) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{t: t, addr: filepath.Join(dir, "redis.sock")}
	s.args = append([]string{"--port", "0", "--unixsocket", s.addr, "--save", "", "--appendonly", "no", "--dir", dir}, args...)
	s.start()
	t.Cleanup(s.kill)
	return s
}

func startProcess(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	cmd := exec.Command(path, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var log []string
	for lines.Scan() {
		log = append(log, lines.Text())
		if strings.Contains(strings.ToLower(lines.Text()), "ready to accept connections") || strings.Contains(lines.Text(), "+monitor master") {
			go func() {
				for lines.Scan() { // keeps the pipe from filling up
				}
			}()
			return cmd
		}
	}
	t.Fatalf("redis-server did not start:\n%s", strings.Join(log, "\n"))
	return nil
}

func (s *server) start() { s.cmd = startProcess(s.t, s.args...) }

func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func newBus(t testing.TB, cfg redisbus.Config) *redisbus.Bus {
	t.Helper()
	b, err := redisbus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Each subtest of the suite needs channels of its own, so each has its own server.
func TestBus(t *testing.T) {
	t.Parallel()
	replicationtest.TestBus(t, func(t *testing.T) func(t *testing.T) replication.Bus {
		s := startRedis(t)
		return func(t *testing.T) replication.Bus {
			b, err := redisbus.New(redisbus.Config{Addrs: []string{s.addr}})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	})
}

func TestPassword(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--requirepass", "hunter2", "--user", "weft", "on", ">s3cret", "~*", "&*", "+@all")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, tc := range []struct {
		name string
		cfg  redisbus.Config
		ok   bool
	}{
		{"password", redisbus.Config{Password: "hunter2"}, true},
		{"user", redisbus.Config{Username: "weft", Password: "s3cret"}, true},
		{"database", redisbus.Config{Password: "hunter2", DB: 3}, true},
		{"wrong password", redisbus.Config{Password: "hunter3"}, false},
		{"no password", redisbus.Config{}, false},
		{"wrong database", redisbus.Config{Password: "hunter2", DB: 99}, false},
	} {
		tc.cfg.Addrs = []string{s.addr}
		b := newBus(t, tc.cfg)
		if err := b.Ping(ctx); (err == nil) != tc.ok {
			t.Errorf("%s: ping gave %v", tc.name, err)
		}
		if tc.ok {
			r := replicationtest.Subscribe(t, b, "a.test")
			if err := b.Publish(ctx, "a.test", "PING x"); err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			r.WaitMessages(t, 1)
			continue
		}
		// A wrong password is reported, and tried again: it may be put right.
		r := replicationtest.NewRecorder()
		subCtx, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- b.Subscribe(subCtx, []string{"a.test"}, r) }()
		r.WaitDisconnected(t, 2)
		stop()
		if err := <-done; err != nil {
			t.Errorf("%s: Subscribe returned %v", tc.name, err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis.test"}, DNSNames: []string{"redis.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(certFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	startRedis(t, "--tls-port", fmt.Sprint(port), "--bind", "127.0.0.1", "--tls-cert-file", certFile, "--tls-key-file", keyFile,
		"--tls-ca-cert-file", certFile, "--tls-auth-clients", "no")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	b := newBus(t, redisbus.Config{Addrs: []string{addr}, TLS: &tls.Config{RootCAs: roots, ServerName: "redis.test"}})
	r := replicationtest.Subscribe(t, b, "a.test")
	if err := b.Publish(ctx, "a.test", "PING x"); err != nil {
		t.Error(err)
	}
	r.WaitMessages(t, 1)
	if err := newBus(t, redisbus.Config{Addrs: []string{addr}, TLS: &tls.Config{ServerName: "redis.test"}}).Ping(ctx); err == nil {
		t.Error("a certificate that nobody knows was accepted")
	}
	if err := newBus(t, redisbus.Config{Addrs: []string{addr}}).Ping(ctx); err == nil {
		t.Error("a connection without TLS was accepted")
	}
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	port, sentinelPort := freePort(t), freePort(t)
	startRedis(t, "--port", fmt.Sprint(port), "--bind", "127.0.0.1")
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor main 127.0.0.1 %d 1\n", sentinelPort, filepath.Dir(conf), port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := startProcess(t, conf, "--sentinel")
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	suiteOne(t, redisbus.Config{Addrs: []string{fmt.Sprintf("127.0.0.1:%d", sentinelPort)}, SentinelMaster: "main"})
}

func TestCluster(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	s := startRedis(t, "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(freePort(t)))
	cli, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Skip("redis-cli is not installed")
	}
	if out, err := exec.Command(cli, "-s", s.addr, "cluster", "addslotsrange", "0", "16383").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	suiteOne(t, redisbus.Config{Addrs: []string{fmt.Sprintf("127.0.0.1:%d", port)}, Cluster: true})
}

// suiteOne runs a message through every channel kind.
func suiteOne(t *testing.T, cfg redisbus.Config) {
	t.Helper()
	a, b := newBus(t, cfg), newBus(t, cfg)
	r := replicationtest.Subscribe(t, b, "a.test", "a.test/events", "a.test/receipts")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	const n = 200
	for i := range n {
		for _, ch := range []string{"a.test", "a.test/events", "a.test/receipts", "a.test/typing"} {
			if err := a.Publish(ctx, ch, fmt.Sprint("PING ", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := make(map[string]int)
	for _, m := range r.WaitMessages(t, 3*n) {
		ch, _, _ := strings.Cut(m, " ")
		if want := fmt.Sprintf("%s PING %d", ch, next[ch]); m != want {
			t.Fatalf("got %q, want %q", m, want)
		}
		next[ch]++
	}
}

// TestRestart kills Redis under load and starts it again: every row arrives once, in order.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	stream := replication.Stream[int64]{StreamInfo: replication.StreamInfo{Name: "events"}}
	client := func(instance string) *replication.Client {
		c, err := replication.NewClient(replication.Config{
			ServerName: "a.test", Instance: instance, Bus: newBus(t, redisbus.Config{Addrs: []string{s.addr}}),
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	w, f := client("writer"), client("follower")
	pub, err := replication.NewPublisher(w, stream, replication.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	fol, err := replication.Follow(f, stream, replication.FollowConfig[int64]{
		Source: func(_ context.Context, _ string, after, upTo int64, limit int) (rows []replication.Row[int64], reached int64, err error) {
			for i := after + 1; i <= upTo && len(rows) < limit; i++ {
				rows = append(rows, replication.Row[int64]{Token: i, Value: i})
			}
			return rows, after + int64(len(rows)), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int64, 100_000)
	fol.Handle(func(_ context.Context, u replication.Update[int64]) {
		for _, r := range u.Rows {
			got <- r.Value
		}
	})
	replicationtest.Run(t, w)
	replicationtest.Run(t, f)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	next := int64(1)
	publish := func(n int) {
		for range n {
			if err := pub.Publish(next, replication.Row[int64]{Token: next, Value: next}); err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
	publish(2000)
	if err := fol.WaitFor(ctx, "writer", 10); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		publish(1000)
		s.kill()
		publish(1000)
		s.start()
		publish(1000)
	}
	if err := f.WaitFor(ctx, "events", "writer", next-1); err != nil {
		// WaitFor has a bound of its own; Redis may take longer than that to come back.
		if err := f.WaitFor(ctx, "events", "writer", next-1); err != nil {
			t.Fatal(err)
		}
	}
	for i := int64(1); i < next; i++ {
		if v := <-got; v != i {
			t.Fatalf("got row %d, want %d", v, i)
		}
	}
	if len(got) > 0 {
		t.Errorf("%d rows came twice", len(got))
	}
	if !f.Connected() {
		t.Error("the follower is not connected")
	}
}

func TestComesUpLater(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.kill()
	b := newBus(t, redisbus.Config{Addrs: []string{s.addr}})
	r := replicationtest.NewRecorder()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Subscribe(ctx, []string{"a.test"}, r) }()
	r.WaitDisconnected(t, 1)
	if err := b.Publish(ctx, "a.test", "PING x"); err == nil {
		t.Error("publishing without Redis succeeded")
	}
	s.start()
	r.WaitConnected(t, 1)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for _, cfg := range []redisbus.Config{
		{Addrs: []string{"localhost"}},
		{Addrs: []string{"a:1", "b:1"}},
		{Cluster: true, SentinelMaster: "x"},
		{Cluster: true, DB: 1},
		{DB: -1},
		{DialTimeout: -1},
	} {
		if _, err := redisbus.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
