package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// Summary is what a room shows of itself to those who may join it.
type Summary struct {
	PublicRoom
	// AllowedRoomIDs are the rooms whose members a restricted room lets in.
	AllowedRoomIDs []string `json:"allowed_room_ids,omitempty"`
	Encryption     string   `json:"encryption,omitempty"`
	RoomVersion    string   `json:"room_version,omitempty"`
	// Membership is that of the user who asks, "" if nobody is logged in.
	Membership string `json:"membership,omitempty"`
}

// RemoteHierarchy is what another server tells of a room and those below it.
type RemoteHierarchy struct {
	// Room is the room asked for, Children are those of its children the server could describe.
	Room     HierarchyRoom
	Children []HierarchyRoom
	// Inaccessible are children that no requester of this server may see.
	Inaccessible []string
}

func summaryOf(r *storage.RoomSummary) Summary {
	s := Summary{PublicRoom: publicRoom(r), Encryption: r.Encrypt, RoomVersion: r.Version}
	if r.JoinRules != nil {
		s.AllowedRoomIDs = allowedRooms(json.RawMessage(gjson.GetBytes(r.JoinRules, "content").Raw))
	}
	return s
}

// Summary returns the summary of a room, given its id or an alias. who is nil where nobody is logged in.
//
// Errors: M_INVALID_PARAM, M_NOT_FOUND, also for rooms that the user may neither read nor join.
//
// Spec: client-server API, "GET /room_summary/{roomIdOrAlias}" (v1.19).
func (s *Service) Summary(ctx context.Context, who *Requester, roomIDOrAlias string, via []string) (*Summary, error) {
	notFound := mxerr.NotFound.WithMessage("Room not found.")
	roomID, servers, err := s.target(ctx, roomIDOrAlias, via)
	if err != nil {
		return nil, err
	}
	user := ""
	if who != nil {
		user = who.UserID
	}
	found, err := s.localSummaries(ctx, user, []string{roomID})
	if err != nil {
		return nil, err
	}
	if l, ok := found[roomID]; ok {
		if !l.open {
			return nil, notFound
		}
		sum := l.Summary
		if user != "" {
			sum.Membership = nameOf(l.membership)
		}
		return &sum, nil
	}
	if s.cfg.RemoteDirectory == nil {
		return nil, notFound
	}
	if server := id.ServerOf(roomID); server != "" {
		servers = distinct(append(servers, server), s.cfg.ServerName)
	}
	h, err := s.cfg.RemoteDirectory.Hierarchy(ctx, roomID, servers, false)
	if err != nil {
		return nil, notFound.Wrap(err)
	}
	sum := h.Room.Summary
	ok, err := s.mayEnter(ctx, user, 0, &sum)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound
	}
	if user != "" {
		sum.Membership = nameOf(0)
	}
	return &sum, nil
}

// localSummary is the summary of a room this server is in.
type localSummary struct {
	Summary
	nid        storage.RoomNID
	membership storage.Membership
	// open says that the user is in the room or may enter or read it.
	open bool
}

// localSummaries returns the summaries of those of the rooms whose state this server knows, by room id. It costs the
// same number of statements whatever the number of rooms.
func (s *Service) localSummaries(ctx context.Context, user string, roomIDs []string) (map[string]*localSummary, error) {
	rooms, err := s.store.Rooms(ctx, roomIDs)
	if err != nil {
		return nil, fmt.Errorf("find %d rooms: %w", len(roomIDs), err)
	}
	var nids []storage.RoomNID
	for _, r := range rooms {
		if r != nil {
			nids = append(nids, r.NID)
		}
	}
	out := make(map[string]*localSummary, len(nids))
	if len(nids) == 0 {
		return out, nil
	}
	rows, err := storage.RoomSummaries(ctx, s.cfg.DB, nids)
	if err != nil {
		return nil, fmt.Errorf("read %d room summaries: %w", len(nids), err)
	}
	places, err := s.placesOf(ctx, user)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		r := &rows[i]
		if r.LocalJoined == 0 && r.Joined > 0 {
			continue // nobody here is in it, so what is known of it may be old
		}
		l := &localSummary{Summary: summaryOf(r), nid: r.RoomNID, membership: places[r.RoomNID]}
		out[r.RoomID] = l
		if l.open, err = s.mayEnterAs(ctx, l, places); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// placesOf returns the memberships of a user by room.
func (s *Service) placesOf(ctx context.Context, user string) (map[storage.RoomNID]storage.Membership, error) {
	if user == "" {
		return nil, nil
	}
	nid, err := s.store.UserNID(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("find user: %w", err)
	}
	urs, err := s.store.UserRooms(ctx, nid)
	if err != nil {
		return nil, fmt.Errorf("list rooms of %s: %w", user, err)
	}
	places := make(map[storage.RoomNID]storage.Membership, len(urs))
	for _, ur := range urs {
		places[ur.RoomNID] = ur.Membership
	}
	return places, nil
}

// mayEnterAs reports whether a user with these memberships may be told of a room of this server.
func (s *Service) mayEnterAs(ctx context.Context, l *localSummary, places map[storage.RoomNID]storage.Membership) (bool, error) {
	if opensTo(l.membership, &l.Summary) {
		return true, nil
	}
	if l.membership == storage.MembershipBan || len(l.AllowedRoomIDs) == 0 || len(places) == 0 {
		return false, nil
	}
	rooms, err := s.store.Rooms(ctx, l.AllowedRoomIDs)
	if err != nil {
		return false, fmt.Errorf("find rooms of a join rule: %w", err)
	}
	for _, r := range rooms {
		if r != nil && places[r.NID] == storage.MembershipJoin {
			return true, nil
		}
	}
	return false, nil
}

// mayEnter is mayEnterAs for a room of another server.
func (s *Service) mayEnter(ctx context.Context, user string, m storage.Membership, sum *Summary) (bool, error) {
	if opensTo(m, sum) {
		return true, nil
	}
	for _, roomID := range sum.AllowedRoomIDs {
		if user == "" {
			break
		}
		r, err := s.store.Room(ctx, roomID)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("find room %s: %w", roomID, err)
		}
		in, err := s.store.Membership(ctx, r.NID, user)
		if err != nil {
			return false, fmt.Errorf("read membership of %s in %s: %w", user, roomID, err)
		}
		if in != nil && in.Membership == storage.MembershipJoin {
			return true, nil
		}
	}
	return false, nil
}

// opensTo reports whether somebody with a membership may be told of a room, restricted joins aside.
func opensTo(m storage.Membership, sum *Summary) bool {
	switch m {
	case storage.MembershipJoin, storage.MembershipInvite:
		return true
	case storage.MembershipBan:
		return sum.WorldReadable
	}
	switch sum.JoinRule {
	case "public", "knock", "knock_restricted":
		return true
	}
	return sum.WorldReadable
}
