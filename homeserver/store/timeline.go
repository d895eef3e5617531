package store

import (
	"cmp"
	"context"
	"slices"

	"github.com/weft-im/weft/storage"
)

// TimelineQuery asks for events of a room in stream order, outliers, rejected and soft-failed ones left out.
type TimelineQuery struct {
	Room storage.RoomNID
	// After and UpTo bound the numbers: After < nid <= UpTo. Zero UpTo is no bound; history has numbers below zero, so
	// set After to math.MinInt64 to include it.
	After, UpTo storage.EventNID
	// Backwards gives the newest first.
	Backwards bool
	// Limit bounds the events returned. Required.
	Limit int
}

// Timeline returns events in the order asked for.
func (s *Store) Timeline(ctx context.Context, q TimelineQuery) ([]*Event, error) {
	if q.UpTo == 0 {
		q.UpTo = storage.MaxEventNID
	}
	return s.load(ctx, func() ([]storage.Event, error) {
		return storage.Timeline(ctx, s.db, storage.TimelineQuery(q))
	})
}

// Recent returns for each room the newest events with After < nid <= UpTo, at most limit, oldest first: one query for
// all the rooms. The same rules as for Timeline apply.
func (s *Store) Recent(ctx context.Context, rooms []storage.RoomNID, after, upTo storage.EventNID, limit int) (map[storage.RoomNID][]*Event, error) {
	if upTo == 0 {
		upTo = storage.MaxEventNID
	}
	events, err := s.load(ctx, func() ([]storage.Event, error) {
		return storage.RecentEvents(ctx, s.db, rooms, after, upTo, limit)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(events, func(a, b *Event) int { return cmp.Compare(a.NID, b.NID) })
	out := make(map[storage.RoomNID][]*Event, len(rooms))
	for _, e := range events {
		out[e.RoomNID] = append(out[e.RoomNID], e)
	}
	return out, nil
}

// EventByTxn returns the event that a device of a user sent with a transaction id, nil if there is none.
func (s *Store) EventByTxn(ctx context.Context, room storage.RoomNID, sender storage.UserNID, device, txnID string) (*Event, error) {
	sent, err := storage.LookupTxns(ctx, s.db, []storage.Txn{{RoomNID: room, SenderNID: sender, Device: device, ID: txnID}})
	if err != nil || len(sent) == 0 {
		return nil, err
	}
	events, err := s.Events(ctx, []storage.EventNID{sent[0].EventNID})
	if err != nil {
		return nil, err
	}
	return events[0], nil
}
