package event

import (
	"encoding/json"
	"strconv"
)

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
	// DelayID is that of an event that was sent by its delay (MSC4140), under its unstable name.
	DelayID string
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
// "Moving the redacts property"). The event's own Unsigned is not used: it comes from another server. Strings of o must
// be valid UTF-8.
func AppendClient(dst []byte, e *Event, o ClientOptions) []byte {
	dst = append(dst, `{"content":`...)
	redacts := e.Redacts()
	if redacts != "" && !e.version.RedactsInContent {
		dst = appendWith(dst, e.Content(), "redacts", e.bytes(e.redacts))
	} else {
		dst = append(dst, e.Content()...)
	}
	if !o.Stripped {
		dst = append(dst, `,"event_id":`...)
		dst = appendQuoted(dst, e.id)
		dst = append(dst, `,"origin_server_ts":`...)
		dst = strconv.AppendInt(dst, e.originServerTS, 10)
		if redacts != "" {
			dst = append(dst, `,"redacts":`...)
			dst = appendQuoted(dst, redacts)
		}
		if !o.OmitRoomID {
			dst = append(dst, `,"room_id":`...)
			dst = appendQuoted(dst, e.roomID)
		}
	}
	dst = append(dst, `,"sender":`...)
	dst = appendQuoted(dst, e.sender)
	if e.isState {
		dst = append(dst, `,"state_key":`...)
		dst = appendQuoted(dst, e.stateKey)
	}
	dst = append(dst, `,"type":`...)
	dst = appendQuoted(dst, e.typ)
	if !o.Stripped {
		dst = appendUnsigned(dst, e, &o)
	}
	return append(dst, '}')
}

// appendUnsigned appends the unsigned member, if it would have any members of its own.
func appendUnsigned(dst []byte, e *Event, o *ClientOptions) []byte {
	const head = `,"unsigned":{`
	mark := len(dst)
	dst = append(dst, head...)
	start := len(dst)
	key := func(k string) {
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, k...)
	}
	if o.NowTS != 0 {
		key(`"age":`)
		dst = strconv.AppendInt(dst, o.NowTS-e.originServerTS, 10)
	}
	if len(o.Relations) > 0 {
		key(`"m.relations":`)
		dst = append(dst, o.Relations...)
	}
	if o.Membership != "" {
		key(`"membership":`)
		dst = appendQuoted(dst, o.Membership)
	}
	if len(o.PrevContent) > 0 {
		key(`"prev_content":`)
		dst = append(dst, o.PrevContent...)
	}
	if o.PrevSender != "" {
		key(`"prev_sender":`)
		dst = appendQuoted(dst, o.PrevSender)
	}
	if len(o.RedactedBecause) > 0 {
		key(`"redacted_because":`)
		dst = append(dst, o.RedactedBecause...)
	}
	if o.ReplacesState != "" {
		key(`"replaces_state":`)
		dst = appendQuoted(dst, o.ReplacesState)
	}
	if o.TransactionID != "" {
		key(`"transaction_id":`)
		dst = appendQuoted(dst, o.TransactionID)
	}
	if o.DelayID != "" {
		key(`"org.matrix.msc4140.delay_id":`)
		dst = appendQuoted(dst, o.DelayID)
	}
	if len(o.ExtraUnsigned) > 0 {
		key("")
		dst = append(dst, o.ExtraUnsigned...)
	}
	if len(dst) == start {
		return dst[:mark]
	}
	return append(dst, '}')
}
