package event

import (
	"encoding/json"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// authCase is a random event and a random state to authorise it against. The state need not be one that a room could
// get into.
type authCase struct {
	event *Event
	state AuthMap
}

func (c authCase) String() string {
	s := fmt.Sprintf("%s\nagainst", c.event.JSON())
	for _, e := range c.state {
		s += fmt.Sprintf("\n  %s by %s: %s", e.Tuple(), e.Sender(), e.Content())
	}
	return s
}

var caseUsers = []string{"@alice:a", "@bob:b", "@carol:a", "@dave:d"}

func drawAuthCase(t *rapid.T, tb testing.TB, v *Version) authCase {
	user := func(label string) string { return rapid.SampledFrom(caseUsers).Draw(t, label) }
	member := func(label string) string {
		return rapid.SampledFrom([]string{"join", "join", "join", "invite", "leave", "ban", "knock"}).Draw(t, label)
	}
	create := map[string]any{"room_version": v.ID, "creator": "@alice:a"}
	if rapid.IntRange(0, 5).Draw(t, "federate") == 0 {
		create["m.federate"] = false
	}
	if rapid.Bool().Draw(t, "more creators") {
		create["additional_creators"] = []string{"@bob:b"}
	}
	r := &testRoom{t: tb, v: v, id: "!room:a", ts: 1000, state: AuthMap{}}
	if v.RoomIDFromCreate {
		r.id = ""
	}
	r.create = r.put("@alice:a", TypeCreate, "", create)
	r.id = r.create.RoomID()
	for _, u := range caseUsers {
		if rapid.IntRange(0, 3).Draw(t, "known") > 0 {
			r.put(u, TypeMember, u, map[string]any{"membership": member("membership of " + u)})
		}
	}
	if rapid.Bool().Draw(t, "rules") {
		rule := rapid.SampledFrom([]string{"public", "invite", "knock", "restricted", "knock_restricted", "private"}).Draw(t, "rule")
		r.put("@alice:a", TypeJoinRules, "", map[string]any{"join_rule": rule})
	}
	if rapid.IntRange(0, 3).Draw(t, "levels") > 0 {
		r.put("@alice:a", TypePowerLevels, "", drawLevels(t, v))
	}

	sender := user("sender")
	stateKey := rapid.SampledFrom([]*string{nil, ptr(""), ptr("x"), ptr("a"), ptr("b"), ptr(sender), ptr("@bob:b")}).Draw(t, "state key")
	typ := rapid.SampledFrom([]string{
		TypeMember, TypeMember, TypeMember, TypeMember, TypePowerLevels, TypePowerLevels, "m.room.topic", "org.low", TypeRedaction,
		TypeAliases, TypeThirdPartyInvite, TypeJoinRules,
	}).Draw(t, "type")
	var content any = map[string]any{}
	redacts := ""
	switch typ {
	case TypeMember:
		target := user("target")
		if rapid.Bool().Draw(t, "self") {
			target = sender
		}
		stateKey = &target
		m := map[string]any{"membership": member("membership")}
		if rapid.IntRange(0, 3).Draw(t, "vouched") == 0 {
			m["join_authorised_via_users_server"] = user("voucher")
		}
		content = m
	case TypePowerLevels:
		stateKey, content = ptr(""), drawLevels(t, v)
	case TypeRedaction:
		stateKey, redacts = nil, rapid.SampledFrom([]string{"$x:a", "$x:b"}).Draw(t, "redacts")
	}
	d := r.draft(sender, typ, stateKey, content)
	d.Redacts = redacts
	if rapid.IntRange(0, 4).Draw(t, "first") == 0 {
		d.PrevEvents = []string{r.create.ID()}
	}
	return authCase{r.build(d), r.state}
}

// drawLevels makes the content of m.room.power_levels, with strings for numbers now and then where the version reads
// them.
func drawLevels(t *rapid.T, v *Version) map[string]any {
	level := func(label string) any {
		n := rapid.SampledFrom([]int{0, 10, 49, 50, 51, 100}).Draw(t, label)
		if !v.IntegerPowerLevels && rapid.IntRange(0, 9).Draw(t, "as text") == 0 {
			return fmt.Sprintf(" %d", n)
		}
		return n
	}
	some := func(label string, keys []string) map[string]any {
		m := map[string]any{}
		for _, k := range keys {
			if rapid.Bool().Draw(t, "has "+label+" "+k) {
				m[k] = level(label + " " + k)
			}
		}
		return m
	}
	content := some("level", []string{"ban", "kick", "invite", "redact", "users_default", "events_default", "state_default"})
	users := caseUsers
	if v.PrivilegedCreators && rapid.IntRange(0, 3).Draw(t, "creators listed") > 0 {
		users = caseUsers[2:]
	}
	content["users"] = some("user", users)
	if rapid.Bool().Draw(t, "events") {
		content["events"] = some("event", []string{"m.room.topic", "org.low", TypePowerLevels, TypeRedaction, TypeAliases})
	}
	if rapid.Bool().Draw(t, "notifications") {
		content["notifications"] = some("notification", []string{"room", "other"})
	}
	return content
}

// jsonObject decodes an object for comparing.
func jsonObject(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("decode %s: %v", raw, err)
	}
	return m
}

// departure is a way in which another implementation departs from the specification. It names the side that errs, so
// that it does not excuse a mistake of ours the other way.
type departure struct {
	side departureSide
	why  string
}

type departureSide int

const (
	_ departureSide = iota // agrees
	theyAllow
	theyReject
	either
)

// excuses reports whether the departure explains a disagreement in which they allow the event, or reject it.
func (d departure) excuses(allow bool) bool {
	return d.side == either || allow && d.side == theyAllow || !allow && d.side == theyReject
}
