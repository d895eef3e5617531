package sync

import (
	"slices"
	"testing"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
)

// A join that arrives after the leave that followed it, from another writer, must not bring the user back into the room:
// the view is dropped, to be read from the database. In the order of their numbers the rows change the view as it is.
func TestMemberRowsOfTwoWriters(t *testing.T) {
	t.Parallel()
	const user = "@u:a.test"
	type memberRow struct {
		writer     string
		nid        int64
		membership string
	}
	for _, tc := range []struct {
		name    string
		rows    []memberRow
		dropped bool
		in      bool
	}{
		{"join", []memberRow{{"a", 1, "join"}}, false, true},
		{"in order", []memberRow{{"a", 1, "join"}, {"b", 2, "leave"}, {"a", 3, "join"}}, false, true},
		{"leave before join", []memberRow{{"b", 2, "leave"}, {"a", 1, "join"}}, true, false},
		{"leave before invite", []memberRow{{"b", 2, "leave"}, {"a", 1, "invite"}}, true, false},
		{"late leave", []memberRow{{"b", 2, "join"}, {"a", 1, "leave"}}, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			client, err := replication.NewClient(replication.Config{ServerName: "a.test"})
			if err != nil {
				t.Fatal(err)
			}
			h := newHub(client, 1<<20, zerolog.Nop())
			loaded := make(chan struct{})
			close(loaded)
			v := &view{userID: user, loaded: loaded, waiting: map[*waiter]struct{}{}}
			h.views[user] = v
			for _, r := range tc.rows {
				key := user
				h.onEvents(t.Context(), replication.Update[*streams.EventRow]{
					Writer: r.writer, Token: r.nid,
					Rows: []replication.Row[*streams.EventRow]{{Token: r.nid, Value: &streams.EventRow{
						RoomNID: 7, RoomID: "!r:a.test", Type: event.TypeMember, StateKey: &key, Membership: r.membership, Current: true,
					}}},
				})
			}
			if v.dropped != tc.dropped {
				t.Fatalf("dropped is %v, want %v", v.dropped, tc.dropped)
			}
			if _, in := slices.BinarySearchFunc(v.rooms, "!r:a.test", compareRooms); in != tc.in {
				t.Errorf("in the room is %v, want %v", in, tc.in)
			}
		})
	}
}
