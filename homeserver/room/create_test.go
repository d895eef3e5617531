package room_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
)

type obj = map[string]any

// timeline returns the events of a room, oldest first, as a user sees them.
func timeline(t *testing.T, k *roomtest.Kit, who *room.Requester, roomID string) []gjson.Result {
	t.Helper()
	p, err := k.Rooms.Messages(t.Context(), who, roomID, room.MessagesRequest{Limit: room.MaxPage})
	if err != nil {
		t.Fatal(err)
	}
	return gjson.ParseBytes(p.Chunk).Array()
}

func types(es []gjson.Result) string {
	var out []string
	for _, e := range es {
		out = append(out, strings.TrimPrefix(e.Get("type").Str, "m.room."))
	}
	return strings.Join(out, " ")
}

func TestCreateInEveryVersion(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	k.SetProfile(alice, "Alice", "mxc://example.org/a")
	for _, v := range event.Versions() {
		for _, preset := range []string{room.PresetPrivateChat, room.PresetTrustedPrivateChat, room.PresetPublicChat} {
			name := v.ID + " " + preset
			id := k.Create(alice, room.CreateRequest{
				RoomVersion: v.ID, Preset: preset, Name: "N", Topic: "T", RoomAliasName: "a-" + v.ID + "-" + preset,
				Invite: []string{bob.UserID}, IsDirect: true,
				InitialState: []room.InitialState{
					{Type: "m.room.topic", Content: json.RawMessage(`{"topic":"overridden"}`)},
					{Type: "org.example.x", StateKey: "k", Content: json.RawMessage(`{"y":1}`)},
					{Type: "m.room.history_visibility", Content: json.RawMessage(`{"history_visibility":"joined"}`)},
				},
				CreationContent: map[string]json.RawMessage{
					"room_version": json.RawMessage(`"test"`), "creator": json.RawMessage(`"@x:y"`), "z": json.RawMessage(`"kept"`),
				},
			})
			es := timeline(t, k, alice, id)
			want := "create member power_levels canonical_alias join_rules guest_access org.example.x history_visibility name topic member"
			if preset == room.PresetPublicChat {
				want = strings.Replace(want, " guest_access", "", 1)
			}
			if got := types(es); got != want {
				t.Errorf("%s: events %q, want %q", name, got, want)
				continue
			}
			for path, want := range map[string]string{
				"0.content.room_version": v.ID, "0.content.z": "kept", "1.content.displayname": "Alice",
				"1.content.avatar_url": "mxc://example.org/a", "3.content.alias": "#a-" + v.ID + "-" + preset + ":example.org",
				"7.content.history_visibility": "joined", "9.content.topic": "T", `9.content.m\.topic.m\.text.0.body`: "T",
				"10.content.membership": "invite", "10.content.is_direct": "true", "10.state_key": bob.UserID,
			} {
				i, rest, _ := strings.Cut(path, ".")
				var n int
				fmt.Sscan(i, &n)
				if n > 5 && preset == room.PresetPublicChat {
					n--
				}
				if got := es[n].Get(rest).String(); got != want {
					t.Errorf("%s: %s is %q, want %q", name, path, got, want)
				}
			}
			pl := es[2].Get("content")
			users := pl.Get("users").Raw
			if want := map[bool]string{true: `{}`, false: `{"@alice:example.org":100}`}[v.PrivilegedCreators]; preset != room.PresetTrustedPrivateChat && users != want {
				t.Errorf("%s: users %s, want %s", name, users, want)
			}
			if preset == room.PresetTrustedPrivateChat {
				creators := es[0].Get("content.additional_creators.0").Str
				if v.PrivilegedCreators && creators != bob.UserID || !v.PrivilegedCreators && pl.Get("users").Map()[bob.UserID].Int() != 100 {
					t.Errorf("%s: invitee has not the creator's power: %s %s", name, es[0], pl)
				}
			}
			if got, want := pl.Get(`events.m\.room\.tombstone`).Int(), map[bool]int64{true: 150, false: 100}[v.PrivilegedCreators]; got != want {
				t.Errorf("%s: tombstone needs %d, want %d", name, got, want)
			}
			joinRule := es[4].Get("content.join_rule").Str
			if want := map[bool]string{true: "public", false: "invite"}[preset == room.PresetPublicChat]; joinRule != want {
				t.Errorf("%s: join rule %s, want %s", name, joinRule, want)
			}
			if v.RoomIDFromCreate != !strings.Contains(id, ":") {
				t.Errorf("%s: room id %s", name, id)
			}
			if res, err := k.Rooms.ResolveAlias(t.Context(), es[3].Get("content.alias").Str); err != nil || res.RoomID != id {
				t.Errorf("%s: alias resolves to %v, %v", name, res, err)
			}
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice := k.User("alice")
	k.Create(alice, room.CreateRequest{RoomAliasName: "taken"})
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, tc := range []struct {
		name string
		req  room.CreateRequest
		want error
	}{
		{"version", room.CreateRequest{RoomVersion: "0.9"}, mxerr.UnsupportedRoomVersion},
		{"preset", room.CreateRequest{Preset: "chatty"}, mxerr.InvalidParam},
		{"visibility", room.CreateRequest{Visibility: "secret"}, mxerr.InvalidParam},
		{"invite", room.CreateRequest{Invite: []string{"bob"}}, mxerr.InvalidParam},
		{"alias with a server", room.CreateRequest{RoomAliasName: "x:example.org"}, mxerr.InvalidParam},
		{"alias with a sigil", room.CreateRequest{RoomAliasName: "#x"}, mxerr.InvalidParam},
		{"alias too long", room.CreateRequest{RoomAliasName: strings.Repeat("x", 300)}, mxerr.InvalidParam},
		{"alias taken", room.CreateRequest{RoomAliasName: "taken"}, mxerr.RoomInUse},
		{"state without a type", room.CreateRequest{InitialState: []room.InitialState{{Content: raw(`{}`)}}}, mxerr.BadJSON},
		{"state without content", room.CreateRequest{InitialState: []room.InitialState{{Type: "m.x"}}}, mxerr.BadJSON},
		{"another m.room.create", room.CreateRequest{InitialState: []room.InitialState{{Type: "m.room.create", Content: raw(`{}`)}}}, mxerr.InvalidRoomState},
		{
			"levels that lock out the creator",
			room.CreateRequest{RoomVersion: "11", Name: "N", PowerLevelContentOverride: map[string]json.RawMessage{"users": raw(`{}`)}},
			mxerr.InvalidRoomState,
		},
		{
			"levels that name the creator in version 12",
			room.CreateRequest{RoomVersion: "12", PowerLevelContentOverride: map[string]json.RawMessage{"users": raw(`{"@alice:example.org":100}`)}},
			mxerr.BadJSON,
		},
		{"levels of a wrong type", room.CreateRequest{PowerLevelContentOverride: map[string]json.RawMessage{"ban": raw(`"x"`)}}, mxerr.BadJSON},
		{"creators that are no list", room.CreateRequest{RoomVersion: "12", CreationContent: map[string]json.RawMessage{"additional_creators": raw(`"@a:b"`)}}, mxerr.BadJSON},
		{"creators that are no users", room.CreateRequest{RoomVersion: "12", CreationContent: map[string]json.RawMessage{"additional_creators": raw(`["a"]`)}}, mxerr.BadJSON},
		{"m.federate is a string", room.CreateRequest{CreationContent: map[string]json.RawMessage{"m.federate": raw(`"no"`)}}, mxerr.BadJSON},
		{"numbers canonical JSON has not", room.CreateRequest{InitialState: []room.InitialState{{Type: "m.x", Content: raw(`{"n":1.5}`)}}}, mxerr.BadJSON},
		{"state too large", room.CreateRequest{InitialState: []room.InitialState{{Type: "m.x", Content: raw(`{"n":"` + strings.Repeat("x", 70_000) + `"}`)}}}, mxerr.TooLarge},
		{"third-party invite", room.CreateRequest{Invite3PID: []room.Invite3PID{{Medium: "email", Address: "a@b.c", IDServer: "x", IDAccessToken: "y"}}}, mxerr.ServerNotTrusted},
	} {
		if tc.req.RoomAliasName == "" {
			// What is refused must give its alias back.
			tc.req.RoomAliasName = "given-back"
		}
		id, err := k.Rooms.Create(t.Context(), alice, tc.req)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %q, %v, want %v", tc.name, id, err, tc.want)
		}
	}
	if ids, err := k.Rooms.JoinedRooms(t.Context(), alice); err != nil || len(ids) != 1 {
		t.Errorf("rooms after refusals: %v, %v, want the first alone", ids, err)
	}
	k.Create(alice, room.CreateRequest{RoomAliasName: "given-back"})
}

func TestAdditionalCreators(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, carol := k.User("alice"), k.User("bob"), k.User("carol")
	id := k.Create(alice, room.CreateRequest{
		RoomVersion: "12", Preset: room.PresetTrustedPrivateChat, Invite: []string{bob.UserID, alice.UserID, bob.UserID},
		CreationContent: map[string]json.RawMessage{"additional_creators": json.RawMessage(`["` + carol.UserID + `","` + bob.UserID + `"]`)},
	})
	var got []string
	for _, u := range gjson.Get(k.State(alice, id, "m.room.create", ""), "additional_creators").Array() {
		got = append(got, u.Str)
	}
	if want := []string{carol.UserID, bob.UserID}; !slices.Equal(got, want) {
		t.Errorf("additional_creators %v, want %v", got, want)
	}
	k.Join(bob, id)
	if err := k.Rooms.Kick(t.Context(), alice, id, bob.UserID, ""); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("kick of a creator: %v, want %v", err, mxerr.Forbidden)
	}
	k.SetState(bob, id, "m.room.name", "", obj{"name": "Bob's"})
	_, err := k.Rooms.SendState(t.Context(), alice, id, "", room.SendRequest{
		Type: "m.room.power_levels", Content: json.RawMessage(`{"users":{"` + bob.UserID + `":100}}`),
	})
	if !errors.Is(err, mxerr.BadJSON) {
		t.Errorf("levels that list a creator: %v, want %v", err, mxerr.BadJSON)
	}
}
