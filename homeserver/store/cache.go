package store

import (
	"sync/atomic"

	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/storage"
)

// epochs tell whether something was outdated while it was being read. A reader notes the epoch of the room, reads, and
// keeps what it has read only if the epoch is still the same: otherwise it might keep for good what was dropped in the
// meantime.
type epochs [1024]atomic.Uint64

func (e *epochs) of(room storage.RoomNID) *atomic.Uint64 {
	return &e[uint64(room)%uint64(len(e))]
}

// keep stores what was read at the given epoch. Apply raises the epoch first and drops entries after, so one of the two
// looks prevents a stale entry.
func keep[K comparable, V any](c memo.Cache[K, V], epoch *atomic.Uint64, seen uint64, key K, value V) {
	if epoch.Load() != seen {
		return
	}
	c.Set(key, value)
	if epoch.Load() != seen {
		c.Invalidate(key)
	}
}
