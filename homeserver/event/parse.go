package event

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Parse reads an event as it came over the network. It canonicalises the JSON, checks the format of the room version
// (fields, sizes, number ranges), computes the event id, and verifies the content hash: an event whose hash does not
// match comes back redacted, with HashMismatch set. Signatures are VerifySignatures' business. unsigned is taken out of
// the event's JSON and kept aside.
//
// A U+0000 in an id, the type or the state key is refused, as PostgreSQL cannot hold it. Errors are *FormatError; raw is
// not kept.
func Parse(v *Version, raw []byte) (*Event, error) {
	canonical, err := v.Canonical(raw)
	if err != nil {
		return nil, &FormatError{Reason: err.Error(), Err: ErrBadJSON}
	}
	if len(canonical) > MaxBytes {
		return nil, tooLarge("", len(canonical), MaxBytes)
	}
	if &canonical[0] == &raw[0] {
		canonical = bytes.Clone(canonical)
	}
	e := &Event{version: v, raw: canonical}
	if err := e.scan(); err != nil {
		return nil, err
	}
	if err := e.validate(v.FieldBytes); err != nil {
		return nil, err
	}
	if e.unsigned != nil {
		if !isObject(e.unsigned) {
			return nil, &FormatError{Field: "unsigned", Reason: "not an object"}
		}
		e.unsigned = bytes.Clone(e.unsigned)
		// Every field with a span sorts before unsigned, so none of them moves.
		e.raw = appendCut(make([]byte, 0, len(e.raw)-len(e.unsigned)), e.raw, e.unsignedAt.member("unsigned"))
		e.unsignedAt = span{}
	}
	hash := lookup(e.bytes(e.hashes), "sha256")
	if !isString(hash) {
		return nil, &FormatError{Field: "hashes", Reason: "missing or without sha256"}
	}
	want, ok := decodeBase64(hash)
	scratch := make([]byte, 0, len(e.raw))
	if v.EventIDFormat != EventIDRandom {
		e.id = eventID(v, e.referenceHash(scratch))
	}
	e.deriveRoomID()
	if got := e.contentHash(scratch); !ok || !bytes.Equal(got[:], want) {
		e = e.Redacted()
		e.hashMismatch = true
	}
	return e, nil
}

// validate holds the values of the header to the room version's format. strict counts their sizes in bytes.
func (e *Event) validate(strict bool) error {
	for _, f := range [...]struct{ name, value string }{
		{"type", e.typ}, {"state_key", e.stateKey}, {"sender", e.sender}, {"room_id", e.roomID}, {"event_id", e.id},
	} {
		size := len(f.value)
		if size > MaxFieldBytes && !strict {
			size = utf8.RuneCountInString(f.value)
		}
		if size > MaxFieldBytes {
			return tooLarge(f.name, size, MaxFieldBytes)
		}
		if strings.IndexByte(f.value, 0) >= 0 {
			return &FormatError{Field: f.name, Reason: "contains U+0000"}
		}
	}
	if !validUserID(e.sender) {
		return &FormatError{Field: "sender", Reason: "not a user id"}
	}
	if e.hasRoomID && (len(e.roomID) < 2 || e.roomID[0] != '!') {
		return &FormatError{Field: "room_id", Reason: "not a room id"}
	}
	if e.version.EventIDFormat == EventIDRandom && (!validEventID(e.id) || ServerName(e.id) == "") {
		return &FormatError{Field: "event_id", Reason: "not an event id"}
	}
	if e.depth < 0 {
		return &FormatError{Field: "depth", Reason: "negative"}
	}
	refs := e.references()
	if err := e.validateRefs("prev_events", e.prev, refs.prev, MaxPrevEvents); err != nil {
		return err
	}
	if err := e.validateRefs("auth_events", e.auth, refs.auth, MaxAuthEvents); err != nil {
		return err
	}
	return e.validateSignatures()
}

// validateRefs checks prev_events or auth_events, given the ids that references found there.
func (e *Event) validateRefs(field string, s span, ids []string, limit int) error {
	raw := e.bytes(s)
	if !isArray(raw) {
		return &FormatError{Field: field, Reason: "missing or not an array"}
	}
	n := 0
	for it := iterArray(raw); it.next(); n++ {
		if e.version.EventFormat == FormatRefs && !isReference(it.val) {
			return &FormatError{Field: field, Reason: "not pairs of event id and hashes"}
		}
	}
	if n > limit {
		return &FormatError{Field: field, Reason: fmt.Sprintf("%d entries, %d allowed", n, limit)}
	}
	if n != len(ids) || slices.ContainsFunc(ids, func(id string) bool { return !validEventID(id) }) {
		return &FormatError{Field: field, Reason: "holds something else than an event id"}
	}
	return nil
}

// isReference reports whether a value is an array of two elements of which the second is an object.
func isReference(raw []byte) bool {
	n := 0
	it := iterArray(raw)
	for it.next() {
		n++
		if n == 2 && !isObject(it.val) {
			return false
		}
	}
	return n == 2
}

func (e *Event) validateSignatures() error {
	raw := e.bytes(e.signatures)
	if !isObject(raw) {
		return &FormatError{Field: "signatures", Reason: "missing or not an object"}
	}
	for servers := iterObject(raw); servers.next(); {
		if !isObject(servers.val) {
			return &FormatError{Field: "signatures", Reason: "holds something else than objects"}
		}
		for keys := iterObject(servers.val); keys.next(); {
			if !isString(keys.val) {
				return &FormatError{Field: "signatures", Reason: "holds a signature that is not a string"}
			}
		}
	}
	return nil
}

func tooLarge(field string, got, limit int) error {
	return &FormatError{Field: field, Reason: fmt.Sprintf("%d bytes, %d allowed", got, limit), Err: ErrTooLarge}
}
