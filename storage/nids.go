package storage

// Numbers that stand for names inside the database. Zero stands for nothing.
type (
	// RoomNID is the number of a room id.
	RoomNID int64
	// UserNID is the number of a user id, local or not.
	UserNID int64
	// StateKeyNID is the number of a pair (event type, state key).
	StateKeyNID int64
	// EventNID is the number of an event and its position in the stream:
	// positive for live events, negative for history.
	EventNID int64
	// WriterNID is the number of an instance that writes streams: see
	// [Writers].
	WriterNID int16
)
