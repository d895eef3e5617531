package store

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// Room is what never changes of a room. It is shared and must not be changed.
type Room struct {
	NID     storage.RoomNID
	ID      string
	Version *event.Version
}

// Head is the end of a room's graph.
type Head struct {
	// Generation counts the changes of the head.
	Generation int64
	// Extremities are the events that the next one follows.
	Extremities []storage.EventNID
	// StateRoot is the current state, resolved over the extremities.
	StateRoot Root
	// Depth is the greatest depth among the extremities.
	Depth int64
	// LastNID is the newest event of the room.
	LastNID storage.EventNID
}

// Room returns a room by its room id, storage.ErrNotFound if the server does not know it.
func (s *Store) Room(ctx context.Context, roomID string) (*Room, error) { panic("not yet") }

// Rooms returns rooms by room id, in the order of ids, nil where one is not known.
func (s *Store) Rooms(ctx context.Context, ids []string) ([]*Room, error) { panic("not yet") }

// RoomsByNID returns rooms by number, in the order of nids, nil where one is not known.
func (s *Store) RoomsByNID(ctx context.Context, nids []storage.RoomNID) ([]*Room, error) {
	panic("not yet")
}

// RoomByNID returns one room by number, storage.ErrNotFound if there is none.
func (s *Store) RoomByNID(ctx context.Context, nid storage.RoomNID) (*Room, error) { panic("not yet") }

// Heads returns the heads of rooms in the order of nids, nil where a room has none: it is known only from an invite, a
// knock, or events that are all outliers.
func (s *Store) Heads(ctx context.Context, nids []storage.RoomNID) ([]*Head, error) {
	panic("not yet")
}

// Head returns the head of one room, storage.ErrNotFound if it has none.
func (s *Store) Head(ctx context.Context, nid storage.RoomNID) (*Head, error) { panic("not yet") }

// Stats returns what rooms show of themselves, in the order of nids, nil where there is nothing.
func (s *Store) Stats(ctx context.Context, nids []storage.RoomNID) ([]*storage.RoomStats, error) {
	panic("not yet")
}
