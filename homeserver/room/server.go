package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// NearestEvent is EventAt for another server that is in the room: only what is here counts.
//
// Spec: server-server API, "GET /timestamp_to_event/{roomId}" (v1.19).
func (s *Service) NearestEvent(ctx context.Context, r *store.Room, ts int64, forwards bool) (*EventAt, error) {
	e, err := s.eventAt(ctx, r, ts, forwards)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, errNoEventThen
	}
	return e, nil
}

// Authoriser returns the local user in whose name this server lets a user of another server join a restricted room, ""
// where the room is not restricted or the user is invited.
//
// Errors: M_UNABLE_TO_AUTHORISE_JOIN where this server cannot tell whether the user meets a condition,
// M_UNABLE_TO_GRANT_JOIN where nobody here may let them in, M_FORBIDDEN where they meet none.
//
// Spec: server-server API, "Restricted rooms" (v1.19).
func (s *Service) Authoriser(ctx context.Context, r *store.Room, userID string) (string, error) {
	m, err := s.store.Membership(ctx, r.NID, userID)
	if err != nil {
		return "", fmt.Errorf("read membership of %s in %s: %w", userID, r.ID, err)
	}
	if m != nil && (m.Membership == storage.MembershipInvite || m.Membership == storage.MembershipJoin) {
		return "", nil
	}
	rules, restricted, err := s.restriction(ctx, r)
	if err != nil || !restricted {
		return "", err
	}
	ok, known, err := s.meetsCondition(ctx, rules.Content(), userID)
	switch {
	case err != nil:
		return "", err
	case !ok && !known:
		return "", mxerr.UnableToAuthoriseJoin
	case !ok:
		return "", mxerr.Forbidden.WithMessage("You do not belong to any of the required rooms or spaces to join this room.")
	}
	by, err := s.localInviter(ctx, r)
	if err == nil && by == "" {
		err = mxerr.UnableToGrantJoin
	}
	return by, err
}

// ServerHierarchy returns a room and its children as far as another server may know of them: what a user of that server
// could enter, or has been let in to.
//
// Errors: M_NOT_FOUND for rooms that are not here, or not for that server.
//
// Spec: server-server API, "GET /hierarchy/{roomId}" (v1.19).
func (s *Service) ServerHierarchy(ctx context.Context, server, roomID string, suggestedOnly bool) (*RemoteHierarchy, error) {
	notFound := mxerr.NotFound.WithMessage("Unknown room")
	w := &spaceWalk{svc: s, suggestedOnly: suggestedOnly, rooms: map[string]*HierarchyRoom{}, server: server}
	if err := w.loadServer(ctx, []string{roomID}); err != nil {
		return nil, err
	}
	root := w.rooms[roomID]
	if root == nil {
		return nil, notFound
	}
	h := &RemoteHierarchy{Room: *root, Children: []HierarchyRoom{}, Inaccessible: []string{}}
	ids := make([]string, 0, len(root.Children))
	for _, c := range root.Children[:min(len(root.Children), maxHierarchyPage)] {
		ids = append(ids, c.StateKey)
	}
	if err := w.loadServer(ctx, ids); err != nil {
		return nil, err
	}
	for _, child := range ids {
		room, here := w.rooms[child]
		switch {
		case room != nil:
			c := *room
			c.Children = []SpaceChild{}
			h.Children = append(h.Children, c)
		case here:
			h.Inaccessible = append(h.Inaccessible, child)
		}
	}
	return h, nil
}

// loadServer is loadLevel for a server that asks.
func (w *spaceWalk) loadServer(ctx context.Context, roomIDs []string) error {
	found, err := w.svc.localSummaries(ctx, "", roomIDs)
	if err != nil {
		return err
	}
	var spaces []storage.RoomNID
	byNID := map[storage.RoomNID]*HierarchyRoom{}
	for id, l := range found {
		w.rooms[id] = nil
		open, err := w.svc.openToServer(ctx, w.server, l)
		if err != nil {
			return err
		}
		if !open {
			continue
		}
		room := &HierarchyRoom{Summary: l.Summary, Children: []SpaceChild{}}
		w.rooms[id] = room
		if l.RoomType == typeSpace {
			spaces = append(spaces, l.nid)
			byNID[l.nid] = room
		}
	}
	return w.loadChildren(ctx, spaces, byNID)
}

// openToServer reports whether a server may be told of a room: somebody may enter it, or one of its users is in it, is
// invited, or in a room that lets people in.
func (s *Service) openToServer(ctx context.Context, server string, l *localSummary) (bool, error) {
	if opensTo(0, &l.Summary) {
		return true, nil
	}
	rooms := []storage.RoomNID{l.nid}
	for _, id := range l.AllowedRoomIDs {
		r, err := s.store.Room(ctx, id)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("find room %s: %w", id, err)
		}
		rooms = append(rooms, r.NID)
	}
	for _, nid := range rooms {
		in, err := s.store.HasServer(ctx, nid, server)
		if err != nil || in {
			return in, err
		}
	}
	return storage.HasInvited(ctx, s.cfg.DB, l.nid, server)
}
