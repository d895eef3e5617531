package streams

import "github.com/weft-im/weft/replication"

// PresenceRow is a row of the presence stream: how a user is now. It replaces what was known before. Times are
// milliseconds since the Unix epoch, 0 where there is none.
type PresenceRow struct {
	UserID string
	// State is "online", "unavailable" or "offline".
	State string
	// LastActiveTS is when the user last did something.
	LastActiveTS int64
	// LastFederationUpdateTS is when other servers were last to be told (users of this server), or told us (others).
	LastFederationUpdateTS int64
	// LastUserSyncTS is when a client of the user last synced, as far as the writer wrote it down.
	LastUserSyncTS int64
	// StatusMsg is nil where there is no message.
	StatusMsg *string
	// CurrentlyActive says that LastActiveTS is moving on without further rows.
	CurrentlyActive bool
}

// Presence is the stream of who is online, of this server's users and those of others. It lives in the memory of its one
// writer: missed rows come from there. See package homeserver/presence.
func Presence() replication.Stream[PresenceRow] {
	return replication.Stream[PresenceRow]{
		StreamInfo: replication.StreamInfo{Name: "presence", InMemory: true},
		Codec:      replication.MustArrayCodec[PresenceRow](),
	}
}
