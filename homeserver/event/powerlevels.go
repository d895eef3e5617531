package event

import "math"

// InfinitePower is the power level of a creator in room version 12.
const InfinitePower int64 = math.MaxInt64

type levels struct{}

// PowerLevels answers questions about m.room.power_levels, with the defaults of the specification where the event is
// silent or absent. It is immutable.
type PowerLevels struct {
	// Ban, Kick and Redact default to 50, Invite to 0.
	Ban, Kick, Redact, Invite int64
	// UsersDefault is 0, EventsDefault 0 and StateDefault 50 where the event does not say.
	UsersDefault, EventsDefault, StateDefault int64
}

// NewPowerLevels reads a room's m.room.power_levels, nil if the room has none: then the creator has 100 and all others 0.
// In room version 12 the creators have InfinitePower either way. The content is decoded once per event.
func NewPowerLevels(create, powerLevels *Event) *PowerLevels { panic("not yet") }

// UserLevel returns the power level of a user.
func (p *PowerLevels) UserLevel(userID string) int64 { panic("not yet") }

// EventLevel returns the level needed to send an event of a type.
func (p *PowerLevels) EventLevel(typ string, isState bool) int64 { panic("not yet") }

// Notification returns the level needed to trigger a notification such as "room"; 50 unless the event says otherwise.
func (p *PowerLevels) Notification(key string) int64 { panic("not yet") }

// Users returns the users that the event lists and their levels. Do not modify the map.
func (p *PowerLevels) Users() map[string]int64 { panic("not yet") }

// Creators returns the users who created the room: the sender of m.room.create (content.creator before room version 11)
// and, from room version 12, additional_creators.
func Creators(create *Event) []string { panic("not yet") }
