package writer_test

import (
	"errors"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// What a server learns of the time before it joined takes its place and changes nothing else.
func TestHistory(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "11", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			m := elsewhere(t, v)
			a := "@a:" + remote
			var past []*event.Event
			say := func(typ string, sk *string, body string) *event.Event {
				e := m.build(a, typ, sk, body, m.ends...)
				m.receive(e)
				past = append(past, e)
				return e
			}
			say("m.room.message", nil, `{"body":"one"}`)
			say("m.room.member", &a, `{"membership":"join","displayname":"A"}`)
			say("m.room.message", nil, `{"body":"two"}`)
			in := startWithBackfill(t)
			join := m.join(in, bob)
			in.send(m.roomID, message(bob, "hello"))
			room, err := in.store.Room(t.Context(), m.roomID)
			if err != nil {
				t.Fatal(err)
			}
			head := func() *store.Head {
				heads, err := in.store.FreshHeads(t.Context(), []storage.RoomNID{room.NID})
				if err != nil {
					t.Fatal(err)
				}
				return heads[0]
			}
			before, published := head(), len(in.pub.all())
			gaps, err := storage.OpenGaps(t.Context(), in.db, room.NID, nil, 10)
			if err != nil || len(gaps) != 1 || gaps[0] != join.PrevEvents()[0] {
				t.Fatalf("gaps %v, %v", gaps, err)
			}
			if err := in.StoreOutliers(t.Context(), m.v, m.roomID, past); err != nil {
				t.Fatal(err)
			}
			_, err = in.Receive(t.Context(), m.roomID, writer.Received{Event: past[0], History: true})
			var missing *writer.MissingEventsError
			if !errors.As(err, &missing) || len(missing.Prev) != 1 {
				t.Fatalf("without the state: %v", err)
			}
			for i, e := range past {
				rec := writer.Received{Event: e, History: true}
				if i == 0 {
					for _, id := range m.before[e.ID()] {
						rec.StateBefore = append(rec.StateBefore, id)
					}
				}
				res, err := in.Receive(t.Context(), m.roomID, rec)
				if err != nil || res[0].NID >= 0 || res[0].Rejected || res[0].Duplicate {
					t.Fatalf("event %d: %+v, %v", i, res, err)
				}
				placed, err := in.store.PlacedByID(t.Context(), []string{e.ID()})
				if err != nil || placed[0].Flags != 0 {
					t.Fatalf("event %d: flags %d, %v", i, placed[0].Flags, err)
				}
				got := stateIDs(t, in.store, placed[0].StateRoot)
				for tuple, id := range m.before[e.ID()] {
					if got[tuple] != id {
						t.Errorf("event %d: state %v is %s, want %s", i, tuple, got[tuple], id)
					}
				}
				if res, err = in.Receive(t.Context(), m.roomID, rec); err != nil || !res[0].Duplicate {
					t.Errorf("event %d again: %+v, %v", i, res, err)
				}
			}
			after := head()
			if after.StateRoot != before.StateRoot || len(after.Extremities) != 1 || after.Extremities[0] != before.Extremities[0] || after.Depth != before.Depth {
				t.Errorf("the end of the room moved from %+v to %+v", before, after)
			}
			if n := len(in.pub.all()); n != published {
				t.Errorf("%d rows were published", n-published)
			}
			if gaps, err = storage.OpenGaps(t.Context(), in.db, room.NID, nil, 10); err != nil || len(gaps) != 1 || gaps[0] != past[0].PrevEvents()[0] {
				t.Errorf("gaps %v, %v", gaps, err)
			}
			if gaps, err = storage.OpenGaps(t.Context(), in.db, room.NID, gaps, 10); err != nil || len(gaps) != 0 {
				t.Errorf("gaps without those excepted: %v, %v", gaps, err)
			}
		})
	}
}
