package event

import (
	"encoding/json"
	"sync/atomic"
)

// Event types that the rules of rooms name.
const (
	TypeCreate            = "m.room.create"
	TypeMember            = "m.room.member"
	TypePowerLevels       = "m.room.power_levels"
	TypeJoinRules         = "m.room.join_rules"
	TypeThirdPartyInvite  = "m.room.third_party_invite"
	TypeRedaction         = "m.room.redaction"
	TypeAliases           = "m.room.aliases"
	TypeHistoryVisibility = "m.room.history_visibility"
)

// Memberships of m.room.member.
const (
	MembershipJoin   = "join"
	MembershipInvite = "invite"
	MembershipLeave  = "leave"
	MembershipBan    = "ban"
	MembershipKnock  = "knock"
)

// Limits of an event (client-server API, "Size limits"; PDU schemas).
const (
	// MaxBytes is the size of a whole event as canonical JSON, signatures included.
	MaxBytes = 65536
	// MaxFieldBytes is the size of sender, room_id, state_key, type and event_id.
	MaxFieldBytes = 255
	// MaxPrevEvents is the number of prev_events.
	MaxPrevEvents = 20
	// MaxAuthEvents is the number of auth_events.
	MaxAuthEvents = 10
	// MaxDepth is the greatest depth of room versions with strict canonical JSON, 2^53-1. Deeper events keep it.
	MaxDepth = 1<<53 - 1
)

// Tuple is the key of a piece of state: an event type and a state key.
type Tuple struct {
	Type, StateKey string
}

// StateMap is the state of a room: the id of the event for each tuple.
type StateMap map[Tuple]string

// span is a range of bytes in Event.raw. Offsets fit easily: events are at most MaxBytes long.
type span struct{ start, end int32 }

// Event is an immutable event of a known room version. Parse, Load and Build make them; the zero value is of no use.
// Methods may be called from any goroutine. Strings are copies that do not keep the JSON alive.
type Event struct {
	version *Version
	id      string
	raw     []byte // canonical JSON

	roomID, typ, sender, stateKey string
	isState, hasRoomID            bool
	hashMismatch, redacted        bool
	depth, originServerTS         int64

	// Values in raw; unsignedAt is zero unless the event was loaded with unsigned.
	content, prev, auth, hashes, signatures, redacts, unsignedAt span
	unsigned                                                     json.RawMessage

	refs  atomic.Pointer[eventRefs]
	power atomic.Pointer[levels]
}

// eventRefs are the ids in prev_events and auth_events, decoded on first use.
type eventRefs struct{ prev, auth []string }

// Version returns the room version whose rules the event follows.
func (e *Event) Version() *Version { return e.version }

// ID returns the event id.
func (e *Event) ID() string { return e.id }

// RoomID returns the room id. In room version 12 that of m.room.create comes from its event id.
func (e *Event) RoomID() string { return e.roomID }

// Type returns the event type.
func (e *Event) Type() string { return e.typ }

// Sender returns the user id of the sender.
func (e *Event) Sender() string { return e.sender }

// StateKey returns the state key, and whether there is one.
func (e *Event) StateKey() (string, bool) { return e.stateKey, e.isState }

// IsState reports whether the event has a state key.
func (e *Event) IsState() bool { return e.isState }

// Is reports whether the event is the piece of state with the given type and state key.
func (e *Event) Is(typ, stateKey string) bool {
	return e.isState && e.typ == typ && e.stateKey == stateKey
}

// Tuple returns the piece of state that the event sets. Only for state events is it meaningful.
func (e *Event) Tuple() Tuple { return Tuple{Type: e.typ, StateKey: e.stateKey} }

// Depth returns the depth, as the sender claims it.
func (e *Event) Depth() int64 { return e.depth }

// OriginServerTS returns the time of creation in milliseconds since the Unix epoch, as the sender claims it.
func (e *Event) OriginServerTS() int64 { return e.originServerTS }

// Content returns the content as canonical JSON. It shares memory with the event.
func (e *Event) Content() json.RawMessage { return e.bytes(e.content) }

// JSON returns the canonical JSON of the event as it goes over federation, hashes and signatures included. unsigned is
// not part of it, except in an event loaded with one. It shares memory with the event.
func (e *Event) JSON() []byte { return e.raw }

// Unsigned returns the unsigned object that the event arrived with or was built with, nil if there is none. A remote
// server may write anything there: it is for invites and knocks, not for clients.
func (e *Event) Unsigned() json.RawMessage { return e.unsigned }

// HashMismatch reports whether the content hash did not match when the event was parsed from the network, so that the
// event was redacted (server-server API, "Validating hashes and signatures on received events").
func (e *Event) HashMismatch() bool { return e.hashMismatch }

// IsRedacted reports whether the event was redacted by Parse or by Redacted. An event that arrived redacted, or was
// loaded so, does not know.
func (e *Event) IsRedacted() bool { return e.redacted }

// PrevEvents returns the ids of the events that the event follows. Do not modify the slice.
func (e *Event) PrevEvents() []string { return e.references().prev }

// AuthEvents returns the ids of the events that authorise the event. Do not modify the slice.
func (e *Event) AuthEvents() []string { return e.references().auth }

func (e *Event) bytes(s span) []byte {
	if s.end == 0 {
		return nil
	}
	return e.raw[s.start:s.end:s.end]
}
