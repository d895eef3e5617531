package store

import (
	"context"

	"github.com/weft-im/weft/storage"
)

// Member is a user's place in a room.
type Member struct {
	UserNID     storage.UserNID
	UserID      string
	Membership  storage.Membership
	EventNID    storage.EventNID
	SenderNID   storage.UserNID
	DisplayName string
	AvatarURL   string
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
	panic("not yet")
}

// Memberships returns the current places of users in a room, in the order of users, nil where one never had any.
func (s *Store) Memberships(ctx context.Context, room storage.RoomNID, users []storage.UserNID) ([]*Member, error) {
	panic("not yet")
}

// MembershipAt returns the membership of a user in a state, 0 if they have none.
func (s *Store) MembershipAt(ctx context.Context, root Root, userID string) (storage.Membership, error) {
	panic("not yet")
}

// Members returns the people of a room whose membership is one of those given, all if none is given.
func (s *Store) Members(ctx context.Context, room storage.RoomNID, memberships ...storage.Membership) ([]Member, error) {
	panic("not yet")
}

// LocalJoined returns the joined users of this server in a room. The slice is shared and must not be changed.
func (s *Store) LocalJoined(ctx context.Context, room storage.RoomNID) ([]storage.UserNID, error) {
	panic("not yet")
}

// UserRooms returns the rooms of a local user by membership, all if none is given, forgotten ones included.
func (s *Store) UserRooms(ctx context.Context, user storage.UserNID, memberships ...storage.Membership) ([]UserRoom, error) {
	panic("not yet")
}

// Stripped returns the stripped state that came with invites and knocks, JSON arrays by the member event's number.
func (s *Store) Stripped(ctx context.Context, events []storage.EventNID) (map[storage.EventNID][]byte, error) {
	panic("not yet")
}

// Forget marks rooms of a user as forgotten, or the reverse. It is a plain row and not an event: who shows the list to
// others of the user's devices sends a row of their own.
func (s *Store) SetForgotten(ctx context.Context, room storage.RoomNID, user storage.UserNID, forgotten bool) error {
	panic("not yet")
}
