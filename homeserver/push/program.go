package push

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/storage"
)

// effect is what becomes of an event for a user.
type effect struct {
	notify, highlight bool
	// actions are the actions that mean something, a JSON array; "" where the event does not notify.
	actions string
}

// effectOf returns what the actions of a rule come to. Historical actions mean nothing.
func effectOf(actions []json.RawMessage) effect {
	var e effect
	parts := make([]string, 0, len(actions))
	for _, a := range actions {
		v := gjson.ParseBytes(a)
		switch {
		case v.Type == gjson.String && v.Str == "notify":
			e.notify = true
		case v.IsObject() && v.Get("set_tweak").Type == gjson.String:
			if v.Get("set_tweak").Str == "highlight" {
				value := v.Get("value")
				e.highlight = !value.Exists() || value.Bool()
			}
		default:
			continue
		}
		parts = append(parts, string(a))
	}
	if !e.notify {
		return effect{}
	}
	e.actions = "[" + strings.Join(parts, ",") + "]"
	return e
}

// step is one compiled rule: its effect where all tests hold.
type step struct {
	tests  []test
	effect effect
	// own is set for the user's own rules.
	own bool
}

// program is the enabled rules of a user in the order in which they are looked at.
type program []step

// compiler makes programs. The tests of the server's rules mean the same for everybody, so they are made once.
type compiler struct {
	rules map[Kind][]serverRule
}

// serverRule is one of the server's rules, compiled.
type serverRule struct {
	id      string
	enabled bool
	step    step
}

func newCompiler() *compiler {
	// Which user these are of makes no difference.
	const userID = "@:"
	c := &compiler{rules: make(map[Kind][]serverRule)}
	for _, k := range Kinds() {
		for _, r := range Defaults(userID).Of(k) {
			if tests, ok := r.tests(k, userID); ok {
				c.rules[k] = append(c.rules[k], serverRule{id: r.ID, enabled: r.Enabled, step: step{tests: tests, effect: effectOf(r.Actions)}})
			}
		}
	}
	return c
}

// program returns the program of a user who has changed what changed says, which may be nil.
func (c *compiler) program(changed *custom, userID string) program {
	if changed == nil {
		changed = &custom{}
	}
	var p program
	for _, k := range Kinds() {
		server := c.rules[k]
		if k == Override {
			// The master rule stands before all others.
			p = server[0].add(p, changed)
			server = server[1:]
		}
		for i := range changed.Rules[k] {
			r := &changed.Rules[k][i]
			if !r.Enabled {
				continue
			}
			if tests, ok := r.tests(k, userID); ok {
				p = append(p, step{tests: tests, effect: effectOf(r.Actions), own: true})
			}
		}
		for i := range server {
			p = server[i].add(p, changed)
		}
	}
	return p
}

// add appends the rule to a program, if it is enabled.
func (r *serverRule) add(p program, changed *custom) program {
	ch := changed.Defaults[r.id]
	if ch.Enabled != nil && !*ch.Enabled || ch.Enabled == nil && !r.enabled {
		return p
	}
	s := r.step
	if ch.Actions != nil {
		s.effect = effectOf(ch.Actions)
	}
	return append(p, s)
}

// tests returns the compiled conditions of a rule, and false for one that matches no event.
func (r *Rule) tests(k Kind, userID string) ([]test, bool) {
	var tests []test
	switch k {
	case Content:
		if r.Pattern == nil {
			return nil, false
		}
		t, ok := wordsTest(r, userID)
		if !ok {
			return nil, false
		}
		tests = append(tests, t)
	case Room:
		tests = append(tests, exactly(keyRoomID, r.ID))
	case Sender:
		tests = append(tests, exactly(keySender, r.ID))
	default:
		for _, c := range r.Conditions {
			t, ok := compile(c, userID)
			if !ok {
				return nil, false
			}
			tests = append(tests, t)
		}
	}
	switch r.ID {
	case ruleDisplayName, ruleUserName, ruleRoomNotif:
		tests = append(tests, test{op: opNoMentions, text: "no mentions"})
	}
	return tests, true
}

// wordsTest returns the test of a Content rule.
func wordsTest(r *Rule, userID string) (test, bool) {
	if r.ID == ruleUserName && *r.Pattern == localpart(userID) {
		return test{op: opLocalpart, text: "localpart"}, true
	}
	return matchTest(keyBody, *r.Pattern, userID)
}

// exactly is the test of rules whose id says what they are for.
func exactly(key, value string) test {
	return isTest(opIs, key, literal{kind: gjson.String, str: value})
}

// ofRoom returns whether a test holds in a room, if that is all it asks.
func (t *test) ofRoom(roomID string) (holds, ok bool) {
	switch {
	case t.key != keyRoomID:
		return false, false
	case t.op == opMatch:
		return t.glob.matchAll(strings.ToLower(roomID)), true
	case t.op == opIs:
		return t.value == literal{kind: gjson.String, str: roomID}, true
	}
	return false, false
}

// in returns what is left of a program in one room: rules for other rooms go, and so does what stands behind a rule that
// always holds. Rules at the end that come to nothing go too, so that all who are never notified have the same program.
func (p program) in(roomID string) program {
	out := make(program, 0, len(p))
	for _, s := range p {
		tests, possible := s.testsIn(roomID)
		if !possible {
			continue
		}
		s.tests = tests
		out = append(out, s)
		if len(tests) == 0 {
			break
		}
	}
	return out.trim()
}

// testsIn returns the tests that are left in a room, and false if the rule does not hold for any of its events.
func (s *step) testsIn(roomID string) (tests []test, possible bool) {
	if !slices.ContainsFunc(s.tests, func(t test) bool { return t.key == keyRoomID }) {
		return s.tests, true
	}
	for i := range s.tests {
		holds, ok := s.tests[i].ofRoom(roomID)
		switch {
		case !ok:
			tests = append(tests, s.tests[i])
		case !holds:
			return nil, false
		}
	}
	return tests, true
}

// trim cuts off rules at the end that come to nothing.
func (p program) trim() program {
	for len(p) > 0 && p[len(p)-1].effect == (effect{}) {
		p = p[:len(p)-1]
	}
	return p
}

// shared returns the part of a program that others are likely to have as well: without the user's own rules, but for those
// that always hold. For events that match none of the rules left out, nor any test that asks for the user, both programs
// come to the same.
func (p program) shared() program {
	if !slices.ContainsFunc(p, func(s step) bool { return s.own && len(s.tests) > 0 }) {
		return p
	}
	return slices.DeleteFunc(slices.Clone(p), func(s step) bool { return s.own && len(s.tests) > 0 }).trim()
}

// text tells programs apart that differ in anything.
func (p program) text() string {
	var b strings.Builder
	for _, s := range p {
		for _, t := range s.tests {
			b.WriteString(t.text)
			b.WriteByte('\n')
		}
		b.WriteString(strconv.FormatBool(s.effect.highlight) + s.effect.actions)
		b.WriteByte('\n')
	}
	return b.String()
}

// subjectNone is of the program that never notifies; nothing is counted for it.
const subjectNone storage.PushSubject = 0

// subjectOf returns the number of the group whose shared program has a text: it is made from the text, and so the same in
// all processes. The group of those who have changed nothing has a number of its own, storage.PushDefault, which lasts
// when the defaults change.
func subjectOf(text string) storage.PushSubject {
	if text == "" {
		return subjectNone
	}
	h := sha256.Sum256([]byte(text))
	// Below those with a meaning of their own.
	return -1000 - storage.PushSubject(binary.BigEndian.Uint64(h[:])>>2)
}

// run returns the effect of an event for who, or for somebody the event says nothing of where who is nil.
func (p program) run(v *facts, who *person) effect {
next:
	for i := range p {
		s := &p[i]
		for j := range s.tests {
			if !v.holds(&s.tests[j], who) {
				continue next
			}
		}
		return s.effect
	}
	return effect{}
}
