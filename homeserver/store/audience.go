package store

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/storage"
)

// Audience are the other servers that events of a room are for, and those that have gone: see storage.RoomServer. It is
// shared and must not be changed.
type Audience []storage.RoomServer

// At returns the servers that an event of the room is for: those that were in the room, or that the event put out.
func (a Audience) At(nid storage.EventNID) []string {
	var out []string
	for i := range a {
		if r := &a[i]; r.From <= nid && nid <= r.Until && (len(out) == 0 || out[len(out)-1] != r.Server) {
			out = append(out, r.Server)
		}
	}
	return out
}

// Now returns the servers that are in the room.
func (a Audience) Now() []string { return a.At(storage.MaxEventNID) }

// has reports whether a server is in the room now.
func (a Audience) has(server string) bool {
	for i := range a {
		if a[i].Server == server && a[i].In() {
			return true
		}
	}
	return false
}

// maxAudience bounds the servers that are kept, over all rooms.
const maxAudience = 500_000

// Audience returns the other servers that events of a room are for.
func (s *Store) Audience(ctx context.Context, room storage.RoomNID) (Audience, error) {
	if a, ok := s.audiences.GetIfPresent(room); ok {
		return a, nil
	}
	epoch := s.epochs.of(room)
	seen := epoch.Load()
	rows, err := storage.ListRoomServers(ctx, s.db, []storage.RoomNID{room})
	if err != nil {
		return nil, err
	}
	if s.following.Load() {
		keep(s.audiences, epoch, seen, room, Audience(rows))
	}
	return rows, nil
}

// applyAudience drops the audience of a room where a row of the events stream may have changed it. Of the many who come
// and go few are the first or the last of their server; that one is the last cannot be told here.
func (s *Store) applyAudience(row *streams.EventRow) {
	room := storage.RoomNID(row.RoomNID)
	if !row.StateReset {
		if row.Type != event.TypeMember || row.StateKey == nil || s.IsLocal(*row.StateKey) {
			return
		}
		switch {
		case row.Membership == event.MembershipJoin:
			known, ok := s.audiences.GetIfPresent(room)
			if !ok || known.has(event.ServerName(*row.StateKey)) {
				return
			}
		case row.Membership == row.PrevMembership, row.Membership == event.MembershipInvite, row.Membership == event.MembershipKnock:
			return
		}
	}
	s.audiences.Invalidate(room)
}
