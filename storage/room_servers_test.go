package storage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// Which servers are in a room, and from when to when, follows the places of their users, whoever writes these.
func TestRoomServersFollowMemberships(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO user_ids (user_nid, user_id) VALUES (1, '@a:one'), (2, '@b:one'), (3, '@c:two:8448'), (4, '@d:three'), (5, '@local:here')`)
	exec(`INSERT INTO room_heads (room_nid, generation, extremities, state_root, depth, last_event_nid) VALUES (1, 1, '{}', '', 1, 1)`)
	// put gives users places by an event, the newest of the room; event 0 takes the places away.
	put := func(event int64, membership storage.Membership, users ...int64) {
		t.Helper()
		if event == 0 {
			exec(`DELETE FROM memberships WHERE room_nid = 1 AND user_nid = ANY ($1)`, users)
			return
		}
		if event > 0 {
			exec(`UPDATE room_heads SET last_event_nid = $1 WHERE room_nid = 1`, event)
		}
		exec(`INSERT INTO memberships (room_nid, user_nid, membership, event_nid, sender_nid, is_local)
			SELECT 1, u, $2, $1, u, u = 5 FROM unnest($3::bigint[]) u
			ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid`, event, membership, users)
	}
	want := func(servers ...string) {
		t.Helper()
		found, err := storage.ListRoomServers(t.Context(), db, []storage.RoomNID{1})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range found {
			s := &found[i]
			until := fmt.Sprint(s.Until)
			if s.In() {
				until = ""
			}
			got = append(got, fmt.Sprintf("%s %d-%s", s.Server, s.From, until))
		}
		if !slices.Equal(got, servers) {
			t.Errorf("the servers are\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(servers, "\n"))
		}
	}
	put(2, storage.MembershipJoin, 5)
	want()
	put(3, storage.MembershipJoin, 1, 2, 3)
	want("one 3-", "two:8448 3-")
	put(4, storage.MembershipJoin, 1) // a new name
	put(5, storage.MembershipLeave, 1)
	want("one 3-", "two:8448 3-")
	put(6, storage.MembershipBan, 2)
	want("one 3-6", "two:8448 3-")
	put(7, storage.MembershipInvite, 2)
	put(8, storage.MembershipLeave, 2) // taken back
	want("one 3-6", "one 8-8", "two:8448 3-")
	put(9, storage.MembershipJoin, 2)
	put(10, storage.MembershipInvite, 1)
	put(11, storage.MembershipLeave, 1) // one of its users is there to hear of it
	want("one 3-6", "one 8-8", "one 9-", "two:8448 3-")
	put(0, 0, 3) // no part of the state any more
	want("one 3-6", "one 8-8", "one 9-", "two:8448 3-11")
	put(-4, storage.MembershipJoin, 4) // by an event of the past
	want("one 3-6", "one 8-8", "one 9-", "three 11-", "two:8448 3-11")

	// A room of which only part is known: the servers that were named count, until it turns out that they are not there.
	exec(`INSERT INTO partial_rooms (room_nid, join_nid, known_root, via, servers) VALUES (1, 12, '', 'one', '{two:8448,four}')`)
	want("four 12-", "one 3-6", "one 8-8", "one 9-", "three 11-", "two:8448 3-11", "two:8448 12-")
	put(13, storage.MembershipLeave, 4) // others of three may be there
	put(14, storage.MembershipJoin, 3)
	put(15, storage.MembershipLeave, 2)
	want("four 12-", "one 3-6", "one 8-8", "one 9-", "three 11-", "two:8448 3-11", "two:8448 12-")
	exec(`DELETE FROM partial_rooms`)
	want("four 12-15", "one 3-6", "one 8-8", "one 9-15", "three 11-15", "two:8448 3-11", "two:8448 12-")

	exec(`INSERT INTO outbound_cursors (destination, sent_nid) VALUES ('one', 10), ('four', 20)`)
	if n, err := storage.PruneRoomServers(t.Context(), db, 20); err != nil || n != 3 {
		t.Errorf("pruned %d rows, %v, expected 3", n, err)
	}
	want("one 9-15", "three 11-15", "two:8448 3-11", "two:8448 12-")
}
