package account

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/storage"
)

const (
	// lastSeenDelay is how long uses are collected before they are written together.
	lastSeenDelay = 5 * time.Second
	// maxLastSeen bounds what is collected while the database is away.
	maxLastSeen = 100_000
)

// lastSeen writes down when and from where devices were used: in batches, and never in a request.
type lastSeen struct {
	db   *storage.DB
	log  zerolog.Logger
	wake chan struct{}

	mu      sync.Mutex
	pending map[lastSeenKey]storage.LastSeen
}

type lastSeenKey struct {
	user   storage.UserNID
	device string
	ip     string
}

func newLastSeen(db *storage.DB, log zerolog.Logger) *lastSeen {
	return &lastSeen{db: db, log: log, wake: make(chan struct{}, 1), pending: make(map[lastSeenKey]storage.LastSeen)}
}

// add notes a use. It does not block.
func (l *lastSeen) add(s storage.LastSeen) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) >= maxLastSeen {
		return
	}
	l.pending[lastSeenKey{s.UserNID, s.DeviceID, s.IP}] = s
	if len(l.pending) == 1 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run writes until ctx is done, and then what is left. It sleeps while nothing is to be written.
func (l *lastSeen) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return l.drain(ctx)
		}
		timer.Reset(lastSeenDelay)
		select {
		case <-timer.C:
			if err := l.flush(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn().Err(err).Msg("last uses of devices could not be written down yet")
			}
		case <-ctx.Done():
			timer.Stop()
			return l.drain(ctx)
		}
	}
}

func (l *lastSeen) drain(ctx context.Context) error {
	// The process is stopping, so its context has ended; what was collected is still worth one attempt.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSeenDelay)
	defer cancel()
	return l.flush(ctx)
}

// flush writes what is pending. Where the database could not be reached it is pending again; rows that it refuses would be
// refused again.
func (l *lastSeen) flush(ctx context.Context) error {
	l.mu.Lock()
	pending := l.pending
	l.pending = make(map[lastSeenKey]storage.LastSeen)
	l.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	rows := make([]storage.LastSeen, 0, len(pending))
	for _, s := range pending {
		rows = append(rows, s)
	}
	slices.SortFunc(rows, func(a, b storage.LastSeen) int {
		return cmp.Or(cmp.Compare(a.UserNID, b.UserNID), cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.IP, b.IP))
	})
	err := storage.PutLastSeen(ctx, l.db, rows)
	if storage.IsTransient(err) {
		for _, s := range rows {
			l.addOlder(s)
		}
	}
	return err
}

// addOlder puts a use back that could not be written, unless there is a later one.
func (l *lastSeen) addOlder(s storage.LastSeen) {
	l.mu.Lock()
	_, later := l.pending[lastSeenKey{s.UserNID, s.DeviceID, s.IP}]
	l.mu.Unlock()
	if !later {
		l.add(s)
	}
}
