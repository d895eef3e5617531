package replicationtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-im/weft/replication"
)

// patience bounds every wait of the suite. It is only used up when a test fails.
const patience = 10 * time.Second

// TestBus checks that an implementation keeps the contract of replication.Bus. factory
// makes a new, empty network for one subtest, and returns a function that gives another
// process's end of it each time it is called. Close is called by the suite.
//
// Message texts in the suite are lines of the replication protocol, and channels are named
// as a Client names them after the server "bus.test", since a bus may rely on that.
func TestBus(t *testing.T, factory func(t *testing.T) func(t *testing.T) replication.Bus) {
	cases := []struct {
		name string
		run  func(t *testing.T, connect func() replication.Bus)
	}{
		{"delivers to every subscriber", testDelivers},
		{"delivers to the publisher's own subscription", testOwn},
		{"keeps channels apart", testChannels},
		{"keeps order", testOrder},
		{"keeps messages of several lines whole", testWhole},
		{"keeps large messages", testLarge},
		{"serves many publishers at once", testConcurrent},
		{"ends a subscription with its context", testUnsubscribe},
		{"close ends everything", testClose},
		{"carries streams between clients", testClients},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			open := factory(t)
			c.run(t, func() replication.Bus {
				b := open(t)
				t.Cleanup(func() {
					if err := b.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
				return b
			})
		})
	}
}

// ServerName is the server that TestBus's channels are named after.
const ServerName = "bus.test"

// Recorder is a Subscriber that keeps what it gets.
type Recorder struct {
	mu        sync.Mutex
	cond      *sync.Cond
	messages  []string
	connected int
	lost      int
}

// NewRecorder returns an empty recorder.
func NewRecorder() *Recorder {
	r := &Recorder{}
	r.cond = sync.NewCond(&r.mu)
	return r
}

// Connected implements replication.Subscriber.
func (r *Recorder) Connected() { r.note(func() { r.connected++ }) }

// Disconnected implements replication.Subscriber.
func (r *Recorder) Disconnected(error) { r.note(func() { r.lost++ }) }

// Message implements replication.Subscriber.
func (r *Recorder) Message(channel, message string) {
	r.note(func() { r.messages = append(r.messages, channel+" "+message) })
}

func (r *Recorder) note(fn func()) {
	r.mu.Lock()
	fn()
	r.mu.Unlock()
	r.cond.Broadcast()
}

// wait blocks until done, which is called under the lock, and returns false when that
// takes too long.
func (r *Recorder) wait(done func() bool) bool {
	timer := time.AfterFunc(patience, func() { r.note(func() {}) })
	defer timer.Stop()
	deadline := time.Now().Add(patience)
	r.mu.Lock()
	defer r.mu.Unlock()
	for !done() {
		if time.Now().After(deadline) {
			return false
		}
		r.cond.Wait()
	}
	return true
}

// WaitConnected waits until Connected was called n times in all.
func (r *Recorder) WaitConnected(t testing.TB, n int) {
	t.Helper()
	if !r.wait(func() bool { return r.connected >= n }) {
		t.Fatalf("Connected was not called %d times", n)
	}
}

// WaitDisconnected waits until Disconnected was called n times in all.
func (r *Recorder) WaitDisconnected(t testing.TB, n int) {
	t.Helper()
	if !r.wait(func() bool { return r.lost >= n }) {
		t.Fatalf("Disconnected was not called %d times", n)
	}
}

// WaitMessages waits for n messages and returns all there are, each as "channel text".
func (r *Recorder) WaitMessages(t testing.TB, n int) []string {
	t.Helper()
	if !r.wait(func() bool { return len(r.messages) >= n }) {
		t.Fatalf("got %d messages, want %d: %.200q", len(r.Messages()), n, r.Messages())
	}
	return r.Messages()
}

// Messages returns the messages so far, each as "channel text".
func (r *Recorder) Messages() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

// Subscribe runs bus.Subscribe with a new Recorder until the test ends, and waits until it
// is connected.
func Subscribe(t *testing.T, bus replication.Bus, channels ...string) *Recorder {
	t.Helper()
	r := NewRecorder()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bus.Subscribe(ctx, channels, r) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, replication.ErrBusClosed) {
			t.Errorf("Subscribe: %v", err)
		}
	})
	r.WaitConnected(t, 1)
	return r
}

func publish(t *testing.T, bus replication.Bus, channel, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := bus.Publish(ctx, channel, message); err != nil {
		t.Errorf("Publish %.60q: %v", message, err)
	}
}

const (
	commands = ServerName
	events   = ServerName + "/events"
	receipts = ServerName + "/receipts"
)

func testDelivers(t *testing.T, connect func() replication.Bus) {
	a, b, c := connect(), connect(), connect()
	rb, rc := Subscribe(t, b, commands), Subscribe(t, c, commands)
	Subscribe(t, a, commands)
	publish(t, a, commands, "REMOTE_SERVER_UP one.test")
	want := []string{commands + " REMOTE_SERVER_UP one.test"}
	for _, r := range []*Recorder{rb, rc} {
		if got := r.WaitMessages(t, 1); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func testOwn(t *testing.T, connect func() replication.Bus) {
	a := connect()
	r := Subscribe(t, a, commands)
	publish(t, a, commands, "REMOTE_SERVER_UP one.test")
	publish(t, a, commands, "REMOTE_SERVER_UP two.test")
	want := []string{commands + " REMOTE_SERVER_UP one.test", commands + " REMOTE_SERVER_UP two.test"}
	if got := r.WaitMessages(t, 2); !slices.Equal(got, want) {
		t.Errorf("got %q, want each once, in order: %q", got, want)
	}
}

func testChannels(t *testing.T, connect func() replication.Bus) {
	a, b := connect(), connect()
	re, rr := Subscribe(t, b, events), Subscribe(t, b, receipts, commands)
	Subscribe(t, a, commands)
	publish(t, a, events, "POSITION events w 1 2")
	publish(t, a, receipts, "POSITION receipts w 3 4")
	publish(t, a, ServerName+"/typing", "POSITION typing w 5 6")
	publish(t, a, commands, "REMOTE_SERVER_UP end.test")
	publish(t, a, events, "POSITION events w 2 7")
	wantR := []string{receipts + " POSITION receipts w 3 4", commands + " REMOTE_SERVER_UP end.test"}
	got := rr.WaitMessages(t, 2)
	slices.Sort(got)
	slices.Sort(wantR)
	if !slices.Equal(got, wantR) {
		t.Errorf("got %q, want %q", got, wantR)
	}
	wantE := []string{events + " POSITION events w 1 2", events + " POSITION events w 2 7"}
	if got := re.WaitMessages(t, 2); !slices.Equal(got, wantE) {
		t.Errorf("got %q, want %q", got, wantE)
	}
}

func testOrder(t *testing.T, connect func() replication.Bus) {
	a, b := connect(), connect()
	r := Subscribe(t, b, events)
	Subscribe(t, a, commands)
	const n = 500
	for i := range n {
		publish(t, a, events, fmt.Sprintf("POSITION events w %d %d", i, i+1))
	}
	for i, got := range r.WaitMessages(t, n) {
		if want := fmt.Sprintf("%s POSITION events w %d %d", events, i, i+1); got != want {
			t.Fatalf("message %d is %q, want %q", i, got, want)
		}
	}
}

func testWhole(t *testing.T, connect func() replication.Bus) {
	a, b := connect(), connect()
	r := Subscribe(t, b, events)
	Subscribe(t, a, commands)
	text := "RDATA events w batch [\"a\"]\nRDATA events w 7 [\"b é \\n\"]\nRDATA events w 9 [\"c\"]\nPOSITION events w 3 9"
	for range 3 {
		publish(t, a, events, text)
	}
	for _, got := range r.WaitMessages(t, 3) {
		if want := events + " " + text; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func testLarge(t *testing.T, connect func() replication.Bus) {
	a, b := connect(), connect()
	r := Subscribe(t, b, events)
	Subscribe(t, a, commands)
	text := "RDATA events w 7 \"" + strings.Repeat("x", 1<<20) + "\"\nPOSITION events w 3 7"
	publish(t, a, events, text)
	if got := r.WaitMessages(t, 1); got[0] != events+" "+text {
		t.Errorf("got %d bytes that differ from the %d sent", len(got[0]), len(text))
	}
}

func testConcurrent(t *testing.T, connect func() replication.Bus) {
	const writers, each = 4, 100
	follower := connect()
	r := Subscribe(t, follower, events)
	var wg sync.WaitGroup
	for w := range writers {
		bus := connect()
		Subscribe(t, bus, commands)
		wg.Go(func() {
			for i := range each {
				publish(t, bus, events, fmt.Sprintf("RDATA events w%d %d {}\nPOSITION events w%d %d %d", w, i+1, w, i, i+1))
			}
		})
	}
	wg.Wait()
	next := make(map[int]int)
	for _, m := range r.WaitMessages(t, writers*each) {
		var w, i int
		if _, err := fmt.Sscanf(m, events+" RDATA events w%d %d {}", &w, &i); err != nil {
			t.Fatalf("message %q is damaged: %v", m, err)
		}
		if i != next[w]+1 {
			t.Fatalf("writer %d: got message %d after %d", w, i, next[w])
		}
		next[w] = i
	}
}

func testUnsubscribe(t *testing.T, connect func() replication.Bus) {
	a, b := connect(), connect()
	Subscribe(t, a, commands)
	ctx, cancel := context.WithCancel(context.Background())
	r := NewRecorder()
	done := make(chan error, 1)
	go func() { done <- b.Subscribe(ctx, []string{events}, r) }()
	r.WaitConnected(t, 1)
	publish(t, a, events, "POSITION events w 1 2")
	r.WaitMessages(t, 1)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Subscribe returned %v when its context ended, want nil", err)
	}
	other := Subscribe(t, b, events)
	publish(t, a, events, "POSITION events w 2 3")
	other.WaitMessages(t, 1)
	if got := r.Messages(); len(got) != 1 {
		t.Errorf("the ended subscription got %q", got)
	}
}

func testClose(t *testing.T, connect func() replication.Bus) {
	a := connect()
	r := NewRecorder()
	done := make(chan error, 1)
	go func() { done <- a.Subscribe(context.Background(), []string{events}, r) }()
	r.WaitConnected(t, 1)
	if err := a.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, replication.ErrBusClosed) {
			t.Errorf("Subscribe returned %v, want ErrBusClosed", err)
		}
	case <-time.After(patience):
		t.Error("Subscribe goes on after Close")
	}
	if err := a.Publish(context.Background(), events, "POSITION events w 1 2"); !errors.Is(err, replication.ErrBusClosed) {
		t.Errorf("Publish after Close returned %v, want ErrBusClosed", err)
	}
}

// testClients runs a writer and a follower over the bus.
func testClients(t *testing.T, connect func() replication.Bus) {
	stream := replication.Stream[string]{StreamInfo: replication.StreamInfo{Name: "events"}}
	client := func(instance string) *replication.Client {
		c, err := replication.NewClient(replication.Config{ServerName: ServerName, Instance: instance, Bus: connect()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	writer, reader := client("writer"), client("reader")
	pub, err := replication.NewPublisher(writer, stream, replication.PublisherConfig{Position: 10})
	if err != nil {
		t.Fatal(err)
	}
	fol, err := replication.Follow(reader, stream, replication.FollowConfig[string]{
		Source: func(_ context.Context, _ string, _, upTo int64, _ int) ([]replication.Row[string], int64, error) {
			return nil, upTo, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []string
	fol.Handle(func(_ context.Context, u replication.Update[string]) {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range u.Rows {
			got = append(got, fmt.Sprintf("%s %d %s", u.Writer, r.Token, r.Value))
		}
	})
	Run(t, writer)
	Run(t, reader)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := fol.WaitFor(ctx, "writer", 10); err != nil {
		t.Fatalf("the writer's first position did not arrive: %v", err)
	}
	var want []string
	for i := int64(11); i <= 60; i++ {
		if err := pub.Publish(i, replication.Row[string]{Token: i, Value: fmt.Sprint("row ", i)}); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("writer %d row %d", i, i))
	}
	if err := fol.WaitFor(ctx, "writer", 60); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Run runs a client until the test ends, and waits until it is ready.
func Run(t testing.TB, c *replication.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("client %s: %v", c.Instance(), err)
		}
	})
	select {
	case <-c.Ready():
	case <-time.After(patience):
		t.Fatalf("client %s does not become ready", c.Instance())
	}
}
