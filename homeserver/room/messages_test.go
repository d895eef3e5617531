package room_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func parseFilter(t *testing.T, s string) *filter.Events {
	t.Helper()
	if s == "" {
		return nil
	}
	f, err := filter.ParseEvents([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func eventIDs(raw []byte) []string {
	var out []string
	for _, e := range gjson.ParseBytes(raw).Array() {
		out = append(out, e.Get("event_id").Str)
	}
	return out
}

// walk pages through a room and returns the event ids in the order they came.
func walk(t *testing.T, k *roomtest.Kit, who *room.Requester, roomID string, req room.MessagesRequest) []string {
	t.Helper()
	var out []string
	for range 1000 {
		p, err := k.Rooms.Messages(t.Context(), who, roomID, req)
		if err != nil {
			t.Fatal(err)
		}
		if req.From != "" && p.Start != req.From {
			t.Errorf("start %q, want from %q", p.Start, req.From)
		}
		got := eventIDs(p.Chunk)
		if len(got) > req.Limit {
			t.Errorf("page of %d events, limit %d", len(got), req.Limit)
		}
		out = append(out, got...)
		if p.End == "" {
			return out
		}
		req.From = p.End
	}
	t.Fatal("paging does not end")
	return nil
}

func TestMessagesPages(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	for i := range 40 {
		who := []*room.Requester{alice, bob}[i%2]
		switch i % 4 {
		case 0:
			k.Send(who, id, "m.room.message", obj{"body": "x", "url": "mxc://a/b"})
		case 1:
			k.SetState(alice, id, "org.example.state", "", obj{"i": i})
		default:
			k.Say(who, id, fmt.Sprint(i))
		}
	}
	all := walk(t, k, alice, id, room.MessagesRequest{Limit: 1000})
	if len(all) != 6+40 {
		t.Fatalf("room has %d events, want 46", len(all))
	}
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	for _, limit := range []int{1, 2, 7, 45, 46, 47} {
		if got := walk(t, k, alice, id, room.MessagesRequest{Limit: limit}); !slices.Equal(got, all) {
			t.Errorf("forwards by %d: got %d events in another order, want %d", limit, len(got), len(all))
		}
		if got := walk(t, k, bob, id, room.MessagesRequest{Limit: limit, Backwards: true}); !slices.Equal(got, backwards) {
			t.Errorf("backwards by %d: got %d events in another order, want %d", limit, len(got), len(all))
		}
	}

	// From a page's end one gets back to where it began.
	p, err := k.Rooms.Messages(t.Context(), alice, id, room.MessagesRequest{Limit: 10, Backwards: true})
	if err != nil {
		t.Fatal(err)
	}
	back := walk(t, k, alice, id, room.MessagesRequest{From: p.End, To: p.Start, Limit: 3})
	want := eventIDs(p.Chunk)
	slices.Reverse(want)
	if !slices.Equal(back, want) {
		t.Errorf("forwards from end to start: got %v, want %v", back, want)
	}

	full := timeline(t, k, alice, id)
	for _, tc := range []struct {
		filter string
		keep   func(e gjson.Result) bool
	}{
		{`{"types":["m.room.message"]}`, func(e gjson.Result) bool { return e.Get("type").Str == "m.room.message" }},
		{`{"types":["m.room.*"],"not_types":["m.room.me*"]}`, func(e gjson.Result) bool {
			return strings.HasPrefix(e.Get("type").Str, "m.room.") && !strings.HasPrefix(e.Get("type").Str, "m.room.me")
		}},
		{`{"senders":["` + bob.UserID + `"]}`, func(e gjson.Result) bool { return e.Get("sender").Str == bob.UserID }},
		{`{"not_senders":["` + bob.UserID + `"]}`, func(e gjson.Result) bool { return e.Get("sender").Str != bob.UserID }},
		{`{"contains_url":true}`, func(e gjson.Result) bool { return e.Get("content.url").Exists() }},
		{`{"contains_url":false,"types":["m.room.message"]}`, func(e gjson.Result) bool {
			return !e.Get("content.url").Exists() && e.Get("type").Str == "m.room.message"
		}},
		{`{"senders":["@nobody:example.org"]}`, func(gjson.Result) bool { return false }},
		{`{"types":[]}`, func(gjson.Result) bool { return false }},
		{`{"not_rooms":["` + id + `"]}`, func(gjson.Result) bool { return false }},
		{`{"rooms":["` + id + `"],"limit":3}`, func(gjson.Result) bool { return true }},
	} {
		var want []string
		for _, e := range full {
			if tc.keep(e) {
				want = append(want, e.Get("event_id").Str)
			}
		}
		if got := walk(t, k, alice, id, room.MessagesRequest{Limit: 5, Filter: parseFilter(t, tc.filter)}); !slices.Equal(got, want) {
			t.Errorf("filter %s: got %d events, want %d", tc.filter, len(got), len(want))
		}
	}
}

func TestMessagesFromSyncTokens(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice := k.User("alice")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Say(alice, id, "old")
	at, err := k.Store.Room(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	h, err := k.Store.Head(t.Context(), at.NID)
	if err != nil {
		t.Fatal(err)
	}
	since, err := token.Sync{}.With(token.Events, replication.NewPosition(int64(h.LastNID))).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	k.Create(alice, room.CreateRequest{}) // other rooms move the stream
	a, b := k.Say(alice, id, "new 1"), k.Say(alice, id, "new 2")
	if got := walk(t, k, alice, id, room.MessagesRequest{From: since, Limit: 10}); !slices.Equal(got, []string{a, b}) {
		t.Errorf("forwards from a sync token: %v, want %v", got, []string{a, b})
	}
	got := walk(t, k, alice, id, room.MessagesRequest{From: since, Limit: 10, Backwards: true})
	if len(got) != 6 || slices.Contains(got, a) {
		t.Errorf("backwards from a sync token: %d events, want 6", len(got))
	}
	if got := walk(t, k, alice, id, room.MessagesRequest{To: since, Limit: 10, Backwards: true}); !slices.Equal(got, []string{b, a}) {
		t.Errorf("backwards to a sync token: %v, want %v", got, []string{b, a})
	}
	zero, err := token.Sync{}.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := walk(t, k, alice, id, room.MessagesRequest{From: zero, Limit: 10, Backwards: true}); len(got) != 0 {
		t.Errorf("backwards from before everything: %v", got)
	}
	for _, bad := range []string{"x", "s1", "s1_", "t1", "t1_x", "t-1_2", "s1_1~9.1", "s2_1", strings.Repeat("9", 9999), "t1_99999999999999999999"} {
		if _, err := k.Rooms.Messages(t.Context(), alice, id, room.MessagesRequest{From: bad}); mxerr.Code(err) != "M_INVALID_PARAM" {
			t.Errorf("from %.20q: %v, want M_INVALID_PARAM", bad, err)
		}
		if _, err := k.Rooms.Members(t.Context(), alice, id, room.MembersRequest{At: bad}); mxerr.Code(err) != "M_INVALID_PARAM" {
			t.Errorf("at %.20q: %v, want M_INVALID_PARAM", bad, err)
		}
	}
}

func TestMessagesLoadsMembersLazily(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, carol := k.User("alice"), k.User("bob"), k.User("carol")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	k.Join(carol, id)
	k.Say(bob, id, "1")
	k.Say(carol, id, "2")
	p, err := k.Rooms.Messages(t.Context(), alice, id, room.MessagesRequest{Limit: 1, Backwards: true, Filter: parseFilter(t, `{"lazy_load_members":true}`)})
	if err != nil {
		t.Fatal(err)
	}
	st := gjson.ParseBytes(p.State).Array()
	if len(st) != 1 || st[0].Get("state_key").Str != carol.UserID || st[0].Get("content.membership").Str != "join" {
		t.Errorf("state %s, want carol's membership alone", p.State)
	}
	if p, err = k.Rooms.Messages(t.Context(), alice, id, room.MessagesRequest{}); err != nil || p.State != nil {
		t.Errorf("state without lazy loading: %s, %v", p.State, err)
	}
}

// A page of 100 costs at most three statements on a process that has served the room before: the events, the nodes of the
// state trees at them, and the events found in those. (Above 32 pieces of state the nodes take one more for each level
// that is not cached.)
func TestMessagesStatements(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice := k.User("alice")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	for i := range 120 {
		if i%3 == 0 {
			k.SetState(alice, id, "org.example.state", fmt.Sprint(i%10), obj{"i": i})
		} else {
			k.Say(alice, id, fmt.Sprint(i))
		}
	}
	// Another process's caches know nothing of the room but what its last request needed.
	cold := roomtest.Follow(t, k)
	p, err := cold.Messages(t.Context(), alice, id, room.MessagesRequest{Limit: 1, Backwards: true})
	if err != nil {
		t.Fatal(err)
	}
	n := storagetest.Count(t, k.DB, func() {
		p, err = cold.Messages(t.Context(), alice, id, room.MessagesRequest{From: p.End, Limit: 100, Backwards: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(eventIDs(p.Chunk)); got != 100 {
		t.Fatalf("page of %d events, want 100", got)
	}
	if n.Statements > 3 {
		t.Errorf("a page of 100 took %d statements, want at most 3", n.Statements)
	}
	n = storagetest.Count(t, k.DB, func() {
		_, err = cold.Messages(t.Context(), alice, id, room.MessagesRequest{From: p.End, Limit: 10, Backwards: true})
	})
	if err != nil || n.Statements > 3 {
		t.Errorf("the next page took %d statements, %v, want at most 3", n.Statements, err)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice := k.User("alice")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	var ids []string
	for i := range 10 {
		ids = append(ids, k.Say(alice, id, fmt.Sprint(i)))
	}
	for _, tc := range []struct{ limit, before, after int }{{0, 0, 0}, {1, 0, 1}, {2, 1, 1}, {5, 2, 3}, {6, 3, 3}, {1000, 10, 4}} {
		c, err := k.Rooms.Context(t.Context(), alice, id, ids[5], tc.limit, nil)
		if err != nil {
			t.Fatal(err)
		}
		before, after := eventIDs(c.Before), eventIDs(c.After)
		if len(before) != tc.before || len(after) != tc.after || gjson.GetBytes(c.Event, "event_id").Str != ids[5] {
			t.Errorf("limit %d: %d before and %d after %s, want %d and %d", tc.limit, len(before), len(after), c.Event, tc.before, tc.after)
		}
		if tc.before > 0 && before[0] != ids[4] || tc.after > 0 && after[0] != ids[6] {
			t.Errorf("limit %d: the nearest do not come first", tc.limit)
		}
		older := walk(t, k, alice, id, room.MessagesRequest{From: c.Start, Limit: 50, Backwards: true})
		newer := walk(t, k, alice, id, room.MessagesRequest{From: c.End, Limit: 50})
		if len(older)+tc.before+1+tc.after+len(newer) != 15 {
			t.Errorf("limit %d: %d older and %d newer events by the tokens", tc.limit, len(older), len(newer))
		}
	}
	c, err := k.Rooms.Context(t.Context(), alice, id, ids[5], 4, parseFilter(t, `{"types":["m.room.create"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(eventIDs(c.Before)) != 1 || len(eventIDs(c.After)) != 0 || len(eventIDs(c.State)) != 1 {
		t.Errorf("filtered context: %s %s %s", c.Before, c.After, c.State)
	}
}

func TestEventAt(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	bridge := k.User("bridge")
	bridge.AppserviceID = "bridge"
	id := k.Create(bridge, room.CreateRequest{Preset: room.PresetPublicChat})
	// Times far in the future, so that those of the room's first events do not matter.
	const base = int64(4_000_000_000_000)
	var ids []string
	for i := range 100 {
		e, err := k.Rooms.Send(t.Context(), bridge, id, room.SendRequest{
			Type: "m.room.message", Content: []byte(`{"body":"x"}`), TS: base + int64(i)*1000,
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e)
	}
	for _, tc := range []struct {
		ts       int64
		forwards bool
		want     int
	}{
		{base, true, 0},
		{base, false, 0},
		{base + 1, true, 1},
		{base + 999, false, 0},
		{base + 50_000, true, 50},
		{base + 50_000, false, 50},
		{base + 50_500, false, 50},
		{base + 50_500, true, 51},
		{base + 99_000, true, 99},
		{base + 1_000_000, false, 99},
		{base + 99_001, true, -1},
		{0, false, -1},
	} {
		e, err := k.Rooms.EventAt(t.Context(), bridge, id, tc.ts, tc.forwards)
		if tc.want < 0 {
			if mxerr.Code(err) != "M_NOT_FOUND" {
				t.Errorf("at %d: %v, %v, want M_NOT_FOUND", tc.ts-base, e, err)
			}
			continue
		}
		if err != nil || e.EventID != ids[tc.want] || e.TS != base+int64(tc.want)*1000 {
			t.Errorf("at %d forwards %v: %v, %v, want event %d", tc.ts-base, tc.forwards, e, err, tc.want)
		}
	}
	r, err := k.Store.Room(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	n := storagetest.Count(t, k.DB, func() {
		if _, err := storage.EventNearest(t.Context(), k.DB, r.NID, base, true); err != nil {
			t.Error(err)
		}
	})
	if n.Statements != 1 {
		t.Errorf("%d statements, want 1", n.Statements)
	}
}
