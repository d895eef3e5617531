package streams

import "github.com/weft-im/weft/replication"

// UnPartialStatedRoomRow is a row of the un_partial_stated_room stream: a room that was entered with a part of its state
// has all of it now.
type UnPartialStatedRoomRow struct {
	RoomID string
}

// UnPartialStatedRoom is the stream of rooms whose state has become whole. See package homeserver/fullstate.
func UnPartialStatedRoom() replication.Stream[UnPartialStatedRoomRow] {
	return replication.Stream[UnPartialStatedRoomRow]{
		StreamInfo: replication.StreamInfo{Name: "un_partial_stated_room", Mode: replication.MainWriter},
		Codec:      replication.MustArrayCodec[UnPartialStatedRoomRow](),
	}
}
