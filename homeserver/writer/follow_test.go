package writer_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// A process that follows the stream knows after each row what has changed by it, whatever it had cached before.
func TestFollowerCaches(t *testing.T) {
	t.Parallel()
	connString := storagetest.NewConnString(t)
	in := start(t, openDB(t, connString), "w1")
	db := openDB(t, connString)
	follower, err := store.New(store.Config{DB: db, ServerName: server})
	if err != nil {
		t.Fatal(err)
	}
	follower.Following()
	seen := 0
	follow := func() {
		rows := in.pub.all()
		for _, r := range rows[seen:] {
			follower.Apply(r.Value)
		}
		seen = len(rows)
	}
	c := in.create("11")
	follow()
	ctx := t.Context()
	// That a user is not known at all is not cached.
	if _, err := storage.InternUsers(ctx, db, []string{bob}); err != nil {
		t.Fatal(err)
	}
	said := ""
	look := func() string {
		t.Helper()
		head, err := follower.Head(ctx, c.RoomNID)
		if err != nil {
			t.Fatal(err)
		}
		m, err := follower.Membership(ctx, c.RoomNID, bob)
		if err != nil {
			t.Fatal(err)
		}
		local, err := follower.LocalJoined(ctx, c.RoomNID)
		if err != nil {
			t.Fatal(err)
		}
		stats, err := follower.Stats(ctx, []storage.RoomNID{c.RoomNID})
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%d %d %d %s", head.Generation, len(local), stats[0].Joined, stats[0].Topic)
		if m != nil {
			text += " " + m.Membership.String()
		}
		if said != "" {
			e, err := follower.Event(ctx, said)
			if err != nil {
				t.Fatal(err)
			}
			text += fmt.Sprint(" ", e.RedactedBecause != nil)
		}
		return text
	}
	for _, step := range []struct {
		draft writer.Draft
		want  string
	}{
		{member(bob, alice, "invite"), "2 1 1  invite"},
		{member(bob, bob, "join"), "3 2 2  join"},
		{state(alice, "m.room.topic", "", `{"topic":"T"}`), "4 2 2 T join"},
		{message(bob, "oops"), "5 2 2 T join false"},
		{writer.Draft{Type: event.TypeRedaction, Sender: alice, Content: content(`{}`)}, "6 2 2 T join true"},
		{member(bob, alice, "ban"), "7 1 1 T ban true"},
	} {
		if step.draft.Type == event.TypeRedaction {
			step.draft.Redacts = said
		}
		before := look()
		r := in.send(c.RoomID, step.draft)[0]
		if again := look(); again != before {
			t.Fatalf("without the row: %q became %q, so nothing was cached", before, again)
		}
		if step.draft.Type == "m.room.message" {
			said = r.EventID
		}
		follow()
		if got := look(); got != step.want {
			t.Errorf("after %s: got %q, want %q", step.draft.Type, got, step.want)
		}
	}
}

// The rows that a follower reads after a gap are those that were published, but for what the database does not keep.
func TestEventRowsSource(t *testing.T) {
	t.Parallel()
	connString := storagetest.NewConnString(t)
	a, b := start(t, openDB(t, connString), "w1"), start(t, openDB(t, connString), "w2")
	for i, in := range []*instance{a, b, a} {
		room := in.create("12").RoomID
		in.send(room, member(bob, bob, "join"))
		in.send(room, member(bob, bob, "leave"))
		in.send(room, member(bob, bob, "join"))
		said := in.send(room, message(bob, fmt.Sprint(i)))[0]
		d := message(bob, "with a transaction")
		d.DeviceID, d.TxnID = "D", "x"
		in.send(room, d, writer.Draft{Type: event.TypeRedaction, Sender: bob, Content: content(`{}`), Redacts: said.EventID})
	}
	fresh, err := store.New(store.Config{DB: openDB(t, connString), ServerName: server})
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]*instance{"w1": a, "w2": b} {
		want := in.pub.all()
		after, at := int64(0), 0
		last := want[len(want)-1].Token
		for after < last {
			rows, reached, err := fresh.EventRows(t.Context(), name, after, last, 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				w := *want[at].Value
				if w.Membership != "" && !r.Value.Current {
					// Superseded since.
					w.Current, w.StateReset = false, true
				}
				if r.Token != want[at].Token {
					t.Fatalf("row %d of %s: token %d, want %d", at, name, r.Token, want[at].Token)
				}
				if r.Value.JSON == nil {
					// Redacted since.
					w.JSON = nil
				}
				if diff := cmp.Diff(&w, r.Value); diff != "" {
					t.Errorf("row %d of %s (-published +read):\n%s", at, name, diff)
				}
				at++
			}
			if reached <= after {
				t.Fatalf("source of %s stands still at %d", name, reached)
			}
			after = reached
		}
		if at != len(want) {
			t.Errorf("%d rows of %s were read, %d published", at, name, len(want))
		}
	}
}
