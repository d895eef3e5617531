// Package streams declares the replication streams of a homeserver: for each its name, its writers and its rows.
package streams

import (
	"encoding/json"

	"github.com/weft-im/weft/replication"
)

// MaxInlineBytes is the size of an event up to which a row of the events stream carries its JSON.
const MaxInlineBytes = 8 << 10

// EventRow is a row of the events stream: an event that has been written. The row's token is the event's number.
type EventRow struct {
	// RoomNID, SenderNID, StateKeyNID and TargetNID are the numbers of the room, the sender, the type and state key (0 if
	// it is no state event), and the user in the state key of an m.room.member event.
	RoomNID, SenderNID, StateKeyNID, TargetNID int64
	RoomID, RoomVersion, EventID, Type, Sender string
	// StateKey is nil if it is no state event.
	StateKey *string
	// Membership is content.membership of an m.room.member event, PrevMembership that of the event it replaces in the
	// room's current state, "" if there is none.
	Membership, PrevMembership string
	// Redacts is the event redacted by an m.room.redaction that is to be applied.
	Redacts string
	// Flags are those of store.Event: 2 rejected, 4 soft-failed.
	Flags int16
	// Current says that a state event is part of the room's current state.
	Current bool
	// StateReset says that the event changed the current state in more than its own piece (a fork was resolved): what is
	// known of the room's state and members is to be dropped.
	StateReset bool
	// StateRoot is the state before the event.
	StateRoot []byte
	// AuthDepth is as in store.Event.
	AuthDepth int32
	// TxnDevice and TxnID are those of the request, "" if there is none.
	TxnDevice, TxnID string
	// ReceivedTS is when it was written, in milliseconds since the Unix epoch.
	ReceivedTS int64
	// JSON is the event if it has at most MaxInlineBytes, else nil: read it from the store.
	JSON json.RawMessage
}

// Events is the stream of events written to rooms. Its writers share the rooms among them by room id.
func Events() replication.Stream[*EventRow] {
	return replication.Stream[*EventRow]{
		StreamInfo: replication.StreamInfo{Name: "events", Mode: replication.ShardedWriters},
	}
}
