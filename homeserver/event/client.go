package event

import "encoding/json"

// ClientOptions says how AppendClient writes an event.
type ClientOptions struct {
	// OmitRoomID leaves room_id out, as in /sync.
	OmitRoomID bool
	// Stripped writes stripped state: content, sender, state_key and type only.
	Stripped bool
	// NowTS adds unsigned.age, the difference to origin_server_ts, if it is not 0. Milliseconds since the Unix epoch.
	NowTS int64
	// TransactionID is unsigned.transaction_id.
	TransactionID string
	// Membership is unsigned.membership: that of the recipient at the time of the event.
	Membership string
	// PrevContent is unsigned.prev_content, a JSON object.
	PrevContent json.RawMessage
	// PrevSender is unsigned.prev_sender.
	PrevSender string
	// ReplacesState is unsigned.replaces_state.
	ReplacesState string
	// RedactedBecause is unsigned.redacted_because: the redaction as client JSON.
	RedactedBecause json.RawMessage
	// Relations is unsigned["m.relations"], a JSON object.
	Relations json.RawMessage
	// ExtraUnsigned are more members of unsigned, as JSON without the braces: `"a":1,"b":2`.
	ExtraUnsigned []byte
}

// AppendClient appends the event as JSON of the client-server API. The content is copied verbatim; redacts of an
// m.room.redaction is written both at the top level and into content, whatever the room version (room version 11,
// "Moving the redacts property"). The event's own Unsigned is not used: it comes from another server.
func AppendClient(dst []byte, e *Event, o ClientOptions) []byte { panic("not yet") }
