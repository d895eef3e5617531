package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
)

// ReferenceHash returns the SHA-256 of the redacted event without signatures, which is the event id of room versions
// 3 and later (server-server API, "Calculating the reference hash for an event").
func (e *Event) ReferenceHash() [sha256.Size]byte {
	return e.referenceHash(make([]byte, 0, len(e.raw)))
}

func (e *Event) referenceHash(scratch []byte) [sha256.Size]byte {
	return sha256.Sum256(e.appendRedacted(scratch[:0], false))
}

// ContentHash returns the SHA-256 of the event without unsigned, signatures and hashes (server-server API, "Calculating
// the content hash for an event").
func (e *Event) ContentHash() [sha256.Size]byte { return e.contentHash(make([]byte, 0, len(e.raw))) }

func (e *Event) contentHash(scratch []byte) [sha256.Size]byte {
	return sha256.Sum256(appendCut(scratch[:0], e.raw, e.hashes.member("hashes"), e.signatures.member("signatures"),
		e.unsignedAt.member("unsigned")))
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
func decodeBase64(raw []byte) ([]byte, bool) { return appendBase64(nil, raw) }

// appendBase64 is decodeBase64 into dst.
func appendBase64(dst, raw []byte) ([]byte, bool) {
	if !isString(raw) {
		return nil, false
	}
	s := raw[1 : len(raw)-1]
	for len(s) > 0 && s[len(s)-1] == '=' {
		s = s[:len(s)-1]
	}
	enc := base64.RawStdEncoding
	if bytes.IndexByte(s, '-') >= 0 || bytes.IndexByte(s, '_') >= 0 {
		enc = base64.RawURLEncoding
	}
	dst, err := enc.AppendDecode(dst, s)
	return dst, err == nil
}

// member widens the span of a value to that of the member with its key.
func (s span) member(key string) span {
	if s.end != 0 {
		s.start -= int32(len(key) + len(`"":`))
	}
	return s
}

// appendCut appends an object without some of its members, given in order. (Only in damaged JSON are they not.)
func appendCut(dst, object []byte, cuts ...span) []byte {
	pos := 0
	for _, c := range cuts {
		if c.end == 0 || int(c.start) < pos {
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
