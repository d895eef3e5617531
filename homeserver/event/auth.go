package event

import "encoding/json"

// AuthState is the state that an event is authorised against.
type AuthState interface {
	// Event returns the event that sets a piece of state, nil if there is none.
	Event(t Tuple) *Event
}

// AuthMap is an AuthState in a map.
type AuthMap map[Tuple]*Event

// Event returns the event for a tuple, nil if there is none.
func (m AuthMap) Event(t Tuple) *Event { return m[t] }

// NewAuthMap makes an AuthMap of state events.
func NewAuthMap(events ...*Event) AuthMap { panic("not yet") }

// AuthTuples returns the pieces of state that authorise an event: what its auth_events are selected from
// (server-server API, "Auth events selection"). stateKey is nil for message events. The tuples are distinct; in room
// version 12 m.room.create is not among them, although Authorise asks for it.
func AuthTuples(v *Version, sender, typ string, stateKey *string, content json.RawMessage) []Tuple {
	panic("not yet")
}

// AuthTuples returns the pieces of state that authorise the event.
func (e *Event) AuthTuples() []Tuple { panic("not yet") }

// CheckAuthEvents applies the authorisation rules about the auth_events of an event (rule 2; rule 3 in room version
// 12): no duplicates, only tuples that selection allows, none that was rejected, all of the same room, and m.room.create
// among them (before version 12). authEvents are the events that e.AuthEvents names; rejected reports whether one of them
// was rejected, nil meaning none. The error is an *AuthError.
func CheckAuthEvents(e *Event, authEvents []*Event, rejected func(id string) bool) error {
	panic("not yet")
}

// Authorise applies the authorisation rules of the event's room version against a state. state must answer for AuthTuples
// and for m.room.create (in room version 12 too). The error is an *AuthError.
//
// Two rules lie elsewhere: those about auth_events are CheckAuthEvents, and the signature of a server that vouches for a
// restricted join is VerifySignatures.
func Authorise(e *Event, state AuthState) error { panic("not yet") }

// MayRedact reports whether a redaction is to be applied, in room versions 3 and later: the sender has the redact level,
// or is on the server of the sender of the event that is redacted (room version 3, "Handling redactions"). In versions 1
// and 2 Authorise has decided already, and it reports true.
func MayRedact(redaction, target *Event, levels *PowerLevels) bool { panic("not yet") }
