package push

import (
	"fmt"
	"testing"

	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// crowd puts n users of this server in a room, as if they had joined, of whom every tenth has muted it and every hundredth
// has a keyword of their own.
func (s *server) crowd(roomID string, n int) {
	s.t.Helper()
	ctx := s.t.Context()
	room, err := s.rooms.Store.Room(ctx, roomID)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sql := range []string{
		`INSERT INTO user_ids (user_id) SELECT '@u' || i || ':test' FROM generate_series(1, $2) i WHERE $1::bigint IS NOT NULL`,
		`INSERT INTO memberships (room_nid, user_nid, membership, event_nid, sender_nid, is_local, display_name, joined_nid)
			SELECT $1, user_nid, 2, 1, user_nid, true, 'The ' || user_nid || '. user', 1 FROM user_ids WHERE user_id LIKE '@u%' LIMIT $2`,
		`UPDATE room_stats SET joined = joined + $2 WHERE room_nid = $1`,
		`INSERT INTO push_rules (user_nid, stream_id, writer_nid, rules) SELECT user_nid, 1, 1, convert_to('{"rules":{"room":[{"rule_id":"` + roomID + `","default":false,"enabled":true,"actions":[]}]}}', 'utf8')
			FROM user_ids WHERE user_id LIKE '@u%0:test' AND $1::bigint IS NOT NULL LIMIT $2`,
		`UPDATE push_rules SET rules = convert_to('{"rules":{"content":[{"rule_id":"k","default":false,"enabled":true,"actions":["notify"],"pattern":"word' || user_nid || '"}]}}', 'utf8')
			WHERE user_nid % 100 = 0 AND $1::bigint IS NOT NULL AND $2::int > 0`,
	} {
		if _, err := s.db.Exec(ctx, sql, room.NID, n); err != nil {
			s.t.Fatal(err)
		}
	}
}

// rows counts the rows of the tables of notifications.
func (s *server) rows() map[string]int {
	s.t.Helper()
	out := map[string]int{}
	for _, table := range []string{"push_counts", "push_totals", "push_groups", "push_sent"} {
		var n int
		if err := s.db.QueryRow(s.t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			s.t.Fatal(err)
		}
		out[table] = n
	}
	return out
}

// A message in a room of ten thousand costs as many statements and rows as one in a room of two.
func TestMessageWritesBoundedRows(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	send := func(room, sender, body string) {
		t.Helper()
		s.rooms.Send(room, sender, `{"msgtype":"m.text","body":"`+body+`"}`)
	}
	cost := func(room, body string) (rows map[string]int, c storage.Counts) {
		t.Helper()
		before, counts := s.rows(), s.db.Counts()
		send(room, "@host:test", body)
		c = s.db.Counts().Sub(counts)
		rows = s.rows()
		for table := range rows {
			rows[table] -= before[table]
		}
		return rows, c
	}
	large := s.rooms.Create("@host:test")
	s.crowd(large, 10000)
	// Two other rooms, so that the writer forgets who is in the first.
	s.rooms.Create("@host:test")
	small := s.rooms.Create("@host:test", "@anna:test")
	// The first message finds out who is there, and writes down who is counted apart.
	send(small, "@host:test", "first")
	s.rooms.SendDraft(large, writer.Draft{Type: "m.room.topic", StateKey: ptr(""), Sender: "@host:test", Content: []byte(`{"topic":"x"}`)})
	for _, tc := range []struct {
		body string
		// own is how many users the message means something of its own to.
		own int
	}{{"hello to all", 0}, {"hello the 5017. user", 1}, {"dear u42 and u4711", 2}, {"word700 counts", 1}} {
		_, few := cost(small, tc.body)
		rows, many := cost(large, tc.body)
		t.Logf("%q: %v, %+v; in the small room %+v", tc.body, rows, many, few)
		if many.Statements > few.Statements || many.RoundTrips > few.RoundTrips {
			t.Errorf("%q: %+v, in a small room %+v", tc.body, many, few)
		}
		if rows["push_counts"] > 1+tc.own || rows["push_groups"] != 0 || rows["push_sent"] > 1 || rows["push_totals"] > 1+tc.own {
			t.Errorf("%q wrote %v, want a row for each group that is notified and for each who is meant", tc.body, rows)
		}
	}
	for user, want := range map[string]int64{"@u41:test": 4, "@u40:test": 0} {
		got, err := s.unread.Unread(t.Context(), user, []string{large})
		if err != nil || got[large].Total.Notification != want {
			t.Errorf("%s has %+v unread, %v, want %d", user, got[large], err, want)
		}
	}
}

// Counts of many rooms cost as much as those of one.
func TestUnreadCost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var rooms []string
	for i := range 30 {
		r := s.rooms.Create("@host:test", "@anna:test")
		s.rooms.Send(r, "@host:test", fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, i))
		rooms = append(rooms, r)
	}
	for _, n := range []int{1, 30} {
		if _, err := s.unread.Unread(t.Context(), "@anna:test", rooms[:n]); err != nil {
			t.Fatal(err)
		}
		before := s.db.Counts()
		got, err := s.unread.Unread(t.Context(), "@anna:test", rooms[:n])
		if err != nil || len(got) != n {
			t.Fatalf("%d rooms of %d have something unread, %v", len(got), n, err)
		}
		if c := s.db.Counts().Sub(before); c.Statements > 2 || c.RoundTrips > 2 {
			t.Errorf("%d rooms: %+v, want two statements", n, c)
		}
	}
}

// BenchmarkNotify evaluates a message for a room of ten thousand.
func BenchmarkNotify(b *testing.B) {
	e, err := NewEvaluator(EvaluatorConfig{DB: &storage.DB{}, ServerName: "test"})
	if err != nil {
		b.Fatal(err)
	}
	a := newAudience(e, nil)
	for i := range 10000 {
		row := storage.PushMember{UserNID: storage.UserNID(i + 1), UserID: fmt.Sprintf("@user%d:test", i), DisplayName: fmt.Sprintf("The %d. user", i), Subject: storage.PushDefault}
		if i%100 == 0 {
			row.Rules = []byte(fmt.Sprintf(`{"rules":{"content":[{"rule_id":"k","enabled":true,"actions":["notify"],"pattern":"word%d"}]}}`, i))
		}
		a.add(e.member(&row, room, nil))
	}
	levels := inRoom(b, 3).Levels
	for name, body := range map[string]string{"plain": "words of a usual message to everybody", "names": "user17 and user4711, is The 5. user there? word500"} {
		ev := made(b, "m.room.message", message(body))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.Notify(writer.Notice{Event: ev, Levels: levels})
			}
		})
	}
}
