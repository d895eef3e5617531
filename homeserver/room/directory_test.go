package room_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
	"github.com/weft-im/weft/storage/storagetest"
)

func TestAliases(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, carol := k.User("alice"), k.User("bob"), k.User("carol")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	ctx := t.Context()

	if err := k.Rooms.CreateAlias(ctx, bob, "#bob's:example.org", id); err != nil {
		t.Fatal(err)
	}
	if err := k.Rooms.CreateAlias(ctx, alice, "#老虎🤨:example.org", id); err != nil {
		t.Fatal(err)
	}
	if err := k.Rooms.CreateAlias(ctx, alice, "#bob's:example.org", id); mxerr.Code(err) != "M_UNKNOWN" {
		t.Errorf("taken: %v, want M_UNKNOWN", err)
	} else if mx, _ := mxerr.As(err); mx.Status != 409 {
		t.Errorf("taken: status %d, want 409", mx.Status)
	}
	for alias, want := range map[string]error{
		"#x:elsewhere.org": mxerr.InvalidParam, "x:example.org": mxerr.InvalidParam, "#x": mxerr.InvalidParam, "": mxerr.InvalidParam,
	} {
		if err := k.Rooms.CreateAlias(ctx, alice, alias, id); !errors.Is(err, want) {
			t.Errorf("create %q: %v, want %v", alias, err, want)
		}
		if err := k.Rooms.DeleteAlias(ctx, alice, alias); !errors.Is(err, want) {
			t.Errorf("delete %q: %v, want %v", alias, err, want)
		}
	}
	if err := k.Rooms.CreateAlias(ctx, carol, "#carol:example.org", id); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("by somebody outside: %v", err)
	}
	if err := k.Rooms.CreateAlias(ctx, alice, "#x:example.org", "!nowhere:example.org"); !errors.Is(err, mxerr.NotFound) {
		t.Errorf("of an unknown room: %v", err)
	}
	if as, err := k.Rooms.Aliases(ctx, bob, id); err != nil || !slices.Equal(as, []string{"#bob's:example.org", "#老虎🤨:example.org"}) {
		t.Errorf("list: %v, %v", as, err)
	}
	if _, err := k.Rooms.Aliases(ctx, carol, id); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("list from outside: %v", err)
	}
	res, err := k.Rooms.ResolveAlias(ctx, "#bob's:example.org")
	if err != nil || res.RoomID != id || !slices.Equal(res.Servers, []string{roomtest.ServerName}) {
		t.Errorf("resolve: %+v, %v", res, err)
	}

	// The canonical alias may name only aliases of the room.
	set := func(content string) error {
		_, err := k.Rooms.SendState(ctx, alice, id, "", room.SendRequest{Type: "m.room.canonical_alias", Content: json.RawMessage(content)})
		return err
	}
	for content, want := range map[string]error{
		`{"alias":"#nobody's:example.org"}`: mxerr.BadAlias,
		`{"alias":"%invalid:example.org"}`:  mxerr.InvalidParam,
		`{"alias":7}`:                       mxerr.InvalidParam,
		`{"alt_aliases":["x"]}`:             mxerr.InvalidParam,
		`{"alt_aliases":{"a":1}}`:           mxerr.BadJSON,
		`{"alias":"#bob's:example.org","alt_aliases":["#y:example.org"]}`: mxerr.BadAlias,
		`{"alt_aliases":["#y:elsewhere.org"]}`:                            mxerr.BadAlias,
	} {
		if err := set(content); !errors.Is(err, want) {
			t.Errorf("canonical alias %s: %v, want %v", content, err, want)
		}
	}
	if err := set(`{"alias":"#bob's:example.org","alt_aliases":["#老虎🤨:example.org"]}`); err != nil {
		t.Fatal(err)
	}

	if err := k.Rooms.DeleteAlias(ctx, bob, "#老虎🤨:example.org"); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("delete of another's: %v", err)
	}
	// Bob may delete his own, though not change the event.
	if err := k.Rooms.DeleteAlias(ctx, bob, "#bob's:example.org"); err != nil {
		t.Error(err)
	}
	if got := gjson.Get(k.State(alice, id, "m.room.canonical_alias", ""), "alias").Str; got != "#bob's:example.org" {
		t.Errorf("canonical alias changed by somebody who may not: %q", got)
	}
	// What was there before may stay.
	if err := set(`{"alias":"#bob's:example.org"}`); err != nil {
		t.Errorf("keeping an alias that was deleted: %v", err)
	}
	if err := k.Rooms.CreateAlias(ctx, alice, "#bob's:example.org", id); err != nil {
		t.Fatal(err)
	}
	if err := k.Rooms.DeleteAlias(ctx, alice, "#bob's:example.org"); err != nil {
		t.Fatal(err)
	}
	if got := k.State(alice, id, "m.room.canonical_alias", ""); got != "{}" {
		t.Errorf("canonical alias after its alias was deleted: %s, want {}", got)
	}
	for _, alias := range []string{"#bob's:example.org", "#bob's:elsewhere.org"} {
		if _, err := k.Rooms.ResolveAlias(ctx, alias); !errors.Is(err, mxerr.NotFound) {
			t.Errorf("resolve %s: %v, want M_NOT_FOUND", alias, err)
		}
	}
}

func TestPublicRooms(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice := k.User("alice")
	var want []string
	for i := range 7 {
		req := room.CreateRequest{Visibility: "public", Name: fmt.Sprintf("Room %d", i), Topic: "100%_sure \\ of it"}
		if i == 3 {
			req.CreationContent = map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}
		}
		id := k.Create(alice, req)
		for j := range i {
			k.Join(k.User(fmt.Sprint("member", j)), id)
		}
		want = append([]string{id}, want...) // larger ones come first
	}
	k.Create(alice, room.CreateRequest{Name: "Hidden"})

	list := func(q room.PublicRoomsQuery) *room.PublicRoomsPage {
		t.Helper()
		p, err := k.Rooms.PublicRooms(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ids := func(p *room.PublicRoomsPage) (out []string) {
		for _, r := range p.Chunk {
			out = append(out, r.RoomID)
		}
		return out
	}
	all := list(room.PublicRoomsQuery{})
	if got := ids(all); !slices.Equal(got, want) || all.Total != 7 || all.NextBatch != "" || all.PrevBatch != "" {
		t.Errorf("all: %v of %d, tokens %q %q, want %v", got, all.Total, all.NextBatch, all.PrevBatch, want)
	}
	if r := all.Chunk[0]; r.Name != "Room 6" || r.Joined != 7 || r.JoinRule != "public" || r.WorldReadable || r.GuestCanJoin {
		t.Errorf("first room: %+v", r)
	}
	for limit := 1; limit <= 8; limit++ {
		var got []string
		q := room.PublicRoomsQuery{Limit: limit}
		var last *room.PublicRoomsPage
		for {
			p := list(q)
			got = append(got, ids(p)...)
			if last = p; p.NextBatch == "" {
				break
			}
			q.Since = p.NextBatch
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %d: %v, want %v", limit, got, want)
		}
		for back := ids(last); last.PrevBatch != ""; {
			last = list(room.PublicRoomsQuery{Limit: limit, Since: last.PrevBatch})
			back = append(ids(last), back...)
			if last.PrevBatch == "" && !slices.Equal(back, want) {
				t.Errorf("back by %d: %v, want %v", limit, back, want)
			}
		}
	}
	space := "m.space"
	for _, tc := range []struct {
		q    room.PublicRoomsQuery
		want int
	}{
		{room.PublicRoomsQuery{Search: "rOOm 3"}, 1},
		{room.PublicRoomsQuery{Search: "100%_SURE \\"}, 7},
		{room.PublicRoomsQuery{Search: "100_"}, 0},
		{room.PublicRoomsQuery{Search: "hidden"}, 0},
		{room.PublicRoomsQuery{RoomTypes: []*string{&space}}, 1},
		{room.PublicRoomsQuery{RoomTypes: []*string{nil}}, 6},
		{room.PublicRoomsQuery{RoomTypes: []*string{nil, &space}}, 7},
		{room.PublicRoomsQuery{RoomTypes: []*string{}}, 0},
		{room.PublicRoomsQuery{Network: "as|net"}, 0},
	} {
		if p := list(tc.q); len(p.Chunk) != tc.want || p.Total != int64(tc.want) {
			t.Errorf("%+v: %d rooms of %d, want %d", tc.q, len(p.Chunk), p.Total, tc.want)
		}
	}
	bridge := k.User("bridge")
	bridge.AppserviceID = "as"
	if err := k.Rooms.SetAppserviceVisibility(t.Context(), bridge, "net", want[0], "public"); err != nil {
		t.Fatal(err)
	}
	if p := list(room.PublicRoomsQuery{Network: "as|net"}); !slices.Equal(ids(p), want[:1]) {
		t.Errorf("network: %v", ids(p))
	}
	for _, q := range []room.PublicRoomsQuery{{Since: "x"}, {Since: "t1_1"}, {Since: "bjE"}, {Network: "x"}, {Server: "not a server"}} {
		if _, err := k.Rooms.PublicRooms(t.Context(), q); !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("%+v: %v, want M_INVALID_PARAM", q, err)
		}
	}
	if _, err := k.Rooms.PublicRooms(t.Context(), room.PublicRoomsQuery{Server: "elsewhere.org"}); !errors.Is(err, mxerr.NotFound) {
		t.Errorf("another server: %v", err)
	}
	if err := k.Rooms.SetVisibility(t.Context(), alice, want[0], "private"); err != nil {
		t.Fatal(err)
	}
	if v, err := k.Rooms.Visibility(t.Context(), want[0]); err != nil || v != "private" {
		t.Errorf("visibility %q, %v", v, err)
	}
	if n := len(list(room.PublicRoomsQuery{}).Chunk); n != 6 {
		t.Errorf("%d rooms after one was taken out, want 6", n)
	}
}

func TestHierarchy(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	space := func() string {
		return k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, CreationContent: map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}})
	}
	child := func(parent, child string, extra obj) {
		c := obj{"via": []string{"example.org"}}
		for key, v := range extra {
			c[key] = v
		}
		k.SetState(alice, parent, "m.space.child", child, c)
	}
	root, sub := space(), space()
	plain := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, Name: "plain"})
	hidden := k.Create(alice, room.CreateRequest{})
	deep := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	restricted := k.Create(alice, room.CreateRequest{RoomVersion: "10", InitialState: []room.InitialState{{
		Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + plain + `"}]}`),
	}}})
	child(root, plain, obj{"order": "b", "suggested": true})
	child(root, sub, obj{"order": "a"})
	child(root, hidden, nil)
	child(root, restricted, nil)
	child(root, "!gone:elsewhere.org", nil)
	k.SetState(alice, root, "m.space.child", "!removed:x", obj{})
	child(sub, deep, nil)
	child(sub, root, nil) // a circle

	pages := func(who *room.Requester, req room.HierarchyRequest) (out []string) {
		t.Helper()
		for {
			p, err := k.Rooms.Hierarchy(t.Context(), who, root, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range p.Rooms {
				out = append(out, r.RoomID)
			}
			if p.NextBatch == "" {
				return out
			}
			req.From = p.NextBatch
		}
	}
	zero, one := 0, 1
	for _, tc := range []struct {
		name string
		who  *room.Requester
		req  room.HierarchyRequest
		want []string
	}{
		{"all", alice, room.HierarchyRequest{}, []string{root, sub, deep, plain, hidden, restricted}},
		{"by one", alice, room.HierarchyRequest{Limit: 1}, []string{root, sub, deep, plain, hidden, restricted}},
		{"a stranger", bob, room.HierarchyRequest{}, []string{root, sub, deep, plain}},
		{"depth 0", alice, room.HierarchyRequest{MaxDepth: &zero}, []string{root}},
		{"depth 1", bob, room.HierarchyRequest{MaxDepth: &one}, []string{root, sub, plain}},
		{"suggested", alice, room.HierarchyRequest{SuggestedOnly: true}, []string{root, plain}},
	} {
		if got := pages(tc.who, tc.req); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
	k.Join(bob, plain)
	if got := pages(bob, room.HierarchyRequest{}); !slices.Contains(got, restricted) {
		t.Errorf("a member of the allowed room does not see the restricted one: %v", got)
	}
	p, err := k.Rooms.Hierarchy(t.Context(), alice, root, room.HierarchyRequest{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	var children []string
	for _, c := range p.Rooms[0].Children {
		children = append(children, c.StateKey)
	}
	if want := []string{sub, plain, hidden, restricted, "!gone:elsewhere.org"}; !slices.Equal(children, want) {
		t.Errorf("children %v, want %v", children, want)
	}
	for _, from := range []string{"x", "h0_50_false", "h1_1_false", "h1_50_true", "h1", "h-1_50_false"} {
		if _, err := k.Rooms.Hierarchy(t.Context(), alice, root, room.HierarchyRequest{From: from}); !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("from %q: %v, want M_INVALID_PARAM", from, err)
		}
	}
	for _, id := range []string{hidden, "!unknown:example.org"} {
		if _, err := k.Rooms.Hierarchy(t.Context(), bob, id, room.HierarchyRequest{}); !errors.Is(err, mxerr.Forbidden) {
			t.Errorf("hierarchy of %s: %v, want M_FORBIDDEN", id, err)
		}
	}
}

// The statements follow the depth of a space, not the number of its rooms.
func TestHierarchyStatements(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice := k.User("alice")
	cost := func(rooms int) int64 {
		root := k.Create(alice, room.CreateRequest{CreationContent: map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}})
		for range rooms {
			id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
			k.SetState(alice, root, "m.space.child", id, obj{"via": []string{"example.org"}})
		}
		cold := roomtest.Follow(t, k)
		n := storagetest.Count(t, k.DB, func() {
			p, err := cold.Hierarchy(t.Context(), alice, root, room.HierarchyRequest{})
			if err != nil || len(p.Rooms) != rooms+1 {
				t.Errorf("%v rooms, %v, want %d", p, err, rooms+1)
			}
		})
		return n.Statements
	}
	few, many := cost(3), cost(40)
	if few != many || many > 12 {
		t.Errorf("%d statements for 3 rooms, %d for 40, want the same and at most 12", few, many)
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	public := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, RoomAliasName: "pub", Name: "Pub", RoomVersion: "10", InitialState: []room.InitialState{
		{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
	}})
	private := k.Create(alice, room.CreateRequest{})
	for _, target := range []string{public, "#pub:example.org"} {
		for _, tc := range []struct {
			who  *room.Requester
			want string
		}{{alice, "join"}, {bob, "leave"}, {nil, ""}} {
			s, err := k.Rooms.Summary(t.Context(), tc.who, target, nil)
			if err != nil || s.RoomID != public || s.Name != "Pub" || s.Membership != tc.want || s.RoomVersion != "10" || s.Encryption != "m.megolm.v1.aes-sha2" || s.Joined != 1 {
				t.Errorf("%s as %v: %+v, %v", target, tc.who, s, err)
			}
		}
	}
	if s, err := k.Rooms.Summary(t.Context(), alice, private, nil); err != nil || len(s.AllowedRoomIDs) != 0 {
		t.Errorf("private room for a member: %+v, %v", s, err)
	}
	for target, want := range map[string]error{
		private: mxerr.NotFound, "!unknown:example.org": mxerr.NotFound, "#unknown:example.org": mxerr.NotFound,
		"#unknown:elsewhere.org": mxerr.NotFound, "pub": mxerr.InvalidParam, "#" + strings.Repeat("x", 300) + ":y": mxerr.InvalidParam,
	} {
		if _, err := k.Rooms.Summary(t.Context(), bob, target, []string{"elsewhere.org"}); !errors.Is(err, want) {
			t.Errorf("summary of %.40s: %v, want %v", target, err, want)
		}
	}
}
