package task

import (
	"context"
	"time"
)

// Wake has a Poll, or whoever else receives from it, work at once. NewWake makes one.
type Wake chan struct{}

// NewWake returns a Wake for one receiver.
func NewWake() Wake { return make(Wake, 1) }

// Up wakes. It does not block; several calls while work is under way have it done once more.
func (w Wake) Up() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// Poll works at once, then whenever it is woken and each time the wait is over that work has returned, until ctx is done.
func Poll(ctx context.Context, wake Wake, work func() (wait time.Duration)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-wake:
		}
		timer.Reset(work())
	}
}
