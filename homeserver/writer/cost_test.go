package writer_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// A transaction is one round trip, with as many statements for one event as for hundreds in many rooms.
func TestFixedRoundTrips(t *testing.T) {
	t.Parallel()
	const rooms, users = 10, 5
	db := newDB(t)
	in := start(t, db, "w1")
	ids := make([]string, rooms)
	for i := range ids {
		ids[i] = in.create("12").RoomID
		for u := range users {
			user := fmt.Sprintf("@u%d:%s", u, server)
			in.send(ids[i], member(user, user, "join"), message(user, "warm"))
			in.send(ids[i], state(alice, "m.room.topic", "", `{"topic":"warm"}`))
		}
	}
	// Once more to a fixed number of ids ahead.
	in.send(ids[0], message(alice, "warm"))

	measure := func(name string, maxStatements int64, drafts func(room, user int) []writer.Draft) {
		t.Helper()
		n, before := len(in.pub.all()), db.Counts()
		var wg sync.WaitGroup
		for room := range rooms {
			for user := range users {
				wg.Go(func() {
					if _, err := in.Send(t.Context(), ids[room], drafts(room, user)...); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		c := db.Counts().Sub(before)
		events := len(in.pub.all()) - n
		// How the events fall into transactions is chance: at best one, at worst one each.
		if c.RoundTrips > int64(events) || c.RoundTrips == 0 || c.Statements > maxStatements*c.RoundTrips {
			t.Errorf("%s: %d events cost %d round trips and %d statements, at most %d statements each expected", name, events, c.RoundTrips, c.Statements, maxStatements)
		}
		t.Logf("%s: %d events in %d transactions with %d statements", name, events, c.RoundTrips, c.Statements)
	}
	user := func(u int) string { return fmt.Sprintf("@u%d:%s", u, server) }
	// Heads, events, position; and now and then more ids.
	measure("messages", 4, func(_, u int) []writer.Draft { return []writer.Draft{message(user(u), "hi")} })
	measure("many messages each", 4, func(_, u int) []writer.Draft {
		d := make([]writer.Draft, 20)
		for i := range d {
			d[i] = message(user(u), fmt.Sprint(i))
			d[i].DeviceID, d[i].TxnID = "D", fmt.Sprint(i)
		}
		return d
	})
	// Auth edges, nodes, current state, memberships, two for statistics besides.
	measure("state", 10, func(r, u int) []writer.Draft {
		d := member(user(u), user(u), "join")
		d.Content = content(`{"membership":"join","displayname":"%d"}`, r)
		return []writer.Draft{d, state(alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, u))}
	})
}

// A join to a room of many members writes as many rows as one to an empty room, give or take the depth of the tree.
func TestJoinWritesBoundedRows(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	in := start(t, db, "w1")
	room := in.create("12").RoomID
	tables := []string{"events", "event_auth", "current_state", "memberships", "state_nodes", "room_stats", "room_heads", "redactions", "stripped_state"}
	written := func() (n int64) {
		t.Helper()
		// Statistics of the own backend only are exact at once, so rows are counted by their transaction.
		for _, table := range tables {
			var k int64
			if err := db.QueryRow(t.Context(), `SELECT count(*) FROM `+table+` WHERE xmin::text::bigint = (SELECT max(xmin::text::bigint) FROM events)`).Scan(&k); err != nil {
				t.Fatal(err)
			}
			n += k
		}
		return n
	}
	join := func(i int) {
		user := fmt.Sprintf("@m%d:%s", i, server)
		in.send(room, member(user, user, "join"))
	}
	join(0)
	small := written()
	users := make([]string, 0, 3000)
	var drafts []writer.Draft
	for i := 1; i <= 3000; i++ {
		user := fmt.Sprintf("@m%d:%s", i, server)
		users = append(users, user)
		drafts = append(drafts, member(user, user, "join"))
	}
	if _, err := storage.InternUsers(t.Context(), db, users); err != nil {
		t.Fatal(err)
	}
	for len(drafts) > 0 {
		n := min(500, len(drafts))
		in.send(room, drafts[:n]...)
		drafts = drafts[n:]
	}
	join(4000)
	large := written()
	t.Logf("%d rows in a small room, %d in one of 3,000 members", small, large)
	if large > small+6 || large == 0 {
		t.Errorf("a join wrote %d rows in a small room and %d in a large one", small, large)
	}
}
