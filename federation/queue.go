package federation

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

const (
	// stagedBatch is how many events of one room are written at once.
	stagedBatch = 100
	// adoptBatch is how many rooms that lost their process are taken over at once.
	adoptBatch = 50
	// workTimeout bounds the work on one batch of a room, which may wait for other servers.
	workTimeout = 5 * time.Minute
	// maxWorkBackoff is the longest wait before work that failed is tried again.
	maxWorkBackoff = 30 * time.Second
	// maxFailures is how often an event is tried that this server cannot write.
	maxFailures = 8
	// keepTxns is how long a transaction is answered as before when it comes again.
	keepTxns   = 24 * time.Hour
	pruneEvery = time.Hour
)

// queue writes staged events to their rooms, those of one room in the order of arrival.
//
// The database says which process works on which room: a claim that is given when events are staged and renewed while
// there is work (storage.InboundClaim). Within the process, a round of one statement batch does the bookkeeping of all
// rooms at once: it deletes what is written, gives up rooms that are empty and fetches what waits, so that many busy
// rooms cost no more round trips than one. Each room with events has a goroutine for as long as a batch takes.
//
// Writing an event twice does no harm, so nothing depends on a claim being exact: it keeps the order, and saves work.
type queue struct {
	in   *Inbound
	wake task.Wake

	mu    sync.Mutex
	rooms map[storage.RoomNID]*queuedRoom
	busy  int
	done  []int64 // staged events that are written
}

// queuedRoom is a room that this process has claimed.
type queuedRoom struct {
	claim storage.InboundClaim
	// wanted says that events may be waiting, empty that none were when the claim's Changes were counted.
	wanted, empty bool
	busy          bool
	backoff       time.Duration
	// failures counts how often the first of its events could not be written.
	failures int
}

func newQueue(in *Inbound) *queue {
	return &queue{in: in, wake: task.NewWake(), rooms: make(map[storage.RoomNID]*queuedRoom)}
}

// claimed notes rooms that this process has claimed, or has claimed before and which got more events.
func (q *queue) claimed(claims []storage.InboundClaim) {
	if len(claims) == 0 {
		return
	}
	q.mu.Lock()
	for _, c := range claims {
		r := q.rooms[c.RoomNID]
		if r == nil {
			r = &queuedRoom{}
			q.rooms[c.RoomNID] = r
		}
		r.claim, r.wanted, r.empty = c, true, false
	}
	q.mu.Unlock()
	q.wake.Up()
}

// run works until ctx is done. Then it gives up its rooms, so that others may go on at once.
func (q *queue) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		// The process is stopping, and the database may be gone: then the claims run out.
		rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := storage.AbandonInbound(rest, q.in.cfg.DB, q.in.cfg.Instance); err != nil {
			q.in.log.Warn().Err(err).Msg("rooms could not be given up")
		}
	}()
	// What this process had claimed when it died is its own again.
	if err := storage.AbandonInbound(ctx, q.in.cfg.DB, q.in.cfg.Instance); err != nil {
		q.in.log.Warn().Err(err).Msg("rooms of an earlier run could not be taken over")
	}
	tick := time.NewTicker(q.in.cfg.ClaimTTL / 3)
	defer tick.Stop()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	q.renew(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-prune.C:
			q.prune(ctx)
		case <-tick.C:
			q.renew(ctx)
		case <-q.wake:
			q.round(ctx, &wg)
		}
	}
}

// prune forgets transactions that will not come again. Every process does it; there is nothing left for the second.
func (q *queue) prune(ctx context.Context) {
	before := q.in.cfg.Now().Add(-keepTxns).UnixMilli()
	if err := storage.PruneServerTxns(ctx, q.in.cfg.DB, before); err != nil && ctx.Err() == nil {
		q.in.log.Warn().Err(err).Msg("old transactions could not be forgotten")
	}
}

// renew keeps the claims, and takes over rooms that nobody works on any more.
func (q *queue) renew(ctx context.Context) {
	q.mu.Lock()
	held := make([]storage.InboundClaim, 0, len(q.rooms))
	for _, r := range q.rooms {
		held = append(held, r.claim)
	}
	q.mu.Unlock()
	cfg := &q.in.cfg
	kept, adopted, err := storage.RenewInbound(ctx, cfg.DB, cfg.Instance, held, cfg.ClaimTTL, adoptBatch)
	if err != nil {
		if ctx.Err() == nil {
			q.in.log.Warn().Err(err).Msg("claims on rooms could not be renewed")
		}
		return
	}
	q.mu.Lock()
	for _, c := range held {
		// A claim that was made anew meanwhile is not the one that was asked about.
		if r := q.rooms[c.RoomNID]; r != nil && r.claim.Token == c.Token && !slices.Contains(kept, c.RoomNID) && !r.wanted && !r.busy {
			delete(q.rooms, c.RoomNID)
		}
	}
	q.mu.Unlock()
	if len(adopted) > 0 {
		q.in.log.Info().Int("count", len(adopted)).Msg("rooms of another process taken over")
	}
	q.claimed(adopted)
	q.wake.Up()
}

// round does what is to be done for all rooms in one round trip, and starts work on those that have events.
func (q *queue) round(ctx context.Context, wg *sync.WaitGroup) {
	q.mu.Lock()
	w := storage.InboundWork{Done: q.done, Limit: stagedBatch}
	q.done = nil
	for _, r := range q.rooms {
		switch {
		case r.busy:
		case r.wanted && q.busy+len(w.Fetch) < q.in.cfg.Workers:
			r.wanted, r.empty = false, false
			w.Fetch = append(w.Fetch, r.claim)
		case r.empty && !r.wanted:
			w.Release = append(w.Release, r.claim)
		}
	}
	q.mu.Unlock()
	released, fetched, err := storage.WorkInbound(ctx, q.in.cfg.DB, q.in.cfg.Instance, w)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		// Once more, when the claims are renewed.
		q.done = append(q.done, w.Done...)
		for _, c := range w.Fetch {
			if r := q.rooms[c.RoomNID]; r != nil {
				r.wanted = true
			}
		}
		if ctx.Err() == nil {
			q.in.log.Warn().Err(err).Msg("staged events could not be read")
		}
		return
	}
	q.settle(w, released, fetched)
	for i := range fetched {
		f := &fetched[i]
		r := q.rooms[f.RoomNID]
		if r == nil {
			continue
		}
		r.claim.Changes = f.Changes
		if len(f.Events) == 0 {
			r.empty = !r.wanted
			q.wake.Up()
			continue
		}
		r.busy = true
		q.busy++
		wg.Go(func() { q.work(ctx, r, f) })
	}
}

// settle takes out the rooms that were given up and those that turned out to be lost. It is called with q.mu held.
//
// A room that is wanted was claimed anew while the round was under way.
func (q *queue) settle(w storage.InboundWork, released []storage.RoomNID, fetched []storage.InboundRoom) {
	for _, c := range w.Release {
		r := q.rooms[c.RoomNID]
		switch {
		case r == nil || r.wanted:
		case slices.Contains(released, c.RoomNID):
			delete(q.rooms, c.RoomNID)
		default:
			// Somebody staged events for it.
			r.wanted, r.empty = true, false
			q.wake.Up()
		}
	}
	for _, c := range w.Fetch {
		there := slices.ContainsFunc(fetched, func(f storage.InboundRoom) bool { return f.RoomNID == c.RoomNID })
		if r := q.rooms[c.RoomNID]; r != nil && !there && !r.wanted {
			delete(q.rooms, c.RoomNID)
		}
	}
}

// work writes a batch of a room.
func (q *queue) work(ctx context.Context, r *queuedRoom, f *storage.InboundRoom) {
	wctx, cancel := context.WithTimeout(ctx, workTimeout)
	done, err := q.in.writeStaged(wctx, f)
	cancel()
	q.mu.Lock()
	q.busy--
	if err != nil && ctx.Err() == nil {
		done = q.failed(r, f, done, err)
		wait := r.backoff
		q.mu.Unlock()
		q.wake.Up()
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		q.mu.Lock()
	} else {
		r.backoff, r.failures = 0, 0
	}
	q.done = append(q.done, done...)
	r.busy, r.wanted, r.empty = false, true, false
	q.mu.Unlock()
	q.wake.Up()
}

// failed works out what comes of a batch that could not be written to its end. One event must not keep its room from all
// others for good: it is given up when it fails again and again for a reason that does not pass. It is called with q.mu
// held, and returns the events that need no further work.
func (q *queue) failed(r *queuedRoom, f *storage.InboundRoom, done []int64, err error) []int64 {
	if len(done) > 0 {
		r.backoff, r.failures = 0, 0
	}
	r.backoff = min(max(2*r.backoff, 100*time.Millisecond), maxWorkBackoff)
	log := q.in.log.With().Err(err).Int64("room", int64(f.RoomNID)).Str("event_id", f.Events[len(done)].EventID).Logger()
	if !storage.IsTransient(err) && !storage.IsRetryable(err) {
		r.failures++
	}
	if r.failures < maxFailures {
		log.Warn().Dur("retry_in", r.backoff).Msg("staged event could not be written")
		return done
	}
	log.Error().Msg("staged event is given up")
	r.failures = 0
	return append(done, f.Events[len(done)].ID)
}

// writeStaged writes staged events of one room in their order. It returns those that need no further work; the error is
// about the first that does.
func (in *Inbound) writeStaged(ctx context.Context, f *storage.InboundRoom) (done []int64, err error) {
	r, err := in.store.RoomByNID(ctx, f.RoomNID)
	if err != nil {
		return nil, fmt.Errorf("find room %d: %w", f.RoomNID, err)
	}
	here, err := in.store.HasServer(ctx, r.NID, in.cfg.ServerName)
	if err != nil {
		return nil, err
	}
	for rest := f.Events; len(rest) > 0; {
		group := make([]*event.Event, 0, len(rest))
		for _, s := range rest {
			if s.Origin != rest[0].Origin {
				break
			}
			e, err := event.Load(r.Version, s.EventID, s.JSON)
			if err != nil {
				return done, fmt.Errorf("read staged event: %w", err)
			}
			group = append(group, e)
		}
		n := len(group)
		if here {
			n, err = in.ingest.Receive(ctx, rest[0].Origin, r, group)
		} else if err = in.writeOutside(ctx, r, group); err != nil {
			n = 0
		}
		for _, s := range rest[:n] {
			done = append(done, s.ID)
		}
		if err != nil {
			return done, err
		}
		rest = rest[n:]
	}
	return done, nil
}

// writeOutside writes the ends of invites and knocks in a room that this server is not in. Whether the sender had the
// power to do it cannot be known here: it must be the inviter.
func (in *Inbound) writeOutside(ctx context.Context, r *store.Room, events []*event.Event) error {
	for _, e := range events {
		if !in.endsInvite(e) {
			continue
		}
		user, _ := e.StateKey()
		m, err := in.store.Membership(ctx, r.NID, user)
		if err != nil {
			return fmt.Errorf("read membership of %s in %s: %w", user, r.ID, err)
		}
		if m == nil {
			continue
		}
		switch m.Membership {
		case storage.MembershipInvite:
			by, err := in.store.UserIDs(ctx, []storage.UserNID{m.SenderNID})
			if err != nil {
				return fmt.Errorf("find inviter of %s: %w", user, err)
			}
			if by[0] != e.Sender() {
				continue
			}
		case storage.MembershipKnock:
		default:
			continue
		}
		if _, err := in.cfg.Writer.ReceiveOutOfBand(ctx, writer.OutOfBand{Event: e}); err != nil && !refused(err) {
			return err
		}
	}
	return nil
}
