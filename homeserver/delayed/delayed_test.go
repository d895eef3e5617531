package delayed_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/delayed"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rooms notes what is sent. Like the writer of a room it answers a transaction id that it knows with the first event.
type rooms struct {
	mu     sync.Mutex
	sent   []string
	byTxn  map[string]string
	before func(req room.SendRequest) error
}

func (r *rooms) Send(_ context.Context, who *requester.Requester, roomID string, req room.SendRequest) (string, error) {
	if r.before != nil {
		if err := r.before(req); err != nil {
			return "", err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if id, ok := r.byTxn[req.TxnID]; ok {
		return id, nil
	}
	id := fmt.Sprintf("$%d", len(r.sent))
	r.sent = append(r.sent, who.UserID+" "+roomID+" "+string(req.Content))
	r.byTxn[req.TxnID] = id
	return id, nil
}

func (r *rooms) SendState(ctx context.Context, who *requester.Requester, roomID, _ string, req room.SendRequest) (string, error) {
	return r.Send(ctx, who, roomID, req)
}

func (r *rooms) Account(_ context.Context, userID string) (*storage.Account, error) {
	if userID == "@gone:x" {
		return &storage.Account{Deactivated: true}, nil
	}
	return &storage.Account{}, nil
}

func (r *rooms) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.sent...)
}

// clock is a clock of a test's own.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func start(t *testing.T, db *storage.DB, r *rooms, c *clock) (*delayed.Service, func()) {
	t.Helper()
	s, err := delayed.New(delayed.Config{DB: db, Rooms: r, Accounts: r, MaxDelay: time.Hour, Poll: 5 * time.Millisecond, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// Several processes send each event once, in the order of their time, and not before it.
func TestOnce(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	r, c := &rooms{byTxn: map[string]string{}}, &clock{now: time.UnixMilli(1_000_000)}
	a, _ := start(t, db, r, c)
	start(t, db, r, c)
	who := &requester.Requester{UserID: "@u:x", DeviceID: "D"}
	var want []string
	for i := range 20 {
		_, err := a.Schedule(t.Context(), who, delayed.Request{
			RoomID: "!r:x", Type: "t", Content: fmt.Appendf(nil, `{"n":%d}`, i), Delay: time.Duration(i+1) * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf(`@u:x !r:x {"n":%d}`, i))
	}
	c.add(10 * time.Second)
	until(t, "the first ten", func() bool { return len(r.list()) >= 10 })
	if diff := cmp.Diff(want[:10], r.list()); diff != "" {
		t.Error(diff)
	}
	c.add(time.Minute)
	until(t, "the rest", func() bool { return len(r.list()) >= 20 })
	if diff := cmp.Diff(want, r.list()); diff != "" {
		t.Error(diff)
	}
}

// A process dies after it sent an event and before it could say so. Another takes the event, which is sent once.
func TestCrash(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	r, c := &rooms{byTxn: map[string]string{}}, &clock{now: time.UnixMilli(1_000_000)}
	a, stop := start(t, db, r, c)
	who := &requester.Requester{UserID: "@u:x"}
	id, err := a.Schedule(t.Context(), who, delayed.Request{RoomID: "!r:x", Type: "t", Content: []byte(`{}`), Delay: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	c.add(time.Second)
	if ok, err := storage.ClaimDelayedEvent(t.Context(), db, id, c.Now().UnixMilli(), c.Now().Add(time.Minute).UnixMilli()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := r.Send(t.Context(), who, "!r:x", room.SendRequest{Content: []byte(`{}`), TxnID: id}); err != nil {
		t.Fatal(err)
	}
	b, _ := start(t, db, r, c)
	if err := b.Cancel(t.Context(), id); mxerr.Code(err) != "M_UNKNOWN" {
		t.Errorf("cancel of what is being sent: %v", err)
	}
	c.add(time.Minute)
	until(t, "the event", func() bool {
		d, err := b.Get(t.Context(), who, id)
		return err == nil && d.EventID != nil
	})
	if got := r.list(); len(got) != 1 {
		t.Errorf("sent %v", got)
	}
}

// What the server fails at is tried again; what is refused is not.
func TestFailures(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	fails := 3
	r, c := &rooms{byTxn: map[string]string{}}, &clock{now: time.UnixMilli(1_000_000)}
	r.before = func(req room.SendRequest) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case string(req.Content) == `{"refused":1}`:
			return mxerr.Forbidden.WithMessage("no")
		case fails > 0:
			fails--
			return errors.New("the database is away")
		}
		return nil
	}
	s, _ := start(t, db, r, c)
	who := &requester.Requester{UserID: "@u:x"}
	schedule := func(user, content string) string {
		t.Helper()
		id, err := s.Schedule(t.Context(), &requester.Requester{UserID: user}, delayed.Request{RoomID: "!r:x", Type: "t", Content: []byte(content), Delay: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	refused, tried, gone := schedule("@u:x", `{"refused":1}`), schedule("@u:x", `{}`), schedule("@gone:x", `{}`)
	until(t, "the events", func() bool {
		c.add(time.Second)
		d, err := s.Get(t.Context(), who, tried)
		return err == nil && d.EventID != nil
	})
	d, err := s.Get(t.Context(), who, refused)
	if err != nil || string(d.Error) != `{"errcode":"M_FORBIDDEN","error":"no"}` || d.EventID != nil {
		t.Errorf("refused: %+v, %v", d, err)
	}
	until(t, "the end of the user who is gone", func() bool {
		d, err := s.Get(t.Context(), &requester.Requester{UserID: "@gone:x"}, gone)
		return err == nil && len(d.Error) > 0
	})
	if got := r.list(); len(got) != 1 {
		t.Errorf("sent %v", got)
	}
	c.add(30 * 24 * time.Hour)
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), who, tried); mxerr.Code(err) != "M_NOT_FOUND" {
		t.Errorf("after a month: %v", err)
	}
}
