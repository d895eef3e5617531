// Package streams declares the replication streams of a homeserver: for each its name, its writers and its rows.
package streams

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/replication"
)

// MaxInlineBytes is the size of an event up to which a row of the events stream carries its JSON.
const MaxInlineBytes = 8 << 10

// EventRow is a row of the events stream: an event that has been written. The row's token is the event's number. Rows
// are shared and must not be changed.
type EventRow struct {
	// RoomNID, SenderNID, StateKeyNID and TargetNID are the numbers of the room, the sender, the type and state key (0 if
	// it is no state event), and the user in the state key of an m.room.member event.
	RoomNID, SenderNID, StateKeyNID, TargetNID int64
	RoomID, RoomVersion, EventID, Type, Sender string
	// StateKey is nil if it is no state event.
	StateKey *string
	// Membership is content.membership of an m.room.member event. PrevMembership is that of the event it replaces in the
	// room's current state, or comes before it where the row was read from the database after a gap; "" if there is none.
	Membership, PrevMembership string
	// Redacts is the event redacted by an m.room.redaction that is to be applied.
	Redacts string
	// Flags are those of store.Event: 2 rejected, 4 soft-failed.
	Flags int16
	// Current says that a state event became part of the room's current state.
	Current bool
	// StateReset says that the event changed the current state in more than its own piece (a fork was resolved): what is
	// known of the room's state and members is to be dropped.
	StateReset bool
	// StateRoot is the root of the state before the event, empty for the empty state.
	StateRoot []byte
	// AuthDepth is as in store.Event.
	AuthDepth int32
	// TxnDevice and TxnID are those of the request, "" if there is none.
	TxnDevice, TxnID string
	// ReceivedTS is when it was written, in milliseconds since the Unix epoch.
	ReceivedTS int64
	// Outbound says that this server tells the other servers of the room of it.
	Outbound bool
	// JSON is the event if it has at most MaxInlineBytes, else nil: read it from the store.
	JSON json.RawMessage
}

// Events is the stream of events written to rooms. Its writers share the rooms among them by room id.
func Events() replication.Stream[*EventRow] {
	return replication.Stream[*EventRow]{
		StreamInfo: replication.StreamInfo{Name: "events", Mode: replication.ShardedWriters},
		Codec:      eventCodec{},
	}
}

// eventCodec writes a row as Synapse does, ["ev",[...]], with values of our own in the array. It is by far the busiest
// stream, so the array is written and read by hand. New values go to the end.
type eventCodec struct{}

// AppendRow implements replication.Codec.
func (eventCodec) AppendRow(dst []byte, r *EventRow) ([]byte, error) {
	dst = append(dst, `["ev",[`...)
	dst = appendString(dst, r.EventID)
	dst = appendString(append(dst, ','), r.RoomID)
	dst = appendString(append(dst, ','), r.Type)
	dst = append(dst, ',')
	if r.StateKey == nil {
		dst = append(dst, "null"...)
	} else {
		dst = appendString(dst, *r.StateKey)
	}
	dst = append(dst, ',')
	if r.Redacts == "" {
		dst = append(dst, "null"...)
	} else {
		dst = appendString(dst, r.Redacts)
	}
	dst = appendString(append(dst, ','), r.Membership)
	dst = appendString(append(dst, ','), r.PrevMembership)
	dst = appendString(append(dst, ','), r.Sender)
	dst = appendString(append(dst, ','), r.RoomVersion)
	dst = appendString(append(dst, ','), r.TxnDevice)
	dst = appendString(append(dst, ','), r.TxnID)
	for _, n := range [...]int64{r.RoomNID, r.SenderNID, r.StateKeyNID, r.TargetNID, r.ReceivedTS, int64(r.AuthDepth), int64(r.Flags)} {
		dst = strconv.AppendInt(append(dst, ','), n, 10)
	}
	dst = strconv.AppendBool(append(dst, ','), r.Current)
	dst = strconv.AppendBool(append(dst, ','), r.StateReset)
	dst = append(dst, `,"`...)
	dst = base64.RawStdEncoding.AppendEncode(dst, r.StateRoot)
	dst = append(dst, `",`...)
	if r.JSON == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, r.JSON...)
	}
	dst = strconv.AppendBool(append(dst, ','), r.Outbound)
	return append(dst, "]]"...), nil
}

var errEventRow = errors.New("malformed row of the events stream")

// DecodeRow implements replication.Codec.
func (eventCodec) DecodeRow(data []byte) (*EventRow, error) {
	if !gjson.ValidBytes(data) {
		return nil, errEventRow
	}
	whole := gjson.ParseBytes(data)
	if kind := whole.Get("0").Str; kind != "ev" {
		return nil, fmt.Errorf("%w: kind %q", errEventRow, kind)
	}
	const values = 23
	var v [values]gjson.Result
	n := 0
	whole.Get("1").ForEach(func(_, value gjson.Result) bool {
		v[n] = value
		n++
		return n < values
	})
	if n < values {
		return nil, fmt.Errorf("%w: %d values, expected %d", errEventRow, n, values)
	}
	r := &EventRow{
		EventID: v[0].Str, RoomID: v[1].Str, Type: v[2].Str, Redacts: v[4].Str, Membership: v[5].Str, PrevMembership: v[6].Str,
		Sender: v[7].Str, RoomVersion: v[8].Str, TxnDevice: v[9].Str, TxnID: v[10].Str,
		RoomNID: v[11].Int(), SenderNID: v[12].Int(), StateKeyNID: v[13].Int(), TargetNID: v[14].Int(), ReceivedTS: v[15].Int(),
		AuthDepth: int32(v[16].Int()), Flags: int16(v[17].Int()), Current: v[18].Bool(), StateReset: v[19].Bool(),
		Outbound: v[22].Bool(),
	}
	if v[3].Type == gjson.String {
		r.StateKey = &v[3].Str
	}
	var err error
	if r.StateRoot, err = base64.RawStdEncoding.DecodeString(v[20].Str); err != nil {
		return nil, fmt.Errorf("%w: state root: %w", errEventRow, err)
	}
	if v[21].Type == gjson.JSON {
		r.JSON = json.RawMessage(v[21].Raw)
	}
	return r, nil
}

// appendString appends a JSON string. Ids and types are plain as a rule.
func appendString(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			b, err := json.Marshal(s)
			if err != nil {
				// Not for strings.
				b = []byte(`""`)
			}
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
