package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
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
	// WriterNID is the writer of the event; with NID it is its place in the events stream. 0 in events taken from a row
	// of the stream, where the writer is known by name.
	WriterNID storage.WriterNID
	// Flags say whether it is an outlier, rejected or soft-failed.
	Flags Flags
	// StateRoot is the state before the event; the zero root for outliers and m.room.create.
	StateRoot Root
	// AuthDepth is the length of the longest path of auth events from it to m.room.create.
	AuthDepth int32
	// ReceivedTS is when this server wrote it, in milliseconds since the Unix epoch.
	ReceivedTS int64
	// TxnDevice and TxnID are the device and transaction id of the request that sent it, "" if there is none. An event
	// that was sent by its delay has DelayDevice and its delay id.
	TxnDevice, TxnID string
	// Outbound is set for an event that this server tells the other servers of the room.
	Outbound bool
	// RedactedBecause is the redaction that took the content out, nil if there is none.
	RedactedBecause *Event
}

// DelayDevice stands for the device of events that were sent by their delay. No device has such an id.
const DelayDevice = "\x1fdelay"

// memory is about how many bytes the event takes, with what it hands out parsed.
func (e *Event) memory() int { return 600 + 2*len(e.JSON()) }

// EventFromRow makes the event of a row of the events stream, at the row's token. It is nil, without an error, if the
// row does not carry the JSON. The row's JSON is kept.
func EventFromRow(token int64, row *streams.EventRow) (*Event, error) {
	if row.JSON == nil {
		return nil, nil
	}
	v, ok := event.LookupVersion(row.RoomVersion)
	if !ok {
		return nil, fmt.Errorf("event %s: unknown room version %q", row.EventID, row.RoomVersion)
	}
	e, err := event.Load(v, row.EventID, row.JSON)
	if err != nil {
		return nil, fmt.Errorf("load event %s: %w", row.EventID, err)
	}
	out := &Event{
		Event: e, NID: storage.EventNID(token), RoomNID: storage.RoomNID(row.RoomNID), SenderNID: storage.UserNID(row.SenderNID),
		StateKeyNID: storage.StateKeyNID(row.StateKeyNID), Flags: Flags(row.Flags), AuthDepth: row.AuthDepth,
		ReceivedTS: row.ReceivedTS, TxnDevice: row.TxnDevice, TxnID: row.TxnID, Outbound: row.Outbound,
	}
	copy(out.StateRoot[:], row.StateRoot)
	return out, nil
}

// Event returns one event by its event id, rejected ones and outliers included. The error is storage.ErrNotFound if it
// is not there.
func (s *Store) Event(ctx context.Context, eventID string) (*Event, error) {
	events, err := s.EventsByID(ctx, []string{eventID})
	if err != nil {
		return nil, err
	}
	if events[0] == nil {
		return nil, fmt.Errorf("event %s: %w", eventID, storage.ErrNotFound)
	}
	return events[0], nil
}

// EventsByID returns events by their event ids, in the order of ids, nil where one is not there.
func (s *Store) EventsByID(ctx context.Context, ids []string) ([]*Event, error) {
	out := make([]*Event, len(ids))
	var missing []string
	for i, id := range ids {
		if nid, ok := s.eventNIDs.GetIfPresent(id); ok {
			out[i], _ = s.events.GetIfPresent(nid)
		}
		// The database cannot be asked for what has NUL in it, and has no such id.
		if out[i] == nil && strings.IndexByte(id, 0) < 0 {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := s.load(ctx, func() ([]storage.Event, error) { return storage.LookupEvents(ctx, s.db, missing) })
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*Event, len(found))
	for _, e := range found {
		byID[e.ID()] = e
	}
	for i, id := range ids {
		if out[i] == nil {
			out[i] = byID[id]
		}
	}
	return out, nil
}

// PlacedByID is EventsByID that asks the database again for those that the cache has as outliers: another process may
// have found their place in the room since.
func (s *Store) PlacedByID(ctx context.Context, ids []string) ([]*Event, error) {
	events, err := s.EventsByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	var ask []string
	var at []int
	for i, e := range events {
		if e != nil && e.Flags&Outlier != 0 {
			ask, at = append(ask, ids[i]), append(at, i)
			s.events.Invalidate(e.NID)
		}
	}
	if len(ask) == 0 {
		return events, nil
	}
	again, err := s.EventsByID(ctx, ask)
	if err != nil {
		return nil, err
	}
	for i, e := range again {
		events[at[i]] = e
	}
	return events, nil
}

// Events returns events by number, in the order of nids, nil where one is not there.
func (s *Store) Events(ctx context.Context, nids []storage.EventNID) ([]*Event, error) {
	out := make([]*Event, len(nids))
	var missing []storage.EventNID
	for i, nid := range nids {
		var ok bool
		if out[i], ok = s.events.GetIfPresent(nid); !ok && nid != 0 {
			missing = append(missing, nid)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := s.load(ctx, func() ([]storage.Event, error) { return storage.GetEvents(ctx, s.db, missing) })
	if err != nil {
		return nil, err
	}
	byNID := make(map[storage.EventNID]*Event, len(found))
	for _, e := range found {
		byNID[e.NID] = e
	}
	for i, nid := range nids {
		if out[i] == nil {
			out[i] = byNID[nid]
		}
	}
	return out, nil
}

// load runs a query for events, parses them, and takes them into the cache. It costs the query, one more statement if
// some are redacted, and one if there are rooms that are not cached.
func (s *Store) load(ctx context.Context, query func() ([]storage.Event, error)) ([]*Event, error) {
	epoch := s.redactEpoch.Load()
	rows, err := query()
	if err != nil {
		return nil, err
	}
	var redactions []storage.EventNID
	have := make(map[storage.EventNID]bool, len(rows))
	for i := range rows {
		have[rows[i].NID] = true
	}
	for i := range rows {
		if r := rows[i].RedactionNID; r != 0 && !have[r] {
			redactions = append(redactions, r)
			have[r] = true
		}
	}
	n := len(rows)
	if len(redactions) > 0 {
		more, err := storage.GetEvents(ctx, s.db, redactions)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	events, err := s.parse(ctx, rows)
	if err != nil {
		return nil, err
	}
	byNID := make(map[storage.EventNID]*Event, len(events))
	for _, e := range events {
		byNID[e.NID] = e
	}
	for i, e := range events[:n] {
		r := byNID[rows[i].RedactionNID]
		if r == nil {
			continue
		}
		redacted := *e
		redacted.Event = e.Redacted()
		// Without its own redaction, if it has one: two redactions may name each other.
		redacted.RedactedBecause = r
		events[i] = &redacted
	}
	if s.following.Load() {
		for _, e := range events[:n] {
			keep(s.events, &s.redactEpoch, epoch, e.NID, e)
			s.eventNIDs.Set(e.ID(), e.NID)
		}
	}
	return events[:n], nil
}

func (s *Store) parse(ctx context.Context, rows []storage.Event) ([]*Event, error) {
	nids := make([]storage.RoomNID, len(rows))
	for i := range rows {
		nids[i] = rows[i].RoomNID
	}
	rooms, err := s.RoomsByNID(ctx, nids)
	if err != nil {
		return nil, err
	}
	events := make([]*Event, len(rows))
	for i := range rows {
		r := &rows[i]
		if rooms[i] == nil {
			return nil, fmt.Errorf("event %s: room %d is missing", r.EventID, r.RoomNID)
		}
		e, err := event.Load(rooms[i].Version, r.EventID, r.JSON)
		if err != nil {
			return nil, fmt.Errorf("load event %s: %w", r.EventID, err)
		}
		events[i] = &Event{
			Event: e, NID: r.NID, RoomNID: r.RoomNID, SenderNID: r.SenderNID, StateKeyNID: r.StateKeyNID, WriterNID: r.WriterNID,
			Flags: Flags(r.Flags), AuthDepth: r.AuthDepth, ReceivedTS: r.ReceivedTS, TxnDevice: r.TxnDevice, TxnID: r.TxnID, Outbound: r.Outbound,
		}
		copy(events[i].StateRoot[:], r.StateRoot)
	}
	return events, nil
}
