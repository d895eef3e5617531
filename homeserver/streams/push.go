package streams

import "github.com/weft-im/weft/replication"

// PushRulesRow is a row of the push_rules stream: a user's push rules were changed.
type PushRulesRow struct {
	UserID string
}

// PushRules is the stream of changes of push rules. See package homeserver/push.
func PushRules() replication.Stream[PushRulesRow] {
	return replication.Stream[PushRulesRow]{
		StreamInfo: replication.StreamInfo{Name: "push_rules"},
		Codec:      replication.MustArrayCodec[PushRulesRow](),
	}
}

// PushersRow is a row of the pushers stream: a pusher was made, changed or taken away.
type PushersRow struct {
	UserID  string
	AppID   string
	Pushkey string
	Deleted bool
}

// Pushers is the stream of changes of pushers, whose one writer is the main process. See package homeserver/pushers.
func Pushers() replication.Stream[PushersRow] {
	return replication.Stream[PushersRow]{
		StreamInfo: replication.StreamInfo{Name: "pushers"},
		Codec:      replication.MustArrayCodec[PushersRow](),
	}
}
