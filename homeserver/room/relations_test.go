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
)

func relate(k *roomtest.Kit, who *room.Requester, roomID, parent, relType string, extra obj) string {
	rel := obj{"event_id": parent, "rel_type": relType}
	content := obj{"msgtype": "m.text", "body": relType, "m.relates_to": rel}
	for key, v := range extra {
		if key == "key" {
			rel[key] = v
		} else {
			content[key] = v
		}
	}
	return k.Send(who, roomID, "m.room.message", content)
}

func TestRelations(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	root := k.Say(alice, id, "root")
	var replies []string
	for range 5 {
		replies = append(replies, relate(k, bob, id, root, "m.thread", nil))
	}
	edit := relate(k, alice, id, root, "m.replace", obj{"m.new_content": obj{"body": "edited"}})
	below := relate(k, alice, id, replies[0], "m.reference", nil)
	k.Send(alice, id, "m.reaction", obj{"m.relates_to": obj{"event_id": below, "rel_type": "m.annotation", "key": "👍"}})
	other := k.Create(alice, room.CreateRequest{})
	relate(k, alice, other, root, "m.thread", nil) // says so of an event of another room

	list := func(parent string, req room.RelationsRequest) (out []string) {
		t.Helper()
		for {
			p, err := k.Rooms.Relations(t.Context(), alice, id, parent, req)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, eventIDs(p.Chunk)...)
			if p.NextBatch == "" {
				return out
			}
			req.From = p.NextBatch
		}
	}
	rev := func(in []string) []string {
		out := slices.Clone(in)
		slices.Reverse(out)
		return out
	}
	all := append(slices.Clone(replies), edit)
	for _, limit := range []int{1, 2, 6, 50} {
		if got := list(root, room.RelationsRequest{Limit: limit}); !slices.Equal(got, rev(all)) {
			t.Errorf("by %d: %v, want %v", limit, got, rev(all))
		}
		if got := list(root, room.RelationsRequest{Limit: limit, Forwards: true}); !slices.Equal(got, all) {
			t.Errorf("forwards by %d: %v, want %v", limit, got, all)
		}
	}
	for _, tc := range []struct {
		req  room.RelationsRequest
		want int
	}{
		{room.RelationsRequest{RelType: "m.thread"}, 5},
		{room.RelationsRequest{RelType: "m.thread", Type: "m.room.message"}, 5},
		{room.RelationsRequest{RelType: "m.thread", Type: "m.sticker"}, 0},
		{room.RelationsRequest{RelType: "m.unknown"}, 0},
		{room.RelationsRequest{Recurse: true}, 8},
		{room.RelationsRequest{Recurse: true, RelType: "m.annotation"}, 1},
	} {
		if got := list(root, tc.req); len(got) != tc.want {
			t.Errorf("%+v: %d events, want %d", tc.req, len(got), tc.want)
		}
	}
	for f, want := range map[string][]string{
		`{"related_by_rel_types":["m.thread"]}`:                                              {root},
		`{"related_by_rel_types":["m.reference","m.annotation"]}`:                            {replies[0], below},
		`{"related_by_senders":["@bob:example.org"]}`:                                        {root},
		`{"related_by_senders":["@bob:example.org"],"related_by_rel_types":["m.reference"]}`: nil,
		`{"related_by_senders":["@nobody:example.org"]}`:                                     nil,
		`{"related_by_senders":[]}`:                                                          nil,
	} {
		if got := walk(t, k, bob, id, room.MessagesRequest{Limit: 4, Filter: parseFilter(t, f)}); !slices.Equal(got, want) {
			t.Errorf("filter %s: %v, want %v", f, got, want)
		}
	}
	for _, parent := range []string{"$unknown", "x", k.Say(alice, other, "hidden")} {
		if _, err := k.Rooms.Relations(t.Context(), bob, id, parent, room.RelationsRequest{}); !errors.Is(err, mxerr.NotFound) {
			t.Errorf("relations of %s: %v, want M_NOT_FOUND", parent, err)
		}
	}
	if _, err := k.Rooms.Relations(t.Context(), bob, id, root, room.RelationsRequest{From: "x"}); !errors.Is(err, mxerr.InvalidParam) {
		t.Errorf("bad token: %v", err)
	}
	if _, err := k.Rooms.Redact(t.Context(), bob, id, replies[4], "", ""); err != nil {
		t.Fatal(err)
	}
	raw, err := k.Rooms.Event(t.Context(), bob, id, root)
	if err != nil {
		t.Fatal(err)
	}
	rel := gjson.GetBytes(raw, `unsigned.m\.relations`)
	if rel.Get(`m\.thread.count`).Int() != 4 || rel.Get(`m\.thread.latest_event.event_id`).Str != replies[3] || !rel.Get(`m\.thread.current_user_participated`).Bool() {
		t.Errorf("thread %s", rel.Get(`m\.thread`))
	}
	if rel.Get(`m\.replace.event_id`).Str != edit || gjson.GetBytes(raw, "content.body").Str != "root" {
		t.Errorf("edited event %s", raw)
	}
	page, err := k.Rooms.Messages(t.Context(), bob, id, room.MessagesRequest{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range gjson.ParseBytes(page.Chunk).Array() {
		got := e.Get(`unsigned.m\.relations`)
		switch e.Get("event_id").Str {
		case root:
			if got.Get(`m\.replace.event_id`).Str != edit {
				t.Errorf("root in /messages: %s", e)
			}
		case replies[0]:
			if got.Raw != `{"m.reference":{"chunk":[{"event_id":"`+below+`"}]}}` {
				t.Errorf("referred-to event in /messages: %s", got)
			}
		default:
			if got.Exists() {
				t.Errorf("%s has relations %s", e.Get("type"), got)
			}
		}
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	bridge, bob := k.User("bridge"), k.User("bob")
	bridge.AppserviceID = "bridge"
	id := k.Create(bridge, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	root := k.Say(bridge, id, "root")
	latest := func(eventID string) string {
		t.Helper()
		raw, err := k.Rooms.Event(t.Context(), bob, id, eventID)
		if err != nil {
			t.Fatal(err)
		}
		return gjson.GetBytes(raw, `unsigned.m\.relations.m\.replace.event_id`).Str
	}
	edit := func(ts int64) string {
		e, err := k.Rooms.Send(t.Context(), bridge, id, room.SendRequest{Type: "m.room.message", TS: ts, Content: json.RawMessage(
			`{"body":"x","m.new_content":{"body":"y"},"m.relates_to":{"rel_type":"m.replace","event_id":"` + root + `"}}`)})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	relate(k, bob, id, root, "m.replace", obj{"m.new_content": obj{}}) // somebody else's
	if got := latest(root); got != "" {
		t.Errorf("an edit by another counts: %s", got)
	}
	newer := edit(5_000_000_000_000)
	older := edit(4_000_000_000_000)
	if got := latest(root); got != newer {
		t.Errorf("latest edit %s, want %s by time (not %s)", got, newer, older)
	}
	relate(k, bridge, id, newer, "m.replace", obj{"m.new_content": obj{}})
	if got := latest(newer); got != "" {
		t.Errorf("an edit of an edit counts: %s", got)
	}
	if _, err := k.Rooms.Redact(t.Context(), bridge, id, newer, "", ""); err != nil {
		t.Fatal(err)
	}
	if got := latest(root); got != older {
		t.Errorf("after the latest was redacted: %s, want %s", got, older)
	}
	if _, err := k.Rooms.Redact(t.Context(), bridge, id, root, "", ""); err != nil {
		t.Fatal(err)
	}
	if got := latest(root); got != "" {
		t.Errorf("a redacted event has the edit %s", got)
	}
}

func TestThreads(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	var roots []string
	for i := range 5 {
		roots = append(roots, k.Say(alice, id, fmt.Sprint(i)))
	}
	for _, r := range roots {
		relate(k, alice, id, r, "m.thread", nil)
	}
	last := relate(k, bob, id, roots[0], "m.thread", nil)
	list := func(who *room.Requester, req room.ThreadsRequest) (out []string) {
		t.Helper()
		for {
			p, err := k.Rooms.Threads(t.Context(), who, id, req)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, eventIDs(p.Chunk)...)
			if p.NextBatch == "" {
				return out
			}
			req.From = p.NextBatch
		}
	}
	want := []string{roots[0], roots[4], roots[3], roots[2], roots[1]}
	for _, limit := range []int{0, 1, 2, 5, 6} {
		if got := list(alice, room.ThreadsRequest{Limit: limit}); !slices.Equal(got, want) {
			t.Errorf("by %d: %v, want %v", limit, got, want)
		}
	}
	if got := list(bob, room.ThreadsRequest{Participated: true}); !slices.Equal(got, want[:1]) {
		t.Errorf("participated: %v, want %v", got, want[:1])
	}
	p, err := k.Rooms.Threads(t.Context(), bob, id, room.ThreadsRequest{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	th := gjson.GetBytes(p.Chunk, `0.unsigned.m\.relations.m\.thread`)
	if th.Get("latest_event.event_id").Str != last || th.Get("count").Int() != 2 || !th.Get("current_user_participated").Bool() {
		t.Errorf("thread %s", th)
	}
	relate(k, alice, id, last, "m.reference", nil)
	p, err = k.Rooms.Threads(t.Context(), bob, id, room.ThreadsRequest{Limit: 1})
	if err != nil || !gjson.GetBytes(p.Chunk, `0.unsigned.m\.relations.m\.thread.latest_event.unsigned.m\.relations.m\.reference`).Exists() {
		t.Errorf("what relates to the latest event is missing: %s, %v", p.Chunk, err)
	}
	if _, err := k.Rooms.Threads(t.Context(), k.User("eve"), id, room.ThreadsRequest{}); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("threads for a stranger: %v", err)
	}
	if _, err := k.Rooms.Threads(t.Context(), bob, id, room.ThreadsRequest{From: "x"}); !errors.Is(err, mxerr.InvalidParam) {
		t.Errorf("bad token: %v", err)
	}
}

func TestRelationsAreChecked(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	root := k.Say(alice, id, "root")
	react := func(who *room.Requester, key, txn string) (string, error) {
		return k.Rooms.Send(t.Context(), who, id, room.SendRequest{Type: "m.reaction", TxnID: txn, Content: json.RawMessage(
			`{"m.relates_to":{"rel_type":"m.annotation","event_id":"` + root + `","key":"` + key + `"}}`)})
	}
	first, err := react(alice, "👍", "t1")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := react(alice, "👍", "t1"); err != nil || again != first {
		t.Errorf("repeated request: %q, %v, want %q", again, err, first)
	}
	if _, err := react(alice, "👍", "t2"); !errors.Is(err, mxerr.DuplicateAnnotation) {
		t.Errorf("same reaction twice: %v", err)
	}
	for who, key := range map[*room.Requester]string{alice: "👎", bob: "👍"} {
		if _, err := react(who, key, ""); err != nil {
			t.Errorf("%s %s: %v", who.UserID, key, err)
		}
	}
	if _, err := k.Rooms.Redact(t.Context(), alice, id, first, "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := react(alice, "👍", ""); err != nil {
		t.Errorf("after redaction: %v", err)
	}
	reply := relate(k, bob, id, root, "m.thread", nil)
	_, err = k.Rooms.Send(t.Context(), bob, id, room.SendRequest{Type: "m.room.message", Content: json.RawMessage(
		`{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":"` + reply + `"}}`)})
	if mxerr.Code(err) != "M_UNKNOWN" {
		t.Errorf("thread in a thread: %v, want M_UNKNOWN", err)
	}
	// What the database cannot take apart is written all the same.
	for _, rel := range []string{
		`{"event_id":"a\u0000","rel_type":"b\u0000"}`, `{"event_id":7,"rel_type":{}}`, `[]`, `"x"`, `null`,
		strings.Repeat(`[`, 9000) + strings.Repeat(`]`, 9000),
		`{"event_id":"$` + strings.Repeat("x", 300) + `","rel_type":"m.thread"}`,
	} {
		e, err := k.Rooms.Send(t.Context(), alice, id, room.SendRequest{Type: "m.x", Content: json.RawMessage(`{"m.relates_to":` + rel + `}`)})
		if err != nil {
			t.Errorf("%.40s: %v", rel, err)
			continue
		}
		if _, err := k.Rooms.Event(t.Context(), alice, id, e); err != nil {
			t.Errorf("%.40s: %v", rel, err)
		}
	}
}
