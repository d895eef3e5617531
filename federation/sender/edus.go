package sender

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/streams"
)

// maxEDUs bounds what is kept for a destination of each kind. The oldest is dropped: these say how things are, not what
// has happened.
const maxEDUs = 1000

// eduQueue holds what is ephemeral for a destination. What says the same of the same thing is replaced in its place.
type eduQueue struct {
	typing   latest[typingKey, bool]
	receipts latest[receiptKey, receipt]
	presence latest[string, streams.PresenceRow]
	other    latest[otherKey, federation.EDU]
	added    int64
}

type typingKey struct{ roomID, userID string }

// otherKey is of EDUs that others make. Each that replaces no other has a number of its own.
type otherKey struct {
	kind, key string
	number    int64
}

type receiptKey struct{ roomID, userID, threadID string }

type receipt struct {
	eventID string
	data    json.RawMessage
}

func (q *eduQueue) len() int {
	return len(q.typing.order) + len(q.receipts.order) + len(q.presence.order) + len(q.other.order)
}

func (q *eduQueue) clear() { *q = eduQueue{} }

// add queues an EDU, in place of the one with the same type and key that still waits, if key is not "".
func (q *eduQueue) add(e federation.EDU, key string) {
	k := otherKey{kind: e.Type, key: key}
	if key == "" {
		q.added++
		k.number = q.added
	}
	q.other.put(k, e)
}

// take takes out as much as goes into limit EDUs.
func (q *eduQueue) take(limit int, now time.Time) []federation.EDU {
	var out []federation.EDU
	for _, e := range q.other.take(limit) {
		out = append(out, e.value)
	}
	out = append(out, q.takeReceipts(limit-len(out))...)
	out = append(out, q.takePresence(limit-len(out), now)...)
	for _, k := range q.typing.take(limit - len(out)) {
		out = append(out, typingEDU(k.key, k.value))
	}
	return out
}

// takeReceipts puts receipts together. An EDU has one receipt for each user and room: those of threads go into others.
func (q *eduQueue) takeReceipts(limit int) []federation.EDU {
	type userReceipt struct {
		EventIDs []string        `json:"event_ids"`
		Data     json.RawMessage `json:"data"`
	}
	type room struct {
		Read map[string]userReceipt `json:"m.read"`
	}
	if limit <= 0 {
		return nil
	}
	var contents []map[string]room
	var left []entry[receiptKey, receipt]
	for _, e := range q.receipts.take(len(q.receipts.order)) {
		i := slices.IndexFunc(contents, func(c map[string]room) bool {
			_, taken := c[e.key.roomID].Read[e.key.userID]
			return !taken
		})
		if i < 0 {
			if len(contents) == limit {
				left = append(left, e)
				continue
			}
			i = len(contents)
			contents = append(contents, make(map[string]room))
		}
		r, ok := contents[i][e.key.roomID]
		if !ok {
			r.Read = make(map[string]userReceipt)
			contents[i][e.key.roomID] = r
		}
		r.Read[e.key.userID] = userReceipt{EventIDs: []string{e.value.eventID}, Data: e.value.data}
	}
	for _, e := range left {
		q.receipts.put(e.key, e.value)
	}
	out := make([]federation.EDU, len(contents))
	for i, c := range contents {
		out[i] = newEDU("m.receipt", c)
	}
	return out
}

// maxPresence is the most users in one EDU.
const maxPresence = 50

func (q *eduQueue) takePresence(limit int, now time.Time) []federation.EDU {
	type push struct {
		UserID          string  `json:"user_id"`
		Presence        string  `json:"presence"`
		LastActiveAgo   int64   `json:"last_active_ago"`
		CurrentlyActive bool    `json:"currently_active"`
		StatusMsg       *string `json:"status_msg,omitempty"`
	}
	var out []federation.EDU
	for chunk := range slices.Chunk(q.presence.take(limit*maxPresence), maxPresence) {
		content := struct {
			Push []push `json:"push"`
		}{}
		for _, e := range chunk {
			p := push{UserID: e.key, Presence: e.value.State, CurrentlyActive: e.value.CurrentlyActive, StatusMsg: e.value.StatusMsg}
			if e.value.LastActiveTS > 0 {
				p.LastActiveAgo = max(now.UnixMilli()-e.value.LastActiveTS, 0)
			}
			content.Push = append(content.Push, p)
		}
		out = append(out, newEDU("m.presence", content))
	}
	return out
}

func typingEDU(k typingKey, typing bool) federation.EDU {
	return newEDU("m.typing", struct {
		RoomID string `json:"room_id"`
		UserID string `json:"user_id"`
		Typing bool   `json:"typing"`
	}{k.roomID, k.userID, typing})
}

func newEDU(kind string, content any) federation.EDU {
	data, err := json.Marshal(content)
	if err != nil {
		// Strings, numbers and JSON that was read as such: there is nothing in it that cannot be written.
		data = []byte("{}")
	}
	return federation.EDU{Type: kind, Content: data}
}

// latest keeps the last value of each key, in the order in which the keys first came.
type latest[K comparable, V any] struct {
	order  []K
	values map[K]V
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func (l *latest[K, V]) put(key K, value V) {
	if l.values == nil {
		l.values = make(map[K]V)
	}
	if _, ok := l.values[key]; !ok {
		if len(l.order) >= maxEDUs {
			delete(l.values, l.order[0])
			l.order = l.order[1:]
		}
		l.order = append(l.order, key)
	}
	l.values[key] = value
}

// take takes out the first n at most.
func (l *latest[K, V]) take(n int) []entry[K, V] {
	n = max(min(n, len(l.order)), 0)
	out := make([]entry[K, V], n)
	for i, k := range l.order[:n] {
		out[i] = entry[K, V]{k, l.values[k]}
		delete(l.values, k)
	}
	if l.order = l.order[n:]; len(l.order) == 0 {
		*l = latest[K, V]{}
	}
	return out
}
