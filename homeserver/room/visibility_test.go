package room_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
)

// bodies returns the message texts a user sees in a room, oldest first.
func bodies(t *testing.T, k *roomtest.Kit, who *room.Requester, roomID string) string {
	t.Helper()
	f, err := filter.ParseEvents([]byte(`{"types":["m.room.message"]}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Rooms.Messages(t.Context(), who, roomID, room.MessagesRequest{Limit: 100, Filter: f})
	if err != nil {
		return mxerr.Code(err)
	}
	var out []string
	for _, e := range gjson.ParseBytes(p.Chunk).Array() {
		out = append(out, e.Get("content.body").Str)
	}
	return strings.Join(out, " ")
}

func hv(value string) room.InitialState {
	return room.InitialState{Type: "m.room.history_visibility", Content: json.RawMessage(`{"history_visibility":"` + value + `"}`)}
}

func TestHistoryVisibility(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	for _, tc := range []struct{ visibility, left, rejoined, stranger string }{
		{"world_readable", "m0 m1 m2 m3", "m0 m1 m2 m3 m4", "m0 m1 m2 m3 m4"},
		{"shared", "m0 m1 m2", "m0 m1 m2 m3 m4", "M_FORBIDDEN"},
		{"invited", "m1 m2", "m1 m2 m4", "M_FORBIDDEN"},
		{"joined", "m2", "m2 m4", "M_FORBIDDEN"},
		{"nonsense", "m0 m1 m2", "m0 m1 m2 m3 m4", "M_FORBIDDEN"},
	} {
		t.Run(tc.visibility, func(t *testing.T) {
			t.Parallel()
			alice, bob, carol := k.User("alice"), k.User("bob-"+tc.visibility), k.User("carol")
			req := room.CreateRequest{Preset: room.PresetPublicChat, InitialState: []room.InitialState{hv(tc.visibility)}}
			if tc.visibility == "nonsense" {
				// No client may send it; without the event the default holds.
				req.InitialState[0].Content = json.RawMessage(`{}`)
			}
			id := k.Create(alice, req)
			ids := map[string]string{"m0": k.Say(alice, id, "m0")}
			if got := bodies(t, k, bob, id); tc.visibility != "world_readable" && got != "M_FORBIDDEN" {
				t.Errorf("before any membership: got %q", got)
			}
			k.Invite(alice, id, bob)
			ids["m1"] = k.Say(alice, id, "m1")
			k.Join(bob, id)
			ids["m2"] = k.Say(alice, id, "m2")
			k.Leave(bob, id)
			ids["m3"] = k.Say(alice, id, "m3")
			if got := bodies(t, k, bob, id); got != tc.left {
				t.Errorf("after leaving: got %q, want %q", got, tc.left)
			}
			k.Join(bob, id)
			ids["m4"] = k.Say(alice, id, "m4")
			if got := bodies(t, k, bob, id); got != tc.rejoined {
				t.Errorf("after joining again: got %q, want %q", got, tc.rejoined)
			}
			if got := bodies(t, k, carol, id); got != tc.stranger {
				t.Errorf("a stranger: got %q, want %q", got, tc.stranger)
			}
			for m, eventID := range ids {
				_, err := k.Rooms.Event(t.Context(), bob, id, eventID)
				if want := strings.Contains(tc.rejoined, m); (err == nil) != want {
					t.Errorf("/event of %s: %v, want visible %v", m, err, want)
				}
				_, err = k.Rooms.Context(t.Context(), carol, id, eventID, 10, nil)
				if want := strings.Contains(tc.stranger, m); (err == nil) != want || !want && !errors.Is(err, mxerr.NotFound) {
					t.Errorf("/context of %s for a stranger: %v, want visible %v", m, err, want)
				}
			}
		})
	}
}

// The visibility at the event decides, not the one now; the event that changes it is seen by those who see either side.
func TestHistoryVisibilityChanges(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, carol := k.User("alice"), k.User("carol")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, InitialState: []room.InitialState{hv("joined")}})
	k.Say(alice, id, "joined")
	opened := k.SetState(alice, id, "m.room.history_visibility", "", obj{"history_visibility": "world_readable"})
	k.Say(alice, id, "world")
	closed := k.SetState(alice, id, "m.room.history_visibility", "", obj{"history_visibility": "invited"})
	secret := k.Say(alice, id, "invited")
	for _, e := range []string{opened, closed} {
		if _, err := k.Rooms.Event(t.Context(), carol, id, e); err != nil {
			t.Errorf("stranger reads the change %s: %v", e, err)
		}
	}
	if _, err := k.Rooms.Event(t.Context(), carol, id, secret); !errors.Is(err, mxerr.NotFound) {
		t.Errorf("stranger reads what came after: %v", err)
	}
	k.Join(carol, id)
	k.Say(alice, id, "welcome")
	if got := bodies(t, k, carol, id); got != "world welcome" {
		t.Errorf("got %q, want %q", got, "world welcome")
	}
	raw, err := k.Rooms.Event(t.Context(), alice, id, closed)
	if err != nil {
		t.Fatal(err)
	}
	u := gjson.GetBytes(raw, "unsigned")
	if u.Get("prev_content.history_visibility").Str != "world_readable" || u.Get("replaces_state").Str != opened {
		t.Errorf("unsigned of a replaced state event: %s", u)
	}
}

func TestUnsignedTellsMembership(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Say(alice, id, "before")
	k.Invite(alice, id, bob)
	k.Say(alice, id, "invited")
	k.Join(bob, id)
	k.Say(alice, id, "after")
	var got []string
	for _, e := range timeline(t, k, bob, id) {
		got = append(got, e.Get("unsigned.membership").Str)
	}
	// create, member, levels, two of the preset, message, invite, message, join, message
	want := "leave leave leave leave leave leave invite invite join join"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

func TestTransactionIDIsForItsDevice(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	other := *alice
	other.DeviceID = "OTHER"
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	req := room.SendRequest{Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`), TxnID: "t1"}
	first, err := k.Rooms.Send(t.Context(), alice, id, req)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.Rooms.Send(t.Context(), alice, id, req); err != nil || again != first {
		t.Errorf("repeated: %q, %v, want %q", again, err, first)
	}
	if elsewhere, err := k.Rooms.Send(t.Context(), &other, id, req); err != nil || elsewhere == first {
		t.Errorf("same id from another device: %q, %v, want another event", elsewhere, err)
	}
	for who, want := range map[*room.Requester]string{alice: "t1", &other: "", bob: ""} {
		raw, err := k.Rooms.Event(t.Context(), who, id, first)
		if err != nil {
			t.Fatal(err)
		}
		if got := gjson.GetBytes(raw, "unsigned.transaction_id").Str; got != want {
			t.Errorf("%s on %s sees transaction id %q, want %q", who.UserID, who.DeviceID, got, want)
		}
	}
}

func TestDepartedRoomStaysAsItWas(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, carol := k.User("alice"), k.User("bob"), k.User("carol")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, Name: "before"})
	k.Join(bob, id)
	k.Leave(bob, id)
	k.SetState(alice, id, "m.room.name", "", obj{"name": "after"})
	k.Join(carol, id)
	if got := gjson.Get(k.State(bob, id, "m.room.name", ""), "name").Str; got != "before" {
		t.Errorf("name for the departed is %q, want %q", got, "before")
	}
	if got := gjson.Get(k.State(bob, id, "m.room.member", bob.UserID), "membership").Str; got != "leave" {
		t.Errorf("own membership for the departed is %q, want leave", got)
	}
	raw, err := k.Rooms.Members(t.Context(), bob, id, room.MembersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(gjson.ParseBytes(raw).Array()); n != 2 {
		t.Errorf("the departed see %d members, want 2", n)
	}
	if _, err := k.Rooms.JoinedMembers(t.Context(), bob, id); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("joined_members for the departed: %v", err)
	}
	all, err := k.Rooms.State(t.Context(), bob, id)
	if err != nil || gjson.GetBytes(all, `#(type=="m.room.name").content.name`).Str != "before" {
		t.Errorf("state for the departed: %s, %v", all, err)
	}
	if err := k.Rooms.Forget(t.Context(), bob, id); err != nil {
		t.Fatal(err)
	}
	if got := bodies(t, k, bob, id); got != "M_FORBIDDEN" {
		t.Errorf("messages of a forgotten room: %q", got)
	}
	if err := k.Rooms.Forget(t.Context(), alice, id); mxerr.Code(err) != "M_UNKNOWN" {
		t.Errorf("forget a room one is in: %v, want M_UNKNOWN", err)
	}
	k.Join(bob, id)
	if got := gjson.Get(k.State(bob, id, "m.room.name", ""), "name").Str; got != "after" {
		t.Errorf("name after joining again is %q, want %q", got, "after")
	}
}
