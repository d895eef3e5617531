package event

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Draft holds what the sender of an event decides. Build adds hashes, signature and event id.
type Draft struct {
	// RoomID is required, except for m.room.create in room version 12, where it must be empty.
	RoomID string
	// Sender is the user id of the sender. Required.
	Sender string
	// Type is the event type. Required.
	Type string
	// StateKey makes the event a state event.
	StateKey *string
	// Content is a JSON object, canonical or not. Required.
	Content json.RawMessage
	// Redacts is the event that an m.room.redaction redacts. Build puts it where the room version wants it.
	Redacts string
	// PrevEvents and AuthEvents are event ids.
	PrevEvents, AuthEvents []string
	// RefHashes holds the unpadded base64 reference hashes of PrevEvents and AuthEvents in room versions 1 and 2. Where
	// one is missing, the event says {}.
	RefHashes map[string]string
	// EventID is the event id in room versions 1 and 2. Defaults to a random one on the signer's server. Ignored in
	// later versions.
	EventID string
	// Depth is one more than the greatest depth of PrevEvents. Greater values than the room version allows become the
	// greatest that it does.
	Depth int64
	// OriginServerTS is the time of creation in milliseconds since the Unix epoch.
	OriginServerTS int64
	// Unsigned is a JSON object kept with the event, neither hashed, signed nor sent. Optional.
	Unsigned json.RawMessage
}

// Signer is a server's signing key.
type Signer struct {
	// ServerName is the name of the server.
	ServerName string
	// KeyID is the signing key identifier, "ed25519:abc".
	KeyID string
	// Key is the private key.
	Key ed25519.PrivateKey
}

const (
	hashChars      = 43 // unpadded base64 of a SHA-256
	signatureChars = 86 // unpadded base64 of an ed25519 signature
)

// Build makes, hashes and signs a new event. It holds the event to the same limits as Parse (*FormatError), so that no
// other server need refuse it. Whether the sender may send it is Authorise's business.
//
// The JSON is written once, with gaps for hash and signature that are filled in place.
func Build(v *Version, d Draft, s Signer) (*Event, error) {
	content, err := v.Canonical(d.Content)
	if err != nil {
		return nil, &FormatError{Field: "content", Reason: err.Error(), Err: ErrBadJSON}
	}
	if !isObject(content) {
		return nil, &FormatError{Field: "content", Reason: "not an object"}
	}
	for _, f := range [...]struct{ name, value string }{
		{"type", d.Type}, {"sender", d.Sender}, {"room_id", d.RoomID}, {"redacts", d.Redacts}, {"signer", s.ServerName + s.KeyID},
	} {
		if !utf8.ValidString(f.value) {
			return nil, &FormatError{Field: f.name, Reason: "not UTF-8", Err: ErrBadJSON}
		}
	}
	e := &Event{
		version: v, roomID: d.RoomID, hasRoomID: d.RoomID != "", typ: d.Type, sender: d.Sender,
		depth: d.Depth, originServerTS: d.OriginServerTS, unsigned: d.Unsigned,
	}
	if d.StateKey != nil {
		e.stateKey, e.isState = *d.StateKey, true
		if !utf8.ValidString(e.stateKey) {
			return nil, &FormatError{Field: "state_key", Reason: "not UTF-8", Err: ErrBadJSON}
		}
	}
	if e.hasRoomID == (v.RoomIDFromCreate && d.Type == TypeCreate) {
		return nil, &FormatError{Field: "room_id", Reason: "missing, or present where the room version has none"}
	}
	if v.StrictCanonicalJSON {
		e.depth = min(e.depth, MaxDepth)
	}
	if v.EventFormat == FormatRefs {
		if e.id = d.EventID; e.id == "" {
			e.id = "$" + rand.Text() + ":" + s.ServerName
		}
	}
	if d.Redacts != "" && v.RedactsInContent {
		content = appendWith(nil, content, "redacts", appendQuoted(nil, d.Redacts))
	}
	hash, signature := e.write(content, &d, s)
	if err := e.validate(true); err != nil {
		return nil, err
	}
	if len(e.raw) > MaxBytes {
		return nil, tooLarge("", len(e.raw), MaxBytes)
	}

	scratch := make([]byte, 0, len(e.raw))
	sum := e.contentHash(scratch)
	base64.RawStdEncoding.Encode(hash, sum[:])
	scratch = e.appendRedacted(scratch, false)
	base64.RawStdEncoding.Encode(signature, ed25519.Sign(s.Key, scratch))
	if v.EventIDFormat != EventIDRandom {
		e.id = eventID(v, sha256.Sum256(scratch))
	}
	e.deriveRoomID()
	return e, nil
}

// write writes the event's JSON and notes where its fields are. It returns the gaps for the content hash and the
// signature.
func (e *Event) write(content []byte, d *Draft, s Signer) (hash, signature []byte) {
	size := 320 + len(content) + len(e.id) + len(e.roomID) + len(e.typ) + len(e.sender) + len(e.stateKey) +
		len(s.ServerName) + len(s.KeyID) + 56*(len(d.PrevEvents)+len(d.AuthEvents))
	b := make([]byte, 0, size)
	mark := func(s *span) { s.start = int32(len(b)) }
	end := func(s *span) { s.end = int32(len(b)) }

	b = append(b, `{"auth_events":`...)
	mark(&e.auth)
	b = e.writeRefs(b, d.AuthEvents, d.RefHashes)
	end(&e.auth)
	b = append(b, `,"content":`...)
	mark(&e.content)
	b = append(b, content...)
	end(&e.content)
	b = append(b, `,"depth":`...)
	b = strconv.AppendInt(b, e.depth, 10)
	if e.version.EventFormat == FormatRefs {
		b = append(b, `,"event_id":`...)
		b = appendQuoted(b, e.id)
	}
	b = append(b, `,"hashes":`...)
	mark(&e.hashes)
	b = append(b, `{"sha256":"`...)
	hashAt := len(b)
	b = append(b, blank[:hashChars]...)
	b = append(b, `"}`...)
	end(&e.hashes)
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, e.originServerTS, 10)
	b = append(b, `,"prev_events":`...)
	mark(&e.prev)
	b = e.writeRefs(b, d.PrevEvents, d.RefHashes)
	end(&e.prev)
	if d.Redacts != "" && !e.version.RedactsInContent {
		b = append(b, `,"redacts":`...)
		mark(&e.redacts)
		b = appendQuoted(b, d.Redacts)
		end(&e.redacts)
	}
	if e.hasRoomID {
		b = append(b, `,"room_id":`...)
		b = appendQuoted(b, e.roomID)
	}
	b = append(b, `,"sender":`...)
	b = appendQuoted(b, e.sender)
	b = append(b, `,"signatures":`...)
	mark(&e.signatures)
	b = append(b, '{')
	b = append(appendQuoted(b, s.ServerName), ':', '{')
	b = append(appendQuoted(b, s.KeyID), ':', '"')
	signatureAt := len(b)
	b = append(b, blank[:signatureChars]...)
	b = append(b, '"', '}', '}')
	end(&e.signatures)
	if e.isState {
		b = append(b, `,"state_key":`...)
		b = appendQuoted(b, e.stateKey)
	}
	b = append(b, `,"type":`...)
	b = appendQuoted(b, e.typ)
	e.raw = append(b, '}')
	return e.raw[hashAt : hashAt+hashChars], e.raw[signatureAt : signatureAt+signatureChars]
}

// blank fills the gaps until hash and signature are known.
const blank = "                                                                                        "

func (e *Event) writeRefs(b []byte, ids []string, hashes map[string]string) []byte {
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		if e.version.EventFormat == FormatIDs {
			b = appendQuoted(b, id)
			continue
		}
		b = append(b, '[')
		b = append(appendQuoted(b, id), ',', '{')
		if h := hashes[id]; h != "" {
			b = appendQuoted(append(b, `"sha256":`...), h)
		}
		b = append(b, '}', ']')
	}
	return append(b, ']')
}

// HashAndSign adds the content hash and a signature to an event given as JSON, such as the template of a make_join
// response that was filled in (server-server API, "Adding hashes and signatures to outgoing events"). It returns
// canonical JSON for Parse; it checks nothing but that.
func HashAndSign(v *Version, raw []byte, s Signer) ([]byte, error) {
	canonical, err := v.Canonical(raw)
	if err != nil {
		return nil, &FormatError{Reason: err.Error(), Err: ErrBadJSON}
	}
	if !isObject(canonical) {
		return nil, &FormatError{Reason: "not a JSON object", Err: ErrBadJSON}
	}
	signatures := lookup(canonical, "signatures")
	sum := sha256.Sum256(without(canonical, "hashes", "signatures", "unsigned"))
	hash := append(base64.RawStdEncoding.AppendEncode([]byte(`{"sha256":"`), sum[:]), `"}`...)
	e := &Event{version: v, raw: appendWith(nil, canonical, "hashes", hash)}
	e.typ, _ = lookupString(canonical, "type")
	sig := ed25519.Sign(s.Key, e.appendRedacted(nil, false))
	return appendWith(nil, e.raw, "signatures", withSignature(signatures, s, sig)), nil
}

// Sign returns the event with one more signature, as for the server that accepts an invite or vouches for a restricted
// join. An older signature of the same key is replaced.
func (e *Event) Sign(s Signer) (*Event, error) {
	sig := ed25519.Sign(s.Key, e.appendRedacted(make([]byte, 0, len(e.raw)), false))
	signatures := withSignature(e.bytes(e.signatures), s, sig)
	raw := make([]byte, 0, len(e.raw)+len(signatures))
	raw = append(raw, e.raw[:e.signatures.start]...)
	raw = append(raw, signatures...)
	raw = append(raw, e.raw[e.signatures.end:]...)
	if len(raw) > MaxBytes {
		return nil, tooLarge("", len(raw), MaxBytes)
	}
	c := e.copy(raw)
	if err := c.scan(); err != nil {
		return nil, fmt.Errorf("sign event %s: %w", e.id, err)
	}
	c.unsigned = e.unsigned
	c.deriveRoomID()
	return c, nil
}

// withSignature returns a signatures object with one more signature.
func withSignature(signatures []byte, s Signer, sig []byte) []byte {
	if !isObject(signatures) {
		signatures = []byte(`{}`)
	}
	server := lookupAny(signatures, s.ServerName)
	if !isObject(server) {
		server = []byte(`{}`)
	}
	value := make([]byte, 0, signatureChars+2)
	value = append(base64.RawStdEncoding.AppendEncode(append(value, '"'), sig), '"')
	return appendWith(nil, signatures, s.ServerName, appendWith(nil, server, s.KeyID, value))
}

// lookupAny is lookup for keys that may need escaping.
func lookupAny(object []byte, key string) []byte {
	if strings.IndexFunc(key, func(r rune) bool { return r < 0x20 || r == '"' || r == '\\' }) < 0 {
		return lookup(object, key)
	}
	quoted := appendQuoted(nil, key)
	return lookup(object, string(quoted[1:len(quoted)-1]))
}

// appendWith appends a canonical object with a member set, in its place.
func appendWith(dst, object []byte, key string, value []byte) []byte {
	dst = append(dst, '{')
	start := len(dst)
	done := false
	put := func() {
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(append(appendQuoted(dst, key), ':'), value...)
		done = true
	}
	for it := iterObject(object); it.next(); {
		name := unescape(it.key)
		if !done && name >= key {
			put()
		}
		if name == key {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, object[it.memStart:it.i]...)
	}
	if !done {
		put()
	}
	return append(dst, '}')
}
