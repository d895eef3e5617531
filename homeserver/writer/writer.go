// Package writer writes events to rooms: see design section 6 ("Writing an event").
package writer

import (
	"context"
	"encoding/json"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// Draft is an event as its sender asks for it. The writer of the room adds the rest.
type Draft struct {
	// Type is the event type. Required.
	Type string `json:"type"`
	// StateKey makes it a state event.
	StateKey *string `json:"state_key,omitempty"`
	// Sender is the user who sends it, of this server. Required.
	Sender string `json:"sender"`
	// Content is a JSON object. Required.
	Content json.RawMessage `json:"content"`
	// Redacts is the event that an m.room.redaction redacts.
	Redacts string `json:"redacts,omitempty"`
	// OriginServerTS is the time of the event in milliseconds since the Unix epoch. Defaults to now.
	OriginServerTS int64 `json:"origin_server_ts,omitempty"`
	// DeviceID and TxnID make the request idempotent: a second draft of the same sender in the room with both the same
	// is answered with the first one's event. Without TxnID every draft is an event.
	DeviceID string `json:"device_id,omitempty"`
	TxnID    string `json:"txn_id,omitempty"`
	// SkipUnchanged answers a state event whose sender and content are those of the current one with that event.
	SkipUnchanged bool `json:"skip_unchanged,omitempty"`
}

// Result says what became of one draft or event.
type Result struct {
	EventID string           `json:"event_id"`
	NID     storage.EventNID `json:"nid"`
	// Writer is the instance that wrote it: with NID its place in the events stream, to wait for.
	Writer string `json:"writer"`
	// Duplicate says that the event had been there before.
	Duplicate bool `json:"duplicate,omitempty"`
	// Rejected and SoftFailed events are stored and not shown (Receive only).
	Rejected   bool `json:"rejected,omitempty"`
	SoftFailed bool `json:"soft_failed,omitempty"`
}

// Created says what became of CreateRoom.
type Created struct {
	RoomID  string   `json:"room_id"`
	Results []Result `json:"results"`
}

// Writer writes the events of the rooms that belong to this process and hands those of other rooms to their owners.
type Writer struct{}

// Send writes drafts to a room in their order, all of them or none, on whichever process owns the room, and returns when
// they are committed. Errors are Matrix errors where the drafts are at fault: M_FORBIDDEN with the reason of the
// authorisation rule, M_TOO_LARGE, M_BAD_JSON, M_NOT_FOUND for a room that is not there.
func (w *Writer) Send(ctx context.Context, roomID string, drafts ...Draft) ([]Result, error) {
	panic("not yet")
}

// CreateRoom makes a room of the given version and writes its first events, all of them or none. create is the
// m.room.create draft (a room id is chosen, in room version 12 it follows from the event); drafts come after it.
func (w *Writer) CreateRoom(ctx context.Context, version *event.Version, create Draft, drafts ...Draft) (*Created, error) {
	panic("not yet")
}

// Run commits what is sent until ctx is done and everything accepted before that is committed.
func (w *Writer) Run(ctx context.Context) error { panic("not yet") }
