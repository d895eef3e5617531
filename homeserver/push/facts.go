package push

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
)

// Context is what conditions ask of the room at the time of an event.
type Context struct {
	// Members is the number of joined members.
	Members int64
	// Levels are the power levels.
	Levels *event.PowerLevels
}

// facts are an event as conditions see it. They remember what was looked up.
type facts struct {
	event *event.Event
	room  *Context
	json  gjson.Result
	props map[string]gjson.Result

	body      string // content.body in lower case
	hasBody   bool
	mentions  bool // it has content["m.mentions"]
	mentioned []string
}

func newFacts(e *event.Event, room *Context) *facts {
	v := &facts{event: e, room: room, json: gjson.ParseBytes(e.JSON())}
	content := gjson.ParseBytes(e.Content())
	content.ForEach(func(k, val gjson.Result) bool {
		switch k.Str {
		case "body":
			if val.Type == gjson.String {
				v.body, v.hasBody = strings.ToLower(val.Str), true
			}
		case "m.mentions":
			v.mentions = val.IsObject()
			if users := val.Get("user_ids"); users.IsArray() {
				users.ForEach(func(_, u gjson.Result) bool {
					if u.Type == gjson.String {
						v.mentioned = append(v.mentioned, u.Str)
					}
					return true
				})
			}
		}
		return true
	})
	return v
}

// property returns a property of the event. It does not exist where the event does not have it.
func (v *facts) property(t *test) gjson.Result {
	if r, ok := v.props[t.key]; ok {
		return r
	}
	r := v.lookUp(t.path)
	if v.props == nil {
		v.props = make(map[string]gjson.Result)
	}
	v.props[t.key] = r
	return r
}

func (v *facts) lookUp(path []string) gjson.Result {
	if len(path) == 1 {
		// Not part of every version's events.
		switch path[0] {
		case keyRoomID:
			return gjson.Result{Type: gjson.String, Str: v.event.RoomID()}
		case "event_id":
			return gjson.Result{Type: gjson.String, Str: v.event.ID()}
		}
	}
	at := v.json
	for _, name := range path {
		var next gjson.Result
		if at.IsObject() {
			at.ForEach(func(k, val gjson.Result) bool {
				if k.Str == name {
					next = val
					return false
				}
				return true
			})
		}
		if at = next; !at.Exists() {
			break
		}
	}
	return at
}

// person is a user for whom an event is evaluated.
type person struct {
	userID string
	// localpart and displayName are in lower case.
	localpart, displayName string
}

func newPerson(userID, displayName string) person {
	return person{userID: userID, localpart: strings.ToLower(localpart(userID)), displayName: strings.ToLower(displayName)}
}

// holds reports whether a test holds.
func (v *facts) holds(t *test, who *person) bool {
	if t.personal() && who == nil {
		return false
	}
	switch t.op {
	case opMatch:
		r := v.property(t)
		return r.Type == gjson.String && t.glob.matchAll(strings.ToLower(r.Str))
	case opWords:
		return v.hasBody && t.glob.matchWords(v.body)
	case opIs:
		l, ok := literalOf(v.property(t))
		return ok && l == t.value
	case opContains:
		r := v.property(t)
		found := false
		if r.IsArray() {
			r.ForEach(func(_, item gjson.Result) bool {
				l, ok := literalOf(item)
				found = ok && l == t.value
				return !found
			})
		}
		return found
	case opMembers:
		return compare(v.room.Members, t.cmp, t.n)
	case opMayNotify:
		return v.room.Levels.UserLevel(v.event.Sender()) >= v.room.Levels.Notification(t.key)
	case opNoMentions:
		return !v.mentions
	case opMentionsSelf:
		return slices.Contains(v.mentioned, who.userID)
	case opStateKeySelf:
		sk, ok := v.event.StateKey()
		return ok && sk == who.userID
	case opLocalpart:
		return v.hasBody && containsWords(v.body, who.localpart)
	case opDisplayName:
		return v.hasBody && containsWords(v.body, who.displayName)
	}
	return false
}

func compare(a int64, cmp string, b int64) bool {
	switch cmp {
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	case ">=":
		return a >= b
	}
	return a == b
}
