package streams

import (
	"encoding/json"

	"github.com/weft-im/weft/replication"
)

// ReceiptsRow is a row of the receipts stream: up to where a user has read a room, or one thread of it.
type ReceiptsRow struct {
	RoomID string
	// ReceiptType is "m.read" or "m.read.private". The latter must reach nobody but UserID.
	ReceiptType string
	UserID      string
	EventID     string
	// ThreadID is nil for unthreaded receipts, else "main" or the id of the thread's root.
	ThreadID *string
	// Data is the object clients see under the user id: ts and, for threaded receipts, thread_id.
	Data json.RawMessage
}

// Receipts is the stream of read receipts, divided by room among its writers. See package homeserver/receipts.
func Receipts() replication.Stream[ReceiptsRow] {
	return replication.Stream[ReceiptsRow]{
		StreamInfo: replication.StreamInfo{Name: "receipts", Mode: replication.ShardedWriters},
		Codec:      replication.MustArrayCodec[ReceiptsRow](),
	}
}
