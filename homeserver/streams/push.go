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
