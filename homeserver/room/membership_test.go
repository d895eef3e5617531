package room_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
	"github.com/weft-im/weft/storage"
)

func membership(k *roomtest.Kit, viewer *room.Requester, roomID string, who *room.Requester) string {
	return gjson.Get(k.State(viewer, roomID, "m.room.member", who.UserID), "membership").Str
}

// bring puts a user into a state of membership of a room.
func bring(k *roomtest.Kit, t *testing.T, admin, who *room.Requester, roomID, to string) {
	t.Helper()
	var err error
	switch to {
	case "none":
	case "invite":
		k.Invite(admin, roomID, who)
	case "join":
		k.Invite(admin, roomID, who)
		k.Join(who, roomID)
	case "leave":
		k.Invite(admin, roomID, who)
		k.Join(who, roomID)
		k.Leave(who, roomID)
	case "ban":
		err = k.Rooms.Ban(t.Context(), admin, roomID, who.UserID, "")
	case "knock":
		_, err = k.Rooms.Knock(t.Context(), who, roomID, nil, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Every action on a member, from every state the member may be in.
func TestMembershipChanges(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	admin := k.User("admin")
	id := k.Create(admin, room.CreateRequest{
		Preset: room.PresetPrivateChat, RoomVersion: "11",
		InitialState: []room.InitialState{{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}},
	})
	kick := func(u *room.Requester) error {
		return k.Rooms.Kick(t.Context(), admin, id, u.UserID, "why")
	}
	actions := map[string]func(u *room.Requester) error{
		"join": func(u *room.Requester) error {
			_, err := k.Rooms.Join(t.Context(), u, id, room.JoinRequest{})
			return err
		},
		"knock": func(u *room.Requester) error {
			_, err := k.Rooms.Knock(t.Context(), u, id, nil, nil)
			return err
		},
		"leave":  func(u *room.Requester) error { return k.Rooms.Leave(t.Context(), u, id, "") },
		"invite": func(u *room.Requester) error { return k.Rooms.Invite(t.Context(), admin, id, u.UserID, "") },
		"kick":   kick,
		"ban":    func(u *room.Requester) error { return k.Rooms.Ban(t.Context(), admin, id, u.UserID, "") },
		"unban":  func(u *room.Requester) error { return k.Rooms.Unban(t.Context(), admin, id, u.UserID, "") },
		"forget": func(u *room.Requester) error { return k.Rooms.Forget(t.Context(), u, id) },
	}
	// The membership after the action, or the error that leaves it as it was.
	want := map[string]map[string]string{
		"join":   {"none": "M_FORBIDDEN", "invite": "join", "join": "join", "leave": "M_FORBIDDEN", "ban": "M_FORBIDDEN", "knock": "M_FORBIDDEN"},
		"knock":  {"none": "knock", "invite": "M_FORBIDDEN", "join": "M_FORBIDDEN", "leave": "knock", "ban": "M_FORBIDDEN", "knock": "knock"},
		"leave":  {"none": "M_FORBIDDEN", "invite": "leave", "join": "leave", "leave": "leave", "ban": "M_FORBIDDEN", "knock": "leave"},
		"invite": {"none": "invite", "invite": "invite", "join": "M_FORBIDDEN", "leave": "invite", "ban": "M_FORBIDDEN", "knock": "invite"},
		"kick":   {"none": "M_FORBIDDEN", "invite": "leave", "join": "leave", "leave": "M_FORBIDDEN", "ban": "M_FORBIDDEN", "knock": "leave"},
		"ban":    {"none": "ban", "invite": "ban", "join": "ban", "leave": "ban", "ban": "ban", "knock": "ban"},
		"unban":  {"none": "M_BAD_STATE", "invite": "M_BAD_STATE", "join": "M_BAD_STATE", "leave": "M_BAD_STATE", "ban": "leave", "knock": "M_BAD_STATE"},
		"forget": {"none": "", "invite": "M_UNKNOWN", "join": "M_UNKNOWN", "leave": "leave", "ban": "ban", "knock": "M_UNKNOWN"},
	}
	for action, do := range actions {
		for from, result := range want[action] {
			u := k.User(action + "-" + from)
			bring(k, t, admin, u, id, from)
			before := membership(k, admin, id, u)
			err := do(u)
			after := membership(k, admin, id, u)
			switch {
			case len(result) > 2 && result[:2] == "M_":
				if mxerr.Code(err) != result || after != before {
					t.Errorf("%s of %s: %v and %q, want %s and %q", action, from, err, after, result, before)
				}
			case err != nil || after != result:
				t.Errorf("%s of %s: %v and %q, want %q", action, from, err, after, result)
			}
		}
	}
}

func TestActionsOfOutsiders(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	admin, weak, outsider, target := k.User("admin"), k.User("weak"), k.User("outsider"), k.User("target")
	id := k.Create(admin, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(weak, id)
	k.Join(target, id)
	for _, who := range []*room.Requester{weak, outsider} {
		for name, act := range map[string]func() error{
			"kick": func() error { return k.Rooms.Kick(t.Context(), who, id, target.UserID, "") },
			"ban":  func() error { return k.Rooms.Ban(t.Context(), who, id, target.UserID, "") },
			"invite": func() error {
				return k.Rooms.Invite(t.Context(), who, id, "@new:example.org", "")
			},
			"state": func() error {
				_, err := k.Rooms.SendState(t.Context(), who, id, "", room.SendRequest{Type: "m.room.name", Content: json.RawMessage(`{"name":"x"}`)})
				return err
			},
			"state of another": func() error {
				_, err := k.Rooms.SendState(t.Context(), who, id, target.UserID, room.SendRequest{Type: "org.example.x", Content: json.RawMessage(`{}`)})
				return err
			},
			"upgrade": func() error {
				_, err := k.Rooms.Upgrade(t.Context(), who, id, room.UpgradeRequest{NewVersion: "11"})
				return err
			},
			"publish": func() error { return k.Rooms.SetVisibility(t.Context(), who, id, "public") },
		} {
			if err := act(); !errors.Is(err, mxerr.Forbidden) {
				t.Errorf("%s by %s: %v, want M_FORBIDDEN", name, who.UserID, err)
			}
		}
	}
	if membership(k, admin, id, target) != "join" {
		t.Error("the target was moved")
	}
	for name, err := range map[string]error{
		"kick":  k.Rooms.Kick(t.Context(), admin, id, "target", ""),
		"ban":   k.Rooms.Ban(t.Context(), admin, id, "#x:y", ""),
		"unban": k.Rooms.Unban(t.Context(), admin, id, "@x", ""),
	} {
		if !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("%s of what is no user: %v, want M_INVALID_PARAM", name, err)
		}
	}
}

func TestJoinCarriesContent(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	k.SetProfile(bob, "Bob", "")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, RoomAliasName: "here"})
	got, err := k.Rooms.Join(t.Context(), bob, "#here:example.org", room.JoinRequest{Content: map[string]json.RawMessage{
		"foo": json.RawMessage(`"bar"`), "reason": json.RawMessage(`"because"`), "membership": json.RawMessage(`"ban"`),
		"join_authorised_via_users_server": json.RawMessage(`"@x:y"`),
	}})
	if err != nil || got != id {
		t.Fatalf("join by alias: %q, %v", got, err)
	}
	want := `{"displayname":"Bob","foo":"bar","membership":"join","reason":"because"}`
	if got := k.State(alice, id, "m.room.member", bob.UserID); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	n := len(timeline(t, k, alice, id))
	k.Join(bob, id)
	if m := len(timeline(t, k, alice, id)); m != n {
		t.Errorf("joining again wrote %d events", m-n)
	}
	for _, target := range []string{"!unknown:elsewhere.org", "#unknown:example.org", "#unknown:elsewhere.org"} {
		if _, err := k.Rooms.Join(t.Context(), bob, target, room.JoinRequest{}); !errors.Is(err, mxerr.NotFound) {
			t.Errorf("join of %s: %v, want M_NOT_FOUND", target, err)
		}
	}
	for _, target := range []string{"", "here", "!", "#", "@x:y"} {
		if _, err := k.Rooms.Join(t.Context(), bob, target, room.JoinRequest{}); !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("join of %q: %v, want M_INVALID_PARAM", target, err)
		}
	}
}

func TestGuestsJoinWhereTheyMay(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, guest := k.User("alice"), k.User("guest")
	guest.IsGuest = true
	closed := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	open := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, InitialState: []room.InitialState{
		{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"can_join"}`)},
	}})
	if _, err := k.Rooms.Join(t.Context(), guest, closed, room.JoinRequest{}); !errors.Is(err, mxerr.GuestAccessForbidden) {
		t.Errorf("closed to guests: %v", err)
	}
	k.Join(guest, open)
	nid, err := k.Store.UserNID(t.Context(), guest.UserID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.DB.Exec(t.Context(), `INSERT INTO users (user_nid, created_ts, is_guest) VALUES ($1, 0, true)`, nid); err != nil {
		t.Fatal(err)
	}
	k.SetState(alice, open, "m.room.guest_access", "", obj{"guest_access": "forbidden"})
	if got := membership(k, alice, open, guest); got != "leave" {
		t.Errorf("guest after guests were shut out: %q, want leave", got)
	}
}

func TestInvitesMayBeBlocked(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{})
	nids, err := k.Store.InternUsers(t.Context(), []string{bob.UserID})
	if err != nil {
		t.Fatal(err)
	}
	set := func(content string) {
		err := storage.PutAccountData(t.Context(), k.DB, []storage.AccountData{{
			UserNID: nids[0], Type: "m.invite_permission_config", StreamID: 1, WriterNID: 1, Content: []byte(content),
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	set(`{"default_action":"block"}`)
	if err := k.Rooms.Invite(t.Context(), alice, id, bob.UserID, ""); !errors.Is(err, mxerr.InviteBlocked) {
		t.Errorf("invite: %v, want M_INVITE_BLOCKED", err)
	}
	_, err = k.Rooms.SendState(t.Context(), alice, id, bob.UserID, room.SendRequest{Type: "m.room.member", Content: json.RawMessage(`{"membership":"invite"}`)})
	if !errors.Is(err, mxerr.InviteBlocked) {
		t.Errorf("invite as state: %v, want M_INVITE_BLOCKED", err)
	}
	if _, err := k.Rooms.Create(t.Context(), alice, room.CreateRequest{Invite: []string{bob.UserID}}); !errors.Is(err, mxerr.InviteBlocked) {
		t.Errorf("invite to a new room: %v, want M_INVITE_BLOCKED", err)
	}
	set(`{"default_action":["block"]}`)
	k.Invite(alice, id, bob)
}

func TestRestrictedJoins(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, carol := k.User("alice"), k.User("bob"), k.User("carol")
	for _, rule := range []string{"restricted", "knock_restricted"} {
		for _, v := range event.Versions() {
			if rule == "restricted" && !v.Restricted || rule == "knock_restricted" && !v.KnockRestricted {
				continue
			}
			space := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
			id := k.Create(alice, room.CreateRequest{RoomVersion: v.ID, InitialState: []room.InitialState{{
				Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"` + rule + `","allow":[` +
					`{"type":"m.room_membership","room_id":"!other:elsewhere"},{"type":"m.room_membership","room_id":"` + space + `"},{"type":"x"}]}`),
			}}})
			if _, err := k.Rooms.Join(t.Context(), bob, id, room.JoinRequest{}); !errors.Is(err, mxerr.Forbidden) {
				t.Errorf("version %s, %s: outside of the space: %v", v.ID, rule, err)
			}
			k.Join(bob, space)
			k.Join(bob, id)
			if got := gjson.Get(k.State(alice, id, "m.room.member", bob.UserID), "join_authorised_via_users_server").Str; got != alice.UserID {
				t.Errorf("version %s, %s: authorised by %q, want %q", v.ID, rule, got, alice.UserID)
			}
			k.Invite(alice, id, carol)
			k.Join(carol, id)
			if got := gjson.Get(k.State(alice, id, "m.room.member", carol.UserID), "join_authorised_via_users_server"); got.Exists() {
				t.Errorf("version %s, %s: an invited user needs nobody, got %s", v.ID, rule, got)
			}
			// Leaving the space does not end the stay, but there is no way back in.
			k.Leave(bob, space)
			k.Leave(bob, id)
			if _, err := k.Rooms.Join(t.Context(), bob, id, room.JoinRequest{}); !errors.Is(err, mxerr.Forbidden) {
				t.Errorf("version %s, %s: after leaving the space: %v", v.ID, rule, err)
			}
		}
	}
}

func TestMembersAndLists(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, carol := k.User("alice"), k.User("bob"), k.User("carol")
	k.SetProfile(alice, "Alice", "mxc://a/b")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	p, err := k.Rooms.Messages(t.Context(), alice, id, room.MessagesRequest{Limit: 1, Backwards: true})
	if err != nil {
		t.Fatal(err)
	}
	k.Join(bob, id)
	k.Leave(bob, id)
	k.Invite(alice, id, carol)
	for _, tc := range []struct {
		req  room.MembersRequest
		want []string
	}{
		{room.MembersRequest{}, []string{alice.UserID, bob.UserID, carol.UserID}},
		{room.MembersRequest{Membership: "join"}, []string{alice.UserID}},
		{room.MembersRequest{Membership: "leave"}, []string{bob.UserID}},
		{room.MembersRequest{NotMembership: "leave"}, []string{alice.UserID, carol.UserID}},
		{room.MembersRequest{Membership: "ban"}, nil},
		{room.MembersRequest{At: p.Start}, []string{alice.UserID}},
		{room.MembersRequest{At: p.Start, NotMembership: "join"}, nil},
		{room.MembersRequest{At: "t1_0"}, []string{alice.UserID}}, // before the first event
	} {
		raw, err := k.Rooms.Members(t.Context(), alice, id, tc.req)
		if err != nil {
			t.Errorf("%+v: %v", tc.req, err)
			continue
		}
		var got []string
		for _, e := range gjson.ParseBytes(raw).Array() {
			got = append(got, e.Get("state_key").Str)
		}
		slices.Sort(got)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%+v: got %v, want %v", tc.req, got, tc.want)
		}
	}
	if _, err := k.Rooms.Members(t.Context(), alice, id, room.MembersRequest{Membership: "joined"}); !errors.Is(err, mxerr.InvalidParam) {
		t.Errorf("unknown membership: %v", err)
	}
	js, err := k.Rooms.JoinedMembers(t.Context(), alice, id)
	if err != nil || len(js) != 1 || *js[alice.UserID].DisplayName != "Alice" || *js[alice.UserID].AvatarURL != "mxc://a/b" {
		t.Errorf("joined members: %v, %v", js, err)
	}
	if raw, _ := json.Marshal(room.JoinedMember{}); string(raw) != `{"display_name":null,"avatar_url":null}` {
		t.Errorf("a member without a profile: %s", raw)
	}
	other := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, other)
	rooms, err := k.Rooms.JoinedRooms(t.Context(), alice)
	want := []string{id, other}
	slices.Sort(want)
	if err != nil || !slices.Equal(rooms, want) {
		t.Errorf("joined rooms: %v, %v, want %v", rooms, err, want)
	}
	m, err := k.Rooms.MutualRooms(t.Context(), alice, bob.UserID, "")
	if err != nil || !slices.Equal(m.Joined, []string{other}) || m.Count != 1 || m.NextBatch != "" {
		t.Errorf("mutual rooms: %+v, %v", m, err)
	}
	for _, other := range []string{alice.UserID, "bob", "", "@:example.org"} {
		if _, err := k.Rooms.MutualRooms(t.Context(), alice, other, ""); !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("mutual rooms with %q: %v", other, err)
		}
	}
}
