package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
)

// ReferenceHash returns the SHA-256 of the redacted event without signatures, which is the event id of room versions
// 3 and later (server-server API, "Calculating the reference hash for an event").
func (e *Event) ReferenceHash() [sha256.Size]byte {
	return sha256.Sum256(e.appendRedacted(make([]byte, 0, len(e.raw)), false))
}

// ContentHash returns the SHA-256 of the event without unsigned, signatures and hashes (server-server API, "Calculating
// the content hash for an event").
func (e *Event) ContentHash() [sha256.Size]byte {
	return sha256.Sum256(appendCut(make([]byte, 0, len(e.raw)), e.raw, e.hashes.member("hashes"),
		e.signatures.member("signatures"), e.unsignedAt.member("unsigned")))
}

// eventID returns the event id for a reference hash.
func eventID(v *Version, hash [sha256.Size]byte) string {
	enc := base64.RawURLEncoding
	if v.EventIDFormat == EventIDBase64 {
		enc = base64.RawStdEncoding
	}
	var id [1 + 43]byte
	id[0] = '$'
	enc.Encode(id[1:], hash[:])
	return string(id[:])
}

// decodeBase64 decodes a JSON string of base64, standard or URL-safe, padded or not (appendices, "Unpadded Base64",
// asks to be generous with padding).
func decodeBase64(raw []byte) ([]byte, bool) {
	if !isString(raw) {
		return nil, false
	}
	s := bytes.TrimRight(raw[1:len(raw)-1], "=")
	enc := base64.RawStdEncoding
	if bytes.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	out := make([]byte, enc.DecodedLen(len(s)))
	n, err := enc.Decode(out, s)
	return out[:n], err == nil
}

// member widens the span of a value to that of the member with its key.
func (s span) member(key string) span {
	if s.end != 0 {
		s.start -= int32(len(key) + len(`"":`))
	}
	return s
}

// appendCut appends an object without some of its members, given in order.
func appendCut(dst, object []byte, cuts ...span) []byte {
	pos := 0
	for _, c := range cuts {
		if c.end == 0 {
			continue
		}
		dst = append(dst, object[pos:c.start]...)
		pos = int(c.end)
		if dst[len(dst)-1] == ',' {
			dst = dst[:len(dst)-1]
		} else if object[pos] == ',' {
			pos++
		}
	}
	return append(dst, object[pos:]...)
}
