package writer_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

func TestOutliersAndGap(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"10", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			ids, err := storage.OpenStreamIDs(t.Context(), storage.StreamIDsConfig{DB: db, Stream: "backfill", Instance: "w1"})
			if err != nil {
				t.Fatal(err)
			}
			in := start(t, db, "w1", func(c *writer.Config) { c.BackfillIDs = ids })
			c := in.create(v)
			m := newModel(t, timeline(t, db, c.RoomID))
			// A part of the room's history that never reached us: two joins, a profile change, a forbidden change of topic.
			a, b := "@a:"+remote, "@b:"+remote
			var history []*event.Event
			add := func(e *event.Event) {
				_, _ = m.receive(e)
				history = append(history, e)
			}
			empty := ""
			add(m.build(a, event.TypeMember, &a, `{"membership":"join"}`, m.ends...))
			add(m.build(b, event.TypeMember, &b, `{"membership":"join"}`, m.ends...))
			add(m.build(a, event.TypeMember, &a, `{"membership":"join","displayname":"A"}`, m.ends...))
			add(m.build(a, "m.room.topic", &empty, `{"topic":"not allowed"}`, m.ends...))
			last := m.build(b, "m.room.message", nil, `{"body":"here"}`, history[2].ID())
			stateBefore := m.after([]string{history[2].ID()})
			var stateIDs []string
			for _, id := range stateBefore {
				stateIDs = append(stateIDs, id)
			}
			var missing *writer.MissingEventsError
			if err := in.StoreOutliers(t.Context(), m.v, c.RoomID, history[2:3]); !errors.As(err, &missing) {
				t.Errorf("an outlier without its auth events: got %v", err)
			}
			rand.Shuffle(len(history), func(i, j int) { history[i], history[j] = history[j], history[i] })
			for range 2 {
				if err := in.StoreOutliers(t.Context(), m.v, c.RoomID, history); err != nil {
					t.Fatal(err)
				}
			}
			for _, e := range history {
				got, err := in.store.Event(t.Context(), e.ID())
				if err != nil {
					t.Fatal(err)
				}
				want := store.Outlier
				if e.Type() == "m.room.topic" {
					want |= store.Rejected
				}
				if got.NID >= 0 || got.Flags != want {
					t.Errorf("outlier %s: number %d, flags %d, want %d", e.ID(), got.NID, got.Flags, want)
				}
			}
			if n := len(timeline(t, db, c.RoomID)); n != 5 {
				t.Errorf("%d events are shown, want 5", n)
			}
			res, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: last, StateBefore: stateIDs})
			if err != nil || res[0].Rejected || res[0].SoftFailed {
				t.Fatalf("event after a gap: %+v, %v", res, err)
			}
			member, err := in.store.Membership(t.Context(), c.RoomNID, a)
			if err != nil || member == nil || member.DisplayName != "A" {
				t.Errorf("member that came with the state at the gap: %+v, %v", member, err)
			}
			// One of the outliers finds its place.
			for _, e := range history {
				if sk, _ := e.StateKey(); sk != b {
					continue
				}
				before, err := in.store.Event(t.Context(), e.ID())
				if err != nil {
					t.Fatal(err)
				}
				prev := e.PrevEvents()
				var ids []string
				for _, id := range m.after(prev) {
					ids = append(ids, id)
				}
				res, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: e, StateBefore: ids})
				if err != nil || res[0].NID != before.NID || res[0].Duplicate {
					t.Fatalf("outlier in its place: %+v, %v; was %d", res, err, before.NID)
				}
				after, err := in.store.Event(t.Context(), e.ID())
				if err != nil || after.Flags != 0 || after.NID != before.NID {
					t.Errorf("outlier in its place: %+v, %v", after, err)
				}
			}
			in.send(c.RoomID, message(alice, "on it goes"))
		})
	}
}

// A room of another server is joined: its state and auth chain are stored, and the join becomes the end of the room.
func TestJoinRoomOfAnotherServer(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "11", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			resident := start(t, newDB(t), "w1")
			c := resident.create(v, state(alice, "m.room.name", "", `{"name":"There"}`), member(carol, carol, "join"))
			m := newModel(t, timeline(t, resident.db, c.RoomID))
			user := "@a:" + remote
			join := m.build(user, event.TypeMember, &user, `{"membership":"join"}`, m.ends...)
			var state []*event.Event
			var ids []string
			for id, e := range m.events {
				state = append(state, e)
				ids = append(ids, id)
			}
			db := newDB(t)
			backfill, err := storage.OpenStreamIDs(t.Context(), storage.StreamIDsConfig{DB: db, Stream: "backfill", Instance: "w1"})
			if err != nil {
				t.Fatal(err)
			}
			in := start(t, db, "w1", func(c *writer.Config) { c.BackfillIDs = backfill })
			if err := in.StoreOutliers(t.Context(), m.v, c.RoomID, state); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: join, StateBefore: ids}); err == nil {
				t.Error("a room that is not prepared took an event")
			}
			if err := in.PrepareRoom(t.Context(), m.v, c.RoomID); err != nil {
				t.Fatal(err)
			}
			res, err := in.Receive(t.Context(), c.RoomID, writer.Received{Event: join, StateBefore: ids})
			if err != nil || res[0].Rejected || res[0].SoftFailed {
				t.Fatalf("join: %+v, %v", res, err)
			}
			_, _ = m.receive(join)
			room, err := in.store.Room(t.Context(), c.RoomID)
			if err != nil {
				t.Fatal(err)
			}
			checkTables(t, in.store, room.NID, m)
			in.send(c.RoomID, message(carol, "hi"))
			stats, err := in.store.Stats(t.Context(), []storage.RoomNID{room.NID})
			if err != nil || stats[0].Name != "There" {
				t.Errorf("room shows %+v, %v", stats[0], err)
			}
		})
	}
}
