// Package lease gives work to exactly one process of a cluster: whoever holds the named lease in the database runs it,
// the others stand by and take over when the holder stops or dies.
//
// A lease carries a fencing token, a number that grows each time the lease changes hands. Time alone cannot make two
// processes agree on who holds a lease (a process may be stopped for a minute and go on, not knowing), so whatever the
// work writes that must not be written twice carries the token, and the database refuses one that is out of date.
package lease

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// DefaultTTL is how long a lease outlives a holder that has died.
const DefaultTTL = 15 * time.Second

// ErrLost is the cause (context.Cause) of the context of work whose lease was lost.
var ErrLost = errors.New("lease lost")

// Store keeps leases. Package storage implements it on PostgreSQL. All times are the database's.
type Store interface {
	// AcquireLease takes a lease for holder where it is free, has expired, or is held by holder already. ok is false
	// where another holds it. The token is greater than that of any earlier holder.
	AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (token int64, ok bool, err error)
	// RenewLease extends a lease held with the token. ok is false where it has gone to another.
	RenewLease(ctx context.Context, name, holder string, token int64, ttl time.Duration) (ok bool, err error)
	// ReleaseLease gives a lease up. One that is no longer held with the token is left alone.
	ReleaseLease(ctx context.Context, name, holder string, token int64) error
}

// Config configures a Manager.
type Config struct {
	// Store keeps the leases. Required.
	Store Store
	// Holder is the process's unique name. It must differ between two processes that run at once. Required.
	Holder string
	// TTL is how long a lease lasts without renewal. Defaults to DefaultTTL. A third of it is the time between renewals
	// and between a standby's attempts.
	TTL time.Duration
	// Log defaults to silence.
	Log zerolog.Logger
}

// Manager holds leases for one process. It is safe for concurrent use. It needs no Run: each Hold keeps its own lease.
type Manager struct {
	store  Store
	holder string
	ttl    time.Duration
	log    zerolog.Logger

	mu      sync.Mutex
	waiting map[string][]chan struct{}
	held    map[string]int64
}

// New returns a Manager. It does no I/O.
func New(cfg Config) (*Manager, error) {
	var errs []error
	if cfg.Store == nil {
		errs = append(errs, errors.New("lease: Store is required"))
	}
	if cfg.Holder == "" {
		errs = append(errs, errors.New("lease: Holder is required"))
	}
	if cfg.TTL < 0 {
		errs = append(errs, errors.New("lease: TTL must not be negative"))
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	return &Manager{
		store:   cfg.Store,
		holder:  cfg.Holder,
		ttl:     cfg.TTL,
		log:     cfg.Log.With().Str("component", "lease").Logger(),
		waiting: map[string][]chan struct{}{},
		held:    map[string]int64{},
	}, errors.Join(errs...)
}

// Hold waits for the lease, runs fn while it is held, and does so again whenever the lease is lost and won back. fn gets
// a context that ends, with cause ErrLost, when the lease is lost, and the fencing token of this tenure.
//
// Hold returns when fn returns while the lease is held (with fn's error, and the lease is given up), or when ctx ends
// (nil after the lease is given up, whatever fn returned then). A database that cannot be reached is waited for.
func (m *Manager) Hold(ctx context.Context, name string, fn func(ctx context.Context, token int64) error) error {
	for {
		token, ok := m.acquire(ctx, name)
		if !ok {
			return nil
		}
		lost, err := m.tenure(ctx, name, token, fn)
		switch {
		case ctx.Err() != nil:
			return nil
		case !lost:
			return err
		}
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrLost) {
			m.log.Warn().Err(err).Str("lease", name).Msg("work ended with an error as its lease was lost")
		}
	}
}

// TryHold runs fn if the lease is free now, and reports whether it was.
func (m *Manager) TryHold(ctx context.Context, name string, fn func(ctx context.Context, token int64) error) (held bool, err error) {
	token, ok, err := m.store.AcquireLease(ctx, name, m.holder, m.ttl)
	if err != nil || !ok {
		return false, err
	}
	lost, err := m.tenure(ctx, name, token, fn)
	if lost && err == nil {
		err = ErrLost
	}
	return true, err
}

// Released tells the Manager that a lease may be free, so that a standby need not wait for its next attempt. It is a
// hint, and may be wrong.
func (m *Manager) Released(name string) {
	m.mu.Lock()
	chans := m.waiting[name]
	delete(m.waiting, name)
	m.mu.Unlock()
	for _, c := range chans {
		close(c)
	}
}

// Held returns the leases this process holds, with their tokens.
func (m *Manager) Held() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]int64, len(m.held))
	for k, v := range m.held {
		out[k] = v
	}
	return out
}

// acquire waits until the lease is held. ok is false when ctx ended first.
func (m *Manager) acquire(ctx context.Context, name string) (token int64, ok bool) {
	for first := true; ; first = false {
		wake := m.wakeup(name)
		token, ok, err := m.store.AcquireLease(ctx, name, m.holder, m.ttl)
		switch {
		case ctx.Err() != nil:
			m.forget(name, wake)
			if ok {
				m.release(ctx, name, token)
			}
			return 0, false
		case err != nil:
			m.log.Warn().Err(err).Str("lease", name).Msg("lease cannot be asked for")
		case ok:
			m.forget(name, wake)
			m.log.Info().Str("lease", name).Int64("token", token).Msg("lease acquired")
			return token, true
		case first:
			m.log.Debug().Str("lease", name).Msg("standing by for lease")
		}
		// Standbys spread their attempts, so that a crowd does not ask at one instant.
		wait := m.ttl/3 + rand.N(m.ttl/12+1)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			m.forget(name, wake)
			return 0, false
		}
		m.forget(name, wake)
	}
}

// tenure runs fn under a held lease and renews it. lost says that the lease went before fn returned.
func (m *Manager) tenure(ctx context.Context, name string, token int64, fn func(context.Context, int64) error) (lost bool, err error) {
	m.setHeld(name, token, true)
	defer m.setHeld(name, token, false)
	workCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	renewCtx, stopRenewing := context.WithCancel(context.WithoutCancel(ctx))
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		if !m.renew(renewCtx, name, token) {
			cancel(ErrLost)
		}
	}()
	err = fn(workCtx, token)
	lost = errors.Is(context.Cause(workCtx), ErrLost)
	stopRenewing()
	<-renewed
	if !lost {
		m.release(ctx, name, token)
	} else {
		m.log.Warn().Str("lease", name).Int64("token", token).Msg("lease lost")
	}
	return lost, err
}

// renew extends the lease until ctx ends (true) or the lease is lost (false). It goes on while fn winds down after a
// cancelled Hold: the standby must not start before this process has stopped.
func (m *Manager) renew(ctx context.Context, name string, token int64) bool {
	// The holder counts from before the request, the database from after it: the holder always gives up first.
	deadline := time.Now().Add(m.ttl)
	interval := m.ttl / 3
	for {
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return true
		case <-timer.C:
		}
		start := time.Now()
		tryCtx, cancel := context.WithDeadline(ctx, deadline)
		ok, err := m.store.RenewLease(tryCtx, name, m.holder, token, m.ttl)
		cancel()
		switch {
		case ctx.Err() != nil:
			return true
		case err == nil && !ok:
			return false
		case err == nil:
			deadline = start.Add(m.ttl)
			interval = m.ttl / 3
			continue
		}
		if !time.Now().Before(deadline) {
			return false
		}
		m.log.Warn().Err(err).Str("lease", name).Msg("lease could not be renewed yet")
		interval = min(m.ttl/10, time.Until(deadline))
	}
}

// release gives the lease up, also when ctx has ended: a standby should not have to wait for the lease to expire.
func (m *Manager) release(ctx context.Context, name string, token int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.ttl/3)
	defer cancel()
	if err := m.store.ReleaseLease(ctx, name, m.holder, token); err != nil {
		m.log.Warn().Err(err).Str("lease", name).Msg("lease could not be released; it will expire")
		return
	}
	m.Released(name)
}

func (m *Manager) wakeup(name string) chan struct{} {
	c := make(chan struct{})
	m.mu.Lock()
	m.waiting[name] = append(m.waiting[name], c)
	m.mu.Unlock()
	return c
}

func (m *Manager) forget(name string, c chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.waiting[name]
	for i, w := range list {
		if w == c {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(m.waiting, name)
	} else {
		m.waiting[name] = list
	}
}

func (m *Manager) setHeld(name string, token int64, held bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if held {
		m.held[name] = token
	} else if m.held[name] == token {
		delete(m.held, name)
	}
}
