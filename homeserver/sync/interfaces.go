package sync

import (
	"context"
	"encoding/json"

	"github.com/weft-im/weft/replication"
)

// Counts are the unread counts of a room or a thread.
type Counts struct {
	// Highlight counts the unread events that highlight.
	Highlight int64
	// Notification counts the unread events that notify, those that highlight included.
	Notification int64
}

// RoomCounts are the unread counts of one room for one user.
type RoomCounts struct {
	// Total counts all events of the room.
	Total Counts
	// Main counts the events of the main timeline.
	Main Counts
	// Threads are the counts of the threads that have any, by the event id of their root.
	Threads map[string]Counts
}

// UnreadCounts tells how much of a room a user has not read. It is asked for all rooms of a response at once.
type UnreadCounts interface {
	// Unread returns the counts of the rooms in which there is anything unread.
	Unread(ctx context.Context, userID string, rooms []string) (map[string]RoomCounts, error)
}

// Range is the part of one stream that a response covers: the rows after Since up to Now. Since is the zero Position in
// an initial sync.
type Range struct {
	Since, Now replication.Position
}

// PushRules gives the m.push_rules event of the account data.
type PushRules interface {
	// PushRules returns the content of the event if the rules changed within r, which they always did in an initial sync;
	// nil if not.
	PushRules(ctx context.Context, userID string, r Range) (json.RawMessage, error)
}

// People are the users whose presence or devices concern a user because of shared rooms.
type People struct {
	// Joined are users the user has newly come to share a room with, in a sync that is not initial.
	Joined []string
	// Left are users that left a room the user is in, or were in one the user left. They may still share another.
	Left []string
	// Initial says that all users who share a room are meant, not only those listed.
	Initial bool
}

// Presence gives the presence section and is told what a /sync request says of its user.
type Presence interface {
	// Syncing is called at the start of each request with its set_presence ("online", "offline" or "unavailable"), and
	// the function it returns at the end.
	Syncing(ctx context.Context, userID, deviceID, state string) (done func())
	// Presence returns m.presence events of users who share a room with the user, changed within r or in p.Joined.
	Presence(ctx context.Context, userID string, r Range, p People) ([]json.RawMessage, error)
}

// ToDevice gives the messages sent to one device.
type ToDevice interface {
	// Messages returns the messages within r, oldest first, at most limit of them, and the position up to which they are
	// all. What lies at or below r.Since has arrived and may be deleted.
	Messages(ctx context.Context, userID, deviceID string, r Range, limit int) ([]json.RawMessage, replication.Position, error)
}

// DeviceKeys are what a response says of a device's own keys.
type DeviceKeys struct {
	// OneTimeKeys counts the unclaimed keys by algorithm.
	OneTimeKeys map[string]int64
	// UnusedFallbackKeys are the algorithms of the fallback keys that were not used yet.
	UnusedFallbackKeys []string
}

// Devices gives what end-to-end encryption adds to a response.
type Devices interface {
	// Changes returns users who share an encrypted room with the user and whose devices changed within r or who are in
	// p.Joined, and users who no longer share any.
	Changes(ctx context.Context, userID string, r Range, p People) (changed, left []string, err error)
	// Keys returns the state of the device's own keys.
	Keys(ctx context.Context, userID, deviceID string) (DeviceKeys, error)
}
