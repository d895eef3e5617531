package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/sjson"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/room"
)

// Whatever a transaction holds, it is refused with an error of the specification or what is good in it still counts; it
// is never an error of this server, and nothing else is written.
func TestBadTransactions(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, alice := k.public("12")
	other, bob, there := k.joined(roomID)
	many := func(n int, item string) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	for body, code := range map[string]string{
		``:                                  "M_NOT_JSON",
		`nonsense`:                          "M_NOT_JSON",
		`[]`:                                "M_BAD_JSON",
		"{\"pdus\":[\"\xff\"]}":             "M_NOT_JSON",
		`{"pdus":{}}`:                       "M_BAD_JSON",
		`{"pdus":[],"edus":1}`:              "M_BAD_JSON",
		`{"origin":1}`:                      "M_BAD_JSON",
		`{"pdus":[` + many(51, "{}") + `]}`: "M_INVALID_PARAM",
		`{"pdus":[],"edus":[` + many(101, "{}") + `]}`: "M_INVALID_PARAM",
	} {
		other.refuse("PUT", "/v1/send/bad", []byte(body), 400, code)
	}
	other.refuse("PUT", "/v1/send/bad", []byte(`{"origin":"elsewhere.test"}`), 403, "M_FORBIDDEN")
	other.refuse("PUT", "/v1/send/"+strings.Repeat("x", 256), []byte(`{}`), 400, "M_INVALID_PARAM")

	// Events that are none, or not what they should be, each in a transaction with one that is fine.
	set := func(e *event.Event, path string, value any) json.RawMessage {
		raw, err := sjson.SetBytes(e.JSON(), path, value)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	stranger := k.remote("stranger.test")
	unsigned := there.clone()
	unsigned.r = stranger
	msg := there.build(bob, "m.room.message", nil, `{"body":"bad"}`)
	empty := ""
	var ids []string
	for i := range 21 {
		ids = append(ids, fmt.Sprintf("$%043d", i))
	}
	bad := map[string]json.RawMessage{
		"null":              json.RawMessage(`null`),
		"number":            json.RawMessage(`1`),
		"string":            json.RawMessage(`"x"`),
		"list":              json.RawMessage(`[]`),
		"empty":             json.RawMessage(`{}`),
		"only room":         json.RawMessage(`{"room_id":"` + roomID + `"}`),
		"room not a string": set(msg, "room_id", 1),
		"room with a NUL":   set(msg, "room_id", "!a\x00"),
		"unknown room":      set(msg, "room_id", "!unknown:other.test"),
		"another sender":    set(msg, "sender", "@alice:"+here),
		"no signatures":     set(msg, "signatures", map[string]any{}),
		"broken signature":  set(msg, "signatures."+strings.ReplaceAll(other.ServerName, ".", `\.`)+"."+strings.ReplaceAll(other.KeyID, ".", `\.`), strings.Repeat("A", 86)),
		"wrong depth":       set(msg, "depth", -1),
		"fraction":          set(msg, "depth", 1.5),
		"huge depth":        set(msg, "depth", 1e300),
		"too many prevs":    set(msg, "prev_events", ids),
		"prevs not a list":  set(msg, "prev_events", "x"),
		"own prev":          set(msg, "prev_events", []any{[]any{}}),
		"too large":         set(msg, "content.body", strings.Repeat("x", event.MaxBytes)),
		"long type":         set(msg, "type", strings.Repeat("x", 256)),
		"twice the type":    json.RawMessage(strings.Replace(string(msg.JSON()), `"type":`, `"type":"x","type":`, 1)),
		"second create": there.build(bob, event.TypeCreate, &empty, `{"room_version":"12"}`, func(d *event.Draft) {
			d.RoomID, d.AuthEvents = "", nil
		}).JSON(),
		"signed by another server": unsigned.build(bob, "m.room.message", nil, `{"body":"bad"}`).JSON(),
	}
	for name, raw := range bad {
		good := there.say(bob, "good")
		errs := other.push([]json.RawMessage{raw, good.JSON(), raw}, nil)
		if errs[good.ID()] != "" {
			t.Errorf("%s: the good event: %s", name, errs[good.ID()])
		}
		k.stored(good.ID())
	}
	if got := k.messages(alice, roomID); len(got) != len(bad) {
		t.Errorf("%d messages, want the %d good ones", len(got), len(bad))
	}
}

// EDUs of any shape are passed over, and what is beside them counts.
func TestBadEDUs(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(c *federation.InboundConfig) {
		c.EDUs = federation.EDUHandlers{Typing: noTyping{t}}
	})
	roomID, _ := k.public("12")
	other, bob, there := k.joined(roomID)
	var edus []json.RawMessage
	for _, s := range []string{
		`null`, `1`, `"x"`, `[]`, `{}`, `{"edu_type":1}`, `{"edu_type":"m.typing"}`, `{"edu_type":"m.typing","content":null}`,
		`{"edu_type":"m.typing","content":{"room_id":"` + roomID + `","user_id":"@alice:` + here + `","typing":true}}`,
		`{"edu_type":"m.typing","content":{"room_id":"!none:x","user_id":"` + bob + `","typing":true}}`,
		`{"edu_type":"m.typing","content":{"room_id":"` + roomID + `","user_id":"` + other.user("absent") + `","typing":true}}`,
		`{"edu_type":"m.receipt","content":{}}`, `{"edu_type":"` + strings.Repeat("x", 1000) + `","content":{}}`,
		`{"edu_type":"m.direct_to_device","content":{}}`,
	} {
		edus = append(edus, json.RawMessage(s))
	}
	good := there.say(bob, "good")
	other.push([]json.RawMessage{good.JSON()}, edus)
	k.stored(good.ID())
}

// noTyping is a TypingHandler that must not be called.
type noTyping struct{ t *testing.T }

// A server that is kept out of a room by its access control list gets nothing of it and nothing into it.
func TestServerACL(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, alice := k.public("12")
	other, bob, there := k.joined(roomID)
	k.SetState(alice, roomID, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"*.test"}})
	msg := there.say(bob, "shut out")
	if errs := other.send(msg); errs[msg.ID()] == "" {
		t.Error("an event of a server that is kept out is taken")
	}
	k.absent(msg.ID())
	r := esc(roomID)
	leave := there.build(bob, event.TypeMember, &bob, `{"membership":"leave"}`)
	for _, path := range []string{
		"GET /v1/event/" + esc(there.state[event.Tuple{Type: event.TypeJoinRules}].ID()),
		"GET /v1/state/" + r + "?event_id=" + esc(there.ends[0].ID()),
		"GET /v1/state_ids/" + r + "?event_id=" + esc(there.ends[0].ID()),
		"GET /v1/event_auth/" + r + "/" + esc(there.ends[0].ID()),
		"GET /v1/backfill/" + r + "?v=x&limit=1",
		"POST /v1/get_missing_events/" + r,
		"GET /v1/timestamp_to_event/" + r + "?ts=1&dir=f",
		"GET /v1/make_join/" + r + "/" + esc(bob) + "?" + allVersions,
		"GET /v1/make_leave/" + r + "/" + esc(bob),
		"GET /v1/make_knock/" + r + "/" + esc(bob) + "?" + allVersions,
		"PUT /v1/send_join/" + r + "/" + esc(leave.ID()),
		"PUT /v2/send_join/" + r + "/" + esc(leave.ID()),
		"PUT /v2/send_leave/" + r + "/" + esc(leave.ID()),
		"PUT /v1/send_knock/" + r + "/" + esc(leave.ID()),
	} {
		method, path, _ := strings.Cut(path, " ")
		other.refuse(method, path, json.RawMessage(leave.JSON()), 403, "M_FORBIDDEN")
	}
}

// Requests about rooms and events that are not there, or not for the server that asks.
func TestBadRoomRequests(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, alice := k.public("12")
	old := k.Create(alice, room.CreateRequest{Preset: "public_chat", RoomVersion: "6"})
	other, bob, there := k.joined(roomID)
	outsider := k.remote("outsider.test")
	r, x := esc(roomID), "/"+esc(bob)
	none := "$" + strings.Repeat("A", 43)
	join := there.build(bob, event.TypeMember, &bob, `{"membership":"join"}`)
	invite := there.build(bob, event.TypeMember, &alice.UserID, `{"membership":"invite"}`)
	for _, c := range []struct {
		path   string
		body   any
		status int
		code   string
	}{
		{"GET /v1/event/x", nil, 404, "M_NOT_FOUND"},
		{"GET /v1/event/" + none, nil, 404, "M_NOT_FOUND"},
		{"GET /v1/state/" + r, nil, 400, "M_MISSING_PARAM"},
		{"GET /v1/state/" + r + "?event_id=" + none, nil, 404, "M_NOT_FOUND"},
		{"GET /v1/state_ids/!none:x?event_id=" + none, nil, 404, "M_NOT_FOUND"},
		{"GET /v1/state_ids/nonsense?event_id=" + none, nil, 400, "M_INVALID_PARAM"},
		{"GET /v1/event_auth/" + r + "/" + none, nil, 404, "M_NOT_FOUND"},
		{"GET /v1/backfill/" + r, nil, 400, "M_INVALID_PARAM"},
		{"GET /v1/backfill/" + r + "?v=x&limit=-1", nil, 400, "M_INVALID_PARAM"},
		{"POST /v1/get_missing_events/" + r, []byte(`{}`), 400, "M_INVALID_PARAM"},
		{"POST /v1/get_missing_events/" + r, []byte(`{"latest_events":1}`), 400, "M_BAD_JSON"},
		{"POST /v1/get_missing_events/" + r, nil, 400, "M_NOT_JSON"},
		{"GET /v1/timestamp_to_event/" + r, nil, 400, "M_MISSING_PARAM"},
		{"GET /v1/timestamp_to_event/" + r + "?ts=1&dir=x", nil, 400, "M_INVALID_PARAM"},
		{"GET /v1/timestamp_to_event/" + r + "?ts=x&dir=f", nil, 400, "M_INVALID_PARAM"},
		{"GET /v1/make_join/" + r + "/@bob:elsewhere.test", nil, 403, "M_FORBIDDEN"},
		{"GET /v1/make_join/" + r + "/bob", nil, 400, "M_INVALID_PARAM"},
		{"GET /v1/make_join/" + r + x, nil, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"GET /v1/make_join/!none:x" + x, nil, 404, "M_NOT_FOUND"},
		{"GET /v1/make_knock/" + r + x + "?" + allVersions, nil, 403, "M_FORBIDDEN"},
		{"GET /v1/make_knock/" + esc(old) + x + "?" + allVersions, nil, 403, "M_FORBIDDEN"},
		{"PUT /v2/send_join/" + r + "/" + none, json.RawMessage(join.JSON()), 400, "M_INVALID_PARAM"},
		{"PUT /v2/send_join/" + r + "/" + none, []byte(`{}`), 400, "M_BAD_JSON"},
		{"PUT /v2/send_join/" + r + "/" + none, nil, 400, "M_BAD_JSON"},
		{"PUT /v2/send_join/" + esc(old) + "/" + esc(join.ID()), json.RawMessage(join.JSON()), 400, "M_INVALID_PARAM"},
		{"PUT /v2/send_join/" + r + "/" + esc(join.ID()) + "?omit_members=perhaps", json.RawMessage(join.JSON()), 400, "M_INVALID_PARAM"},
		{"PUT /v2/send_leave/" + r + "/" + esc(join.ID()), json.RawMessage(join.JSON()), 400, "M_INVALID_PARAM"},
		{"PUT /v2/invite/" + r + "/" + esc(invite.ID()), []byte(`{}`), 400, "M_MISSING_PARAM"},
		{"PUT /v2/invite/" + r + "/" + esc(invite.ID()), map[string]any{"room_version": "99", "event": map[string]any{}}, 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{"PUT /v2/invite/" + r + "/" + none, map[string]any{"room_version": "12", "event": json.RawMessage(invite.JSON())}, 400, "M_INVALID_PARAM"},
		{"PUT /v2/invite/" + r + "/" + esc(join.ID()), map[string]any{"room_version": "12", "event": json.RawMessage(join.JSON())}, 400, "M_INVALID_PARAM"},
		{"PUT /v1/invite/" + r + "/" + esc(join.ID()), []byte(`x`), 400, "M_NOT_JSON"},
	} {
		method, path, _ := strings.Cut(c.path, " ")
		other.refuse(method, path, c.body, c.status, c.code)
	}
	// A server that is not in the room is told nothing of it.
	for _, path := range []string{
		"GET /v1/event/" + esc(there.ends[0].ID()), "GET /v1/state/" + r + "?event_id=" + none, "GET /v1/event_auth/" + r + "/" + none,
		"GET /v1/backfill/" + r + "?v=x&limit=1", "POST /v1/get_missing_events/" + r, "GET /v1/timestamp_to_event/" + r + "?ts=1&dir=f",
	} {
		method, path, _ := strings.Cut(path, " ")
		outsider.refuse(method, path, nil, 403, "M_FORBIDDEN")
	}
}

func (n noTyping) Put(_ context.Context, roomID, userID string, _ time.Duration) error {
	n.t.Errorf("%s is said to type in %s", userID, roomID)
	return nil
}
