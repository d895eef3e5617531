package sync

import (
	gosync "sync"

	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// lazyKey names what one device has been sent of the members of one room.
type lazyKey struct {
	userID, deviceID string
	room             storage.RoomNID
}

// lazySent remembers whose member events a device that loads members lazily has been sent. Changes that come later reach
// it as events of the room. It is only there to save bytes: a device that moves to another process is sent some again.
//
// With each user stands how far the response led that they were sent in. A device has them once it comes back with a
// token as far: one that asks again with an older token has lost the response, or what it had stored.
type lazySent struct {
	mu   gosync.Mutex
	sent map[string]*replication.Position
}

// maxLazySent bounds the members remembered for one device and room.
const maxLazySent = 1000

// has reports whether the user was sent in a response that led to since or less far.
func (l *lazySent) has(userID string, since replication.Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	upTo, ok := l.sent[userID]
	return ok && since.AtLeast(*upTo)
}

func (l *lazySent) put(userID string, upTo *replication.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sent) >= maxLazySent {
		clear(l.sent)
	}
	if l.sent == nil {
		l.sent = map[string]*replication.Position{}
	}
	l.sent[userID] = upTo
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

// hasMember reports whether the device has the member event of a user of a room.
func (b *builder) hasMember(j *job, userID string) bool {
	return b.sent(j).has(userID, b.snap.since.Get(token.Events))
}

// upTo returns how far the response leads in the events stream, shared by all that is sent in it.
func (b *builder) upTo() *replication.Position {
	if b.eventsUpTo == nil {
		p := b.snap.now.Get(token.Events)
		b.eventsUpTo = &p
	}
	return b.eventsUpTo
}
