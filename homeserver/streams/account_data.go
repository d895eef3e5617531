package streams

import "github.com/weft-im/weft/replication"

// AccountDataRow is a row of the account_data stream: data a user keeps was changed. It does not carry the data, which
// may be large.
type AccountDataRow struct {
	UserID string
	// RoomID is nil for global data.
	RoomID *string
	// DataType is the event type, "m.tag" for tags and "m.fully_read" for read markers.
	DataType string
}

// AccountData is the stream of changes of account data. See package homeserver/accountdata.
func AccountData() replication.Stream[AccountDataRow] {
	return replication.Stream[AccountDataRow]{
		StreamInfo: replication.StreamInfo{Name: "account_data"},
		Codec:      replication.MustArrayCodec[AccountDataRow](),
	}
}
