package streams

import "github.com/weft-im/weft/replication"

// TypingRow is a row of the typing stream: who is typing in a room now. It replaces what was known before.
type TypingRow struct {
	RoomID string
	// UserIDs are sorted; empty means nobody.
	UserIDs []string
}

// Typing is the stream of typing notifications. It lives in the memory of its one writer: missed rows come from there,
// and a writer that restarts begins with nobody typing. See package homeserver/typing.
func Typing() replication.Stream[TypingRow] {
	return replication.Stream[TypingRow]{
		StreamInfo: replication.StreamInfo{Name: "typing", InMemory: true},
		Codec:      replication.MustArrayCodec[TypingRow](),
	}
}
