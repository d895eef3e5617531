package writer_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

const remote = "remote.example"

func remoteSigner() event.Signer {
	s := signer()
	s.ServerName = remote
	return s
}

// model is a room's graph with the state of each event, computed from whole states with the event package alone.
type model struct {
	t        *testing.T
	v        *event.Version
	roomID   string
	src      *event.MapSource
	events   map[string]*event.Event
	before   map[string]event.StateMap
	rejected map[string]bool
	ends     []string
	depth    int64
}

func newModel(t *testing.T, events []*store.Event) *model {
	m := &model{
		t: t, v: events[0].Version(), roomID: events[0].RoomID(), src: event.NewMapSource(),
		events: map[string]*event.Event{}, before: map[string]event.StateMap{}, rejected: map[string]bool{},
	}
	state := event.StateMap{}
	for _, e := range events {
		m.put(e.Event, maps.Clone(state))
		if e.IsState() {
			state[e.Tuple()] = e.ID()
		}
		m.ends = []string{e.ID()}
		m.depth = e.Depth()
	}
	return m
}

func (m *model) put(e *event.Event, before event.StateMap) {
	m.src.Add(e)
	m.events[e.ID()] = e
	m.before[e.ID()] = before
}

func (m *model) after(ids []string, more ...event.StateMap) event.StateMap {
	m.t.Helper()
	sets := more
	for _, id := range ids {
		s := maps.Clone(m.before[id])
		if e := m.events[id]; e.IsState() && !m.rejected[id] {
			s[e.Tuple()] = id
		}
		sets = append(sets, s)
	}
	out, err := event.Resolve(m.t.Context(), m.v, sets, m.src)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *model) allowed(e *event.Event, state event.StateMap) bool {
	a := event.AuthMap{}
	for t, id := range state {
		a[t] = m.events[id]
	}
	return event.Authorise(e, a) == nil
}

// build makes an event of another server on top of prev.
func (m *model) build(sender, typ string, stateKey *string, body string, prev ...string) *event.Event {
	m.t.Helper()
	state := m.after(prev)
	d := event.Draft{
		RoomID: m.roomID, Sender: sender, Type: typ, StateKey: stateKey, Content: content("%s", body), PrevEvents: prev,
		OriginServerTS: 1700000000000 + int64(len(m.events)), RefHashes: map[string]string{},
	}
	for _, id := range prev {
		d.Depth = max(d.Depth, m.events[id].Depth()+1)
	}
	for _, t := range event.AuthTuples(m.v, sender, typ, stateKey, d.Content) {
		if id, ok := state[t]; ok {
			d.AuthEvents = append(d.AuthEvents, id)
		}
	}
	e, err := event.Build(m.v, d, remoteSigner())
	if err != nil {
		m.t.Fatal(err)
	}
	return e
}

// receive places an event as the specification says, and returns whether it is rejected or soft-failed.
func (m *model) receive(e *event.Event) (rejected, softFailed bool) {
	state := m.after(e.PrevEvents())
	current := m.after(m.ends, state)
	m.put(e, state)
	if !m.allowed(e, state) {
		m.rejected[e.ID()] = true
		m.src.Reject(e.ID())
		return true, false
	}
	if !m.allowed(e, current) {
		return false, true
	}
	m.ends = slices.DeleteFunc(m.ends, func(id string) bool { return slices.Contains(e.PrevEvents(), id) })
	m.ends = append(m.ends, e.ID())
	return false, false
}

func stateIDs(t *testing.T, s *store.Store, root store.Root) event.StateMap {
	t.Helper()
	events, err := s.State(t.Context(), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := event.StateMap{}
	for _, e := range events {
		out[e.Tuple()] = e.ID()
	}
	return out
}

// Random graphs of another server's events, with bans, changes of power and conflicting state, received one by one and
// in bunches, with local events between: flags, states and extremities are those of the model.
func TestForksAgainstModel(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "2", "6", "11", "12"} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("v%s/%d", v, seed), func(t *testing.T) {
				t.Parallel()
				testForks(t, v, rand.New(rand.NewPCG(seed, 7)))
			})
		}
	}
}

func testForks(t *testing.T, v string, rng *rand.Rand) {
	db := newDB(t)
	in := start(t, db, "w1")
	users := []string{"@a:" + remote, "@b:" + remote, "@c:" + remote}
	levels := fmt.Sprintf(`{"users":{%q:100,%q:50,%q:50},"state_default":50,"ban":50}`, alice, users[0], users[1])
	if version(t, v).PrivilegedCreators {
		levels = fmt.Sprintf(`{"users":{%q:90,%q:50},"state_default":50,"ban":50}`, users[0], users[1])
	}
	c := in.create(v, state(alice, event.TypePowerLevels, "", levels))
	m := newModel(t, timeline(t, db, c.RoomID))
	ctx := t.Context()
	deliver := func(events ...*event.Event) {
		t.Helper()
		var rs []writer.Received
		for _, e := range events {
			rs = append(rs, writer.Received{Event: e})
		}
		results, err := in.Receive(ctx, c.RoomID, rs...)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range events {
			rejected, soft := m.receive(e)
			if results[i].Rejected != rejected || results[i].SoftFailed != soft {
				t.Fatalf("event %s (%s by %s): rejected %v, soft-failed %v; want %v, %v", e.ID(), e.Type(), e.Sender(), results[i].Rejected, results[i].SoftFailed, rejected, soft)
			}
		}
	}
	for _, u := range users {
		deliver(m.build(u, event.TypeMember, &u, `{"membership":"join"}`, m.ends...))
	}
	empty := ""
	all := func() []string { return slices.Sorted(maps.Keys(m.events)) }
	forked := 0
	for n := range 45 {
		sender := users[rng.IntN(len(users))]
		// Recent events more often than old ones.
		prev := slices.Clone(m.ends)
		if rng.IntN(3) > 0 {
			ids := all()
			prev = nil
			for range 1 + rng.IntN(2) {
				id := ids[rng.IntN(len(ids))]
				if m.events[id].Depth() > 8 && !m.rejected[id] && !slices.Contains(prev, id) {
					prev = append(prev, id)
				}
			}
		}
		if len(prev) == 0 || len(prev) > 10 {
			continue
		}
		var e *event.Event
		switch rng.IntN(6) {
		case 0:
			e = m.build(sender, "m.room.message", nil, fmt.Sprintf(`{"n":%d}`, n), prev...)
		case 1, 2:
			e = m.build(sender, "m.room.topic", &empty, fmt.Sprintf(`{"topic":"%d"}`, n), prev...)
		case 3:
			target := users[rng.IntN(len(users))]
			membership := []string{"ban", "leave", "join"}[rng.IntN(3)]
			if membership == "join" {
				target = sender
			}
			e = m.build(sender, event.TypeMember, &target, fmt.Sprintf(`{"membership":%q,"n":%d}`, membership, n), prev...)
		case 4:
			l := fmt.Sprintf(`{"users":{%q:100,%q:%d,%q:%d},"state_default":50,"ban":50}`, alice, users[0], 50+rng.IntN(2)*40, users[1], rng.IntN(2)*50)
			if m.v.PrivilegedCreators {
				l = fmt.Sprintf(`{"users":{%q:%d,%q:%d},"state_default":50,"ban":50}`, users[0], 50+rng.IntN(2)*40, users[1], rng.IntN(2)*50)
			}
			e = m.build(sender, event.TypePowerLevels, &empty, l, prev...)
		case 5:
			r := in.send(c.RoomID, state(alice, "m.room.name", "", fmt.Sprintf(`{"name":"%d"}`, n)))[0]
			local, err := in.store.Event(ctx, r.EventID)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := slices.Sorted(slices.Values(local.PrevEvents())), slices.Sorted(slices.Values(m.ends)); !slices.Equal(got, want) {
				t.Fatalf("local event follows %v, want %v", got, want)
			}
			m.receive(local.Event)
			continue
		}
		deliver(e)
		if len(m.ends) > 1 {
			forked++
		}
		head, err := in.store.Head(ctx, c.RoomNID)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := stateIDs(t, in.store, head.StateRoot), m.after(m.ends); !maps.Equal(got, want) {
			t.Fatalf("after event %d (%s by %s): current state\n%v\nwant\n%v", n, e.Type(), e.Sender(), got, want)
		}
	}
	if forked == 0 {
		t.Error("the room never forked")
	}
	// Everything that was stored, read by a process that has nothing in memory.
	fresh, err := store.New(store.Config{DB: db, ServerName: server})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range m.before {
		e, err := fresh.Event(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if got := stateIDs(t, fresh, e.StateRoot); !maps.Equal(got, want) {
			t.Errorf("state before %s: got %v, want %v", id, got, want)
		}
	}
	checkTables(t, fresh, c.RoomNID, m)
	// An event that comes again is the one that is there.
	last := m.events[m.ends[len(m.ends)-1]]
	again, err := in.Receive(ctx, c.RoomID, writer.Received{Event: last})
	if err != nil || !again[0].Duplicate {
		t.Errorf("an event received again: %+v, %v", again, err)
	}
}

// checkTables compares the tables of current state with the model.
func checkTables(t *testing.T, s *store.Store, room storage.RoomNID, m *model) {
	t.Helper()
	current := m.after(m.ends)
	rows, err := s.CurrentStates(t.Context(), []storage.RoomNID{room}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := event.StateMap{}
	for _, r := range rows[room] {
		events, err := s.Events(t.Context(), []storage.EventNID{r.Event})
		if err != nil || events[0] == nil {
			t.Fatalf("event %d: %v", r.Event, err)
		}
		got[events[0].Tuple()] = events[0].ID()
	}
	if !maps.Equal(got, current) {
		t.Errorf("current state by table: got %v, want %v", got, current)
	}
	members, err := s.Members(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	joined, seen := 0, 0
	for _, member := range members {
		e := m.events[current[event.Tuple{Type: event.TypeMember, StateKey: member.UserID}]]
		if e == nil || e.Membership() != member.Membership.String() {
			t.Errorf("%s is %s by table, want %v", member.UserID, member.Membership, e)
		}
		if member.Membership == storage.MembershipJoin {
			joined++
		}
		seen++
	}
	want := 0
	for tuple := range current {
		if tuple.Type == event.TypeMember {
			want++
		}
	}
	if seen != want {
		t.Errorf("%d members by table, want %d", seen, want)
	}
	stats, err := s.Stats(t.Context(), []storage.RoomNID{room})
	if err != nil {
		t.Fatal(err)
	}
	if stats[0].Joined != joined || stats[0].StateEvents != len(current) {
		t.Errorf("statistics say %d joined, %d pieces of state; want %d, %d", stats[0].Joined, stats[0].StateEvents, joined, len(current))
	}
}

func TestReceiveMissingEvents(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	in := start(t, db, "w1")
	c := in.create("11")
	m := newModel(t, timeline(t, db, c.RoomID))
	user := "@a:" + remote
	join := m.build(user, event.TypeMember, &user, `{"membership":"join"}`, m.ends...)
	_, _ = m.receive(join)
	first := m.build(user, "m.room.message", nil, `{"n":1}`, join.ID())
	_, _ = m.receive(first)
	second := m.build(user, "m.room.message", nil, `{"n":2}`, first.ID())

	var missing *writer.MissingEventsError
	if _, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: second}); !errors.As(err, &missing) {
		t.Fatalf("got %v, want the missing events", err)
	}
	if !slices.Equal(missing.Auth, []string{join.ID()}) {
		t.Errorf("missing auth events: got %v, want %s", missing.Auth, join.ID())
	}
	if _, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: join}); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: second}); !errors.As(err, &missing) || !slices.Equal(missing.Prev, []string{first.ID()}) {
		t.Fatalf("got %v, want %s missing", err, first.ID())
	}
	// With the state at the gap it can be placed; what lies in the gap and comes late does not become an end of the room.
	var ids []string
	for _, id := range m.before[first.ID()] {
		ids = append(ids, id)
	}
	if _, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: second, StateBefore: ids}); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: first}); err != nil {
		t.Fatal(err)
	}
	r := in.send(c.RoomID, message(alice, "hi"))[0]
	e, err := in.store.Event(t.Context(), r.EventID)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range e.PrevEvents() {
		if id == first.ID() {
			t.Errorf("the event follows %s, which something follows already", id)
		}
	}
}
