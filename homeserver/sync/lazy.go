package sync

import (
	gosync "sync"

	"github.com/weft-im/weft/storage"
)

// lazyKey names what one device has been sent of the members of one room.
type lazyKey struct {
	userID, deviceID string
	room             storage.RoomNID
}

// lazySent remembers which member events a device that loads members lazily has been sent, by their number for each user.
// It is only there to save bytes: a device that moves to another process is sent some again.
type lazySent struct {
	mu   gosync.Mutex
	sent map[string]storage.EventNID
}

// maxLazySent bounds the members remembered for one device and room.
const maxLazySent = 1000

func (l *lazySent) has(userID string, nid storage.EventNID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[userID] == nid
}

func (l *lazySent) put(userID string, nid storage.EventNID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sent) >= maxLazySent {
		clear(l.sent)
	}
	if l.sent == nil {
		l.sent = map[string]storage.EventNID{}
	}
	l.sent[userID] = nid
}

// heroKey names the heroes of a room as of its last change of members.
type heroKey struct {
	room storage.RoomNID
	last int64
}
