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

// lazySent remembers whose member events a device that loads members lazily has been sent. Changes that come later reach
// it as events of the room. It is only there to save bytes: a device that moves to another process is sent some again.
type lazySent struct {
	mu   gosync.Mutex
	sent map[string]struct{}
}

// maxLazySent bounds the members remembered for one device and room.
const maxLazySent = 1000

func (l *lazySent) has(userID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.sent[userID]
	return ok
}

func (l *lazySent) put(userID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sent) >= maxLazySent {
		clear(l.sent)
	}
	if l.sent == nil {
		l.sent = map[string]struct{}{}
	}
	l.sent[userID] = struct{}{}
}

func (l *lazySent) drop(userID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sent, userID)
}

func (l *lazySent) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.sent)
}

// sent returns what the device has been sent of the members of a room.
func (b *builder) sent(j *job) *lazySent {
	key := lazyKey{b.q.userID, b.q.deviceID, j.nid}
	if l, ok := b.s.lazy.GetIfPresent(key); ok {
		return l
	}
	l, _ := b.s.lazy.SetIfAbsent(key, &lazySent{})
	return l
}
