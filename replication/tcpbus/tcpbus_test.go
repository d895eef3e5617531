package tcpbus_test

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/replicationtest"
	"github.com/weft-im/weft/replication/tcpbus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRelay(t testing.TB, cfg tcpbus.ServerConfig) *tcpbus.Server {
	t.Helper()
	cfg.ServerName = replicationtest.ServerName
	r, err := tcpbus.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// serve serves a relay on addr and returns a function that stops it.
func serve(t testing.TB, r *tcpbus.Server, addr string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func newClient(t testing.TB, addr string) *tcpbus.Client {
	t.Helper()
	c, err := tcpbus.NewClient(tcpbus.ClientConfig{Address: addr, ServerName: replicationtest.ServerName, Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func socket(t testing.TB) string { return filepath.Join(t.TempDir(), "relay.sock") }

func TestClientsOnly(t *testing.T) {
	t.Parallel()
	replicationtest.TestBus(t, func(t *testing.T) func(t *testing.T) replication.Bus {
		addr := socket(t)
		serve(t, newRelay(t, tcpbus.ServerConfig{}), addr)
		return func(t *testing.T) replication.Bus { return newClient(t, addr) }
	})
}

// In each case the process that publishes first is the one with the relay.
func TestRelayAndClients(t *testing.T) {
	t.Parallel()
	replicationtest.TestBus(t, func(t *testing.T) func(t *testing.T) replication.Bus {
		addr := socket(t)
		r := newRelay(t, tcpbus.ServerConfig{})
		serve(t, r, addr)
		first := true
		return func(t *testing.T) replication.Bus {
			if first {
				first = false
				return r
			}
			return newClient(t, addr)
		}
	})
}

// netcat is a person with a plain TCP connection.
type netcat struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Scanner
}

func dialNetcat(t *testing.T, addr string) *netcat {
	t.Helper()
	conn, err := net.Dial("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n := &netcat{t, conn, bufio.NewScanner(conn)}
	n.in.Buffer(nil, 1<<20)
	n.expect("SERVER " + replicationtest.ServerName)
	return n
}

func (n *netcat) say(lines ...string) {
	n.t.Helper()
	if _, err := n.conn.Write([]byte(strings.Join(lines, "\n") + "\n")); err != nil {
		n.t.Fatal(err)
	}
}

func (n *netcat) expect(lines ...string) {
	n.t.Helper()
	for _, want := range lines {
		if !n.in.Scan() {
			n.t.Fatalf("connection ended (%v), want line %q", n.in.Err(), want)
		}
		if got := n.in.Text(); got != want {
			n.t.Fatalf("got line %q, want %q", got, want)
		}
	}
}

func TestNetcat(t *testing.T) {
	t.Parallel()
	addr := socket(t)
	relay := newRelay(t, tcpbus.ServerConfig{})
	serve(t, relay, addr)
	const name = replicationtest.ServerName
	atMain := replicationtest.Subscribe(t, relay, name, name+"/events")
	a, b := dialNetcat(t, addr), dialNetcat(t, addr)
	a.say("NAME a", "REPLICATE")
	atMain.WaitMessages(t, 1)
	b.say("REPLICATE typing", "USER_SYNC b @u:x None start 5")
	b.expect("REPLICATE typing")
	a.expect("USER_SYNC b @u:x None start 5")

	// What main publishes comes line by line, and only what was asked for.
	ctx := context.Background()
	for _, m := range []string{"RDATA events w 2 {}\nPOSITION events w 1 2", "POSITION typing w 1 3"} {
		stream := strings.Fields(m)[1]
		if err := relay.Publish(ctx, name+"/"+stream, m); err != nil {
			t.Fatal(err)
		}
	}
	a.expect("RDATA events w 2 {}", "POSITION events w 1 2", "POSITION typing w 1 3")
	b.expect("POSITION typing w 1 3")

	// Rows without a position, as other implementations send them, still arrive.
	b.say("RDATA events x batch {}", "RDATA events x 4 {}", "REMOTE_SERVER_UP one.test")
	a.expect("RDATA events x batch {}", "RDATA events x 4 {}", "REMOTE_SERVER_UP one.test")
	b.say("RDATA events x 5 {}")
	a.expect("RDATA events x 5 {}")

	b.say("", "NONSENSE 1", "POSITION events", "PING 5", "REMOTE_SERVER_UP")
	for range 2 {
		if !b.in.Scan() || !strings.HasPrefix(b.in.Text(), "ERROR ") {
			t.Errorf("got %q for a bad line, want ERROR", b.in.Text())
		}
	}
	b.say("REMOTE_SERVER_UP two.test")
	a.expect("POSITION events", "REMOTE_SERVER_UP two.test")
	want := []string{
		name + " REPLICATE",
		name + " USER_SYNC b @u:x None start 5",
		name + "/events RDATA events w 2 {}\nPOSITION events w 1 2",
		name + "/events RDATA events x batch {}\nRDATA events x 4 {}",
		name + " REMOTE_SERVER_UP one.test",
		name + "/events RDATA events x 5 {}",
		name + "/events POSITION events",
		name + " REMOTE_SERVER_UP two.test",
	}
	if got := atMain.WaitMessages(t, len(want)); !slices.Equal(got, want) {
		t.Errorf("main got\n%q, want\n%q", got, want)
	}
}

func TestWrongServer(t *testing.T) {
	t.Parallel()
	addr := socket(t)
	serve(t, newRelay(t, tcpbus.ServerConfig{}), addr)
	c, err := tcpbus.NewClient(tcpbus.ClientConfig{Address: addr, ServerName: "other.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Publish(context.Background(), "other.test", "REPLICATE"); err == nil || !strings.Contains(err.Error(), "other.test") {
		t.Errorf("got %v from the relay of another server", err)
	}
	if err := c.Subscribe(context.Background(), []string{"bus.test/events"}, replicationtest.NewRecorder()); err == nil {
		t.Error("subscribed to a channel of another server")
	}
}

func TestSlowConnectionIsClosed(t *testing.T) {
	t.Parallel()
	addr := socket(t)
	relay := newRelay(t, tcpbus.ServerConfig{MaxQueuedBytes: 1 << 20})
	serve(t, relay, addr)
	slow := dialNetcat(t, addr)
	slow.say("REPLICATE events")
	slow.expect("REPLICATE events")
	text := "RDATA events w 2 \"" + strings.Repeat("x", 100_000) + "\"\nPOSITION events w 1 2"
	for range 100 {
		if err := relay.Publish(context.Background(), replicationtest.ServerName+"/events", text); err != nil {
			t.Fatal(err)
		}
	}
	lines := 0
	for slow.in.Scan() {
		lines++
	}
	if lines >= 200 {
		t.Error("a connection that did not read got everything")
	}
}

// TestRestart stops the relay under load and starts another in its place: every row
// arrives once, in order.
func TestRestart(t *testing.T) {
	t.Parallel()
	addr := socket(t)
	stop := serve(t, newRelay(t, tcpbus.ServerConfig{}), addr)
	stream := replication.Stream[int64]{StreamInfo: replication.StreamInfo{Name: "events"}}
	client := func(instance string) *replication.Client {
		c, err := replication.NewClient(replication.Config{ServerName: replicationtest.ServerName, Instance: instance, Bus: newClient(t, addr)})
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
	next := int64(1)
	publish := func(n int) {
		for range n {
			if err := pub.Publish(next, replication.Row[int64]{Token: next, Value: next}); err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
	for range 3 {
		publish(1000)
		stop()
		publish(1000)
		stop = serve(t, newRelay(t, tcpbus.ServerConfig{}), addr)
		publish(1000)
		if err := fol.WaitFor(context.Background(), "writer", next-1); err != nil {
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
}

func TestListensWhileSubscribed(t *testing.T) {
	t.Parallel()
	addr := socket(t)
	s := newRelay(t, tcpbus.ServerConfig{Addresses: []string{addr}})
	if err := newClient(t, addr).Publish(context.Background(), replicationtest.ServerName, "REPLICATE"); err == nil {
		t.Error("it listens before the process is subscribed")
	}
	t.Run("subscribed", func(t *testing.T) {
		replicationtest.Subscribe(t, s, replicationtest.ServerName)
		c := newClient(t, addr)
		r := replicationtest.Subscribe(t, c, replicationtest.ServerName)
		if err := s.Publish(context.Background(), replicationtest.ServerName, "REMOTE_SERVER_UP one.test"); err != nil {
			t.Fatal(err)
		}
		r.WaitMessages(t, 1)
		other := newRelay(t, tcpbus.ServerConfig{Addresses: []string{socket(t), addr}})
		if err := other.Subscribe(context.Background(), nil, replicationtest.NewRecorder()); err == nil {
			t.Error("an address in use was taken")
		}
	})
	if err := newClient(t, addr).Publish(context.Background(), replicationtest.ServerName, "REPLICATE"); err == nil {
		t.Error("it listens after the subscription has ended")
	}
}

func TestCloseEndsServe(t *testing.T) {
	t.Parallel()
	addr := socket(t)
	r := newRelay(t, tcpbus.ServerConfig{})
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Serve(context.Background(), l) }()
	n := dialNetcat(t, addr)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if n.in.Scan() {
		t.Errorf("the connection goes on with %q", n.in.Text())
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for _, cfg := range []tcpbus.ClientConfig{
		{Address: "x:1"},
		{Address: "x", ServerName: "a"},
		{ServerName: "a"},
		{Address: "x:1", ServerName: "a b"},
		{Address: "x:1", ServerName: "a", Name: "a\nb"},
		{Address: "x:1", ServerName: "a", DialTimeout: -1},
	} {
		if _, err := tcpbus.NewClient(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	for _, cfg := range []tcpbus.ServerConfig{{}, {ServerName: "a b"}, {ServerName: "a", MaxQueuedBytes: -1}} {
		if _, err := tcpbus.NewServer(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
