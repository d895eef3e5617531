package event

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

func TestRedactedContent(t *testing.T) {
	t.Parallel()
	const (
		member = `{"membership":"join","join_authorised_via_users_server":"@r:b","displayname":"D","third_party_invite":{"display_name":"d","signed":{"mxid":"@x:y"}},"x":1}`
		create = `{"creator":"@a:a","room_version":"1","type":"m.space","predecessor":{}}`
		rules  = `{"join_rule":"restricted","allow":[{"type":"m.room_membership"}],"x":1}`
		power  = `{"ban":1,"events":{"a":1},"events_default":2,"invite":3,"kick":4,"notifications":{"room":5},"redact":6,"state_default":7,"users":{"@a:a":8},"users_default":9,"x":1}`
	)
	// The content that is left, from a version onwards.
	for _, c := range []struct {
		typ, content string
		left         map[int]string
	}{
		{TypeMember, member, map[int]string{
			1:  `{"membership":"join"}`,
			9:  `{"join_authorised_via_users_server":"@r:b","membership":"join"}`,
			11: `{"join_authorised_via_users_server":"@r:b","membership":"join","third_party_invite":{"signed":{"mxid":"@x:y"}}}`,
		}},
		{TypeMember, `{"third_party_invite":{"display_name":"d"}}`, map[int]string{1: `{}`}},
		{TypeMember, `{"third_party_invite":"text","membership":"leave"}`, map[int]string{1: `{"membership":"leave"}`}},
		{TypeCreate, create, map[int]string{1: `{"creator":"@a:a"}`, 11: `{"creator":"@a:a","predecessor":{},"room_version":"1","type":"m.space"}`}},
		{TypeJoinRules, rules, map[int]string{1: `{"join_rule":"restricted"}`, 8: `{"allow":[{"type":"m.room_membership"}],"join_rule":"restricted"}`}},
		{TypePowerLevels, power, map[int]string{
			1:  `{"ban":1,"events":{"a":1},"events_default":2,"kick":4,"redact":6,"state_default":7,"users":{"@a:a":8},"users_default":9}`,
			11: `{"ban":1,"events":{"a":1},"events_default":2,"invite":3,"kick":4,"redact":6,"state_default":7,"users":{"@a:a":8},"users_default":9}`,
		}},
		{TypeAliases, `{"aliases":["#a:a"],"x":1}`, map[int]string{1: `{"aliases":["#a:a"]}`, 6: `{}`}},
		{TypeHistoryVisibility, `{"history_visibility":"joined","x":1}`, map[int]string{1: `{"history_visibility":"joined"}`}},
		{TypeRedaction, `{"reason":"r","redacts":"$x"}`, map[int]string{1: `{}`, 11: `{"redacts":"$x"}`}},
		{"m.room.message", `{"body":"b","membership":"join"}`, map[int]string{1: `{}`}},
		{TypeThirdPartyInvite, `{"public_key":"k"}`, map[int]string{1: `{}`}},
	} {
		for n := 1; n <= 12; n++ {
			var want string
			for from := n; want == ""; from-- {
				want = c.left[from]
			}
			v := version(t, strconv.Itoa(n))
			if got := string(appendRedactedContent(nil, v, c.typ, mustCanonical(t, []byte(c.content)))); got != want {
				t.Errorf("v%d %s: %s is left, want %s", n, c.typ, got, want)
			}
		}
	}
}

func TestRedactedKeys(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		r.id = "!room:a"
		d := r.draft("@alice:a", TypeRedaction, ptr(""), map[string]any{"reason": "r"})
		d.Redacts = "$redacted:a"
		raw := edit(t, r.build(d), func(m map[string]any) {
			for _, k := range []string{"membership", "origin", "prev_state", "age_ts", "unsigned", "x", "zz"} {
				m[k] = map[string]any{}
			}
		})
		e, err := Parse(v, raw)
		if err != nil {
			t.Fatal(err)
		}
		redacted := e.Redacted()
		kept := decode(t, redacted.JSON())
		want := "auth_events content depth hashes origin_server_ts prev_events room_id sender signatures state_key type"
		if v.EventFormat == FormatRefs {
			want += " event_id"
		}
		if !v.UpdatedRedactions {
			want += " membership origin prev_state"
		}
		for _, k := range strings.Fields(want) {
			if _, ok := kept[k]; !ok {
				t.Errorf("%s is gone", k)
			}
			delete(kept, k)
		}
		for k := range kept {
			t.Errorf("%s is still there", k)
		}
		wantContent, wantRedacts := `{}`, ""
		if v.RedactsInContent {
			wantContent, wantRedacts = `{"redacts":"$redacted:a"}`, "$redacted:a"
		}
		if got := string(redacted.Content()); got != wantContent {
			t.Errorf("content is %s, want %s", got, wantContent)
		}
		if e.Redacts() != "$redacted:a" || redacted.Redacts() != wantRedacts {
			t.Errorf("redacts is %q, after redaction %q", e.Redacts(), redacted.Redacts())
		}
		if redacted.ID() != e.ID() || redacted.ReferenceHash() != e.ReferenceHash() || redacted.RoomID() != e.RoomID() {
			t.Errorf("redaction changes the identity of the event")
		}
		if !json.Valid(redacted.JSON()) {
			t.Errorf("not JSON: %s", redacted.JSON())
		}
	})
}

func TestMayRedact(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		power := r.put("@alice:a", TypePowerLevels, "", map[string]any{"redact": 60, "users": map[string]any{"@mod:m": 60, "@near:m": 59}})
		levels := NewPowerLevels(r.create, power)
		target := r.build(r.draft("@bob:b", "m.room.message", nil, map[string]any{}))
		for sender, want := range map[string]bool{"@mod:m": true, "@near:m": false, "@bob:b": true, "@other:b": true} {
			redaction := r.build(r.draft(sender, TypeRedaction, nil, map[string]any{"redacts": target.ID()}))
			if got := MayRedact(redaction, target, levels); got != (want || v.RedactionAuthRule) {
				t.Errorf("%s may redact: %v", sender, got)
			}
		}
	})
}
