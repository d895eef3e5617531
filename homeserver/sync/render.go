package sync

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// rendered is an event ready to be sent to many clients.
type rendered struct {
	ev *store.Event
	// body is the event for clients without room_id, unsigned and the closing brace.
	body []byte
	// more are the members of unsigned that are the same for everybody, each with a comma before it.
	more []byte
}

// item is an event in a timeline or a state section.
type item struct {
	ev *store.Event
	// made is the event ready to be sent, where it is shared with other requests; otherwise prev is what it replaced.
	made *rendered
	prev *store.Event
	// membership is that of the user once the event had happened; "" in state sections.
	membership string
	// relations is unsigned["m.relations"], where it was asked for.
	relations json.RawMessage
}

// render makes an event ready. prev is what a state event replaced, nil for others and for the first of its kind.
func render(ev, prev *store.Event) *rendered {
	return &rendered{
		ev:   ev,
		body: appendBody(make([]byte, 0, len(ev.Content())+256), ev),
		more: appendMore(nil, ev, prev),
	}
}

// appendBody writes an event without room_id, unsigned and the closing brace.
func appendBody(dst []byte, ev *store.Event) []byte {
	dst = event.AppendClient(dst, ev.Event, event.ClientOptions{OmitRoomID: true})
	return dst[:len(dst)-1]
}

// appendMore writes the members of unsigned that are the same for everybody.
func appendMore(dst []byte, ev, prev *store.Event) []byte {
	if prev != nil {
		dst = append(append(dst, `,"prev_content":`...), prev.Content()...)
		dst = appendString(append(dst, `,"prev_sender":`...), prev.Sender())
		dst = appendString(append(dst, `,"replaces_state":`...), prev.ID())
	}
	if because := ev.RedactedBecause; because != nil {
		dst = append(dst, `,"redacted_because":`...)
		dst = event.AppendClient(dst, because.Event, event.ClientOptions{OmitRoomID: true})
	}
	return dst
}

// rendered returns the entry ready to be sent, made by the first who asks.
func (s *Service) rendered(ctx context.Context, e *entry) (*rendered, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.made != nil {
		return e.made, nil
	}
	var ev *store.Event
	if !e.redacted {
		var err error
		if ev, err = store.EventFromRow(e.nid, e.row); err != nil {
			return nil, err
		}
	}
	if ev == nil {
		evs, err := s.cfg.Store.Events(ctx, []storage.EventNID{storage.EventNID(e.nid)})
		if err != nil {
			return nil, fmt.Errorf("read event %s: %w", e.row.EventID, err)
		}
		if ev = evs[0]; ev == nil {
			return nil, fmt.Errorf("event %s of the stream: %w", e.row.EventID, storage.ErrNotFound)
		}
	}
	var prev *store.Event
	if ev.IsState() && ev.StateRoot != (store.Root{}) {
		var err error
		key, _ := ev.StateKey()
		if prev, err = s.cfg.Store.StateEvent(ctx, ev.StateRoot, ev.Type(), key); err != nil {
			return nil, fmt.Errorf("read what event %s replaced: %w", e.row.EventID, err)
		}
	}
	e.made = render(ev, prev)
	return e.made, nil
}

// recipient is whom events are written for, and how.
type recipient struct {
	userID, deviceID string
	nowTS            int64
	fields           filter.Fields
	federation       bool
	scratch          []byte
}

// append writes an event.
func (r *recipient) append(dst []byte, it item) []byte {
	if r.fields.All() {
		return r.appendWhole(dst, it)
	}
	r.scratch = r.appendWhole(r.scratch[:0], it)
	return r.fields.Append(dst, r.scratch)
}

func (r *recipient) appendWhole(dst []byte, it item) []byte {
	switch {
	case r.federation:
		body := it.ev.JSON()
		dst = append(dst, body[:len(body)-1]...)
	case it.made != nil:
		dst = append(dst, it.made.body...)
	default:
		dst = appendBody(dst, it.ev)
	}
	dst = append(dst, `,"unsigned":{"age":`...)
	dst = strconv.AppendInt(dst, r.nowTS-it.ev.OriginServerTS(), 10)
	if it.membership != "" {
		dst = append(dst, `,"membership":"`...)
		dst = append(dst, it.membership...)
		dst = append(dst, '"')
	}
	if it.made != nil {
		dst = append(dst, it.made.more...)
	} else {
		dst = appendMore(dst, it.ev, it.prev)
	}
	if it.relations != nil {
		dst = append(append(dst, `,"m.relations":`...), it.relations...)
	}
	if it.ev.TxnID != "" && it.ev.TxnDevice == r.deviceID && it.ev.Sender() == r.userID {
		dst = append(dst, `,"transaction_id":`...)
		dst = appendString(dst, it.ev.TxnID)
	}
	if it.ev.TxnDevice == store.DelayDevice && it.ev.Sender() == r.userID {
		dst = append(dst, `,"org.matrix.msc4140.delay_id":`...)
		dst = appendString(dst, it.ev.TxnID)
	}
	return append(dst, "}}"...)
}

// appendEvents writes {"events":[...]} without the closing brace.
func (r *recipient) appendEvents(dst []byte, items []item) []byte {
	dst = append(dst, `{"events":[`...)
	for i, it := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = r.append(dst, it)
	}
	return append(dst, ']')
}

// appendRaw writes {"events":[...]} of ready JSON.
func appendRaw(dst []byte, events []json.RawMessage) []byte {
	dst = append(dst, `{"events":[`...)
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, e...)
	}
	return append(dst, "]}"...)
}

// appendString writes a JSON string. s is valid UTF-8.
func appendString(dst []byte, s string) []byte {
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == '"' || r == '\\' || r == utf8.RuneError }) {
		b, _ := json.Marshal(s) // a string always encodes
		return append(dst, b...)
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
