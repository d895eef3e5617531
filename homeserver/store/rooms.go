package store

import (
	"context"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// Room is what never changes of a room. It is shared and must not be changed.
type Room struct {
	NID     storage.RoomNID
	ID      string
	Version *event.Version
}

// Head is the end of a room's graph. It is shared and must not be changed.
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
	// Partial says that only a part of the state is known: most members' events are missing, as this server has entered
	// the room not long ago.
	Partial bool
}

// Room returns a room by its room id, storage.ErrNotFound if the server does not know it.
func (s *Store) Room(ctx context.Context, roomID string) (*Room, error) {
	rooms, err := s.Rooms(ctx, []string{roomID})
	if err != nil {
		return nil, err
	}
	if rooms[0] == nil {
		return nil, fmt.Errorf("room %s: %w", roomID, storage.ErrNotFound)
	}
	return rooms[0], nil
}

// Rooms returns rooms by room id, in the order of ids, nil where one is not known.
func (s *Store) Rooms(ctx context.Context, ids []string) ([]*Room, error) {
	return cached(s.roomIDs, ids, func(missing []string) (map[string]*Room, error) {
		rows, err := storage.LookupRooms(ctx, s.db, missing)
		if err != nil {
			return nil, err
		}
		m := make(map[string]*Room, len(rows))
		for _, r := range rows {
			if m[r.ID], err = s.rememberRoom(r); err != nil {
				return nil, err
			}
		}
		return m, nil
	})
}

// RoomByNID returns one room by number, storage.ErrNotFound if there is none.
func (s *Store) RoomByNID(ctx context.Context, nid storage.RoomNID) (*Room, error) {
	rooms, err := s.RoomsByNID(ctx, []storage.RoomNID{nid})
	if err != nil {
		return nil, err
	}
	if rooms[0] == nil {
		return nil, fmt.Errorf("room %d: %w", nid, storage.ErrNotFound)
	}
	return rooms[0], nil
}

// RoomsByNID returns rooms by number, in the order of nids, nil where one is not known.
func (s *Store) RoomsByNID(ctx context.Context, nids []storage.RoomNID) ([]*Room, error) {
	return cached(s.rooms, nids, func(missing []storage.RoomNID) (map[storage.RoomNID]*Room, error) {
		rows, err := storage.GetRooms(ctx, s.db, missing)
		if err != nil {
			return nil, err
		}
		m := make(map[storage.RoomNID]*Room, len(rows))
		for _, r := range rows {
			if m[r.NID], err = s.rememberRoom(r); err != nil {
				return nil, err
			}
		}
		return m, nil
	})
}

func (s *Store) rememberRoom(r storage.Room) (*Room, error) {
	v, ok := event.LookupVersion(r.Version)
	if !ok {
		return nil, fmt.Errorf("room %s has the unknown version %q", r.ID, r.Version)
	}
	room := &Room{NID: r.NID, ID: r.ID, Version: v}
	s.rooms.Set(r.NID, room)
	s.roomIDs.Set(r.ID, room)
	return room, nil
}

// Head returns the head of one room, storage.ErrNotFound if it has none.
func (s *Store) Head(ctx context.Context, nid storage.RoomNID) (*Head, error) {
	heads, err := s.Heads(ctx, []storage.RoomNID{nid})
	if err != nil {
		return nil, err
	}
	if heads[0] == nil {
		return nil, fmt.Errorf("head of room %d: %w", nid, storage.ErrNotFound)
	}
	return heads[0], nil
}

// Heads returns the heads of rooms in the order of nids, nil where a room has none: it is known only from an invite, a
// knock, or events that are all outliers.
func (s *Store) Heads(ctx context.Context, nids []storage.RoomNID) ([]*Head, error) {
	return cached(s.heads, nids, func(missing []storage.RoomNID) (map[storage.RoomNID]*Head, error) {
		seen := s.epochsOf(missing)
		heads, err := s.FreshHeads(ctx, missing)
		if err != nil {
			return nil, err
		}
		m := make(map[storage.RoomNID]*Head, len(heads))
		for i, nid := range missing {
			if heads[i] == nil {
				continue
			}
			m[nid] = heads[i]
			if s.following.Load() {
				keep(s.heads, s.epochs.of(nid), seen[i], nid, heads[i])
			}
		}
		return m, nil
	})
}

// FreshHeads is Heads that always asks the database.
func (s *Store) FreshHeads(ctx context.Context, nids []storage.RoomNID) ([]*Head, error) {
	rows, err := storage.GetRoomHeads(ctx, s.db, nids)
	if err != nil {
		return nil, err
	}
	m := make(map[storage.RoomNID]*Head, len(rows))
	for _, r := range rows {
		h := &Head{Generation: r.Generation, Extremities: r.Extremities, Depth: r.Depth, LastNID: r.LastEventNID, Partial: r.Partial}
		copy(h.StateRoot[:], r.StateRoot)
		m[r.RoomNID] = h
	}
	out := make([]*Head, len(nids))
	for i, nid := range nids {
		out[i] = m[nid]
	}
	return out, nil
}

// Partial reports of which rooms only a part of the state is known, in the order of nids: see Head.Partial. Other than a
// head the answer does not change with each event, so that it may be asked for on hot paths.
func (s *Store) Partial(ctx context.Context, nids []storage.RoomNID) ([]bool, error) {
	return cached(s.partial, nids, func(missing []storage.RoomNID) (map[storage.RoomNID]bool, error) {
		seen := s.epochsOf(missing)
		heads, err := s.FreshHeads(ctx, missing)
		if err != nil {
			return nil, err
		}
		m := make(map[storage.RoomNID]bool, len(missing))
		for i, nid := range missing {
			m[nid] = heads[i] != nil && heads[i].Partial
			if s.following.Load() {
				keep(s.partial, s.epochs.of(nid), seen[i], nid, m[nid])
			}
		}
		return m, nil
	})
}

// Stats returns what rooms show of themselves, in the order of nids, nil where there is nothing. The values are shared
// and must not be changed.
func (s *Store) Stats(ctx context.Context, nids []storage.RoomNID) ([]*storage.RoomStats, error) {
	return cached(s.stats, nids, func(missing []storage.RoomNID) (map[storage.RoomNID]*storage.RoomStats, error) {
		seen := make(map[storage.RoomNID]uint64, len(missing))
		for i, e := range s.epochsOf(missing) {
			seen[missing[i]] = e
		}
		rows, err := storage.GetRoomStats(ctx, s.db, missing)
		if err != nil {
			return nil, err
		}
		m := make(map[storage.RoomNID]*storage.RoomStats, len(rows))
		for i := range rows {
			r := &rows[i]
			m[r.RoomNID] = r
			if s.following.Load() {
				keep(s.stats, s.epochs.of(r.RoomNID), seen[r.RoomNID], r.RoomNID, r)
			}
		}
		return m, nil
	})
}

func (s *Store) epochsOf(rooms []storage.RoomNID) []uint64 {
	out := make([]uint64, len(rooms))
	for i, r := range rooms {
		out[i] = s.epochs.of(r).Load()
	}
	return out
}
