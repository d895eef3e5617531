package federation_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/storage"
)

// Users of other servers join rooms of every version, and what they say there is seen here.
func TestJoinAndTalk(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "3", "6", "10", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, nil)
			roomID, alice := k.public(v)
			k.Say(alice, roomID, "hello")
			other, bob, there := k.joined(roomID)
			if len(there.state) < 6 {
				t.Errorf("the state has %d events", len(there.state))
			}
			first, second := there.say(bob, "hi"), there.say(bob, "there")
			for id, e := range other.send(first, second) {
				if e != "" {
					t.Errorf("event %s: %s", id, e)
				}
			}
			if e := k.stored(second.ID()); e.Flags != 0 {
				t.Errorf("flags of the event: %d", e.Flags)
			}
			k.Say(alice, roomID, "welcome")
			if got, want := k.messages(alice, roomID), []string{"hello", "hi", "there", "welcome"}; !slices.Equal(got, want) {
				t.Errorf("messages %q, want %q", got, want)
			}
		})
	}
}

// The order of a room is that of arrival, also in large transactions, and none is written twice when a transaction comes
// again.
func TestTransactionsAreWrittenInOrder(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, alice := k.public("12")
	other, bob, there := k.joined(roomID)
	var want []string
	for n := range 5 {
		es := make([]*event.Event, 50)
		for i := range es {
			body := fmt.Sprint(n*50 + i)
			es[i] = there.say(bob, body)
			want = append(want, body)
		}
		other.send(es...)
		other.send(es...)
	}
	k.drained()
	if got := k.messages(alice, roomID); !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
}

// Other servers' users knock, are invited, turn invites down and leave.
func TestKnockInviteLeave(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	alice := k.User("alice")
	roomID := k.Create(alice, room.CreateRequest{Preset: "private_chat", RoomVersion: "12", Name: "Attic", InitialState: []room.InitialState{
		{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)},
	}})
	other := k.remote("other.test")
	bob := other.user("bob")
	v := &view{r: other, roomID: roomID, version: version(t, "12")}

	other.refuse("GET", "/v1/make_join/"+esc(roomID)+"/"+esc(bob)+"?"+allVersions, nil, 403, "M_FORBIDDEN")
	knock := other.template(v, "make_knock", bob)
	var knocked struct {
		State []json.RawMessage `json:"knock_room_state"`
	}
	other.call("PUT", "/v1/send_knock/"+esc(roomID)+"/"+esc(knock.ID()), json.RawMessage(knock.JSON()), &knocked)
	if !slices.ContainsFunc(knocked.State, func(raw json.RawMessage) bool { return gjson.GetBytes(raw, "content.name").Str == "Attic" }) {
		t.Errorf("a knock tells %s of the room", knocked.State)
	}
	if got := k.State(alice, roomID, "m.room.member", bob); gjson.Get(got, "membership").Str != "knock" {
		t.Errorf("membership after the knock: %s", got)
	}
	leave := other.template(v, "make_leave", bob)
	other.call("PUT", "/v2/send_leave/"+esc(roomID)+"/"+esc(leave.ID()), json.RawMessage(leave.JSON()), nil)
	if got := k.State(alice, roomID, "m.room.member", bob); gjson.Get(got, "membership").Str != "leave" {
		t.Errorf("membership after the leave: %s", got)
	}
	// Version 1 wraps its answer.
	knock = other.template(v, "make_knock", bob)
	other.call("PUT", "/v1/send_knock/"+esc(roomID)+"/"+esc(knock.ID()), json.RawMessage(knock.JSON()), nil)
	leave = other.template(v, "make_leave", bob)
	var answer []json.RawMessage
	other.call("PUT", "/v1/send_leave/"+esc(roomID)+"/"+esc(leave.ID()), json.RawMessage(leave.JSON()), &answer)
	if len(answer) != 2 || string(answer[0]) != "200" {
		t.Errorf("send_leave version 1 answers %s", answer)
	}
}

// A server that is not in a room is invited to it: the invite comes back signed, and its end comes by a transaction.
func TestInviteOfALocalUser(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "10", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, nil)
			other := k.remote("other.test")
			there := other.create(version(t, v))
			alice := k.User("alice")
			invite := there.build(other.user("bob"), event.TypeMember, &alice.UserID, `{"membership":"invite"}`)
			path := "/" + esc(there.roomID) + "/" + esc(invite.ID())
			var out struct{ Event json.RawMessage }
			other.call("PUT", "/v2/invite"+path, map[string]any{
				"room_version": v, "event": json.RawMessage(invite.JSON()), "invite_room_state": raws(slices.Collect(maps.Values(there.state))),
			}, &out)
			signed := there.parse(out.Event)
			if len(signed.SignedKeys(here)) == 0 || signed.ID() != invite.ID() {
				t.Errorf("the invite came back as %s", out.Event)
			}
			there.add(signed)
			r, err := k.Store.Room(t.Context(), there.roomID)
			if err != nil {
				t.Fatal(err)
			}
			check := func(want storage.Membership) {
				t.Helper()
				k.drained()
				m, err := k.Store.Membership(t.Context(), r.NID, alice.UserID)
				if err != nil || m == nil || m.Membership != want {
					t.Errorf("membership: %+v, %v, want %v", m, err, want)
				}
			}
			check(storage.MembershipInvite)
			// Somebody of a third server cannot end it.
			third := k.remote("third.test")
			stranger := there.clone()
			stranger.r = third
			third.send(stranger.build(third.user("eve"), event.TypeMember, &alice.UserID, `{"membership":"leave"}`))
			check(storage.MembershipInvite)
			other.send(there.set(other.user("bob"), event.TypeMember, alice.UserID, `{"membership":"leave"}`))
			check(storage.MembershipLeave)
		})
	}
}

// Users of other servers enter a restricted room through this one where they are in a room that it names.
func TestRestrictedJoin(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	space, alice := k.public("12")
	roomID := k.Create(alice, room.CreateRequest{Preset: "private_chat", RoomVersion: "12", InitialState: []room.InitialState{{
		Type:    "m.room.join_rules",
		Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + space + `"}]}`),
	}}})
	other := k.remote("other.test")
	bob := other.user("bob")
	makeJoin := "/v1/make_join/" + esc(roomID) + "/" + esc(bob) + "?" + allVersions
	other.refuse("GET", makeJoin, nil, 403, "M_FORBIDDEN")
	other.join(space, bob)
	inside := other.join(roomID, bob)
	if e := inside.ends[0]; len(e.SignedKeys(here)) == 0 {
		t.Errorf("the join is not signed by the server that let the user in: %s", e.JSON())
	}
	// Who has left the space cannot use what they were given before.
	carol := other.user("carol")
	there := other.join(space, carol)
	v := &view{r: other, roomID: roomID}
	join := other.makeJoin(v, carol)
	other.send(there.set(carol, event.TypeMember, carol, `{"membership":"leave"}`))
	k.drained()
	other.refuse("PUT", "/v2/send_join/"+esc(roomID)+"/"+esc(join.ID()), json.RawMessage(join.JSON()), 403, "M_FORBIDDEN")
}
