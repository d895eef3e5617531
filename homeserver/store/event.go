package store

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// Flags mark events that are not ordinary parts of a room's history.
type Flags int16

// The flags.
const (
	// Outlier is an event known only because another refers to it; the state before it is unknown.
	Outlier Flags = 1
	// Rejected is an event that the authorisation rules refuse. It is never shown and never part of the state.
	Rejected Flags = 2
	// SoftFailed is an event that its own state allows and the room's current state does not. It is never shown.
	SoftFailed Flags = 4
)

// Hidden reports whether the event must not be shown to clients or followed by new events.
func (f Flags) Hidden() bool { return f&(Rejected|SoftFailed) != 0 }

// Event is a stored event. It is shared and must not be changed.
type Event struct {
	// Event is the event. If it has been redacted it is the redacted form, and RedactedBecause is set.
	*event.Event
	// NID is the event's number: its position in the events stream, negative for history.
	NID storage.EventNID
	// RoomNID is the number of its room.
	RoomNID storage.RoomNID
	// SenderNID is the number of the sender.
	SenderNID storage.UserNID
	// StateKeyNID is the number of its type and state key, 0 if it is no state event.
	StateKeyNID storage.StateKeyNID
	// WriterNID is the writer of the event; with NID it is its place in the events stream.
	WriterNID storage.WriterNID
	// Flags say whether it is an outlier, rejected or soft-failed.
	Flags Flags
	// StateRoot is the state before the event; the zero root for outliers and m.room.create.
	StateRoot Root
	// AuthDepth is the length of the longest path of auth events from it to m.room.create.
	AuthDepth int32
	// ReceivedTS is when this server wrote it, in milliseconds since the Unix epoch.
	ReceivedTS int64
	// TxnDevice and TxnID are the device and transaction id of the request that sent it, "" if there is none.
	TxnDevice, TxnID string
	// RedactedBecause is the redaction that took the content out, nil if there is none.
	RedactedBecause *Event
}

// Event returns one event by its event id, rejected ones and outliers included. The error is storage.ErrNotFound if it
// is not there.
func (s *Store) Event(ctx context.Context, eventID string) (*Event, error) { panic("not yet") }

// EventsByID returns events by their event ids, in the order of ids, nil where one is not there.
func (s *Store) EventsByID(ctx context.Context, ids []string) ([]*Event, error) { panic("not yet") }

// Events returns events by number, in the order of nids, nil where one is not there.
func (s *Store) Events(ctx context.Context, nids []storage.EventNID) ([]*Event, error) {
	panic("not yet")
}
