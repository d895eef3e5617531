package event

import (
	"encoding/json"
	"maps"
	"strconv"
	"testing"
)

func TestPowerLevelDefaults(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		none := NewPowerLevels(r.create, nil)
		creator := int64(100)
		if v.PrivilegedCreators {
			creator = InfinitePower
		}
		check := func(p *PowerLevels, what string, got, want int64) {
			t.Helper()
			if got != want {
				t.Errorf("%s is %d, want %d", what, got, want)
			}
		}
		for _, p := range []*PowerLevels{none, NewPowerLevels(r.create, r.put("@alice:a", TypePowerLevels, "", map[string]any{}))} {
			check(p, "ban", p.Ban, 50)
			check(p, "kick", p.Kick, 50)
			check(p, "redact", p.Redact, 50)
			check(p, "invite", p.Invite, 0)
			check(p, "a user", p.UserLevel("@bob:b"), 0)
			check(p, "a message", p.EventLevel("m.room.message", false), 0)
			check(p, "a state event", p.EventLevel("m.room.topic", true), 50)
			check(p, "notification", p.Notification("room"), 50)
		}
		check(none, "the creator", none.UserLevel("@alice:a"), creator)
		if !v.PrivilegedCreators {
			creator = 0
		}
		listed := NewPowerLevels(r.create, r.state[Tuple{Type: TypePowerLevels}])
		check(listed, "the creator that is not listed", listed.UserLevel("@alice:a"), creator)
	})
}

func TestCreators(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		d := Draft{
			RoomID: "!r:a", Sender: "@sender:a", Type: TypeCreate, StateKey: ptr(""), Depth: 1,
			Content: json.RawMessage(`{"creator":"@creator:a","additional_creators":["@more:b"]}`),
		}
		if v.RoomIDFromCreate {
			d.RoomID = ""
		}
		e, err := Build(v, d, ownSigner("a"))
		if err != nil {
			t.Fatal(err)
		}
		p := NewPowerLevels(e, nil)
		infinite, hundred := int64(0), int64(0)
		if v.PrivilegedCreators {
			infinite = InfinitePower
		} else {
			hundred = 100
		}
		want := map[string]int64{"@creator:a": hundred, "@sender:a": infinite, "@more:b": infinite}
		if v.ImplicitCreator {
			want["@creator:a"], want["@sender:a"] = 0, max(hundred, infinite)
		}
		for user, level := range want {
			if got := p.UserLevel(user); got != level {
				t.Errorf("%s has %d, want %d", user, got, level)
			}
		}
	})
}

func TestParseLevel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw             string
		loose, str, int any // versions 1-5 (where JSON may hold it), 6-9, 10-12
	}{
		{`50`, 50, 50, 50},
		{`-5`, -5, -5, -5},
		{`"50"`, 50, 50, nil},
		{`"000100"`, 100, 100, nil},
		{`"+100"`, 100, 100, nil},
		{`" -00100\t"`, -100, -100, nil},
		{`"1_0"`, nil, nil, nil},
		{`"0x10"`, nil, nil, nil},
		{`"1.5"`, nil, nil, nil},
		{`"1 0"`, nil, nil, nil},
		{`""`, nil, nil, nil},
		{`"--1"`, nil, nil, nil},
		{`50.57`, 50, 50, nil},
		{`-50.57`, -50, -50, nil},
		{`51146.98`, 51146, 51146, nil},
		{`true`, nil, nil, nil},
		{`null`, nil, nil, nil},
		{`[]`, nil, nil, nil},
		{`99999999999999999999`, int(9223372036854775807), int(9223372036854775807), int(9223372036854775807)},
		{`-1e+30`, int(-9223372036854775808), int(-9223372036854775808), nil},
	} {
		for id, want := range map[string]any{"1": c.loose, "9": c.str, "10": c.int} {
			var got any
			if n, ok := parseLevel(version(t, id), []byte(c.raw)); ok {
				got = int(n)
			}
			if got != want {
				t.Errorf("v%s: %s is %v, want %v", id, c.raw, got, want)
			}
		}
	}
}

func TestAuthorisePowerLevelTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, content string
		v1, v10, v12  string // the rules that reject it, in versions 1-9 (number after the rule's own), 10-11, 12
	}{
		{"empty", `{}`, "", "", ""},
		{"users a list", `{"users":[]}`, ".1", ".3", ".3"},
		{"users null", `{"users":null}`, ".1", ".3", ".3"},
		{"bad user id", `{"users":{"bob":1}}`, ".1", ".3", ".3"},
		{"user without server", `{"users":{"@bob:":1}}`, ".1", ".3", ".3"},
		{"historical user id", `{"users":{"@B ö b:b":1}}`, "", "", ""},
		{"user level a string", `{"users":{"@bob:b":" 1"}}`, "", ".3", ".3"},
		{"user level no number", `{"users":{"@bob:b":"x"}}`, ".1", ".3", ".3"},
		{"user level null", `{"users":{"@bob:b":null}}`, ".1", ".3", ".3"},
		{"ban a string", `{"ban":"50"}`, "", ".1", ".1"},
		{"invite null", `{"invite":null}`, "", ".1", ".1"},
		{"users_default a list", `{"users_default":[]}`, "", ".1", ".1"},
		{"events a list", `{"events":[]}`, "", ".2", ".2"},
		{"event level a string", `{"events":{"x":"1"}}`, "", ".2", ".2"},
		{"notifications a string", `{"notifications":"x"}`, "", ".2", ".2"},
		{"notification level a string", `{"notifications":{"room":"1"}}`, "", ".2", ".2"},
		{"other keys", `{"org.x":"1"}`, "", "", ""},
		{"creator listed", `{"users":{"@alice:a":100}}`, "", "", ".4"},
		{"additional creator listed", `{"users":{"@more:m":1}}`, "", "", ".4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range Versions() {
				r := newTestRoom(t, v)
				if v.PrivilegedCreators {
					r.tip, r.id = nil, ""
					r.create = r.put("@alice:a", TypeCreate, "", map[string]any{"additional_creators": []any{"@more:m"}})
					r.id = r.create.RoomID()
					r.member("@alice:a", "@alice:a", "join")
				}
				e := r.build(r.draft("@alice:a", TypePowerLevels, ptr(""), json.RawMessage(c.content)))
				want, rule := c.v1, "9"
				switch n, _ := strconv.Atoi(v.ID); {
				case n == 12:
					want, rule = c.v12, "10"
				case n >= 10:
					want = c.v10
				case n <= 5:
					rule = "10"
				}
				if want != "" {
					want = rule + want
				}
				wantRule(t, r, e, want)
			}
		})
	}
}

func TestAuthorisePowerLevelChanges(t *testing.T) {
	t.Parallel()
	base := map[string]any{
		"ban": 50, "kick": 60, "events": map[string]any{"low": 10, "mid": 50, "high": 60},
		"notifications": map[string]any{"low": 10, "high": 60},
		"users":         map[string]any{"@mod:m": 50, "@peer:m": 50, "@low:l": 10, "@high:h": 60},
	}
	set := func(path string, key string, value any) func(m map[string]any) {
		return func(m map[string]any) {
			if path != "" {
				m = m[path].(map[string]any)
			}
			if value == nil {
				delete(m, key)
			} else {
				m[key] = value
			}
		}
	}
	// Parts as versions 1 to 9 number them; later ones are 2 or 3 higher. @mod:m has 50.
	for _, c := range []struct {
		name   string
		change func(m map[string]any)
		part   int
	}{
		{"nothing", func(map[string]any) {}, 0},
		{"lower ban", set("", "ban", 20), 0},
		{"raise ban too far", set("", "ban", 51), 3},
		{"remove ban", set("", "ban", nil), 0},
		{"lower kick", set("", "kick", 50), 3},
		{"remove kick", set("", "kick", nil), 3},
		{"add redact", set("", "redact", 50), 0},
		{"add redact too high", set("", "redact", 51), 3},
		{"add users_default too high", set("", "users_default", 51), 3},
		{"add events_default", set("", "events_default", 50), 0},
		{"add state_default too high", set("", "state_default", 99), 3},
		{"add invite too high", set("", "invite", 51), 3},
		{"raise an event", set("events", "low", 50), 0},
		{"raise an event too far", set("events", "low", 51), 5},
		{"add an event", set("events", "new", 50), 0},
		{"add an event too high", set("events", "new", 51), 5},
		{"lower a high event", set("events", "high", 10), 4},
		{"remove a high event", set("events", "high", nil), 4},
		{"remove an event", set("events", "mid", nil), 0},
		{"raise a notification too far", set("notifications", "low", 51), -5},
		{"remove a high notification", set("notifications", "high", nil), -4},
		{"add a notification too high", set("notifications", "new", 51), -5},
		{"lower a notification", set("notifications", "low", 1), 0},
		{"raise a user", set("users", "@low:l", 50), 0},
		{"raise a user too far", set("users", "@low:l", 51), 7},
		{"add a user", set("users", "@new:n", 50), 0},
		{"add a user too high", set("users", "@new:n", 51), 7},
		{"lower a peer", set("users", "@peer:m", 49), 6},
		{"remove a peer", set("users", "@peer:m", nil), 6},
		{"lower a high user", set("users", "@high:h", 1), 6},
		{"remove a low user", set("users", "@low:l", nil), 0},
		{"lower oneself", set("users", "@mod:m", 1), 0},
		{"remove oneself", set("users", "@mod:m", nil), 0},
		{"raise oneself", set("users", "@mod:m", 51), 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range Versions() {
				r := newTestRoom(t, v)
				content := maps.Clone(base)
				for _, k := range []string{"events", "notifications", "users"} {
					content[k] = maps.Clone(content[k].(map[string]any))
				}
				r.put("@alice:a", TypePowerLevels, "", content)
				r.member("@alice:a", "@mod:m", "join")
				c.change(content)
				part, rule := c.part, 10
				if part < 0 {
					part = -part
					if !v.NotificationLevels {
						part = 0
					}
				}
				switch n, _ := strconv.Atoi(v.ID); {
				case n == 12:
					part += 3
				case n >= 10:
					part, rule = part+2, 9
				case n >= 6:
					rule = 9
				}
				want := ""
				if c.part != 0 && !(c.part < 0 && !v.NotificationLevels) {
					want = strconv.Itoa(rule) + "." + strconv.Itoa(part)
				}
				wantRule(t, r, r.build(r.draft("@mod:m", TypePowerLevels, ptr(""), content)), want)
				// A creator of version 12 may do all of it.
				if v.PrivilegedCreators {
					wantRule(t, r, r.build(r.draft("@alice:a", TypePowerLevels, ptr(""), content)), "")
				}
			}
		})
	}
}
