package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
)

// personal notes whose settings were carried over.
type personal struct {
	mu     sync.Mutex
	copied []string
}

func (p *personal) CopyRoomSettings(_ context.Context, userID, from, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.copied = append(p.copied, userID+" "+from+" "+to)
	return nil
}

func TestUpgradeBetweenVersions(t *testing.T) {
	t.Parallel()
	p := &personal{}
	k := roomtest.New(t, func(c *room.Config) { c.Personal = p })
	alice, bob, banned, mod := k.User("alice"), k.User("bob"), k.User("banned"), k.User("mod")
	vs := event.Versions()
	for i, from := range vs {
		to := vs[(i*5+11)%len(vs)] // a few downgrades among them, to and from version 12
		name := from.ID + " to " + to.ID
		alias := "up-" + from.ID
		old := k.Create(alice, room.CreateRequest{
			RoomVersion: from.ID, Preset: room.PresetPublicChat, Visibility: "public", Name: "Name", Topic: "Topic", RoomAliasName: alias,
			CreationContent: map[string]json.RawMessage{"type": json.RawMessage(`"org.example.kind"`), "m.federate": json.RawMessage("true")},
			InitialState: []room.InitialState{
				{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
				{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"forbidden"}`)},
				{Type: "m.room.server_acl", Content: json.RawMessage(`{"allow":["*"],"deny":["evil.org"]}`)},
				{Type: "org.example.private", Content: json.RawMessage(`{}`)},
			},
			PowerLevelContentOverride: map[string]json.RawMessage{"events": json.RawMessage(`{"m.room.name":50,"m.room.tombstone":100,"m.room.encryption":100}`)},
		})
		k.Join(bob, old)
		pl := map[string]any{}
		if err := json.Unmarshal([]byte(k.State(alice, old, "m.room.power_levels", "")), &pl); err != nil {
			t.Fatal(err)
		}
		users := pl["users"].(map[string]any)
		users[mod.UserID] = 60
		k.SetState(alice, old, "m.room.power_levels", "", pl)
		if err := k.Rooms.Ban(t.Context(), alice, old, banned.UserID, "spam"); err != nil {
			t.Fatal(err)
		}

		id, err := k.Rooms.Upgrade(t.Context(), alice, old, room.UpgradeRequest{NewVersion: to.ID})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		create := gjson.Parse(k.State(alice, id, "m.room.create", ""))
		if create.Get("room_version").Str != to.ID || create.Get("type").Str != "org.example.kind" || create.Get("predecessor.room_id").Str != old {
			t.Errorf("%s: create %s", name, create)
		}
		if create.Get("predecessor.event_id").Exists() == to.RoomIDFromCreate {
			t.Errorf("%s: predecessor %s", name, create.Get("predecessor"))
		}
		for typ, path := range map[string][2]string{
			"m.room.name": {"name", "Name"}, "m.room.topic": {"topic", "Topic"}, "m.room.join_rules": {"join_rule", "public"},
			"m.room.encryption": {"algorithm", "m.megolm.v1.aes-sha2"}, "m.room.server_acl": {"deny.0", "evil.org"},
			"m.room.history_visibility": {"history_visibility", "shared"}, "m.room.guest_access": {"guest_access", "forbidden"},
			"m.room.canonical_alias": {"alias", "#" + alias + ":example.org"},
		} {
			if got := gjson.Get(k.State(alice, id, typ, ""), path[0]).Str; got != path[1] {
				t.Errorf("%s: %s is %q, want %q", name, typ, got, path[1])
			}
		}
		if k.State(alice, id, "org.example.private", "") != "" {
			t.Errorf("%s: state that is nobody's to copy was copied", name)
		}
		if got := gjson.Get(k.State(alice, id, "m.room.member", banned.UserID), "membership").Str; got != "ban" {
			t.Errorf("%s: the banned user is %q", name, got)
		}
		newPL := gjson.Parse(k.State(alice, id, "m.room.power_levels", ""))
		if newPL.Get("users").Map()[mod.UserID].Int() != 60 {
			t.Errorf("%s: levels %s", name, newPL)
		}
		if _, ok := newPL.Get("users").Map()[alice.UserID]; ok == to.PrivilegedCreators {
			t.Errorf("%s: levels list the creator: %v", name, ok)
		}
		if to.PrivilegedCreators && newPL.Get(`events.m\.room\.tombstone`).Int() <= max(50, newPL.Get("state_default").Int()) {
			t.Errorf("%s: levels %s", name, newPL)
		}
		if got := gjson.Get(k.State(alice, old, "m.room.tombstone", ""), "replacement_room").Str; got != id {
			t.Errorf("%s: replacement_room %q, want %q", name, got, id)
		}
		if got := gjson.Parse(k.State(alice, old, "m.room.power_levels", "")); got.Get("events_default").Int() < 50 || got.Get("invite").Int() < 50 {
			t.Errorf("%s: old room left open: %s", name, got)
		}
		res, err := k.Rooms.ResolveAlias(t.Context(), "#"+alias+":example.org")
		if err != nil || res.RoomID != id {
			t.Errorf("%s: alias points to %v, %v", name, res, err)
		}
		for r, want := range map[string]string{old: "private", id: "public"} {
			if v, err := k.Rooms.Visibility(t.Context(), r); err != nil || v != want {
				t.Errorf("%s: visibility %q, %v, want %q", name, v, err, want)
			}
		}
		k.Join(bob, id)
		p.mu.Lock()
		for _, u := range []*room.Requester{alice, bob} {
			if !slices.Contains(p.copied, u.UserID+" "+old+" "+id) {
				t.Errorf("%s: settings of %s not carried over", name, u.UserID)
			}
		}
		p.mu.Unlock()
	}
}

func TestUpgradeRefuses(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, id)
	for _, tc := range []struct {
		name string
		who  *room.Requester
		room string
		req  room.UpgradeRequest
		want error
	}{
		{"no version", alice, id, room.UpgradeRequest{}, mxerr.MissingParam},
		{"unknown version", alice, id, room.UpgradeRequest{NewVersion: "0"}, mxerr.UnsupportedRoomVersion},
		{"creators", alice, id, room.UpgradeRequest{NewVersion: "12", AdditionalCreators: []string{"x"}}, mxerr.BadJSON},
		{"unknown room", alice, "!x:example.org", room.UpgradeRequest{NewVersion: "12"}, mxerr.Forbidden},
		{"no power", bob, id, room.UpgradeRequest{NewVersion: "12"}, mxerr.Forbidden},
		{"not in the room", k.User("eve"), id, room.UpgradeRequest{NewVersion: "12"}, mxerr.Forbidden},
	} {
		if _, err := k.Rooms.Upgrade(t.Context(), tc.who, tc.room, tc.req); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if k.State(alice, id, "m.room.tombstone", "") != "" {
		t.Error("a refused upgrade left a tombstone")
	}
}

// Those who replace a room by hand get their settings too, in whichever order they go about it.
func TestUpgradeByHand(t *testing.T) {
	t.Parallel()
	p := &personal{}
	k := roomtest.New(t, func(c *room.Config) { c.Personal = p })
	alice, bob := k.User("alice"), k.User("bob")
	old := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, old)
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, CreationContent: map[string]json.RawMessage{
		"predecessor": json.RawMessage(`{"room_id":"` + old + `"}`),
	}})
	k.SetState(alice, old, "m.room.tombstone", "", obj{"body": "moved", "replacement_room": id})
	k.Join(bob, id)
	want := []string{alice.UserID + " " + old + " " + id, bob.UserID + " " + old + " " + id}
	if !slices.Equal(p.copied, want) {
		t.Errorf("carried over %v, want %v", p.copied, want)
	}
}
