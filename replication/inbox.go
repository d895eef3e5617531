package replication

import (
	"strings"
	"sync"

	"github.com/weft-im/weft/replication/wire"
)

// inbox holds what arrived for a stream until its goroutine takes it. It is bounded: what
// does not fit is dropped, and only the highest token of each writer is kept, which is
// enough to read the rows from the source.
type inbox[R any] struct {
	limit int // items
	wake  chan struct{}

	mu      sync.Mutex
	items   []inboxItem[R]
	spare   []inboxItem[R]
	bytes   int
	missed  map[string]int64 // by writer: the highest token that was dropped
	dropped int64
}

// inboxBytes bounds the text of the messages in an inbox.
const inboxBytes = 32 << 20

// inboxItem is a message from the bus, or an update that did not come over it.
type inboxItem[R any] struct {
	message string

	writer string
	prev   int64
	token  int64
	rows   []Row[R]

	reset bool // the bus was interrupted
}

func newInbox[R any](limit int) *inbox[R] {
	return &inbox[R]{limit: limit, wake: make(chan struct{}, 1), missed: make(map[string]int64)}
}

func (b *inbox[R]) push(it inboxItem[R]) {
	b.mu.Lock()
	if len(b.items) >= b.limit || b.bytes+len(it.message) > inboxBytes {
		b.dropped++
		b.miss(it)
	} else {
		b.items = append(b.items, it)
		b.bytes += len(it.message)
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// miss remembers how far a dropped item would have brought its writer.
func (b *inbox[R]) miss(it inboxItem[R]) {
	note := func(writer string, token int64) {
		if token > b.missed[writer] {
			b.missed[writer] = token
		}
	}
	if it.message == "" {
		if it.writer != "" {
			note(it.writer, it.token)
		}
		return
	}
	for line := range strings.Lines(it.message) {
		line = strings.TrimSuffix(line, "\n")
		if c, ok, err := wire.ParsePosition(line); ok && err == nil {
			note(c.Instance, c.Token)
		} else if c, ok, err := wire.ParseRData(line); ok && err == nil {
			note(c.Instance, c.Token)
		}
	}
}

// take returns everything that is waiting. done gives the slice back for reuse.
func (b *inbox[R]) take() (items []inboxItem[R], missed map[string]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items, b.items, b.spare, b.bytes = b.items, b.spare, nil, 0
	if len(b.missed) > 0 {
		missed, b.missed = b.missed, make(map[string]int64)
	}
	return items, missed
}

func (b *inbox[R]) done(items []inboxItem[R]) {
	clear(items)
	b.mu.Lock()
	b.spare = items[:0]
	b.mu.Unlock()
}

func (b *inbox[R]) status() (queued int, dropped int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.items), b.dropped
}
