package writer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

func TestCreateRoomEachVersion(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	for _, v := range event.Versions() {
		t.Run(v.ID, func(t *testing.T) {
			c := in.create(v.ID, state(alice, "m.room.name", "", `{"name":"A room"}`))
			if len(c.Results) != 6 {
				t.Fatalf("got %d results, want 6", len(c.Results))
			}
			in.send(c.RoomID, member(bob, bob, "join"), message(bob, "hello"))
			events := checkLine(t, in.db, c.RoomID)
			if len(events) != 8 {
				t.Errorf("got %d events, want 8", len(events))
			}
			if v.RoomIDFromCreate && c.RoomID[1:] != events[0].ID()[1:] {
				t.Errorf("room %s is not named by its m.room.create %s", c.RoomID, events[0].ID())
			}
			stats, err := in.store.Stats(t.Context(), []storage.RoomNID{c.RoomNID})
			if err != nil {
				t.Fatal(err)
			}
			if s := stats[0]; s.Name != "A room" || s.JoinRule != "public" || s.Creator != alice || s.HistoryVisibility != "shared" || !s.Federate {
				t.Errorf("room shows %+v", *s)
			}
			for _, e := range events {
				if err := e.VerifySignatures(t.Context(), keyRing{}); err != nil {
					t.Errorf("event %s: %v", e.ID(), err)
				}
			}
		})
	}
}

// Concurrent senders in many rooms: each room is a line, everybody's events are in the order they were sent in, and the
// rows that are published are those that are stored.
func TestConcurrentSendersKeepOrder(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	const rooms, senders, each = 8, 6, 15
	ids := make([]string, rooms)
	for i := range ids {
		ids[i] = in.create("11").RoomID
	}
	var wg sync.WaitGroup
	for i := range rooms * senders {
		wg.Go(func() {
			user := fmt.Sprintf("@user%d:%s", i/rooms, server)
			room := ids[i%rooms]
			if _, err := in.Send(t.Context(), room, member(user, user, "join")); err != nil {
				t.Errorf("join: %v", err)
				return
			}
			for n := range each {
				d := message(user, fmt.Sprint(n))
				if n%5 == 4 {
					d = member(user, user, "join")
					d.Content = content(`{"membership":"join","displayname":"%d"}`, n)
				}
				if _, err := in.Send(t.Context(), room, d); err != nil {
					t.Errorf("send: %v", err)
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, id := range ids {
		events := checkLine(t, in.db, id)
		total += len(events)
		if want := 5 + senders*(each+1); len(events) != want {
			t.Errorf("room %s has %d events, want %d", id, len(events), want)
		}
		last := map[string]int{}
		for _, e := range events {
			var n int
			if e.Type() == "m.room.message" {
				_, _ = fmt.Sscan(strings.Trim(string(content(`%s`, e.Content()))[len(`{"body":"`):strings.Index(string(e.Content()), `","msgtype`)], `"`), &n)
				if n < last[e.Sender()] {
					t.Errorf("message %d of %s comes after %d", n, e.Sender(), last[e.Sender()])
				}
				last[e.Sender()] = n
			}
		}
	}
	rows := in.pub.all()
	if len(rows) != total {
		t.Errorf("%d rows were published, %d events are stored", len(rows), total)
	}
}

// Drafts of one request see the ones before them, and are written all or none.
func TestSendIsAtomic(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	room := in.create("12").RoomID
	before := len(timeline(t, in.db, room))
	_, err := in.Send(t.Context(), room, member(bob, bob, "join"), message(bob, "hi"), state(bob, "m.room.name", "", `{"name":"x"}`))
	if !errors.Is(err, mxerr.Forbidden) {
		t.Fatalf("got %v, want M_FORBIDDEN", err)
	}
	if got := len(timeline(t, in.db, room)); got != before {
		t.Errorf("a refused request wrote %d events", got-before)
	}
	// Nothing of the refused request is remembered.
	if _, err := in.Send(t.Context(), room, message(bob, "hi")); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("got %v, want M_FORBIDDEN: bob's join was refused with the rest", err)
	}
	in.send(room, member(bob, bob, "join"), message(bob, "hi"))
	checkLine(t, in.db, room)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	room := in.create("12").RoomID
	for name, tc := range map[string]struct {
		room  string
		draft writer.Draft
		want  *mxerr.Error
	}{
		"not in the room": {room, message(bob, "hi"), mxerr.Forbidden},
		"unknown room":    {"!nowhere:" + server, message(alice, "hi"), mxerr.NotFound},
		"other server":    {room, message("@alice:elsewhere", "hi"), mxerr.Forbidden},
		"not an object":   {room, writer.Draft{Type: "t", Sender: alice, Content: content(`[]`)}, mxerr.BadJSON},
		"not JSON":        {room, writer.Draft{Type: "t", Sender: alice, Content: content(`{`)}, mxerr.BadJSON},
		"a float":         {room, writer.Draft{Type: "t", Sender: alice, Content: content(`{"a":1.5}`)}, mxerr.BadJSON},
		"no type":         {room, writer.Draft{Sender: alice, Content: content(`{}`)}, mxerr.InvalidParam},
		"null in type":    {room, writer.Draft{Type: "a\x00b", Sender: alice, Content: content(`{}`)}, mxerr.InvalidParam},
		"large":           {room, message(alice, strings.Repeat("x", 65536)), mxerr.TooLarge},
		"long type":       {room, writer.Draft{Type: strings.Repeat("x", 256), Sender: alice, Content: content(`{}`)}, mxerr.TooLarge},
		"bad member":      {room, member(alice, alice, "confused"), mxerr.Forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := in.Send(t.Context(), tc.room, tc.draft)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %s", err, tc.want.Code)
			}
		})
	}
	if got := len(checkLine(t, in.db, room)); got != 5 {
		t.Errorf("room has %d events, want 5", got)
	}
}

func TestTxnIDs(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	in := start(t, db, "w1")
	room := in.create("12", member(bob, alice, "invite")).RoomID
	in.send(room, member(bob, bob, "join"))
	d := message(alice, "once")
	d.DeviceID, d.TxnID = "DEV", "m1"

	// At the same time.
	const n = 20
	results := make([]writer.Result, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			res, err := in.Send(t.Context(), room, d)
			if err != nil {
				t.Error(err)
				return
			}
			results[i] = res[0]
		})
	}
	wg.Wait()
	first := 0
	for _, r := range results {
		if r.EventID != results[0].EventID || r.NID != results[0].NID || r.Writer != "w1" {
			t.Errorf("got %+v and %+v for one transaction id", r, results[0])
		}
		if !r.Duplicate {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d requests were the first", first)
	}

	// Other devices, users and transactions are others.
	others := []writer.Draft{d, d, d, d}
	others[0].DeviceID = "OTHER"
	others[1].Sender = bob
	others[2].TxnID = "m2"
	others[3].TxnID = ""
	for i, o := range others {
		if r := in.send(room, o)[0]; r.Duplicate || r.EventID == results[0].EventID {
			t.Errorf("request %d was taken for the first", i)
		}
	}

	// A writer that has never heard of it, as after a restart.
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	again := start(t, db, "w1")
	r := again.send(room, d)[0]
	if !r.Duplicate || r.EventID != results[0].EventID || r.NID != results[0].NID || r.Writer != "w1" {
		t.Errorf("after a restart: got %+v, want %+v", r, results[0])
	}
	// One that has the room in memory, but not the transaction.
	again.send(room, message(alice, "something else"))
	d.TxnID = "m2"
	if r := again.send(room, d)[0]; !r.Duplicate {
		t.Errorf("an old transaction id wrote a new event: %+v", r)
	}
	if got := len(checkLine(t, db, room)); got != 5+2+1+4+1 {
		t.Errorf("room has %d events, want 13", got)
	}
}

func TestSkipUnchanged(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	room := in.create("11").RoomID
	d := state(alice, "m.room.topic", "", `{"topic":"x","a":1}`)
	d.SkipUnchanged = true
	first := in.send(room, d)[0]
	d.Content = content(`{"a":1, "topic":"x"}`)
	if r := in.send(room, d)[0]; !r.Duplicate || r.EventID != first.EventID {
		t.Errorf("unchanged state: got %+v, want the event %+v", r, first)
	}
	d.Content = content(`{"a":2, "topic":"x"}`)
	if r := in.send(room, d)[0]; r.Duplicate {
		t.Errorf("changed state: got the old event")
	}
}

func TestRedaction(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "11"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			in := start(t, newDB(t), "w1")
			room := in.create(v).RoomID
			in.send(room, member(bob, bob, "join"), member(carol, carol, "join"))
			said := in.send(room, message(bob, "oops"))[0]
			redact := func(sender string) writer.Draft {
				return writer.Draft{Type: event.TypeRedaction, Sender: sender, Content: content(`{}`), Redacts: said.EventID}
			}
			if e, err := in.store.Event(t.Context(), said.EventID); err != nil || e.RedactedBecause != nil {
				t.Fatalf("before: %v %v", e, err)
			}
			why := in.send(room, redact(bob))[0]
			e, err := in.store.Event(t.Context(), said.EventID)
			if err != nil {
				t.Fatal(err)
			}
			if e.RedactedBecause == nil || e.RedactedBecause.ID() != why.EventID || strings.Contains(string(e.Content()), "oops") {
				t.Errorf("the event was not redacted: %s, because of %v", e.JSON(), e.RedactedBecause)
			}
			rows := in.pub.all()
			if got := rows[len(rows)-1].Value.Redacts; got != said.EventID {
				t.Errorf("the row says it redacts %q", got)
			}
			other, err := in.Send(t.Context(), in.create(v).RoomID, redact(alice))
			if !errors.Is(err, mxerr.InvalidParam) {
				t.Errorf("redaction from another room: %v %v", other, err)
			}
		})
	}
}

func TestInviteHasStrippedState(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	room := in.create("12", state(alice, "m.room.name", "", `{"name":"Here"}`)).RoomID
	res := in.send(room, member(bob, alice, "invite"))
	stripped, err := in.store.Stripped(t.Context(), []storage.EventNID{res[0].NID})
	if err != nil {
		t.Fatal(err)
	}
	got := string(stripped[res[0].NID])
	for _, want := range []string{`"name":"Here"`, `"m.room.create"`, `"m.room.join_rules"`, `"state_key":"` + alice + `"`} {
		if !strings.Contains(got, want) {
			t.Errorf("stripped state lacks %s: %s", want, got)
		}
	}
	nid, err := in.store.UserNID(t.Context(), bob)
	if err != nil {
		t.Fatal(err)
	}
	rooms, err := in.store.UserRooms(t.Context(), nid, storage.MembershipInvite)
	if err != nil || len(rooms) != 1 || rooms[0].EventNID != res[0].NID {
		t.Errorf("bob's invites: %+v, %v", rooms, err)
	}
}

// The caches of the process know of an event when its sender does.
func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	c := in.create("12")
	for i := range 20 {
		who, membership := bob, "join"
		if i%2 == 1 {
			membership = "leave"
		}
		r := in.send(c.RoomID, member(who, who, membership))[0]
		m, err := in.store.Membership(t.Context(), c.RoomNID, who)
		if err != nil || m == nil || m.Membership.String() != membership || m.EventNID != r.NID {
			t.Fatalf("after %s: %+v, %v", membership, m, err)
		}
		local, err := in.store.LocalJoined(t.Context(), c.RoomNID)
		if err != nil || len(local) != 2-i%2 {
			t.Fatalf("after %s: %d local members, %v", membership, len(local), err)
		}
		head, err := in.store.Head(t.Context(), c.RoomNID)
		if err != nil || head.LastNID != r.NID {
			t.Fatalf("head %+v, %v", head, err)
		}
		e, err := in.store.CurrentStateEvent(t.Context(), c.RoomNID, event.TypeMember, bob)
		if err != nil || e.NID != r.NID {
			t.Fatalf("current state %+v, %v", e, err)
		}
	}
}

func TestAbandonedRequest(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	room := in.create("12").RoomID
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := in.Send(ctx, room, message(alice, "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	in.send(room, message(alice, "y"))
	checkLine(t, in.db, room)
}

func TestStopsCleanly(t *testing.T) {
	t.Parallel()
	in := start(t, newDB(t), "w1")
	room := in.create("12").RoomID
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := map[string]bool{}
	for i := range 50 {
		wg.Go(func() {
			for {
				res, err := in.Send(context.Background(), room, message(alice, fmt.Sprint(i)))
				if err != nil {
					if mx, ok := mxerr.As(err); !ok || mx.Status != 503 {
						t.Errorf("got %v, want a 503", err)
					}
					return
				}
				mu.Lock()
				sent[res[0].EventID] = true
				mu.Unlock()
			}
		})
	}
	eventually(t, "events are written", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(sent) > 100
	})
	if err := in.stop(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	got := map[string]bool{}
	for _, e := range checkLine(t, in.db, room) {
		got[e.ID()] = true
	}
	for id := range sent {
		if !got[id] {
			t.Errorf("event %s was acknowledged and is not there", id)
		}
	}
	if len(got) != len(sent)+5 {
		t.Errorf("%d events are there, %d were acknowledged", len(got)-5, len(sent))
	}
}
