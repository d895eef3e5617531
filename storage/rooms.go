package storage

// RoomStats is what a room shows of itself, from room_stats. Strings are "" where the room does not say.
type RoomStats struct {
	RoomNID RoomNID
	// Joined, Invited and LocalJoined count members; LocalJoined those of this server.
	Joined, Invited, LocalJoined int
	// StateEvents counts the pieces of the current state.
	StateEvents int
	// Creator is the sender of m.room.create, RoomType its content.type; Federate its m.federate.
	Creator, RoomType string
	Federate          bool
	// The rest is what the room's state events say.
	Name, Topic, AvatarURL, CanonicalAlias, JoinRule, GuestAccess, HistoryVisibility, Encryption string
}
