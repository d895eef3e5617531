package push

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// The kinds of conditions.
//
// Spec: client-server API, "Conditions" (v1.19).
const (
	condEventMatch       = "event_match"
	condPropertyIs       = "event_property_is"
	condPropertyContains = "event_property_contains"
	condDisplayName      = "contains_display_name"
	condMemberCount      = "room_member_count"
	condSenderMayNotify  = "sender_notification_permission"
)

// Properties with a meaning of their own.
const (
	keyBody     = "content.body"
	keyMentions = `content.m\.mentions.user_ids`
	keyStateKey = "state_key"
	keyRoomID   = "room_id"
	keySender   = "sender"
)

// condition is one condition of a rule in its JSON form.
type condition struct {
	Kind    string  `json:"kind"`
	Key     string  `json:"key,omitempty"`
	Pattern *string `json:"pattern,omitzero"`
	Is      string  `json:"is,omitempty"`
	Value   any     `json:"value,omitzero"`
}

// op is what a compiled condition does.
type op uint8

const (
	opMatch op = iota + 1
	opWords
	opIs
	opContains
	opMembers
	opMayNotify
	// opNoMentions holds for events that do not say whom they mention. The rules that look for mentions in texts have it.
	opNoMentions
	// The rest asks for the user whose rules are evaluated, so that users with different ids share one rule.
	opMentionsSelf
	opStateKeySelf
	opLocalpart
	opDisplayName
)

// test is a compiled condition.
type test struct {
	op    op
	key   string
	path  []string
	glob  *glob
	value literal
	cmp   string
	n     int64
	// text tells the test from others.
	text string
}

// personal reports whether the outcome depends on the user, beyond what the event says of everybody.
func (t *test) personal() bool { return t.op >= opMentionsSelf }

// literal is a JSON value other than an object or an array.
type literal struct {
	kind gjson.Type
	str  string
	n    int64
}

const maxInt = 1<<53 - 1

// literalOf returns a value as a literal, and whether it is one that canonical JSON allows.
func literalOf(v gjson.Result) (literal, bool) {
	switch v.Type {
	case gjson.Null:
		return literal{kind: gjson.Null}, v.Raw == "null"
	case gjson.True, gjson.False:
		return literal{kind: v.Type}, true
	case gjson.String:
		return literal{kind: gjson.String, str: v.Str}, true
	case gjson.Number:
		return literal{kind: gjson.Number, n: int64(v.Num)}, v.Num == math.Trunc(v.Num) && math.Abs(v.Num) <= maxInt
	}
	return literal{}, false
}

// compile returns the test of a condition of the given user's rule, and false for one that matches no event.
func compile(raw json.RawMessage, userID string) (test, bool) {
	c := gjson.ParseBytes(raw)
	key := c.Get("key").Str
	switch kind := c.Get("kind").Str; kind {
	case condEventMatch:
		pattern := c.Get("pattern")
		if key == "" || pattern.Type != gjson.String {
			return test{}, false
		}
		return matchTest(key, pattern.Str, userID)
	case condPropertyIs, condPropertyContains:
		value, ok := literalOf(c.Get("value"))
		switch {
		case key == "" || !ok:
			return test{}, false
		case kind == condPropertyIs:
			return isTest(opIs, key, value), true
		case key == keyMentions && value == literal{kind: gjson.String, str: userID}:
			return test{op: opMentionsSelf, text: "mentions self"}, true
		}
		return isTest(opContains, key, value), true
	case condDisplayName:
		return test{op: opDisplayName, text: "display name"}, true
	case condMemberCount:
		return membersTest(c.Get("is").Str)
	case condSenderMayNotify:
		return test{op: opMayNotify, key: key, text: "may notify " + strconv.Quote(key)}, key != ""
	}
	return test{}, false
}

// matchTest is the test of event_match.
func matchTest(key, pattern, userID string) (test, bool) {
	if key == keyStateKey && pattern == userID {
		return test{op: opStateKeySelf, text: "state key is self"}, true
	}
	t := test{op: opMatch, key: key, path: pathOf(key), glob: newGlob(pattern)}
	if key == keyBody {
		t.op = opWords
	}
	t.text = "match " + strconv.Quote(key) + strconv.Quote(strings.ToLower(pattern))
	return t, t.glob != nil
}

// isTest is the test of event_property_is and event_property_contains.
func isTest(o op, key string, value literal) test {
	text := "is "
	if o == opContains {
		text = "contains "
	}
	text += strconv.Quote(key) + value.kind.String() + strconv.Quote(value.str) + strconv.FormatInt(value.n, 10)
	return test{op: o, key: key, path: pathOf(key), value: value, text: text}
}

// membersTest is the test of room_member_count.
func membersTest(is string) (test, bool) {
	digits := strings.TrimLeft(is, "=<>")
	t := test{op: opMembers, cmp: is[:len(is)-len(digits)]}
	switch t.cmp {
	case "":
		t.cmp = "=="
	case "==", "<", ">", "<=", ">=":
	default:
		return t, false
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	t.n, t.text = int64(n), "members "+t.cmp+strconv.FormatUint(n, 10)
	return t, err == nil
}

// pathOf takes a dot-separated path of a property apart.
//
// Spec: appendices, "Dot-separated property paths" (v1.19).
func pathOf(key string) []string {
	var path []string
	var part bytes.Buffer
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			part.WriteByte(key[i])
		case c == '.':
			path = append(path, part.String())
			part.Reset()
		default:
			part.WriteByte(c)
		}
	}
	return append(path, part.String())
}
