package federation

import (
	"context"
	"sync"
	"time"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// originLimits bounds the requests of each server as Synapse's rc_federation describes: some are served at once, some
// wait, those beyond are refused, and a server that asks too often in a window of time is slowed.
type originLimits struct {
	rates config.FederationRates

	mu      sync.Mutex
	origins map[string]*originLoad
}

// originLoad is what one server has under way.
type originLoad struct {
	slots    chan struct{}
	users    int       // requests that hold or want a slot
	since    time.Time // start of the window
	inWindow int
}

func newOriginLimits(rates config.FederationRates) *originLimits {
	return &originLimits{rates: rates, origins: make(map[string]*originLoad)}
}

// enter waits for a request's turn. The function it returns must be called when the request is done.
//
// Errors: M_LIMIT_EXCEEDED where too many wait already.
func (o *originLimits) enter(ctx context.Context, origin string) (leave func(), err error) {
	if o.rates.Concurrent <= 0 {
		return func() {}, nil
	}
	now := time.Now()
	window := time.Duration(o.rates.WindowSize) * time.Millisecond
	o.mu.Lock()
	l := o.origins[origin]
	if l == nil {
		l = &originLoad{slots: make(chan struct{}, o.rates.Concurrent), since: now}
		o.origins[origin] = l
	}
	if l.users-o.rates.Concurrent >= o.rates.RejectLimit {
		o.mu.Unlock()
		return nil, mxerr.RetryAfter(window)
	}
	if now.Sub(l.since) >= window {
		l.since, l.inWindow = now, 0
	}
	l.inWindow++
	slow := l.inWindow > o.rates.SleepLimit
	l.users++
	o.mu.Unlock()
	if slow {
		t := time.NewTimer(time.Duration(o.rates.SleepDelay) * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			o.done(origin, l)
			return nil, ctx.Err()
		}
	}
	select {
	case l.slots <- struct{}{}:
		return func() {
			<-l.slots
			o.done(origin, l)
		}, nil
	case <-ctx.Done():
		o.done(origin, l)
		return nil, ctx.Err()
	}
}

// done forgets a server that has nothing under way and whose window need not be remembered.
func (o *originLimits) done(origin string, l *originLoad) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	if l.inWindow <= o.rates.SleepLimit/2 || len(o.origins) > maxRememberedOrigins {
		delete(o.origins, origin)
	}
}

// maxRememberedOrigins bounds the servers whose windows are remembered while they have nothing under way.
const maxRememberedOrigins = 10_000
