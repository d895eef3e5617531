package event

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// InfinitePower is the power level of a creator in room version 12.
const InfinitePower int64 = math.MaxInt64

// namedLevel numbers the levels that m.room.power_levels has one value of.
type namedLevel int

const (
	levelUsersDefault namedLevel = iota
	levelEventsDefault
	levelStateDefault
	levelBan
	levelRedact
	levelKick
	levelInvite
	namedLevels
)

var levelNames = [namedLevels]string{
	"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite",
}

// levels is the decoded content of an m.room.power_levels event: what it says, without defaults. Values that are no
// levels in the room version count as missing.
type levels struct {
	named                        [namedLevels]int64
	has                          [namedLevels]bool
	users, events, notifications map[string]int64
}

// levels decodes an m.room.power_levels event once.
func (e *Event) levels() *levels {
	if l := e.power.Load(); l != nil {
		return l
	}
	l := decodeLevels(e.version, e.Content())
	e.power.Store(l)
	return l
}

func decodeLevels(v *Version, content []byte) *levels {
	l := &levels{}
	for it := iterObject(content); it.next(); {
		switch string(it.key) {
		case "users":
			l.users = levelMap(v, it.val)
		case "events":
			l.events = levelMap(v, it.val)
		case "notifications":
			l.notifications = levelMap(v, it.val)
		default:
			for i, name := range levelNames {
				if string(it.key) == name {
					l.named[i], l.has[i] = parseLevel(v, it.val)
				}
			}
		}
	}
	return l
}

func levelMap(v *Version, raw []byte) map[string]int64 {
	m := make(map[string]int64)
	for it := iterObject(raw); it.next(); {
		if n, ok := parseLevel(v, it.val); ok {
			m[unescape(it.key)] = n
		}
	}
	return m
}

// parseLevel reads a power level. Room versions before 10 read strings of integers too, and those before 6, whose JSON
// may hold them, floats, cut off at the decimal point (room version 1, "Deprecated event content schemas").
func parseLevel(v *Version, raw []byte) (int64, bool) {
	if isString(raw) {
		if v.IntegerPowerLevels {
			return 0, false
		}
		s, _ := decodeString(raw)
		return parseInteger(strings.TrimSpace(s))
	}
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false
	}
	if n, ok := parseInteger(string(raw)); ok {
		return n, true
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || v.IntegerPowerLevels {
		return 0, false
	}
	switch f = math.Trunc(f); {
	case f >= math.MaxInt64:
		return math.MaxInt64, true
	case f <= math.MinInt64:
		return math.MinInt64, true
	}
	return int64(f), true
}

// parseInteger reads a decimal integer; ones beyond 64 bits become the nearest that is not.
func parseInteger(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

// PowerLevels answers questions about m.room.power_levels, with the defaults of the specification where the event is
// silent or absent. It is immutable.
type PowerLevels struct {
	// Ban, Kick and Redact default to 50, Invite to 0.
	Ban, Kick, Redact, Invite int64
	// UsersDefault is 0, EventsDefault 0 and StateDefault 50 where the event does not say.
	UsersDefault, EventsDefault, StateDefault int64

	content      *levels
	creators     []string
	creatorLevel int64
}

// NewPowerLevels reads a room's m.room.power_levels, nil if the room has none: then the creator has 100 and all others 0.
// In room version 12 the creators have InfinitePower either way. The content is decoded once per event.
func NewPowerLevels(create, powerLevels *Event) *PowerLevels {
	content := &levels{}
	if powerLevels != nil {
		content = powerLevels.levels()
	}
	named := func(n namedLevel, otherwise int64) int64 {
		if content.has[n] {
			return content.named[n]
		}
		return otherwise
	}
	p := &PowerLevels{
		Ban: named(levelBan, 50), Kick: named(levelKick, 50), Redact: named(levelRedact, 50), Invite: named(levelInvite, 0),
		UsersDefault: named(levelUsersDefault, 0), EventsDefault: named(levelEventsDefault, 0),
		StateDefault: named(levelStateDefault, 50),
		content:      content,
	}
	switch {
	case create == nil:
	case create.version.PrivilegedCreators:
		p.creators, p.creatorLevel = Creators(create), InfinitePower
	case powerLevels == nil:
		p.creators, p.creatorLevel = Creators(create), 100
	}
	return p
}

// UserLevel returns the power level of a user.
func (p *PowerLevels) UserLevel(userID string) int64 {
	for _, c := range p.creators {
		if c == userID {
			return p.creatorLevel
		}
	}
	if n, ok := p.content.users[userID]; ok {
		return n
	}
	return p.UsersDefault
}

// EventLevel returns the level needed to send an event of a type.
func (p *PowerLevels) EventLevel(typ string, isState bool) int64 {
	if n, ok := p.content.events[typ]; ok {
		return n
	}
	if isState {
		return p.StateDefault
	}
	return p.EventsDefault
}

// Notification returns the level needed to trigger a notification such as "room"; 50 unless the event says otherwise.
func (p *PowerLevels) Notification(key string) int64 {
	if n, ok := p.content.notifications[key]; ok {
		return n
	}
	return 50
}

// Users returns the users that the event lists and their levels. Do not modify the map.
func (p *PowerLevels) Users() map[string]int64 { return p.content.users }

// Creators returns the users who created the room: the sender of m.room.create (content.creator before room version 11)
// and, from room version 12, additional_creators.
func Creators(create *Event) []string {
	if !create.version.ImplicitCreator {
		creator, _ := lookupString(create.Content(), "creator")
		return []string{creator}
	}
	creators := []string{create.sender}
	if create.version.PrivilegedCreators {
		for it := iterArray(lookup(create.Content(), "additional_creators")); it.next(); {
			if c, ok := decodeString(it.val); ok {
				creators = append(creators, c)
			}
		}
	}
	return creators
}
