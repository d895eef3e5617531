package sync

import (
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
)

// mark is a place in a stream.
type mark struct {
	writer string
	id     int64
}

func (m mark) after(p replication.Position) bool { return !p.Covers(m.writer, m.id) }

// changeLog remembers where each key last changed, for the keys that changed most recently. It answers "nothing new"
// without a query. The hub's lock guards it.
type changeLog struct {
	limit int
	last  map[string][]mark // one mark for each writer that wrote of the key
	fifo  []logged
	head  int
	// floor is what the log begins behind: of changes before it nothing is known.
	floor replication.Position
}

type logged struct {
	key string
	mark
}

func newChangeLog(limit int) *changeLog {
	return &changeLog{limit: limit, last: map[string][]mark{}}
}

func (l *changeLog) add(key, writer string, id int64) {
	m := mark{writer, id}
	l.fifo = append(l.fifo, logged{key, m})
	marks := l.last[key]
	for i := range marks {
		if marks[i].writer == writer {
			marks[i].id = max(marks[i].id, id)
			marks = nil
			break
		}
	}
	if marks != nil || l.last[key] == nil {
		l.last[key] = append(marks, m)
	}
	for len(l.fifo)-l.head > l.limit {
		old := l.fifo[l.head]
		l.fifo[l.head] = logged{}
		l.head++
		l.floor = l.floor.Advance(old.writer, old.id)
		l.forget(old)
	}
	if l.head > 1024 && l.head > len(l.fifo)/2 {
		l.fifo = append([]logged(nil), l.fifo[l.head:]...)
		l.head = 0
	}
}

// forget drops the key's mark where it is the one that leaves the log.
func (l *changeLog) forget(old logged) {
	marks := l.last[old.key]
	for i := range marks {
		if marks[i] == old.mark {
			marks = append(marks[:i], marks[i+1:]...)
			break
		}
	}
	if len(marks) == 0 {
		delete(l.last, old.key)
	} else {
		l.last[old.key] = marks
	}
}

// changed reports whether key may have changed behind since.
func (l *changeLog) changed(key string, since replication.Position) bool {
	if !since.AtLeast(l.floor) {
		return true
	}
	for _, m := range l.last[key] {
		if m.after(since) {
			return true
		}
	}
	return false
}

// reset forgets everything up to a position.
func (l *changeLog) reset(floor replication.Position) {
	*l = changeLog{limit: l.limit, last: map[string][]mark{}, floor: floor}
}

// typingState is who is typing in a room.
type typingState struct {
	mark
	users []string
}

// receiptEntry is a row of the receipts stream.
type receiptEntry struct {
	mark
	room *room
	row  streams.ReceiptsRow
}

// receiptTail is the newest rows of the receipts stream. The hub's lock guards it.
type receiptTail struct {
	limit int
	fifo  []*receiptEntry
	head  int
	floor replication.Position
}

func (t *receiptTail) add(e *receiptEntry, gone func(*receiptEntry)) {
	t.fifo = append(t.fifo, e)
	for len(t.fifo)-t.head > t.limit {
		old := t.fifo[t.head]
		t.fifo[t.head] = nil
		t.head++
		t.floor = t.floor.Advance(old.writer, old.id)
		gone(old)
	}
	if t.head > 1024 && t.head > len(t.fifo)/2 {
		t.fifo = append([]*receiptEntry(nil), t.fifo[t.head:]...)
		t.head = 0
	}
}

func (r *room) removeReceipt(e *receiptEntry) {
	for i, x := range r.receipts {
		if x == e {
			r.receipts[i] = nil
			if i == 0 {
				r.receipts = r.receipts[1:]
			} else {
				r.receipts = append(r.receipts[:i], r.receipts[i+1:]...)
			}
			return
		}
	}
}
