package room_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"pgregory.net/rapid"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
)

func TestStateThatSaysNothingNewIsNotWritten(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, RoomVersion: "11", PowerLevelContentOverride: map[string]json.RawMessage{
		"users": json.RawMessage(`{"@alice:example.org":100,"@bob:example.org":100}`),
	}})
	k.Join(bob, id)
	a := k.SetState(alice, id, "m.room.name", "", obj{"name": "x", "extra": 1})
	if b := k.SetState(alice, id, "m.room.name", "", obj{"extra": 1, "name": "x"}); b != a {
		t.Errorf("the same content gave %s, want %s", b, a)
	}
	if b := k.SetState(bob, id, "m.room.name", "", obj{"name": "x", "extra": 1}); b == a {
		t.Error("another sender's event was taken for the same")
	}
}

func TestStateIsChecked(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, RoomVersion: "11"})
	k.Join(bob, id)
	n := len(timeline(t, k, alice, id))
	for _, tc := range []struct {
		name, typ, key, content string
		want                    error
	}{
		{"create", "m.room.create", "", `{}`, mxerr.InvalidParam},
		{"no type", "", "", `{}`, mxerr.InvalidParam},
		{"content is a list", "m.x", "", `[]`, mxerr.BadJSON},
		{"content is null", "m.x", "", `null`, mxerr.BadJSON},
		{"fraction", "m.x", "", `{"a":1.1}`, mxerr.BadJSON},
		{"too large a number", "m.x", "", `{"a":9007199254740992}`, mxerr.BadJSON},
		{"state key of another user", "m.x", bob.UserID, `{}`, mxerr.Forbidden},
		{"long type", strings.Repeat("x", 256), "", `{}`, mxerr.TooLarge},
		{"long state key", "m.x", strings.Repeat("x", 256), `{}`, mxerr.TooLarge},
		{"large content", "m.x", "", `{"a":"` + strings.Repeat("x", 66_000) + `"}`, mxerr.TooLarge},
		{"level is a string", "m.room.power_levels", "", `{"ban":"50"}`, mxerr.BadJSON},
		{"users is a list", "m.room.power_levels", "", `{"users":[]}`, mxerr.BadJSON},
		{"level above canonical JSON", "m.room.power_levels", "", `{"users":{"@a:b":9007199254740992}}`, mxerr.BadJSON},
		{"level above one's own", "m.room.power_levels", "", `{"users":{"@alice:example.org":100,"@bob:example.org":101}}`, mxerr.Forbidden},
		{"ACL shuts us out", "m.room.server_acl", "", `{"allow":["other.org"]}`, mxerr.BadJSON},
		{"ACL denies us", "m.room.server_acl", "", `{"allow":["*"],"deny":["*.org"]}`, mxerr.BadJSON},
		{"ACL of a wrong type", "m.room.server_acl", "", `{"allow":"*"}`, mxerr.BadJSON},
		{"unknown history visibility", "m.room.history_visibility", "", `{"history_visibility":"open"}`, mxerr.BadJSON},
		{"unknown guest access", "m.room.guest_access", "", `{"guest_access":true}`, mxerr.BadJSON},
		{"join rule is no string", "m.room.join_rules", "", `{"join_rule":1}`, mxerr.BadJSON},
		{"member is no user", "m.room.member", "bob", `{"membership":"ban"}`, mxerr.BadJSON},
		{"no such membership", "m.room.member", bob.UserID, `{"membership":"gone"}`, mxerr.BadJSON},
		{"joining for another", "m.room.member", "@carol:example.org", `{"membership":"join"}`, mxerr.Forbidden},
		{"invite of another server's user", "m.room.member", "@x:elsewhere.org", `{"membership":"invite"}`, mxerr.ConnectionFailed},
		{"name is a number", "m.room.member", alice.UserID, `{"membership":"join","displayname":7}`, mxerr.BadJSON},
	} {
		got, err := k.Rooms.SendState(t.Context(), alice, id, tc.key, room.SendRequest{Type: tc.typ, Content: json.RawMessage(tc.content)})
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %q, %v, want %v", tc.name, got, err, tc.want)
		}
	}
	if m := len(timeline(t, k, alice, id)); m != n {
		t.Errorf("refused state wrote %d events", m-n)
	}
	// What is odd and allowed.
	k.SetState(alice, id, "m.room.server_acl", "", obj{"allow": []string{"EXAMPLE.???"}, "deny": []string{"x*"}})
	k.SetState(alice, id, "m.room.guest_access", "", obj{})
	k.SetState(alice, id, "a/b %2F", "k/é %", obj{"x": "y"})
	if got := k.State(alice, id, "a/b %2F", "k/é %"); got != `{"x":"y"}` {
		t.Errorf("odd names: %q", got)
	}
}

func TestNameInOneRoom(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.SetState(bob, id, "m.room.member", bob.UserID, obj{"membership": "join"}) // another way to join
	k.SetState(bob, id, "m.room.member", bob.UserID, obj{"membership": "join", "displayname": "B"})
	if got := k.State(alice, id, "m.room.member", bob.UserID); got != `{"displayname":"B","membership":"join"}` {
		t.Errorf("got %s", got)
	}
	k.SetState(bob, id, "m.room.member", bob.UserID, obj{"membership": "leave"})
	if got := gjson.Get(k.State(alice, id, "m.room.member", bob.UserID), "membership").Str; got != "leave" {
		t.Errorf("got %q, want leave", got)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob, carol := k.User("alice"), k.User("bob"), k.User("carol")
	for _, v := range event.Versions() {
		id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, RoomVersion: v.ID})
		k.Join(bob, id)
		k.Join(carol, id)
		hers, his := k.Say(alice, id, "secret"), k.Say(bob, id, "secret")
		if _, err := k.Rooms.Redact(t.Context(), bob, id, hers, "", "t"); !errors.Is(err, mxerr.Forbidden) {
			t.Errorf("version %s: redaction of another's: %v", v.ID, err)
		}
		own, err := k.Rooms.Redact(t.Context(), bob, id, his, "typo", "t1")
		if err != nil {
			t.Errorf("version %s: redaction of one's own: %v", v.ID, err)
			continue
		}
		if again, err := k.Rooms.Redact(t.Context(), bob, id, his, "typo", "t1"); err != nil || again != own {
			t.Errorf("version %s: repeated: %q, %v, want %q", v.ID, again, err, own)
		}
		raw, err := k.Rooms.Event(t.Context(), carol, id, his)
		if err != nil {
			t.Fatal(err)
		}
		e := gjson.ParseBytes(raw)
		if e.Get("content").Raw != "{}" || e.Get("unsigned.redacted_because.event_id").Str != own || e.Get("unsigned.redacted_because.content.reason").Str != "typo" {
			t.Errorf("version %s: redacted event %s", v.ID, raw)
		}
		raw, err = k.Rooms.Event(t.Context(), carol, id, own)
		if err != nil {
			t.Fatal(err)
		}
		if e := gjson.ParseBytes(raw); e.Get("redacts").Str != his || e.Get("content.redacts").Str != his {
			t.Errorf("version %s: redaction %s", v.ID, raw)
		}
		if _, err := k.Rooms.Redact(t.Context(), alice, id, his, "", ""); err != nil {
			t.Errorf("version %s: redaction by a moderator: %v", v.ID, err)
		}
		if got := bodies(t, k, carol, id); got != "secret " {
			t.Errorf("version %s: messages %q", v.ID, got)
		}
		create := timeline(t, k, alice, id)[0].Get("event_id").Str
		for target, want := range map[string]error{
			"$unknown": mxerr.NotFound, "nonsense": mxerr.InvalidParam, "": mxerr.InvalidParam, create: mxerr.Forbidden,
		} {
			if _, err := k.Rooms.Redact(t.Context(), alice, id, target, "", ""); !errors.Is(err, want) {
				t.Errorf("version %s: redaction of %q: %v, want %v", v.ID, target, err, want)
			}
		}
		other := k.Create(alice, room.CreateRequest{})
		if _, err := k.Rooms.Redact(t.Context(), alice, other, hers, "", ""); !errors.Is(err, mxerr.NotFound) {
			t.Errorf("version %s: redaction from another room: %v", v.ID, err)
		}
	}
}

func TestReports(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	said := k.Say(alice, id, "bad")
	ctx := t.Context()
	score := -100
	if err := k.Rooms.ReportEvent(ctx, bob, id, said, "spam", nil); !errors.Is(err, mxerr.NotFound) {
		t.Errorf("report from outside: %v", err)
	}
	k.Join(bob, id)
	for name, err := range map[string]error{
		"event":        k.Rooms.ReportEvent(ctx, bob, id, said, "spam", &score),
		"room":         k.Rooms.ReportRoom(ctx, bob, id, ""),
		"user":         k.Rooms.ReportUser(ctx, bob, alice.UserID, "rude"),
		"unknown user": k.Rooms.ReportUser(ctx, bob, "@nobody:elsewhere.org", "rude"),
	} {
		if err != nil {
			t.Errorf("report of %s: %v", name, err)
		}
	}
	var n int
	if err := k.DB.QueryRow(ctx, `SELECT count(*) FROM reports`).Scan(&n); err != nil || n != 3 {
		t.Errorf("%d reports, %v, want 3", n, err)
	}
	score = -101
	for name, tc := range map[string]struct{ err, want error }{
		"score":         {k.Rooms.ReportEvent(ctx, bob, id, said, "", &score), mxerr.InvalidParam},
		"long reason":   {k.Rooms.ReportRoom(ctx, bob, id, strings.Repeat("x", 20_000)), mxerr.InvalidParam},
		"unknown event": {k.Rooms.ReportEvent(ctx, bob, id, "$x", "", nil), mxerr.NotFound},
		"unknown room":  {k.Rooms.ReportRoom(ctx, bob, "!x:example.org", ""), mxerr.NotFound},
		"no user":       {k.Rooms.ReportUser(ctx, bob, "alice", ""), mxerr.InvalidParam},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: %v, want %v", name, tc.err, tc.want)
		}
	}
}

func TestServerACL(t *testing.T) {
	t.Parallel()
	acl := func(s string) *room.ServerACL {
		a, err := room.ParseServerACL(json.RawMessage(s))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tc := range []struct {
		acl, server string
		want        bool
	}{
		{`{}`, "a.org", false},
		{`{"allow":["*"]}`, "a.org", true},
		{`{"allow":["*"],"deny":["a.org"]}`, "A.ORG:8448", false},
		{`{"allow":["*.org"],"deny":["*.a.org"]}`, "b.org", true},
		{`{"allow":["*.org"],"deny":["*.a.org"]}`, "x.a.org", false},
		{`{"allow":["*.org"],"deny":["*.a.org"]}`, "a.org", true},
		{`{"allow":["?.org"]}`, "ab.org", false},
		{`{"allow":["*a*b*c"]}`, "xaxbxbxc", true},
		{`{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4:80", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "[::1]", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.org", true},
		{`{"allow":["1.2.*"]}`, "1.2.3.4", true},
		{`{"allow":["*"]}`, "not a server", false},
	} {
		if got := acl(tc.acl).Allows(tc.server); got != tc.want {
			t.Errorf("%s of %s: %v, want %v", tc.acl, tc.server, got, tc.want)
		}
	}
}

// The matcher of access lists is compared with the plain recursive definition.
func TestServerACLGlobs(t *testing.T) {
	t.Parallel()
	var def func(p, s string) bool
	def = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return def(p[1:], s) || s != "" && def(p, s[1:])
		}
		return s != "" && (p[0] == '?' || p[0] == s[0]) && def(p[1:], s[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*?]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{1,10}`).Draw(t, "server")
		acl, err := room.ParseServerACL(json.RawMessage(`{"allow":["` + p + `"]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := acl.Allows(s), def(p, s); got != want {
			t.Fatalf("%q on %q: got %v, want %v", p, s, got, want)
		}
	})
}

func FuzzServerACL(f *testing.F) {
	f.Add([]byte(`{"allow":["*"],"deny":["*.evil.org"],"allow_ip_literals":false}`), "a.evil.org:8448")
	f.Fuzz(func(t *testing.T, raw []byte, server string) {
		acl, err := room.ParseServerACL(raw)
		if err != nil {
			if !errors.Is(err, mxerr.BadJSON) {
				t.Fatalf("error %v, want M_BAD_JSON", err)
			}
			return
		}
		acl.Allows(server)
	})
}

func TestInitialSync(t *testing.T) {
	t.Parallel()
	k := roomtest.New(t, nil)
	alice, bob := k.User("alice"), k.User("bob")
	in := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat, Visibility: "public"})
	last := k.Say(alice, in, "last")
	k.Join(bob, in)
	left := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	k.Join(bob, left)
	k.Leave(bob, left)
	invited := k.Create(alice, room.CreateRequest{Invite: []string{bob.UserID}})

	s, err := k.Rooms.InitialSync(t.Context(), bob, 2, true)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]room.InitialRoom{}
	for _, r := range s.Rooms {
		got[r.RoomID] = r
	}
	if len(got) != 3 || got[in].Membership != "join" || got[left].Membership != "leave" || got[invited].Membership != "invite" {
		t.Errorf("rooms %v", got)
	}
	if got[invited].Inviter != alice.UserID || got[in].Visibility != "public" {
		t.Errorf("inviter %q, visibility %q", got[invited].Inviter, got[in].Visibility)
	}
	if ids := eventIDs(got[in].Messages.Chunk); len(ids) != 2 || ids[0] != last {
		t.Errorf("messages %s", got[in].Messages.Chunk)
	}
	if s, err = k.Rooms.InitialSync(t.Context(), bob, 0, false); err != nil || len(s.Rooms) != 2 {
		t.Errorf("without archived rooms: %d, %v", len(s.Rooms), err)
	}
	if _, err := k.Rooms.AnyEvent(t.Context(), bob, last); err != nil {
		t.Error(err)
	}
	if _, err := k.Rooms.AnyEvent(t.Context(), k.User("eve"), last); !errors.Is(err, mxerr.NotFound) {
		t.Errorf("event for a stranger: %v", err)
	}
}
