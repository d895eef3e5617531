package writer_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const server = "test.example"

func signer() event.Signer {
	seed := make([]byte, ed25519.SeedSize)
	return event.Signer{ServerName: server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed)}
}

// published collects what a writer publishes, in order.
type published struct {
	mu       sync.Mutex
	position int64
	rows     []replication.Row[*streams.EventRow]
	wrong    []string
}

func (p *published) Publish(position int64, rows ...replication.Row[*streams.EventRow]) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range rows {
		if r.Token <= p.position || r.Token > position {
			p.wrong = append(p.wrong, fmt.Sprintf("row %d published when moving from %d to %d", r.Token, p.position, position))
		}
	}
	p.position = position
	p.rows = append(p.rows, rows...)
	return nil
}

func (p *published) Doubt(int64) {}

func (p *published) all() []replication.Row[*streams.EventRow] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.rows)
}

// instance is a writer with its store, running for the length of the test.
type instance struct {
	*writer.Writer
	t     testing.TB
	db    *storage.DB
	store *store.Store
	pub   *published
	stop  func() error
	fails bool // stop is expected to return an error
}

func openDB(t testing.TB, connString string) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Config{ConnString: connString})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func start(t testing.TB, db *storage.DB, name string, adjust ...func(*writer.Config)) *instance {
	t.Helper()
	s, err := store.New(store.Config{DB: db, ServerName: server})
	if err != nil {
		t.Fatal(err)
	}
	s.Following()
	ids, err := storage.OpenStreamIDs(t.Context(), storage.StreamIDsConfig{DB: db, Stream: "events", Instance: name})
	if err != nil {
		t.Fatal(err)
	}
	writers, err := replication.NewWriters(replication.WritersConfig{
		Instance: name, Instances: []string{name}, StreamWriters: map[string][]string{"events": {name}},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{t: t, db: db, store: s, pub: &published{position: ids.Position()}}
	cfg := writer.Config{DB: db, Store: s, Signer: signer(), Writers: writers, IDs: ids, Publisher: in.pub}
	for _, a := range adjust {
		a(&cfg)
	}
	if in.Writer, err = writer.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	var once sync.Once
	var result error
	in.stop = func() error {
		once.Do(func() {
			cancel()
			result = <-done
		})
		return result
	}
	t.Cleanup(func() {
		if err := in.stop(); err != nil && !in.fails {
			t.Errorf("stop writer %s: %v", name, err)
		}
		for _, w := range in.pub.wrong {
			t.Error(w)
		}
	})
	return in
}

func ptr(s string) *string { return &s }

func version(t testing.TB, id string) *event.Version {
	t.Helper()
	v, ok := event.LookupVersion(id)
	if !ok {
		t.Fatalf("no room version %s", id)
	}
	return v
}

const alice, bob, carol = "@alice:" + server, "@bob:" + server, "@carol:" + server

func content(format string, args ...any) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(format, args...))
}

func member(user, sender, membership string) writer.Draft {
	return writer.Draft{Type: event.TypeMember, StateKey: ptr(user), Sender: sender, Content: content(`{"membership":%q}`, membership)}
}

func message(sender, body string) writer.Draft {
	return writer.Draft{Type: "m.room.message", Sender: sender, Content: content(`{"msgtype":"m.text","body":%q}`, body)}
}

func state(sender, typ, key, body string) writer.Draft {
	return writer.Draft{Type: typ, StateKey: ptr(key), Sender: sender, Content: json.RawMessage(body)}
}

// create makes a public room of alice's.
func (in *instance) create(v string, extra ...writer.Draft) *writer.Created {
	in.t.Helper()
	c, err := in.tryCreate(in.t.Context(), v, extra...)
	if err != nil {
		in.t.Fatalf("create room: %v", err)
	}
	return c
}

func (in *instance) tryCreate(ctx context.Context, v string, extra ...writer.Draft) (*writer.Created, error) {
	ver, _ := event.LookupVersion(v)
	body := content(`{"room_version":%q}`, v)
	levels := `{"users":{"` + alice + `":100},"state_default":50}`
	if ver.PrivilegedCreators {
		levels = `{"users":{},"state_default":50}`
	}
	if !ver.ImplicitCreator {
		body = content(`{"room_version":%q,"creator":%q}`, v, alice)
	}
	drafts := append([]writer.Draft{
		member(alice, alice, "join"),
		state(alice, event.TypePowerLevels, "", levels),
		state(alice, event.TypeJoinRules, "", `{"join_rule":"public"}`),
		state(alice, event.TypeHistoryVisibility, "", `{"history_visibility":"shared"}`),
	}, extra...)
	return in.CreateRoom(ctx, ver, state(alice, event.TypeCreate, "", string(body)), drafts...)
}

func (in *instance) send(roomID string, drafts ...writer.Draft) []writer.Result {
	in.t.Helper()
	res, err := in.Send(in.t.Context(), roomID, drafts...)
	if err != nil {
		in.t.Fatalf("send: %v", err)
	}
	return res
}

// timeline returns the events of a room, oldest first, as the database has them.
func timeline(t testing.TB, db *storage.DB, roomID string) []*store.Event {
	t.Helper()
	s, err := store.New(store.Config{DB: db, ServerName: server})
	if err != nil {
		t.Fatal(err)
	}
	room, err := s.Room(t.Context(), roomID)
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Timeline(t.Context(), store.TimelineQuery{Room: room.NID, After: store.FirstNID, Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// checkLine holds a room that never forked to what must be true of it: each event follows exactly the one before, one
// deeper; the current state in all its forms is that of the events in order.
func checkLine(t testing.TB, db *storage.DB, roomID string) []*store.Event {
	t.Helper()
	events := timeline(t, db, roomID)
	for i, e := range events[1:] {
		prev := events[i]
		if got := e.PrevEvents(); len(got) != 1 || got[0] != prev.ID() {
			t.Fatalf("event %d (%s) follows %v, want %s", e.NID, e.ID(), got, prev.ID())
		}
		if e.Depth() != prev.Depth()+1 {
			t.Errorf("event %d has depth %d after %d", e.NID, e.Depth(), prev.Depth())
		}
	}
	checkState(t, db, events)
	return events
}

// checkState compares every stored form of a room's state with what its events, in this order, add up to.
func checkState(t testing.TB, db *storage.DB, events []*store.Event) {
	t.Helper()
	ctx := t.Context()
	s, err := store.New(store.Config{DB: db, ServerName: server})
	if err != nil {
		t.Fatal(err)
	}
	model := map[event.Tuple]storage.EventNID{}
	stats := storage.RoomStats{RoomNID: events[0].RoomNID}
	asMap := func(root store.Root) map[event.Tuple]storage.EventNID {
		got, err := s.State(ctx, root, nil)
		if err != nil {
			t.Fatal(err)
		}
		m := make(map[event.Tuple]storage.EventNID, len(got))
		for _, e := range got {
			m[e.Tuple()] = e.NID
		}
		return m
	}
	for i, e := range events {
		// All of them in a small room, some in a large one.
		if i%max(1, len(events)/50) == 0 {
			if got := asMap(e.StateRoot); !equalMaps(got, model) {
				t.Errorf("state before event %d: got %v, want %v", e.NID, got, model)
			}
		}
		if e.IsState() {
			model[e.Tuple()] = e.NID
		}
	}
	head, err := s.Head(ctx, events[0].RoomNID)
	if err != nil {
		t.Fatal(err)
	}
	if got := asMap(head.StateRoot); !equalMaps(got, model) {
		t.Errorf("current state by tree: got %v, want %v", got, model)
	}
	current, err := s.CurrentStates(ctx, []storage.RoomNID{events[0].RoomNID}, nil)
	if err != nil {
		t.Fatal(err)
	}
	byTable := map[event.Tuple]storage.EventNID{}
	for _, e := range current[events[0].RoomNID] {
		tuples, err := s.Tuples(ctx, []storage.StateKeyNID{e.Key})
		if err != nil {
			t.Fatal(err)
		}
		byTable[tuples[0]] = e.Event
	}
	if !equalMaps(byTable, model) {
		t.Errorf("current state by table: got %v, want %v", byTable, model)
	}
	byNID := map[storage.EventNID]*store.Event{}
	for _, e := range events {
		byNID[e.NID] = e
	}
	want := map[string]storage.Membership{}
	for tuple, nid := range model {
		stats.StateEvents++
		if tuple.Type != event.TypeMember {
			continue
		}
		m := byNID[nid].Membership()
		want[tuple.StateKey] = storage.MembershipOf(m)
		switch m {
		case "join":
			stats.Joined++
			if s.IsLocal(tuple.StateKey) {
				stats.LocalJoined++
			}
		case "invite":
			stats.Invited++
		}
	}
	members, err := s.Members(ctx, events[0].RoomNID)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]storage.Membership{}
	for _, m := range members {
		got[m.UserID] = m.Membership
	}
	if !equalMaps(got, want) {
		t.Errorf("memberships: got %v, want %v", got, want)
	}
	rows, err := s.Stats(ctx, []storage.RoomNID{events[0].RoomNID})
	if err != nil {
		t.Fatal(err)
	}
	r := rows[0]
	if r == nil {
		t.Fatal("room has no statistics")
	}
	if r.Joined != stats.Joined || r.Invited != stats.Invited || r.LocalJoined != stats.LocalJoined || r.StateEvents != stats.StateEvents {
		t.Errorf("statistics: got %+v, want counts of %+v", *r, stats)
	}
}

func equalMaps[K, V comparable](a, b map[K]V) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

func newDB(t testing.TB) *storage.DB {
	t.Helper()
	return storagetest.New(t)
}

// eventually waits for a condition that another goroutine brings about and nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 seconds", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// contextWithTimeout is for calls that are expected to give up.
func contextWithTimeout(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 300*time.Millisecond)
}
