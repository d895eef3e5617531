// Package id parses and validates Matrix identifiers: user ids, room ids, room aliases, event ids, server names and
// device ids. Identifiers travel as plain strings; this package is called where they enter.
//
// All functions are pure and safe for concurrent use.
//
// Spec: appendices, "Identifier Grammar" (v1.19).
package id

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxLength is the limit in bytes of a user id, room id, alias and event id, sigil and server name included.
const MaxLength = 255

// MaxDeviceIDLength is the limit in bytes this server puts on device ids; the specification names none.
const MaxDeviceIDLength = 512

// ErrInvalid is what every error of this package wraps.
var ErrInvalid = errors.New("invalid identifier")

// User is a parsed user id.
type User struct {
	// Localpart is what stands between the sigil and the first colon. Historical ids may have an empty one.
	Localpart string
	// Server is the server name behind the first colon.
	Server string
}

// String returns the user id.
func (u User) String() string { return "@" + u.Localpart + ":" + u.Server }

// ParseUser parses a user id in the widest form servers must accept: any localpart of Unicode code points without ":"
// and NUL ("historical user ids"), also an empty one. Ids for new accounts are checked with ValidLocalpart.
func ParseUser(s string) (User, error) {
	local, server, err := split("user id", '@', s)
	return User{local, server}, err
}

// IsUser reports whether s parses as a user id.
func IsUser(s string) bool { _, err := ParseUser(s); return err == nil }

// Compliant reports whether the localpart is one clients may be told about outside of events: not empty and within
// U+0021 to U+007E.
func (u User) Compliant() bool {
	if u.Localpart == "" {
		return false
	}
	for i := range len(u.Localpart) {
		if c := u.Localpart[i]; c < 0x21 || c > 0x7E {
			return false
		}
	}
	return true
}

// ValidLocalpart reports whether s may be the localpart of a new user id: not empty, only a-z 0-9 . _ = - / +.
func ValidLocalpart(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '.', c == '_', c == '=', c == '-', c == '/', c == '+':
		default:
			return false
		}
	}
	return s != ""
}

// MakeUser returns the user id of a localpart on a server, and an error where it is not one a new account may have.
func MakeUser(localpart, server string) (string, error) {
	if !ValidLocalpart(localpart) {
		return "", invalid("user id", "localpart has characters other than a-z, 0-9, ., _, =, -, / and +, or is empty")
	}
	s := "@" + localpart + ":" + server
	if len(s) > MaxLength {
		return "", tooLong("user id")
	}
	return s, nil
}

// Room is a parsed room id.
type Room struct {
	// Opaque is what stands between the sigil and the first colon, or all of it.
	Opaque string
	// Server is the server name of ids of room versions 1 to 11, "" for the ids of version 12 and later.
	Server string
}

// ParseRoom parses a room id with a server name ("!opaque:server", room versions 1 to 11) or without one
// ("!" and 43 characters of unpadded URL-safe base64, version 12 and later).
func ParseRoom(s string) (Room, error) {
	if len(s) > MaxLength {
		return Room{}, tooLong("room id")
	}
	if strings.IndexByte(s, ':') < 0 {
		if len(s) == 0 || s[0] != '!' {
			return Room{}, invalid("room id", "does not start with '!'")
		}
		if !isHash(s[1:]) {
			return Room{}, invalid("room id", "has neither a server name nor the form of a hash")
		}
		return Room{Opaque: s[1:]}, nil
	}
	local, server, err := split("room id", '!', s)
	return Room{local, server}, err
}

// IsRoom reports whether s parses as a room id.
func IsRoom(s string) bool { _, err := ParseRoom(s); return err == nil }

// Alias is a parsed room alias.
type Alias struct {
	// Localpart is what stands between the sigil and the first colon.
	Localpart string
	// Server is the server name behind the first colon.
	Server string
}

// String returns the alias.
func (a Alias) String() string { return "#" + a.Localpart + ":" + a.Server }

// ParseAlias parses a room alias: any localpart of Unicode code points without ":" and NUL.
func ParseAlias(s string) (Alias, error) {
	local, server, err := split("room alias", '#', s)
	return Alias{local, server}, err
}

// IsAlias reports whether s parses as a room alias.
func IsAlias(s string) bool { _, err := ParseAlias(s); return err == nil }

// ValidateEvent checks an event id of any room version: "$opaque:server" (versions 1 and 2) or "$" and a hash in
// base64 (version 3) or URL-safe base64 (version 4 and later). Which of them a room wants is the room version's matter.
func ValidateEvent(s string) error {
	switch {
	case len(s) > MaxLength:
		return tooLong("event id")
	case len(s) < 2 || s[0] != '$':
		return invalid("event id", "does not start with '$' and a character")
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return invalid("event id", "has bytes that are not UTF-8, or NUL")
	}
	if strings.IndexByte(s, ':') >= 0 {
		_, _, err := split("event id", '$', s)
		return err
	}
	return nil
}

// IsEvent reports whether s is an event id.
func IsEvent(s string) bool { return ValidateEvent(s) == nil }

// ValidateDevice checks a device id: not empty, UTF-8 without control characters, at most MaxDeviceIDLength bytes.
func ValidateDevice(s string) error {
	switch {
	case s == "":
		return invalid("device id", "is empty")
	case len(s) > MaxDeviceIDLength:
		return invalid("device id", fmt.Sprintf("is longer than %d bytes", MaxDeviceIDLength))
	case !utf8.ValidString(s):
		return invalid("device id", "is not UTF-8")
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7F {
			return invalid("device id", "has control characters")
		}
	}
	return nil
}

// ServerOf returns what follows the first colon of an identifier, or "" where there is none. It checks nothing.
func ServerOf(s string) string {
	_, server, _ := strings.Cut(s, ":")
	return server
}

// split parses "<sigil>localpart:server".
func split(what string, sigil byte, s string) (local, server string, err error) {
	switch {
	case len(s) == 0 || s[0] != sigil:
		return "", "", invalid(what, fmt.Sprintf("does not start with %q", sigil))
	case len(s) > MaxLength:
		return "", "", tooLong(what)
	}
	local, server, ok := strings.Cut(s[1:], ":")
	switch {
	case !ok:
		return "", "", invalid(what, "has no ':' and server name")
	case !utf8.ValidString(local):
		return "", "", invalid(what, "is not UTF-8")
	case strings.IndexByte(local, 0) >= 0:
		return "", "", invalid(what, "has a NUL character")
	case local == "" && sigil != '@':
		return "", "", invalid(what, "has an empty localpart")
	}
	if err := ValidateServerName(server); err != nil {
		return "", "", fmt.Errorf("%w in %s", err, what)
	}
	return local, server, nil
}

// isHash reports whether s looks like a SHA-256 in unpadded URL-safe base64.
func isHash(s string) bool {
	if len(s) != 43 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isAlnum(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// invalid makes an error that does not repeat the identifier: it may hold anything, and may be large.
func invalid(what, why string) error { return fmt.Errorf("%w: %s %s", ErrInvalid, what, why) }

func tooLong(what string) error {
	return invalid(what, fmt.Sprintf("is longer than %d bytes", MaxLength))
}
