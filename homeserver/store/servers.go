package store

import (
	"context"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/storage"
)

// roomServers are the servers of a room.
type roomServers struct {
	list []string
	set  map[string]bool
}

// Servers returns the names of the servers with joined users in a room, this one included, those with the most users
// first. The slice is shared and must not be changed.
func (s *Store) Servers(ctx context.Context, room storage.RoomNID) ([]string, error) {
	r, err := s.roomServers(ctx, room)
	if err != nil {
		return nil, err
	}
	return r.list, nil
}

// HasServer reports whether a server has joined users in a room.
func (s *Store) HasServer(ctx context.Context, room storage.RoomNID, server string) (bool, error) {
	r, err := s.roomServers(ctx, room)
	if err != nil {
		return false, err
	}
	return r.set[server], nil
}

func (s *Store) roomServers(ctx context.Context, room storage.RoomNID) (*roomServers, error) {
	if r, ok := s.servers.GetIfPresent(room); ok {
		return r, nil
	}
	seen := s.epochs.of(room).Load()
	list, err := storage.ListServers(ctx, s.db, room)
	if err != nil {
		return nil, err
	}
	if list, err = s.withTold(ctx, room, list); err != nil {
		return nil, err
	}
	r := &roomServers{list: list, set: make(map[string]bool, len(list))}
	for _, name := range list {
		r.set[name] = true
	}
	if s.following.Load() {
		keep(s.servers, s.epochs.of(room), seen, room, r)
	}
	return r, nil
}

// withTold adds the servers that another one has told to be in a room whose members are not known yet.
func (s *Store) withTold(ctx context.Context, room storage.RoomNID, list []string) ([]string, error) {
	partial, err := s.Partial(ctx, []storage.RoomNID{room})
	if err != nil || !partial[0] {
		return list, err
	}
	p, err := storage.GetPartialRoom(ctx, s.db, room)
	if err != nil || p == nil {
		return list, err
	}
	known := make(map[string]bool, len(list)+len(p.Servers))
	out := make([]string, 0, len(list)+len(p.Servers))
	for _, name := range append(list, p.Servers...) {
		if !known[name] {
			known[name] = true
			out = append(out, name)
		}
	}
	return out, nil
}

// moveServer drops the servers of a room where a change of membership may have changed them. In a large room most are
// joins of users whose server is there already.
func (s *Store) moveServer(room storage.RoomNID, row *streams.EventRow, server string) {
	if row.Membership == "join" {
		if r, ok := s.servers.GetIfPresent(room); ok && r.set[server] {
			return
		}
	}
	s.servers.Invalidate(room)
}
