package store

import (
	"context"

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
func (s *Store) Timeline(ctx context.Context, q TimelineQuery) ([]*Event, error) { panic("not yet") }

// Recent returns for each room the newest events with After < nid <= UpTo, at most limit, oldest first: one query for
// all the rooms. The same rules as for Timeline apply.
func (s *Store) Recent(ctx context.Context, rooms []storage.RoomNID, after, upTo storage.EventNID, limit int) (map[storage.RoomNID][]*Event, error) {
	panic("not yet")
}

// EventByTxn returns the event that a device of a user sent with a transaction id, nil if there is none.
func (s *Store) EventByTxn(ctx context.Context, room storage.RoomNID, sender storage.UserNID, device, txnID string) (*Event, error) {
	panic("not yet")
}
