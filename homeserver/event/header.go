package event

import (
	"encoding/json"
	"strconv"
	"unsafe"
)

// Load reads an event that this server stored: raw is what JSON returned when it was stored (bytes are kept, not
// copied), id its event id. Nothing is verified, hashed or copied; the error says that raw is not an event at all.
func Load(v *Version, id string, raw []byte) (*Event, error) {
	e := &Event{version: v, id: id, raw: raw}
	if err := e.scan(); err != nil {
		return nil, err
	}
	e.deriveRoomID()
	return e, nil
}

// scan finds the fields of the event in its canonical JSON and decodes the header. It checks types, not values.
func (e *Event) scan() error {
	var roomID, typ, sender, stateKey, depth, ts, id []byte
	it := iterObject(e.raw)
	for it.next() {
		s := span{int32(it.valStart), int32(it.i)}
		switch string(it.key) {
		case "auth_events":
			e.auth = s
		case "content":
			e.content = s
		case "depth":
			depth = it.val
		case "event_id":
			id = it.val
		case "hashes":
			e.hashes = s
		case "origin_server_ts":
			ts = it.val
		case "prev_events":
			e.prev = s
		case "redacts":
			e.redacts = s
		case "room_id":
			roomID = it.val
		case "sender":
			sender = it.val
		case "signatures":
			e.signatures = s
		case "state_key":
			stateKey = it.val
		case "type":
			typ = it.val
		case "unsigned":
			e.unsignedAt = s
		}
	}
	if it.bad || it.i != len(e.raw)-1 || e.raw[it.i] != '}' {
		return &FormatError{Reason: "not a JSON object", Err: ErrBadJSON}
	}
	for _, f := range [...]struct {
		name string
		raw  []byte
		must bool
	}{
		{"type", typ, true},
		{"sender", sender, true},
		{"room_id", roomID, !e.version.RoomIDFromCreate || string(typ) != `"`+TypeCreate+`"`},
		{"state_key", stateKey, false},
		{"event_id", id, e.version.EventFormat == FormatRefs},
	} {
		if !isString(f.raw) && (f.must || f.raw != nil) {
			return &FormatError{Field: f.name, Reason: "missing or not a string"}
		}
	}
	e.isState, e.hasRoomID = stateKey != nil, roomID != nil
	e.unsigned = e.bytes(e.unsignedAt)
	if !isObject(e.bytes(e.content)) {
		return &FormatError{Field: "content", Reason: "missing or not an object"}
	}
	var err error
	if e.depth, err = strconv.ParseInt(unsafeString(depth), 10, 64); err != nil {
		return &FormatError{Field: "depth", Reason: "missing or not an integer"}
	}
	if e.originServerTS, err = strconv.ParseInt(unsafeString(ts), 10, 64); err != nil {
		return &FormatError{Field: "origin_server_ts", Reason: "missing or not an integer"}
	}

	// One allocation for all strings of the header, which leaves the JSON free to go when only a string is kept.
	buf := make([]byte, 0, len(roomID)+len(typ)+len(sender)+len(stateKey))
	take := func(raw []byte) string {
		if len(raw) <= 2 {
			return ""
		}
		start := len(buf)
		buf = appendUnescaped(buf, raw[1:len(raw)-1])
		return unsafeString(buf[start:])
	}
	e.roomID, e.typ, e.sender, e.stateKey = take(roomID), take(typ), take(sender), take(stateKey)
	if e.version.EventFormat == FormatRefs && e.id == "" {
		e.id, _ = decodeString(id)
	}
	return nil
}

// deriveRoomID sets the room id of m.room.create where that comes from its event id.
func (e *Event) deriveRoomID() {
	if e.version.RoomIDFromCreate && e.typ == TypeCreate && e.id != "" {
		e.roomID = "!" + e.id[1:]
	}
}

// unsafeString looks at bytes as a string. The bytes must not change while it is in use.
func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// references decodes prev_events and auth_events once.
func (e *Event) references() *eventRefs {
	if r := e.refs.Load(); r != nil {
		return r
	}
	ids := make([]string, 0, 8)
	buf := make([]byte, 0, e.prev.end-e.prev.start+e.auth.end-e.auth.start)
	ids, buf = e.appendRefs(ids, buf, e.prev)
	n := len(ids)
	ids, _ = e.appendRefs(ids, buf, e.auth)
	r := &eventRefs{prev: ids[:n:n], auth: ids[n:]}
	e.refs.Store(r)
	return r
}

// appendRefs decodes event ids into buf, which must be large enough not to move.
func (e *Event) appendRefs(ids []string, buf []byte, s span) ([]string, []byte) {
	for it := iterArray(e.bytes(s)); it.next(); {
		ref := it.val
		if e.version.EventFormat == FormatRefs {
			pair := iterArray(ref)
			pair.next()
			ref = pair.val
		}
		if isString(ref) {
			start := len(buf)
			buf = appendUnescaped(buf, ref[1:len(ref)-1])
			ids = append(ids, unsafeString(buf[start:]))
		}
	}
	return ids, buf
}

// Redacts returns the id of the event that an m.room.redaction redacts, from where the room version puts it (the event
// or its content); empty for other events.
func (e *Event) Redacts() string {
	if e.typ != TypeRedaction {
		return ""
	}
	raw := e.bytes(e.redacts)
	if e.version.RedactsInContent {
		raw = lookup(e.Content(), "redacts")
	}
	id, _ := decodeString(raw)
	return id
}

// Membership returns content.membership of an m.room.member event, empty where it is missing or no string, and for
// other events.
func (e *Event) Membership() string {
	if e.typ != TypeMember {
		return ""
	}
	raw := lookup(e.Content(), "membership")
	// Constants for the usual values, so that asking does not allocate.
	switch string(raw) {
	case `"join"`:
		return MembershipJoin
	case `"leave"`:
		return MembershipLeave
	case `"invite"`:
		return MembershipInvite
	case `"ban"`:
		return MembershipBan
	case `"knock"`:
		return MembershipKnock
	}
	m, _ := decodeString(raw)
	return m
}

// WithUnsigned returns the same event with another unsigned object (JSON, not copied).
func (e *Event) WithUnsigned(unsigned json.RawMessage) *Event {
	c := e.copy(e.raw)
	c.content, c.prev, c.auth, c.hashes, c.signatures = e.content, e.prev, e.auth, e.hashes, e.signatures
	c.redacts, c.unsignedAt, c.unsigned = e.redacts, e.unsignedAt, unsigned
	return c
}

// copy returns an event with the same header and other JSON, whose fields are still to be found.
func (e *Event) copy(raw []byte) *Event {
	c := &Event{
		version: e.version, id: e.id, raw: raw,
		roomID: e.roomID, typ: e.typ, sender: e.sender, stateKey: e.stateKey,
		isState: e.isState, hasRoomID: e.hasRoomID, hashMismatch: e.hashMismatch, redacted: e.redacted,
		depth: e.depth, originServerTS: e.originServerTS,
	}
	// The references never differ: every room version protects them from redaction.
	c.refs.Store(e.refs.Load())
	return c
}
