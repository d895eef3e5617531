package room_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// A join to a room of thousands writes as many rows as one to a room of ten, but for the path of the state tree to it, and
// asks the database no more.
func TestJoinCost(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	join := func(members int) (rows int, c storage.Counts) {
		t.Helper()
		who := k.User(fmt.Sprintf("creator%d", members))
		id := k.Create(who, room.CreateRequest{Preset: "public_chat", RoomVersion: "11"})
		for done := 1; done < members; {
			var drafts []writer.Draft
			for len(drafts) < 500 && done < members {
				u := fmt.Sprintf("@member%d_%d:%s", members, done, roomtest.ServerName)
				drafts = append(drafts, writer.Draft{Type: "m.room.member", StateKey: &u, Sender: u, Content: []byte(`{"membership":"join"}`)})
				done++
			}
			if _, err := k.Writer.Send(t.Context(), id, drafts...); err != nil {
				t.Fatal(err)
			}
		}
		joiner := k.User(fmt.Sprintf("joiner%d", members))
		from := xmin(t, k)
		c = storagetest.Count(t, k.DB, func() {
			if _, err := k.Rooms.Join(t.Context(), joiner, id, room.JoinRequest{}); err != nil {
				t.Error(err)
			}
		})
		return rowsSince(t, k, from), c
	}
	join(2) // what only the first join does
	few, fewCounts := join(10)
	many, manyCounts := join(2_000)
	if many > few+8 {
		t.Errorf("a join wrote %d rows in a room of ten, %d in one of 2,000", few, many)
	}
	if manyCounts.Statements > fewCounts.Statements+4 {
		t.Errorf("a join took %d statements in a room of ten, %d in one of 2,000", fewCounts.Statements, manyCounts.Statements)
	}
}

// xmin returns a transaction id that no later transaction is below.
func xmin(t *testing.T, k *roomtest.Kit) (id int64) {
	t.Helper()
	if err := k.DB.QueryRow(t.Context(), `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// rowsSince counts the rows of all tables that were written since, be they new or changed.
func rowsSince(t *testing.T, k *roomtest.Kit, from int64) (n int) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	rows, err := k.DB.Query(ctx, `SELECT format('SELECT count(*) FROM %I WHERE xmin::text::bigint >= $1', tablename) FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	var queries []string
	for rows.Next() {
		var q string
		if err := rows.Scan(&q); err != nil {
			t.Fatal(err)
		}
		queries = append(queries, q)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, q := range queries {
		c := 0
		if err := k.DB.QueryRow(ctx, q, from).Scan(&c); err != nil {
			t.Fatal(err)
		}
		n += c
	}
	return n
}
