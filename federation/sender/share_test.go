package sender_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/federation/sender"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// worker is a sender in a process of its own, which can be stopped, or killed so that it writes nothing any more.
type worker struct {
	name    string
	net     *network
	sender  *sender.Sender
	dead    atomic.Bool
	ctx     context.Context
	cancel  context.CancelFunc
	start   chan struct{}
	stopped chan struct{}

	mu   sync.Mutex
	sent map[string]int // transactions, by destination
}

// SendTransaction implements sender.Transport.
func (w *worker) SendTransaction(ctx context.Context, server, txnID string, t *federation.Transaction) (map[string]federation.PDUResult, error) {
	w.mu.Lock()
	w.sent[server]++
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ctx, func() {
		if w.dead.Load() {
			cancel()
		}
	})()
	return w.net.SendTransaction(ctx, server, txnID, t)
}

// RetryAt implements sender.Transport.
func (w *worker) RetryAt(context.Context, string) (time.Time, error) { return time.Time{}, nil }

func (w *worker) destinations() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for d := range w.sent {
		out = append(out, d)
	}
	return out
}

func (w *worker) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.sent)
}

// stop ends the sender as a process ends.
func (w *worker) stop() {
	w.cancel()
	<-w.stopped
}

// kill ends the sender where it stands.
func (w *worker) kill() {
	w.dead.Store(true)
	w.stop()
}

var errDead = errors.New("the process is dead")

// mortal is the database as a process sees it that may die.
type mortal struct {
	*storage.DB
	w *worker
}

func (m mortal) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if m.w.dead.Load() {
		return pgconn.CommandTag{}, errDead
	}
	return m.DB.Exec(ctx, sql, args...)
}

func (m mortal) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if m.w.dead.Load() {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		ctx = ended
	}
	return m.DB.SendBatch(ctx, b)
}

// newWorkers starts a server whose main process sends nothing, with senders that begin when their start is closed.
func newWorkers(t *testing.T, net *network, names ...string) (*server, []*worker) {
	t.Helper()
	s := &server{Cluster: streamstest.New(t, nil, names...), t: t, net: net}
	s.rooms = s.Processes[0].Rooms(t)
	var workers []*worker
	for i, name := range names {
		p := s.Processes[i+1]
		w := &worker{name: name, net: net, start: make(chan struct{}), stopped: make(chan struct{}), sent: map[string]int{}}
		w.ctx, w.cancel = context.WithCancel(context.Background())
		rooms := p.Rooms(t)
		s.stores = append(s.stores, rooms.Store)
		var err error
		w.sender, err = sender.New(sender.Config{
			ServerName: streamstest.ServerName, Instance: name, DB: mortal{s.DB, w}, Store: rooms.Store, Replication: p.Client,
			WriterIDs: token.NewWriters(p.DB), Transport: w, Renew: 100 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Run(func(ctx context.Context) error {
			defer close(w.stopped)
			defer w.cancel()
			select {
			case <-w.start:
			case <-ctx.Done():
				return nil
			}
			defer context.AfterFunc(ctx, w.cancel)()
			return w.sender.Run(w.ctx)
		})
		workers = append(workers, w)
	}
	s.Start(t)
	return s, workers
}

// A sender that is killed in the middle of a transaction leaves it to the next one, which sends it under the same id.
func TestKilledInMidTransaction(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	s, w := newWorkers(t, net, "s1", "s2")
	room := s.rooms.Create(alice)
	s.join(room, "@bob:b.example")
	held := make(chan struct{})
	net.hang["b.example"] = held
	close(w[0].start)
	s.rooms.Send(room, alice, message("first"))
	net.until(t, "a transaction", func() bool { return len(net.begun["b.example"]) == 1 })
	for i := range 120 {
		s.rooms.Send(room, alice, message(i))
	}
	w[0].kill()
	sent, id := s.cursor("b.example")
	if id == "" {
		t.Fatalf("the database knows of no transaction under way, and that everything was sent up to %d", sent)
	}
	close(held)
	close(w[1].start)
	net.untilBodies(t, "b.example", 121)
	s.untilSettled("b.example")
	txns := net.transactions("b.example")
	if txns[0].id != id || !slices.Equal(txns[0].bodies, []string{"first"}) {
		t.Errorf("the first transaction is %+v, expected %q with the first message", txns[0], id)
	}
	got := net.bodies("b.example")
	for i := range 120 {
		if got[i+1] != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got[i+1])
		}
	}
	if len(got) != 121 || len(txns) != 4 {
		t.Errorf("%d messages came in %d transactions, expected 121 in 4", len(got), len(txns))
	}
}

// Senders divide the destinations among them, also when one comes or goes, and nothing is left out.
func TestSendersComeAndGo(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	s, w := newWorkers(t, net, "s1", "s2", "s3")
	room := s.rooms.Create(alice)
	names, users := servers(60)
	s.join(room, users...)
	sent := 0
	send := func(n int) {
		t.Helper()
		for range n {
			s.rooms.Send(room, alice, message(sent))
			sent++
		}
		for _, name := range names {
			net.untilBodies(t, name, sent)
			s.untilSettled(name)
		}
	}
	shares := func(workers ...*worker) {
		t.Helper()
		total := 0
		for _, w := range workers {
			d := w.destinations()
			total += len(d)
			if len(d) < 5 {
				t.Errorf("%s sent to %d of %d servers", w.name, len(d), len(names))
			}
			w.forget()
		}
		if total != len(names) {
			t.Errorf("%d servers were sent to by %d senders", total, len(workers))
		}
	}
	close(w[0].start)
	send(3)
	shares(w[0])
	close(w[1].start)
	close(w[2].start)
	untilSenders(t, w...)
	send(3)
	shares(w...)
	w[0].stop()
	untilSenders(t, w[1:]...)
	send(3)
	shares(w[1:]...)
	w[1].kill()
	send(3) // nobody knows yet that s2 is gone
	shares(w[2])
	for _, name := range names {
		got := net.bodies(name)
		for i := range sent {
			if got[i] != fmt.Sprint(i) {
				t.Fatalf("%s got %q", name, got)
			}
		}
	}
}

// untilSenders waits until all senders know who they are.
func untilSenders(t *testing.T, workers ...*worker) {
	t.Helper()
	var names []string
	for _, w := range workers {
		names = append(names, w.name)
	}
	deadline := time.Now().Add(20 * time.Second)
	for _, w := range workers {
		for !slices.Equal(w.sender.Senders(), names) {
			if time.Now().After(deadline) {
				t.Fatalf("the senders are %q to %s, expected %q", w.sender.Senders(), w.name, names)
			}
			time.Sleep(5 * time.Millisecond) // they ask the database at their own pace
		}
	}
}
