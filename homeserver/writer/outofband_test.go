package writer_test

import (
	"errors"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// elsewhere makes a room of another server, in which nobody of this one is, and what a join of it needs.
func elsewhere(t *testing.T, v string) *model {
	t.Helper()
	resident := start(t, newDB(t), "w1")
	c := resident.create(v, state(alice, "m.room.name", "", `{"name":"There"}`))
	m := newModel(t, timeline(t, resident.db, c.RoomID))
	a, al := "@a:"+remote, alice
	for _, e := range []func() *event.Event{
		func() *event.Event { return m.build(a, event.TypeMember, &a, `{"membership":"join"}`, m.ends...) },
		func() *event.Event { return m.build(alice, event.TypeMember, &al, `{"membership":"leave"}`, m.ends...) },
	} {
		if rejected, soft := m.receive(e()); rejected || soft {
			t.Fatal("the room cannot be built")
		}
	}
	return m
}

// join makes the user of this server join the room through the other one.
func (m *model) join(in *instance, user string) *event.Event {
	m.t.Helper()
	join := m.build(user, event.TypeMember, &user, `{"membership":"join"}`, m.ends...)
	var all []*event.Event
	for _, e := range m.events {
		all = append(all, e)
	}
	if err := in.StoreOutliers(m.t.Context(), m.v, m.roomID, all); err != nil {
		m.t.Fatal(err)
	}
	if err := in.PrepareRoom(m.t.Context(), m.v, m.roomID); err != nil {
		m.t.Fatal(err)
	}
	var ids []string
	for _, id := range m.after(m.ends) {
		ids = append(ids, id)
	}
	res, err := in.Receive(m.t.Context(), m.roomID, writer.Received{Event: join, StateBefore: ids, Anew: true})
	if err != nil || res[0].Rejected || res[0].SoftFailed {
		m.t.Fatalf("join: %+v, %v", res, err)
	}
	m.receive(join)
	return join
}

func startWithBackfill(t *testing.T) *instance {
	t.Helper()
	db := newDB(t)
	backfill, err := storage.OpenStreamIDs(t.Context(), storage.StreamIDsConfig{DB: db, Stream: "backfill", Instance: "w1"})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, db, "w1", func(c *writer.Config) { c.BackfillIDs = backfill })
}

func TestOutOfBandMemberships(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "10", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			m := elsewhere(t, v)
			in := startWithBackfill(t)
			user, inviter := bob, "@a:"+remote
			place := func() *store.Member {
				t.Helper()
				room, err := in.store.Room(t.Context(), m.roomID)
				if err != nil {
					t.Fatal(err)
				}
				member, err := in.store.Membership(t.Context(), room.NID, bob)
				if err != nil {
					t.Fatal(err)
				}
				return member
			}
			invite := m.build(inviter, event.TypeMember, &user, `{"membership":"invite","displayname":"Bob"}`, m.ends...)
			stripped := []byte(`[{"type":"m.room.name","state_key":"","sender":"@a:remote.example","content":{"name":"There"}}]`)
			first, err := in.ReceiveOutOfBand(t.Context(), writer.OutOfBand{Event: invite, Stripped: stripped})
			if err != nil || first.NID <= 0 || first.Duplicate {
				t.Fatalf("invite: %+v, %v", first, err)
			}
			again, err := in.ReceiveOutOfBand(t.Context(), writer.OutOfBand{Event: invite, Stripped: stripped})
			if err != nil || again.NID != first.NID || !again.Duplicate {
				t.Errorf("the same invite: %+v, %v", again, err)
			}
			if got := place(); got == nil || got.Membership != storage.MembershipInvite || got.EventNID != first.NID || got.DisplayName != "Bob" {
				t.Errorf("invited: %+v", got)
			}
			sent, err := in.store.Stripped(t.Context(), []storage.EventNID{first.NID})
			if err != nil || string(sent[first.NID]) != string(stripped) {
				t.Errorf("stripped state: %s, %v", sent[first.NID], err)
			}
			leave := m.build(bob, event.TypeMember, &user, `{"membership":"leave"}`, m.ends...)
			if _, err := in.ReceiveOutOfBand(t.Context(), writer.OutOfBand{Event: leave}); err != nil {
				t.Fatal(err)
			}
			if got := place(); got.Membership != storage.MembershipLeave {
				t.Errorf("after the invite was declined: %+v", got)
			}
			rows := in.pub.all()
			if len(rows) != 2 {
				t.Fatalf("%d rows published, want 2", len(rows))
			}
			if r := rows[1].Value; r.PrevMembership != "invite" || r.Membership != "leave" || r.Flags != int16(store.Outlier) || r.Current {
				t.Errorf("row: %+v", r)
			}
			if n := len(timeline(t, in.db, m.roomID)); n != 0 {
				t.Errorf("%d events are in the timeline", n)
			}

			// Once this server is in the room, nothing is written out of band.
			m.join(in, carol)
			res, err := in.ReceiveOutOfBand(t.Context(), writer.OutOfBand{
				Event: m.build(inviter, event.TypeMember, &user, `{"membership":"invite"}`, m.ends...),
			})
			if err != nil || res.NID != 0 {
				t.Errorf("invite to a room this server is in: %+v, %v", res, err)
			}
		})
	}
}

func TestOutOfBandRefusals(t *testing.T) {
	t.Parallel()
	m := elsewhere(t, "11")
	in := startWithBackfill(t)
	a, user := "@a:"+remote, bob
	for name, e := range map[string]*event.Event{
		"a user of another server": m.build(a, event.TypeMember, &a, `{"membership":"join"}`, m.ends...),
		"no membership":            m.build(a, event.TypeMember, &user, `{"membership":"guest"}`, m.ends...),
		"no state":                 m.build(a, event.TypeMember, nil, `{"membership":"invite"}`, m.ends...),
		"another type":             m.build(a, "m.room.topic", &user, `{"topic":""}`, m.ends...),
	} {
		if _, err := in.ReceiveOutOfBand(t.Context(), writer.OutOfBand{Event: e}); !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if rows := in.pub.all(); len(rows) != 0 {
		t.Errorf("%d rows published", len(rows))
	}
}

// A server that comes back to a room begins with its new join: what it knew from its first stay is no end of the room.
func TestJoinAnew(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"2", "11", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			m := elsewhere(t, v)
			in := startWithBackfill(t)
			m.join(in, bob)
			in.send(m.roomID, message(bob, "hello"), member(bob, bob, "leave"))
			room, err := in.store.Room(t.Context(), m.roomID)
			if err != nil {
				t.Fatal(err)
			}
			// What happens meanwhile, as the other server tells it.
			a, user := "@a:"+remote, bob
			m.receive(m.build(bob, event.TypeMember, &user, `{"membership":"leave"}`, m.ends...))
			m.receive(m.build(a, event.TypeMember, &a, `{"membership":"join","displayname":"A"}`, m.ends...))
			join := m.join(in, bob)
			heads, err := in.store.FreshHeads(t.Context(), []storage.RoomNID{room.NID})
			if err != nil {
				t.Fatal(err)
			}
			e, err := in.store.Event(t.Context(), join.ID())
			if err != nil {
				t.Fatal(err)
			}
			if x := heads[0].Extremities; len(x) != 1 || x[0] != e.NID {
				t.Errorf("extremities %v, want %d alone", x, e.NID)
			}
			checkTables(t, in.store, room.NID, m)
			res := in.send(m.roomID, message(bob, "back"))
			after, err := in.store.Event(t.Context(), res[0].EventID)
			if err != nil || len(after.PrevEvents()) != 1 || after.PrevEvents()[0] != join.ID() {
				t.Errorf("the next event follows %v, %v", after.PrevEvents(), err)
			}
		})
	}
}
