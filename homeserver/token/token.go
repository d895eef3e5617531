// Package token is the text form of the points in time that clients hold: the since and next_batch of /sync, and the
// from, to, start, end and prev_batch of /messages, /context, /relations and /members.
//
// There are three kinds, told apart by their first letter:
//
//	s1_57_3_12           Sync: how far each stream has been read. The number after the s is the version of the form.
//	s1_55~2.2_3_12       the same, with the second events writer two ahead of the others
//	t18_4711             Topological: a point in one room, behind the event of depth 18 and number 4711
//	c7.31.s1_57_3_12     Sliding: a sync token, and what a connection of sliding sync had been sent by then
//
// Tokens are opaque to clients and are not secret. They come back from clients, years later and possibly made up, so
// parsing accepts nothing that Encode could not have written, and answers M_INVALID_PARAM.
//
// Spec: client-server API, "Syncing" and "Pagination" (v1.19).
package token

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/replication"
)

// Stream is a slot of a sync token.
type Stream int

// The slots of a sync token in the order in which they are written. The order never changes; new ones go to the end, and
// a token written before they were there stands at their start.
const (
	Events Stream = iota
	Typing
	Receipts
	AccountData
	PushRules
	Presence
	ToDevice
	DeviceLists
	UnPartialStatedRooms
	Streams // the number of slots
)

var streamNames = [Streams]string{"events", "typing", "receipts", "account_data", "push_rules", "presence", "to_device", "device_lists", "un_partial_stated_room"}

// String returns the name of the stream, as on the wire.
func (s Stream) String() string {
	if s < 0 || s >= Streams {
		return "unknown"
	}
	return streamNames[s]
}

// StreamByName returns the slot of a stream, and false where the token has none for it.
func StreamByName(name string) (Stream, bool) {
	for i, n := range streamNames {
		if n == name {
			return Stream(i), true
		}
	}
	return 0, false
}

// maxLength bounds the tokens that are looked at.
const maxLength = 4096

// syncVersion is what a sync token starts with.
const syncVersion = "s1"

// Sync is a point in all streams. It is an immutable value; the zero value is before everything.
type Sync struct {
	positions [Streams]replication.Position
}

// Get returns the position in one stream.
func (s Sync) Get(st Stream) replication.Position { return s.positions[st] }

// With returns the token with another position in one stream.
func (s Sync) With(st Stream, p replication.Position) Sync {
	s.positions[st] = p
	return s
}

// Equal reports whether both are the same point.
func (s Sync) Equal(o Sync) bool {
	for i, p := range s.positions {
		if !p.Equal(o.positions[i]) {
			return false
		}
	}
	return true
}

// AtLeast reports whether everything that o covers is covered by s too.
func (s Sync) AtLeast(o Sync) bool {
	for i, p := range s.positions {
		if !p.AtLeast(o.positions[i]) {
			return false
		}
	}
	return true
}

// Encode returns the text form. ids gives the writers their numbers; the error is a *replication.UnknownWriterError
// where it lacks one.
func (s Sync) Encode(ids replication.WriterIDs) (string, error) {
	b, err := s.Append(make([]byte, 0, 64), ids)
	return string(b), err
}

// Append appends the text form to b; see Encode.
func (s Sync) Append(b []byte, ids replication.WriterIDs) ([]byte, error) {
	last := len(s.positions)
	for last > 1 && s.positions[last-1].IsZero() {
		last--
	}
	b = append(b, syncVersion...)
	for _, p := range s.positions[:last] {
		b = append(b, '_')
		var err error
		if b, err = p.Append(b, ids); err != nil {
			return b, fmt.Errorf("encode sync token: %w", err)
		}
	}
	return b, nil
}

// ParseSync parses a sync token and refuses tokens of any other kind. Errors are M_INVALID_PARAM.
func ParseSync(text string, ids replication.WriterIDs) (Sync, error) {
	if strings.HasPrefix(text, "t") {
		return Sync{}, invalid("The token is one of /messages, not of /sync", nil)
	}
	return parseSync(text, ids)
}

func parseSync(text string, ids replication.WriterIDs) (Sync, error) {
	var s Sync
	if len(text) > maxLength {
		return s, invalid("The token is too long", nil)
	}
	rest, ok := strings.CutPrefix(text, syncVersion+"_")
	if !ok {
		return s, invalid("The token is not one this server gives out", nil)
	}
	i := 0
	for more := true; more; i++ {
		if i == int(Streams) {
			return Sync{}, invalid("The token has too many parts", nil)
		}
		var part string
		part, rest, more = strings.Cut(rest, "_")
		p, err := replication.ParsePosition(part, ids)
		if err != nil {
			return Sync{}, invalid("The token is not one this server gives out", err)
		}
		s.positions[i] = p
	}
	if i > 1 && s.positions[i-1].IsZero() {
		return Sync{}, invalid("The token is not one this server gives out", errors.New("last part is zero"))
	}
	return s, nil
}

// Topological is a point in the topological order of one room: events are ordered by depth, events of equal depth by
// number. The point lies behind (Depth, NID) and before everything greater.
type Topological struct {
	// Depth is the depth of the event before the point.
	Depth int64
	// NID is its number: positive for live events, negative for history.
	NID int64
}

// Before returns the point just before an event: from it, /messages backwards starts with what precedes the event.
func Before(depth, nid int64) Topological { return Topological{depth, nid - 1} }

// After returns the point just behind an event: from it, /messages backwards starts with the event itself.
func After(depth, nid int64) Topological { return Topological{depth, nid} }

// String returns the text form.
func (t Topological) String() string { return string(t.Append(nil)) }

// Append appends the text form to b.
func (t Topological) Append(b []byte) []byte {
	b = append(b, 't')
	b = strconv.AppendInt(b, t.Depth, 10)
	b = append(b, '_')
	return strconv.AppendInt(b, t.NID, 10)
}

// Sliding is the pos of a connection of sliding sync.
type Sliding struct {
	// Connection and Version name what the client has been sent.
	Connection, Version int64
	// Sync is how far each stream has been read.
	Sync Sync
}

// Encode returns the text form; see [Sync.Encode].
func (p Sliding) Encode(ids replication.WriterIDs) (string, error) {
	b := strconv.AppendInt(append(make([]byte, 0, 80), 'c'), p.Connection, 10)
	b = strconv.AppendInt(append(b, '.'), p.Version, 10)
	b, err := p.Sync.Append(append(b, '.'), ids)
	return string(b), err
}

// ParseSliding parses the pos of a connection of sliding sync. Errors are M_INVALID_PARAM.
func ParseSliding(text string, ids replication.WriterIDs) (Sliding, error) {
	var p Sliding
	rest, ok := strings.CutPrefix(text, "c")
	if !ok {
		return p, invalid("The token is not one of sliding sync", nil)
	}
	for _, part := range []*int64{&p.Connection, &p.Version} {
		var number string
		if number, rest, ok = strings.Cut(rest, "."); !ok {
			return Sliding{}, invalid("The token is not one this server gives out", nil)
		}
		var err error
		if *part, err = parseInt(number); err != nil || *part < 0 {
			return Sliding{}, invalid("The token is not one this server gives out", err)
		}
	}
	var err error
	p.Sync, err = parseSync(rest, ids)
	return p, err
}

// Token is a token of any kind.
type Token struct {
	// Sync is the point in the streams, also that of a pos of sliding sync, or nil.
	Sync *Sync
	// Topological is the point in the room, where Sync is nil.
	Topological Topological
}

// Parse parses a token of any kind, as /messages and its like take them. Errors are M_INVALID_PARAM.
func Parse(text string, ids replication.WriterIDs) (Token, error) {
	if strings.HasPrefix(text, "c") {
		p, err := ParseSliding(text, ids)
		if err != nil {
			return Token{}, err
		}
		return Token{Sync: &p.Sync}, nil
	}
	rest, ok := strings.CutPrefix(text, "t")
	if !ok {
		s, err := parseSync(text, ids)
		if err != nil {
			return Token{}, err
		}
		return Token{Sync: &s}, nil
	}
	depth, nid, ok := strings.Cut(rest, "_")
	if !ok {
		return Token{}, invalid("The token is not one this server gives out", nil)
	}
	t := Topological{}
	var err error
	if t.Depth, err = parseInt(depth); err == nil {
		t.NID, err = parseInt(nid)
	}
	if err != nil || t.Depth < 0 {
		return Token{}, invalid("The token is not one this server gives out", err)
	}
	return Token{Topological: t}, nil
}

// parseInt accepts only the form strconv.AppendInt writes.
func parseInt(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse number: %w", err)
	}
	if strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("number %.32q is not in its plain form", s)
	}
	return n, nil
}

func invalid(msg string, cause error) error {
	e := mxerr.InvalidParam.WithMessage(msg)
	if cause != nil {
		e = e.Wrap(cause)
	}
	return e
}
