package room_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
)

func TestSearch(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, eve := k.User("alice"), k.User("bob"), k.User("eve")
	k.SetProfile(alice, "Alice", "")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, Name: "The Number Room"})
	k.Join(bob, id)
	var ids []string
	for i := range 20 {
		ids = append(ids, k.Say(alice, id, fmt.Sprintf("Message number %d", i)))
	}
	other := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Say(alice, other, "Another number")

	find := func(who *room.Requester, req room.SearchRequest, from string) *room.SearchResults {
		t.Helper()
		res, err := k.Rooms.Search(t.Context(), who, req, from)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	got := func(res *room.SearchResults) (out []string) {
		for _, r := range res.Results {
			out = append(out, gjson.GetBytes(r.Result, "event_id").Str)
		}
		return out
	}
	here := json.RawMessage(`{"limit":10,"rooms":["` + id + `"]}`)
	rev := slices.Clone(ids)
	slices.Reverse(rev)
	req := room.SearchRequest{Term: "message", Keys: []string{"content.body"}, OrderBy: "recent", Filter: here}
	one := find(alice, req, "")
	two := find(alice, req, one.NextBatch)
	three := find(alice, req, two.NextBatch)
	if all := append(got(one), got(two)...); !slices.Equal(all, rev) || one.Count != 20 || len(three.Results) != 0 || three.NextBatch != "" || three.Count != 20 {
		t.Errorf("pages %v, then %d results, count %d", all, len(three.Results), one.Count)
	}
	req.OrderBy = "rank"
	one = find(alice, req, "")
	two = find(alice, req, one.NextBatch)
	all := append(got(one), got(two)...)
	slices.Sort(all)
	sorted := slices.Clone(ids)
	slices.Sort(sorted)
	if !slices.Equal(all, sorted) {
		t.Errorf("by rank: %v", all)
	}

	two2 := 2
	res := find(bob, room.SearchRequest{Term: "Message 4", OrderBy: "recent", State: true, Context: &room.SearchContext{Before: &two2, After: &two2, Profile: true}}, "")
	if len(res.Results) != 1 || res.Count != 1 {
		t.Fatalf("%d results of %d, want 1", len(res.Results), res.Count)
	}
	c := res.Results[0].Context
	if b, a := eventIDs(c.Before), eventIDs(c.After); !slices.Equal(b, []string{ids[3], ids[2]}) || !slices.Equal(a, []string{ids[5], ids[6]}) {
		t.Errorf("context %v %v", b, a)
	}
	if c.Profiles[alice.UserID].DisplayName != "Alice" || len(gjson.ParseBytes(res.State[id]).Array()) == 0 {
		t.Errorf("profiles %v, state of %d rooms", c.Profiles, len(res.State))
	}
	if !slices.Equal(res.Highlights, []string{"message", "4"}) {
		t.Errorf("highlights %v", res.Highlights)
	}

	for _, tc := range []struct {
		who  *room.Requester
		req  string
		want int64
	}{
		{alice, `{"search_term":"number"}`, 22},
		{bob, `{"search_term":"number"}`, 21},
		{eve, `{"search_term":"number"}`, 0},
		{alice, `{"search_term":"number","keys":["content.name"]}`, 1},
		{alice, `{"search_term":"numbers","keys":["content.topic"]}`, 0},
		{alice, `{"search_term":"numbers -message"}`, 2},
		{alice, `{"search_term":"number","filter":{"not_rooms":["` + id + `"]}}`, 1},
		{alice, `{"search_term":"number","filter":{"senders":["@bob:example.org"]}}`, 0},
		{alice, `{"search_term":"number","filter":{"types":["m.room.name"]}}`, 1},
		{alice, `{"search_term":"'\"&|!:*()<> \\"}`, 0},
	} {
		var req room.SearchRequest
		if err := json.Unmarshal([]byte(tc.req), &req); err != nil {
			t.Fatal(err)
		}
		if res := find(tc.who, req, ""); res.Count != tc.want {
			t.Errorf("%s by %s: %d, want %d", tc.req, tc.who.UserID, res.Count, tc.want)
		}
	}
	var groups room.SearchRequest
	if err := json.Unmarshal([]byte(`{"search_term":"number","order_by":"recent","groupings":{"group_by":[{"key":"room_id"},{"key":"sender"}]}}`), &groups); err != nil {
		t.Fatal(err)
	}
	if res := find(alice, groups, ""); len(res.Groups["room_id"]) != 2 || len(res.Groups["sender"]) != 1 || len(res.Groups["room_id"][other].Results) != 1 {
		t.Errorf("groups %v", res.Groups)
	}

	if _, err := k.Rooms.Redact(t.Context(), alice, id, ids[7], "", ""); err != nil {
		t.Fatal(err)
	}
	if res := find(alice, req, ""); res.Count != 19 {
		t.Errorf("after a redaction: %d, want 19", res.Count)
	}
	k.Say(alice, id, "message at last")
	if res := find(alice, req, ""); res.Count != 20 {
		t.Errorf("after another message: %d, want 20", res.Count)
	}
	for _, tc := range []struct{ req, from, want string }{
		{`{}`, "", "M_MISSING_PARAM"},
		{`{"search_term":" "}`, "", "M_MISSING_PARAM"},
		{`{"search_term":"` + strings.Repeat("x", 2000) + `"}`, "", "M_INVALID_PARAM"},
		{`{"search_term":"x","keys":["content.x"]}`, "", "M_INVALID_PARAM"},
		{`{"search_term":"x","order_by":"x"}`, "", "M_INVALID_PARAM"},
		{`{"search_term":"x","groupings":{"group_by":[{"key":"x"}]}}`, "", "M_INVALID_PARAM"},
		{`{"search_term":"x","filter":{"limit":"x"}}`, "", "M_BAD_JSON"},
		{`{"search_term":"x","event_context":{"before_limit":-1}}`, "", "M_INVALID_PARAM"},
		{`{"search_term":"x"}`, "x", "M_INVALID_PARAM"},
		{`{"search_term":"x"}`, "n5", "M_INVALID_PARAM"},
		{`{"search_term":"x","order_by":"recent"}`, "o5", "M_INVALID_PARAM"},
		{`{"search_term":"x"}`, "o99999999999999", "M_INVALID_PARAM"},
	} {
		var req room.SearchRequest
		if err := json.Unmarshal([]byte(tc.req), &req); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Rooms.Search(t.Context(), alice, req, tc.from); mxerr.Code(err) != tc.want {
			t.Errorf("%.60s from %q: %v, want %s", tc.req, tc.from, err, tc.want)
		}
	}
}
