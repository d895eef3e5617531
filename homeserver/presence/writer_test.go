package presence

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const alice = "@alice:test"

// clock is a time that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) forward(d time.Duration) { c.at = c.at.Add(d) }

// testWriter is a writer whose steps the test takes. Nothing runs but the test.
func testWriter(t *testing.T) (*writer, *clock, *storage.DB) {
	t.Helper()
	p := streamstest.New(t, nil).Processes[0]
	c := &clock{time.UnixMilli(1_700_000_000_000)}
	s, err := New(Config{ServerName: "test", DB: p.DB, Client: p.Client, Writers: p.Writers, RPC: p.RPC, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return s.writer, c, p.DB
}

// see moves the time and returns how alice is after it, and how many rows were published of her.
func see(t *testing.T, w *writer, c *clock, d time.Duration) streams.PresenceRow {
	t.Helper()
	for end := c.at.Add(d); ; {
		next, err := w.step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if next <= 0 || c.at.Add(next).After(end) {
			c.at = end
			break
		}
		c.forward(next)
	}
	if _, err := w.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := w.get([]string{alice})
	if len(rows) == 0 {
		return streams.PresenceRow{}
	}
	return rows[0]
}

func TestPresenceFollowsDevices(t *testing.T) {
	t.Parallel()
	type step struct {
		after   time.Duration
		do      []notice
		state   string
		current bool
		// rows is how many rows were published by then in all.
		rows int64
	}
	sync := func(kind noticeKind, device, state string) notice {
		return notice{kind: kind, instance: "w1", userID: alice, deviceID: device, state: state, ts: 1 << 60}
	}
	names := func(device, state string) notice { return sync(noticeState, device, state) }
	begins := func(device string) notice { return sync(noticeSyncing, device, "") }
	stops := func(device string) notice { return sync(noticeStopped, device, "") }
	active := notice{kind: noticeActive, userID: alice, ts: 1 << 60}
	for name, steps := range map[string][]step{
		"a sync comes and goes": {
			{do: []notice{names("A", Online), begins("A")}, state: Online, current: true, rows: 1},
			{after: 50 * time.Second, do: []notice{begins("A")}, state: Online, current: true, rows: 1},
			{after: 15 * time.Second, state: Online, rows: 2},
			{do: []notice{stops("A")}, state: Online, rows: 2},
			{after: 29 * time.Second, state: Online, rows: 2},
			{after: 2 * time.Second, state: Offline, rows: 3},
		},
		"a sync between two stops is no news": {
			{do: []notice{names("A", Online), begins("A")}, state: Online, current: true, rows: 1},
			{after: 20 * time.Second, do: []notice{stops("A")}, state: Online, current: true, rows: 1},
			{after: 20 * time.Second, do: []notice{names("A", Online), begins("A")}, state: Online, current: true, rows: 1},
		},
		"nothing done for long is idle, and doing something ends that": {
			{do: []notice{names("A", Online), begins("A")}, state: Online, current: true, rows: 1},
			{after: 2 * time.Minute, do: []notice{begins("A")}, state: Online, rows: 2},
			{after: 2 * time.Minute, do: []notice{begins("A")}, state: Online, rows: 2},
			{after: 61 * time.Second, state: Unavailable, rows: 3},
			{do: []notice{active}, state: Online, current: true, rows: 4},
			{after: 40 * time.Second, do: []notice{active, begins("A")}, state: Online, current: true, rows: 4},
			{after: 40 * time.Second, state: Online, current: true, rows: 4},
		},
		"the best of several devices counts": {
			{do: []notice{names("A", Unavailable), begins("A")}, state: Unavailable, rows: 1},
			{after: time.Second, do: []notice{names("B", Online), begins("B")}, state: Online, current: true, rows: 2},
			{after: time.Second, do: []notice{stops("B")}, state: Online, current: true, rows: 2},
			{after: 31 * time.Second, state: Unavailable, rows: 3},
		},
		"a process that is gone": {
			{do: []notice{names("A", Online), begins("A")}, state: Online, current: true, rows: 1},
			{after: time.Second, do: []notice{{kind: noticeCleared, instance: "other"}}, state: Online, current: true, rows: 1},
			{do: []notice{{kind: noticeCleared, instance: "w1"}}, state: Online, current: true, rows: 1},
			{after: 31 * time.Second, state: Offline, rows: 2},
		},
		"a process that was killed": {
			{do: []notice{names("A", Online), begins("A")}, state: Online, current: true, rows: 1},
			{after: 179 * time.Second, state: Online, rows: 2},
			{after: 2 * time.Second, state: Offline, rows: 3},
		},
		"somebody who does things without being online": {
			{do: []notice{active}, state: "", rows: 0},
		},
		"changes in quick succession are put together": {
			{do: []notice{names("A", Online), begins("A")}, state: Online, current: true, rows: 1},
			{do: []notice{names("A", Unavailable)}, state: Unavailable, rows: 1},
			{after: 20 * time.Millisecond, do: []notice{names("A", Online)}, state: Online, current: true, rows: 1},
			{after: 20 * time.Millisecond, do: []notice{names("A", Unavailable)}, state: Unavailable, rows: 1},
			{after: time.Second, state: Unavailable, rows: 2},
		},
		"other servers hear of somebody about whom nothing changes": {
			{do: []notice{names("A", Unavailable), begins("A")}, state: Unavailable, rows: 1},
			{after: 2 * time.Minute, do: []notice{begins("A")}, state: Unavailable, rows: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, c, _ := testWriter(t)
			start := w.token
			see(t, w, c, time.Second)
			for i, s := range steps {
				see(t, w, c, s.after)
				w.tell(s.do...)
				got := see(t, w, c, 0)
				if got.State != s.state || got.CurrentlyActive != s.current || w.token-start != s.rows {
					t.Fatalf("step %d: %q, currently active %v, %d rows, want %q, %v, %d", i, got.State, got.CurrentlyActive, w.token-start, s.state, s.current, s.rows)
				}
			}
		})
	}
}

func TestRowsAreRepeatedForOtherServers(t *testing.T) {
	t.Parallel()
	w, c, _ := testWriter(t)
	w.tell(notice{kind: noticeState, userID: alice, deviceID: "A", state: Unavailable})
	start := w.token
	for range 26 {
		w.tell(notice{kind: noticeSyncing, instance: "w1", userID: alice, deviceID: "A"})
		see(t, w, c, time.Minute)
	}
	if rows := w.token - start; rows != 2 {
		t.Errorf("%d rows in 26 minutes, want the change and one repetition", rows)
	}
}

func TestTheMessageStaysWithTheUser(t *testing.T) {
	t.Parallel()
	w, c, db := testWriter(t)
	if _, err := storage.InternUsers(t.Context(), db, []string{alice}); err != nil {
		t.Fatal(err)
	}
	busy := "busy"
	if _, err := w.set(t.Context(), setRequest{UserID: alice, DeviceID: "A", Presence: Online, StatusMsg: &busy}); err != nil {
		t.Fatal(err)
	}
	if got := see(t, w, c, time.Hour); got.State != Offline || got.StatusMsg == nil || *got.StatusMsg != busy {
		if len(w.users) != 0 {
			t.Fatalf("after an hour: %+v", got)
		}
	}
	if len(w.users) != 0 {
		t.Errorf("%d users are in memory after an hour offline", len(w.users))
	}
	// Whoever asks the writer for what changed since before then is told that this is not all.
	if u := w.updates(0); !u.Whole || len(u.Rows) != 0 {
		t.Errorf("updates %+v", u)
	}
	w.tell(notice{kind: noticeState, userID: alice, deviceID: "A", state: Online})
	if got := see(t, w, c, time.Second); got.State != Online || got.StatusMsg == nil || *got.StatusMsg != busy {
		t.Errorf("back again: %+v", got)
	}
}

func TestAWriterTakesUpWhereTheOneBeforeStopped(t *testing.T) {
	t.Parallel()
	w, c, db := testWriter(t)
	if _, err := storage.InternUsers(t.Context(), db, []string{alice, "@far:away"}); err != nil {
		t.Fatal(err)
	}
	w.tell(notice{kind: noticeState, userID: alice, deviceID: "A", state: Online})
	see(t, w, c, time.Second)
	if err := w.receive(t.Context(), []Remote{{UserID: "@far:away", Presence: Online}}); err != nil {
		t.Fatal(err)
	}
	see(t, w, c, time.Second)
	if err := w.save(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	next := &writer{
		db: w.db, server: w.server, publisher: w.publisher, now: w.now, wake: make(chan struct{}, 1),
		started: w.token, token: w.token, forgotten: w.token, pruneAt: w.pruneAt,
		users: map[string]*user{}, dirty: map[string]struct{}{}, unsaved: map[string]struct{}{},
	}
	if err := next.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	var heard []string
	for _, r := range next.updates(w.token).Rows {
		heard = append(heard, r.Value.UserID+" "+r.Value.State)
	}
	slices.Sort(heard)
	if want := []string{"@alice:test online", "@far:away online"}; !slices.Equal(heard, want) {
		t.Errorf("followers hear %q, want %q", heard, want)
	}
	if got := see(t, next, c, 29*time.Second); got.State != Online {
		t.Errorf("before her client had time to come back: %s", got.State)
	}
	if got := see(t, next, c, 2*time.Second); got.State != Offline {
		t.Errorf("her client did not come back: %s", got.State)
	}
	see(t, next, c, remoteFor)
	if rows := next.get([]string{"@far:away"}); len(rows) == 1 && rows[0].State != Offline {
		t.Errorf("a server that says nothing more: %s", rows[0].State)
	}
}

// A process other than the writer tells it who syncs, and again when the writer is a new one.
func TestSyncsOnAnotherProcess(t *testing.T) {
	t.Parallel()
	cluster := streamstest.New(t, map[string][]string{"presence": {"writer"}}, "writer", "reader")
	var services []*Service
	heard := make(chan streams.PresenceRow, 100)
	for _, p := range cluster.Processes {
		s, err := New(Config{ServerName: "test", DB: p.DB, Client: p.Client, Writers: p.Writers, RPC: p.RPC})
		if err != nil {
			t.Fatal(err)
		}
		p.Run(s.Run)
		services = append(services, s)
	}
	reader := services[2]
	reader.Handle(func(_ context.Context, u replication.Update[streams.PresenceRow]) {
		for _, r := range u.Rows {
			heard <- r.Value
		}
	})
	cluster.Start(t)
	done := reader.Syncing(t.Context(), alice, "A", Online)
	defer done()
	select {
	case r := <-heard:
		if r.UserID != alice || r.State != Online || !r.CurrentlyActive {
			t.Errorf("heard %+v", r)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was heard of a sync")
	}
	message := "here"
	if err := reader.Set(t.Context(), &requester.Requester{UserID: alice, DeviceID: "A"}, Unavailable, &message); err != nil {
		t.Fatal(err)
	}
	st, err := reader.Get(t.Context(), &requester.Requester{UserID: alice}, alice)
	if err != nil || st.State != Unavailable || st.StatusMsg == nil || *st.StatusMsg != message {
		t.Errorf("after setting it: %+v, %v", st, err)
	}
	syncs := func() bool {
		w := services[1].writer
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.users[alice].devices["A"].syncing["reader"] != 0
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !syncs(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the command that says that a device syncs did not reach the writer")
		}
	}
	if err := reader.Receive(t.Context(), []Remote{{UserID: "@far:away", Presence: Online}, {UserID: alice, Presence: Offline}, {UserID: "@odd:away", Presence: "odd"}}); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case r := <-heard:
			if r.UserID == "@odd:away" || r.UserID == alice && r.State == Offline {
				t.Errorf("heard %+v", r)
			}
			if r.UserID == "@far:away" {
				return
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was heard of a user of another server")
		}
	}
}
