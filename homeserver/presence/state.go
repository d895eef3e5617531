package presence

import (
	"encoding/json"
	"time"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/storage"
)

// The presence states.
const (
	Online      = "online"
	Unavailable = "unavailable"
	Offline     = "offline"
)

// How time turns into presence.
const (
	// activeFor is how long somebody counts as currently active after they did something. While they do, doing more is no
	// news.
	activeFor = time.Minute
	// idleAfter is how long somebody is online without doing anything.
	idleAfter = 5 * time.Minute
	// offlineAfter is how long a device may go without a sync.
	offlineAfter = 30 * time.Second
	// repeatAfter is how often other servers hear of a user of this one about whom nothing changes, and remoteFor how
	// long a user of another server is believed to be as it last said.
	repeatAfter = 25 * time.Minute
	remoteFor   = 30 * time.Minute
)

// Status is how a user is.
type Status struct {
	UserID string
	// State is Online, Unavailable or Offline.
	State string
	// LastActiveTS is when the user last did something, in milliseconds since the epoch, 0 where that is not known.
	LastActiveTS int64
	// StatusMsg is nil where there is no message.
	StatusMsg *string
	// CurrentlyActive says that LastActiveTS is moving on.
	CurrentlyActive bool
}

// statusOf returns what a row of the stream says.
func statusOf(r *streams.PresenceRow) Status {
	return Status{UserID: r.UserID, State: r.State, LastActiveTS: r.LastActiveTS, StatusMsg: r.StatusMsg, CurrentlyActive: r.CurrentlyActive}
}

// content is a Status as clients and other servers see it.
type content struct {
	Presence        string  `json:"presence"`
	LastActiveAgo   *int64  `json:"last_active_ago,omitempty"`
	StatusMsg       *string `json:"status_msg,omitempty"`
	CurrentlyActive *bool   `json:"currently_active,omitempty"`
}

func (s *Status) content(now int64) content {
	c := content{Presence: s.State, StatusMsg: s.StatusMsg}
	if s.LastActiveTS > 0 {
		ago := max(now-s.LastActiveTS, 0)
		if s.CurrentlyActive {
			// The time moves on without rows, and is never further back than that.
			ago = min(ago, activeFor.Milliseconds())
		}
		c.LastActiveAgo = &ago
	}
	if s.State == Online {
		c.CurrentlyActive = &s.CurrentlyActive
	}
	return c
}

// Content returns the content of the user's m.presence event at a time in milliseconds since the epoch.
//
// Spec: client-server API, "m.presence" (v1.19).
func (s *Status) Content(now int64) (json.RawMessage, error) { return json.Marshal(s.content(now)) }

// event returns the m.presence event.
func (s *Status) event(now int64) (json.RawMessage, error) {
	return json.Marshal(struct {
		Type    string  `json:"type"`
		Sender  string  `json:"sender"`
		Content content `json:"content"`
	}{"m.presence", s.UserID, s.content(now)})
}

// sameToSee reports whether two rows look the same to a client.
func sameToSee(a, b *streams.PresenceRow) bool {
	return a.State == b.State && a.CurrentlyActive == b.CurrentlyActive && sameText(a.StatusMsg, b.StatusMsg)
}

func sameText(a, b *string) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// rank orders states: of several devices the highest counts.
func rank(state string) storage.PresenceState {
	switch state {
	case Online:
		return storage.PresenceOnline
	case Unavailable:
		return storage.PresenceUnavailable
	}
	return storage.PresenceOffline
}

func stateOf(r storage.PresenceState) string {
	switch r {
	case storage.PresenceOnline:
		return Online
	case storage.PresenceUnavailable:
		return Unavailable
	}
	return Offline
}

func rowOf(p *storage.Presence) streams.PresenceRow {
	return streams.PresenceRow{
		UserID: p.UserID, State: stateOf(p.State), LastActiveTS: p.LastActiveTS, LastFederationUpdateTS: p.LastFederationUpdateTS,
		LastUserSyncTS: p.LastUserSyncTS, StatusMsg: p.StatusMsg, CurrentlyActive: p.CurrentlyActive,
	}
}

func stored(r *streams.PresenceRow, token int64) storage.Presence {
	return storage.Presence{
		UserID: r.UserID, StreamID: token, State: rank(r.State), LastActiveTS: r.LastActiveTS,
		LastFederationUpdateTS: r.LastFederationUpdateTS, LastUserSyncTS: r.LastUserSyncTS, StatusMsg: r.StatusMsg,
		CurrentlyActive: r.CurrentlyActive,
	}
}
