package typing

import (
	"slices"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
)

// A writer that has restarted knows of nobody: what its followers believed must be taken back.
func TestAWriterThatRestartedClearsTheRooms(t *testing.T) {
	t.Parallel()
	client, err := replication.NewClient(replication.Config{ServerName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	writers, err := replication.NewWriters(replication.WritersConfig{})
	if err != nil {
		t.Fatal(err)
	}
	node, err := rpc.New(rpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	s, err := New(Config{Rooms: noRooms{}, Client: client, Writers: writers, RPC: node})
	if err != nil {
		t.Fatal(err)
	}
	before := s.writer.token - 1000
	s.onUpdate(t.Context(), replication.Update[streams.TypingRow]{Writer: "master", Rows: []replication.Row[streams.TypingRow]{
		{Token: before, Value: streams.TypingRow{RoomID: "!gone:test", UserIDs: []string{"@a:test"}}},
		{Token: before, Value: streams.TypingRow{RoomID: "!stays:test", UserIDs: []string{"@b:test"}}},
	}})
	if err := s.writer.set("!stays:test", "@c:test", time.Minute); err != nil {
		t.Fatal(err)
	}
	rows, reached, err := s.source(t.Context(), "master", before, s.writer.token, 10)
	if err != nil || reached != s.writer.token {
		t.Fatalf("reached %d, %v, want %d", reached, err, s.writer.token)
	}
	if len(rows) != 2 || rows[0].Value.RoomID != "!gone:test" || len(rows[0].Value.UserIDs) != 0 || rows[0].Token <= before ||
		rows[1].Value.RoomID != "!stays:test" || !slices.Equal(rows[1].Value.UserIDs, []string{"@c:test"}) {
		t.Errorf("got rows %+v", rows)
	}
	// Somebody who is up to date hears only what is new.
	rows, _, err = s.source(t.Context(), "master", s.writer.token, s.writer.token, 10)
	if err != nil || len(rows) != 0 {
		t.Errorf("got rows %+v, %v, want none", rows, err)
	}
}

type noRooms struct{ Rooms }

func TestEmptyRoomsAreForgotten(t *testing.T) {
	t.Parallel()
	client, err := replication.NewClient(replication.Config{ServerName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_700_000_000_000)
	w, err := newWriter(client, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		if err := w.set(string(rune('a'+i%26))+time.Duration(i).String(), "@a:test", time.Second); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Minute)
	if next, err := w.expire(); err != nil || next != 0 {
		t.Fatalf("next is in %v, %v, want never", next, err)
	}
	if len(w.rooms) != 2000 || len(w.deadlines) != 0 {
		t.Errorf("%d rooms and %d deadlines, want 2000 and none", len(w.rooms), len(w.deadlines))
	}
	after := w.token
	now = now.Add(time.Hour)
	if _, err := w.expire(); err != nil {
		t.Fatal(err)
	}
	if len(w.rooms) != 0 {
		t.Errorf("%d rooms are left", len(w.rooms))
	}
	if u := w.updates(after - 1); !u.Whole {
		t.Error("a follower that missed what was forgotten is not told so")
	}
	if u := w.updates(after); u.Whole {
		t.Error("a follower that missed nothing is told that it did")
	}
}
