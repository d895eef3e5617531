package replication

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"
)

// tracker keeps how far the handlers of one stream have come with each writer, and wakes
// those who wait for that.
type tracker struct {
	stream string

	mu      sync.Mutex
	epoch   int64
	from    Position
	fromNow bool
	writers map[string]*progress
	pos     Position // made of writers when fresh
	fresh   bool
}

// progress is one writer's place in a tracker.
type progress struct {
	have      int64
	known     bool // have is meaningful: false until heard of when starting "from now"
	active    bool // expected or heard of, not just waited for
	announced int64
	behind    time.Time // since when announced > have
	waiters   []*waiter
}

type waiter struct {
	token int64
	done  chan struct{}
}

func newTracker(stream string) *tracker {
	return &tracker{stream: stream, writers: make(map[string]*progress)}
}

// start sets where following begins, and which writers to expect. It is called before any
// other method.
func (t *tracker) start(from Position, fromNow bool, expected []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.from, t.fromNow, t.epoch = from, fromNow, from.Epoch()
	for _, w := range expected {
		t.heard(w)
	}
	if len(expected) == 0 {
		// Nobody says who writes the stream: take those that the position names. With a
		// list these are left out, since a writer that is gone would hold the floor
		// down for ever.
		for w := range from.Writers() {
			t.heard(w)
		}
	}
}

// get returns the progress of a writer, new ones starting where the stream does.
func (t *tracker) get(writer string) *progress {
	p := t.writers[writer]
	if p == nil {
		p = &progress{have: t.from.Get(writer), known: !t.fromNow}
		p.announced = p.have
		t.writers[writer] = p
	}
	return p
}

// heard is get for a writer that is known to exist, so that it counts for the floor.
func (t *tracker) heard(writer string) *progress {
	p := t.get(writer)
	if !p.active {
		p.active, t.fresh = true, false
	}
	return p
}

// have returns the token up to which the handlers have seen a writer's rows. A writer that
// was never heard of, of a stream that starts from now, starts at base.
func (t *tracker) have(writer string, base int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.heard(writer)
	if !p.known {
		p.known, p.have = true, base
		t.fresh = false
		p.wake()
	}
	return p.have
}

// announce notes that a writer is known to have reached token.
func (t *tracker) announce(writer string, token int64, now func() time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.heard(writer)
	if token > p.announced {
		p.announced = token
		if p.behind.IsZero() && p.announced > p.have {
			p.behind = now()
		}
	}
}

// advance notes that the handlers have seen a writer's rows up to token.
func (t *tracker) advance(writer string, token int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.heard(writer)
	if token <= p.have {
		return
	}
	p.have, p.known = token, true
	p.announced = max(p.announced, token)
	if p.have >= p.announced {
		p.behind = time.Time{}
	}
	t.fresh = false
	p.wake()
}

func (p *progress) wake() {
	if len(p.waiters) == 0 {
		return
	}
	rest := p.waiters[:0]
	for _, w := range p.waiters {
		if w.token <= p.have {
			close(w.done)
		} else {
			rest = append(rest, w)
		}
	}
	clear(p.waiters[len(rest):])
	p.waiters = rest
}

// position returns what the handlers have seen of all writers.
func (t *tracker) position() Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.fresh {
		m := make(map[string]int64, len(t.writers))
		for w, p := range t.writers {
			if p.active {
				m[w] = p.have
			}
		}
		t.pos = t.from
		if len(m) > 0 {
			t.pos = PositionOf(t.epoch, m)
		}
		t.fresh = true
	}
	return t.pos
}

var errEpoch = errors.New("position is of another epoch")

// waitFor waits until a writer has been followed to token. ask is called once when that
// takes long, to find out whether a message was lost.
func (t *tracker) waitFor(ctx context.Context, writer string, token int64, patience time.Duration, ask func()) error {
	t.mu.Lock()
	p := t.get(writer)
	if p.have >= token {
		t.mu.Unlock()
		return nil
	}
	w := &waiter{token: token, done: make(chan struct{})}
	p.waiters = append(p.waiters, w)
	t.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-w.done:
			return nil
		case <-timer.C:
			ask()
		case <-ctx.Done():
			t.mu.Lock()
			defer t.mu.Unlock()
			for i, o := range p.waiters {
				if o == w {
					p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
					break
				}
			}
			if p.have >= token {
				return nil
			}
			return &WaitError{Stream: t.stream, Writer: writer, Want: token, Have: p.have, Err: ctx.Err()}
		}
	}
}

// waitForPosition waits until everything that pos covers has been seen.
func (t *tracker) waitForPosition(ctx context.Context, pos Position, patience time.Duration, ask func()) error {
	if pos.IsZero() {
		return nil
	}
	t.mu.Lock()
	if pos.Epoch() != t.epoch {
		have := t.from.Max()
		t.mu.Unlock()
		return &WaitError{Stream: t.stream, Want: pos.Max(), Have: have, Err: errEpoch}
	}
	wants := pos.Writers()
	for w, p := range t.writers {
		if p.active {
			wants[w] = pos.Get(w)
		}
	}
	behind := make([]string, 0, len(wants))
	for w, token := range wants {
		if t.get(w).have < token {
			behind = append(behind, w)
		}
	}
	t.mu.Unlock()
	sort.Strings(behind) // so that a failure names the same writer every time
	for _, w := range behind {
		if err := t.waitFor(ctx, w, wants[w], patience, ask); err != nil {
			return err
		}
	}
	return nil
}

// status returns every writer's place, sorted by name.
func (t *tracker) status(now time.Time) []WriterStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]WriterStatus, 0, len(t.writers))
	for name, p := range t.writers {
		if !p.active {
			continue
		}
		s := WriterStatus{Writer: name, Position: p.have, Announced: p.announced}
		if p.known && p.announced > p.have {
			s.Lag = p.announced - p.have
			if !p.behind.IsZero() {
				s.LagTime = now.Sub(p.behind)
			}
		}
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Writer < out[j].Writer })
	return out
}
