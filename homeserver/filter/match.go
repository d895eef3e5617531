package filter

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// AllowsRoom reports whether the lists of rooms let a room pass.
func (r *Room) AllowsRoom(roomID string) bool {
	return listed(r.rooms, r.notRooms, roomID)
}

// Rooms returns the rooms the filter names, nil where it names none and all pass but those AllowsRoom refuses.
func (r *Room) Rooms() []string { return r.rooms }

// AllowsRoom reports whether the lists of rooms let a room pass.
func (e *Events) AllowsRoom(roomID string) bool {
	return listed(e.rooms, e.notRooms, roomID)
}

// AllowsType reports whether the lists of types let an event type pass.
func (e *Events) AllowsType(eventType string) bool {
	if e.types != nil && !matchAny(e.types, eventType) {
		return false
	}
	return !matchAny(e.notTypes, eventType)
}

// AllowsSender reports whether the lists of senders let a sender pass.
func (e *Events) AllowsSender(userID string) bool {
	return listed(e.senders, e.notSender, userID)
}

// Match reports whether the filter lets an event pass. related_by_senders and related_by_rel_types are not looked at.
func (e *Events) Match(s Subject) bool {
	if !e.AllowsType(s.Type) || !e.AllowsSender(s.Sender) || s.RoomID != "" && !e.AllowsRoom(s.RoomID) {
		return false
	}
	return !e.NeedsContent() || e.matchContent(s.Content)
}

func (e *Events) matchContent(content []byte) bool {
	if e.containsURL != nil && (gjson.GetBytes(content, "url").Type == gjson.String) != *e.containsURL {
		return false
	}
	if e.relTypes != nil || e.notRelTypes != nil {
		rel := gjson.GetBytes(content, `m\.relates_to.rel_type`)
		if e.relTypes != nil && (rel.Type != gjson.String || !slices.Contains(e.relTypes, rel.Str)) {
			return false
		}
		if rel.Type == gjson.String && slices.Contains(e.notRelTypes, rel.Str) {
			return false
		}
	}
	return true
}

// NeedsContent reports whether Match looks at the content of events, so that they must be loaded to decide.
func (e *Events) NeedsContent() bool {
	return e.containsURL != nil || e.relTypes != nil || e.notRelTypes != nil
}

// MatchesAll reports whether every event passes, whatever it is.
func (e *Events) MatchesAll() bool {
	return e.types == nil && len(e.notTypes) == 0 && e.senders == nil && len(e.notSender) == 0 && e.rooms == nil &&
		len(e.notRooms) == 0 && !e.NeedsContent() && e.RelatedBySenders == nil && e.RelatedByRelTypes == nil
}

// MatchesNone reports whether a list that includes is empty, so that nothing can pass.
func (e *Events) MatchesNone() bool {
	none := func(n int, present bool) bool { return present && n == 0 }
	return none(len(e.types), e.types != nil) || none(len(e.senders), e.senders != nil) ||
		none(len(e.rooms), e.rooms != nil) || none(len(e.relTypes), e.relTypes != nil)
}

// Limit returns the filter's limit, def where it has none, and at most most. It may be 0.
func (e *Events) Limit(def, most int) int {
	if e.limit == nil {
		return min(def, most)
	}
	return min(*e.limit, most)
}

// Senders returns the lists of senders: those that pass (nil: all) and those that do not.
func (e *Events) Senders() (allowed, denied []string) { return e.senders, e.notSender }

// LikeTypes returns the lists of types as patterns for SQL's LIKE with backslash as the escape character: those that
// pass (nil: all) and those that do not.
func (e *Events) LikeTypes() (allowed, denied []string) {
	like := func(ps []pattern) []string {
		if ps == nil {
			return nil
		}
		out := make([]string, len(ps))
		for i, p := range ps {
			out[i] = p.like()
		}
		return out
	}
	return like(e.types), like(e.notTypes)
}

// listed evaluates a pair of sorted lists: the second wins, an absent first one includes all.
func listed(in, out []string, s string) bool {
	if in != nil {
		if _, ok := slices.BinarySearch(in, s); !ok {
			return false
		}
	}
	_, denied := slices.BinarySearch(out, s)
	return !denied
}

// pattern is an event type in which each * stands for any run of characters: the literal pieces between the stars.
type pattern []string

func compilePattern(s string) pattern { return strings.Split(s, "*") }

func matchAny(ps []pattern, s string) bool {
	for _, p := range ps {
		if p.match(s) {
			return true
		}
	}
	return false
}

// match works left to right, taking the first place where each piece fits: with stars only between pieces that never
// loses a match, and costs no more than the length of s times the number of pieces.
func (p pattern) match(s string) bool {
	if len(p) == 1 {
		return s == p[0]
	}
	first, last := p[0], p[len(p)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, piece := range p[1 : len(p)-1] {
		i := strings.Index(s, piece)
		if i < 0 {
			return false
		}
		s = s[i+len(piece):]
	}
	return true
}

func (p pattern) like() string {
	esc := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)
	out := make([]string, len(p))
	for i, piece := range p {
		out[i] = esc.Replace(piece)
	}
	return strings.Join(out, "%")
}
