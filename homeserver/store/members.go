package store

import (
	"context"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// Member is a user's place in a room.
type Member struct {
	UserNID    storage.UserNID
	UserID     string
	Membership storage.Membership
	// EventNID is the m.room.member event that put the user there, SenderNID who sent it.
	EventNID  storage.EventNID
	SenderNID storage.UserNID
	// DisplayName and AvatarURL are what that event says, "" if nothing.
	DisplayName, AvatarURL string
	// Forgotten is set once the user has forgotten the room, until they are invited or join again.
	Forgotten bool
}

// UserRoom is a room in a user's list.
type UserRoom struct {
	RoomNID    storage.RoomNID
	Membership storage.Membership
	// EventNID is the m.room.member event that put the user where they are, SenderNID who sent it.
	EventNID  storage.EventNID
	SenderNID storage.UserNID
	Forgotten bool
}

// Membership returns a user's current place in a room, nil (and no error) if they never had one. For rooms this server
// is not in, it knows the invites and knocks of local users.
func (s *Store) Membership(ctx context.Context, room storage.RoomNID, userID string) (*Member, error) {
	nid, err := s.UserNID(ctx, userID)
	if err != nil || nid == 0 {
		return nil, err
	}
	members, err := s.Memberships(ctx, room, []storage.UserNID{nid})
	if err != nil {
		return nil, err
	}
	return members[0], nil
}

// Memberships returns the current places of users in a room, in the order of users, nil where one never had any.
func (s *Store) Memberships(ctx context.Context, room storage.RoomNID, users []storage.UserNID) ([]*Member, error) {
	keys := make([]memberKey, len(users))
	for i, u := range users {
		keys[i] = memberKey{room, u}
	}
	return cached(s.members, keys, func(missing []memberKey) (map[memberKey]*Member, error) {
		seen := s.epochs.of(room).Load()
		nids := make([]storage.UserNID, len(missing))
		for i, k := range missing {
			nids[i] = k.user
		}
		rows, err := storage.GetMembers(ctx, s.db, room, nids)
		if err != nil {
			return nil, err
		}
		members, err := s.namedMembers(ctx, rows)
		if err != nil {
			return nil, err
		}
		m := make(map[memberKey]*Member, len(members))
		for i := range members {
			k := memberKey{room, members[i].UserNID}
			m[k] = &members[i]
		}
		if s.following.Load() {
			// Also that there is no place, which is what a stranger's requests ask for.
			for _, k := range missing {
				keep(s.members, s.epochs.of(room), seen, k, m[k])
			}
		}
		return m, nil
	})
}

func (s *Store) namedMembers(ctx context.Context, rows []storage.Member) ([]Member, error) {
	nids := make([]storage.UserNID, len(rows))
	for i := range rows {
		nids[i] = rows[i].UserNID
	}
	ids, err := s.UserIDs(ctx, nids)
	if err != nil {
		return nil, err
	}
	out := make([]Member, len(rows))
	for i := range rows {
		r := &rows[i]
		out[i] = Member{
			UserNID: r.UserNID, UserID: ids[i], Membership: r.Membership, EventNID: r.EventNID, SenderNID: r.SenderNID,
			DisplayName: r.DisplayName, AvatarURL: r.AvatarURL, Forgotten: r.Forgotten,
		}
	}
	return out, nil
}

// MembershipAt returns the membership of a user in a state, 0 if they have none.
func (s *Store) MembershipAt(ctx context.Context, root Root, userID string) (storage.Membership, error) {
	e, err := s.StateEvent(ctx, root, event.TypeMember, userID)
	if err != nil || e == nil {
		return 0, err
	}
	return storage.MembershipOf(e.Membership()), nil
}

// Members returns the people of a room whose membership is one of those given, all if none is given.
func (s *Store) Members(ctx context.Context, room storage.RoomNID, memberships ...storage.Membership) ([]Member, error) {
	rows, err := storage.ListMembers(ctx, s.db, room, memberships...)
	if err != nil {
		return nil, err
	}
	return s.namedMembers(ctx, rows)
}

// LocalJoined returns the joined users of this server in a room. The slice is shared and must not be changed.
func (s *Store) LocalJoined(ctx context.Context, room storage.RoomNID) ([]storage.UserNID, error) {
	if users, ok := s.localJoined.GetIfPresent(room); ok {
		return users, nil
	}
	epoch := s.epochs.of(room)
	seen := epoch.Load()
	users, err := storage.ListLocalJoined(ctx, s.db, room)
	if err != nil {
		return nil, err
	}
	if s.following.Load() {
		keep(s.localJoined, epoch, seen, room, users)
	}
	return users, nil
}

// UserRooms returns the rooms of a local user by membership, all if none is given, forgotten ones included.
func (s *Store) UserRooms(ctx context.Context, user storage.UserNID, memberships ...storage.Membership) ([]UserRoom, error) {
	rows, err := storage.ListUserRooms(ctx, s.db, user, memberships...)
	if err != nil {
		return nil, err
	}
	out := make([]UserRoom, len(rows))
	for i, r := range rows {
		out[i] = UserRoom{RoomNID: r.RoomNID, Membership: r.Membership, EventNID: r.EventNID, SenderNID: r.SenderNID, Forgotten: r.Forgotten}
	}
	return out, nil
}

// Stripped returns the stripped state that came with invites and knocks, JSON arrays by the member event's number.
func (s *Store) Stripped(ctx context.Context, events []storage.EventNID) (map[storage.EventNID][]byte, error) {
	return storage.GetStripped(ctx, s.db, events)
}

// SetForgotten marks a room as forgotten by a user who has left it or was banned, or takes the mark away, and reports
// whether the user had such a place. It is a plain row and no event: other processes learn of it when they read the row
// or drop the user's place (DropMember).
func (s *Store) SetForgotten(ctx context.Context, room storage.RoomNID, user storage.UserNID, forgotten bool) (bool, error) {
	ok, err := storage.SetForgotten(ctx, s.db, room, user, forgotten)
	s.DropMember(room, user)
	return ok, err
}

// DropMember drops what is cached of a user's place in a room.
func (s *Store) DropMember(room storage.RoomNID, user storage.UserNID) {
	s.epochs.of(room).Add(1)
	s.members.Invalidate(memberKey{room, user})
}

// Text returns a string of a JSON object as the database keeps it of members and rooms, "" if it is none: PostgreSQL has
// no text with a null character in it.
func Text(object []byte, key string) string {
	v := gjson.GetBytes(object, key)
	if v.Type != gjson.String {
		return ""
	}
	return strings.ToValidUTF8(strings.ReplaceAll(v.Str, "\x00", ""), "\uFFFD")
}
