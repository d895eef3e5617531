package view

import (
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
)

// Format says how an event is written.
type Format struct {
	// OmitRoomID leaves room_id out, as in /sync.
	OmitRoomID bool
	// NowTS gives unsigned.age, in milliseconds since the Unix epoch; 0 leaves it out.
	NowTS int64
}

// Append appends the event as JSON of the client-server API, with everything that unsigned holds for this user.
func (e *Event) Append(dst []byte, who Viewer, f Format) []byte {
	o := event.ClientOptions{OmitRoomID: f.OmitRoomID, NowTS: f.NowTS, Membership: e.Membership}
	if e.TxnID != "" && who.DeviceID != "" && e.TxnDevice == who.DeviceID && e.Sender() == who.UserID {
		o.TransactionID = e.TxnID
	}
	if e.TxnDevice == store.DelayDevice && e.Sender() == who.UserID {
		o.DelayID = e.TxnID
	}
	if e.Prev != nil {
		o.PrevContent = e.Prev.Content()
		o.PrevSender = e.Prev.Sender()
		o.ReplacesState = e.Prev.ID()
	}
	o.RedactedBecause, o.Relations = redaction(e.Event, f), e.Relations
	return event.AppendClient(dst, e.Event.Event, o)
}

// AppendState appends an event as part of a room's state, where it is shown for what it says and not for when it
// happened: without membership and without what it replaced.
func AppendState(dst []byte, e *store.Event, who Viewer, f Format) []byte {
	ev := Event{Event: e}
	return ev.Append(dst, who, f)
}

// AppendArray appends events as a JSON array.
func AppendArray(dst []byte, events []Event, who Viewer, f Format) []byte {
	dst = append(dst, '[')
	for i := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = events[i].Append(dst, who, f)
	}
	return append(dst, ']')
}

// AppendStateArray appends state events as a JSON array; see AppendState.
func AppendStateArray(dst []byte, events []*store.Event, who Viewer, f Format) []byte {
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendState(dst, e, who, f)
	}
	return append(dst, ']')
}

// redaction returns unsigned.redacted_because, nil where the event is not redacted.
func redaction(e *store.Event, f Format) []byte {
	r := e.RedactedBecause
	if r == nil {
		return nil
	}
	return event.AppendClient(nil, r.Event, event.ClientOptions{OmitRoomID: f.OmitRoomID, NowTS: f.NowTS})
}
