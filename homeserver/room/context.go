package room

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// Context is an event with those around it.
type Context struct {
	// Start and End are the tokens around the events.
	Start string `json:"start"`
	End   string `json:"end"`
	// Before are the events before it, the last first, After those after it. JSON arrays.
	Before json.RawMessage `json:"events_before"`
	Event  json.RawMessage `json:"event"`
	After  json.RawMessage `json:"events_after"`
	// State is the room's state at the last event, a JSON array.
	State json.RawMessage `json:"state"`
}

// Context returns an event and up to limit others around it. f, which may be nil, filters the others and the state.
//
// Errors: M_NOT_FOUND, also for events the user may not see.
//
// Spec: client-server API, "GET /rooms/{roomId}/context/{eventId}" (v1.19).
func (s *Service) Context(ctx context.Context, who *Requester, roomID, eventID string, limit int, f *filter.Events) (*Context, error) {
	r, e, err := s.visibleEvent(ctx, who, roomID, eventID)
	if err != nil {
		return nil, err
	}
	if f == nil {
		f = &filter.Events{}
	}
	limit = max(0, min(limit, MaxPage, f.Limit(MaxPage, MaxPage)))
	at := pointAt(e.Event)
	just := token.Before(at.Depth, int64(at.NID))
	before := &walked{next: storage.EventPoint{Depth: just.Depth, NID: storage.EventNID(just.NID)}}
	after := &walked{next: at}
	if n := limit / 2; n > 0 {
		w := window{room: r, upTo: before.next, backwards: true, limit: n, filter: f}
		if before, err = s.walk(ctx, who, w); err != nil {
			return nil, err
		}
	}
	if n := limit - limit/2; n > 0 {
		end, err := s.endOf(ctx, &access{room: r})
		if err != nil {
			return nil, err
		}
		if after, err = s.walk(ctx, who, window{room: r, after: at, upTo: end, limit: n, filter: f}); err != nil {
			return nil, err
		}
	}
	state, err := s.contextState(ctx, e, before.events, after.events, f)
	if err != nil {
		return nil, err
	}
	out := &Context{
		Start: tokenAt(before.next),
		End:   tokenAt(after.next),
		State: view.AppendStateArray(nil, state, s.viewer(who), s.format()),
	}
	if out.Event, err = s.one(ctx, who, r, e); err != nil {
		return nil, err
	}
	if out.Before, err = s.chunk(ctx, who, r, before.events); err != nil {
		return nil, err
	}
	if out.After, err = s.chunk(ctx, who, r, after.events); err != nil {
		return nil, err
	}
	return out, nil
}

// contextState returns the state at the last of the events, without the members who sent none of them where those are
// loaded lazily.
func (s *Service) contextState(ctx context.Context, e *view.Event, before, after []view.Event, f *filter.Events) ([]*store.Event, error) {
	last := e.Event
	if len(after) > 0 {
		last = after[len(after)-1].Event
	}
	root, err := s.store.StateAfter(ctx, last)
	if err != nil {
		return nil, fmt.Errorf("find the state after %s: %w", last.ID(), err)
	}
	var part *store.StateFilter
	if f.LazyLoadMembers {
		part = &store.StateFilter{AllBut: []string{event.TypeMember}}
		for _, es := range [][]view.Event{{*e}, before, after} {
			for i := range es {
				part.Tuples = append(part.Tuples, event.Tuple{Type: event.TypeMember, StateKey: es[i].Sender()})
			}
		}
	}
	all, err := s.store.State(ctx, root, part)
	if err != nil {
		return nil, fmt.Errorf("read the state after %s: %w", last.ID(), err)
	}
	out := all[:0]
	for _, e := range all {
		if f.Match(subjectOf(e)) {
			out = append(out, e)
		}
	}
	return out, nil
}

// EventAt is an event near a point in time.
type EventAt struct {
	EventID string `json:"event_id"`
	// TS is its origin_server_ts, in milliseconds since the Unix epoch.
	TS int64 `json:"origin_server_ts"`
}

// EventAt returns the event of a room nearest to a time, the first at or after it or the last at or before it.
//
// Errors: M_FORBIDDEN, for unknown rooms too; M_NOT_FOUND where there is none.
//
// Spec: client-server API, "GET /rooms/{roomId}/timestamp_to_event" (v1.19).
func (s *Service) EventAt(ctx context.Context, who *Requester, roomID string, ts int64, forwards bool) (*EventAt, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	here, err := s.eventAt(ctx, a.room, ts, forwards)
	if err != nil {
		return nil, err
	}
	if s.cfg.Remote != nil && s.askElsewhere(ctx, a.room, here, forwards) {
		there, err := s.cfg.Remote.EventAt(ctx, roomID, ts, forwards)
		if err == nil && nearer(there, here, forwards) {
			here = there
		}
	}
	if here == nil {
		return nil, errNoEventThen
	}
	return here, nil
}
