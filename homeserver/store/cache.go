package store

import (
	"fmt"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"github.com/weft-im/weft/storage"
)

// newCache makes a cache of at most entries entries.
func newCache[K comparable, V any](entries int) (*otter.Cache[K, V], error) {
	c, err := otter.New(&otter.Options[K, V]{MaximumSize: entries, Executor: inline})
	if err != nil {
		return nil, fmt.Errorf("make a cache of %d entries: %w", entries, err)
	}
	return c, nil
}

// inline runs a cache's upkeep where it arises, so that a Store needs no goroutine and no Close.
func inline(fn func()) { fn() }

// epochs tell whether something was outdated while it was being read. A reader notes the epoch of the room, reads, and
// keeps what it has read only if the epoch is still the same: otherwise it might keep for good what was dropped in the
// meantime.
type epochs [1024]atomic.Uint64

func (e *epochs) of(room storage.RoomNID) *atomic.Uint64 {
	return &e[uint64(room)%uint64(len(e))]
}

// keep stores what was read at the given epoch. Apply raises the epoch first and drops entries after, so one of the two
// looks prevents a stale entry.
func keep[K comparable, V any](c *otter.Cache[K, V], epoch *atomic.Uint64, seen uint64, key K, value V) {
	if epoch.Load() != seen {
		return
	}
	c.Set(key, value)
	if epoch.Load() != seen {
		c.Invalidate(key)
	}
}
