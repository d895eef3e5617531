package writer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// committer writes what the lanes have ready, one transaction after the other.
type committer struct {
	w *Writer

	mu     sync.Mutex
	lanes  []*lane // with ready items, each once, first come first served
	listed map[*lane]bool
	wake   chan struct{}

	// Of the goroutine.
	conn *pgx.Conn
	// careful is how many requests are still to be written in transactions of their own, after one that failed for a
	// reason that lies in one of them.
	careful int
}

// commitTimeout bounds one transaction.
const commitTimeout = 30 * time.Second

func newCommitter(w *Writer) *committer {
	return &committer{w: w, listed: make(map[*lane]bool), wake: make(chan struct{}, 1)}
}

// offer says that a lane has ready items.
func (c *committer) offer(l *lane) {
	c.mu.Lock()
	if !c.listed[l] {
		c.listed[l] = true
		c.lanes = append(c.lanes, l)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// next takes the lane that has waited longest.
func (c *committer) next() *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lanes) == 0 {
		return nil
	}
	l := c.lanes[0]
	c.lanes = c.lanes[1:]
	delete(c.listed, l)
	return l
}

// run commits until ctx is done. The error is storage.ErrWriterReplaced.
func (c *committer) run(ctx context.Context) error {
	defer c.hangUp()
	idle := time.NewTimer(c.w.cfg.IdleConnection)
	defer idle.Stop()
	for {
		batch, apart := c.take()
		if len(batch)+len(apart) == 0 {
			idle.Reset(c.w.cfg.IdleConnection)
			select {
			case <-ctx.Done():
				return nil
			case <-c.wake:
			case <-idle.C:
				c.hangUp()
			}
			continue
		}
		if len(batch) > 0 {
			if err := c.write(ctx, batch); err != nil {
				return err
			}
		}
		for _, s := range apart {
			if err := c.write(ctx, []*share{s}); err != nil {
				return err
			}
		}
	}
}

// share is what a transaction writes of one lane.
type share struct {
	lane  *lane
	items []*item
	head  head // before; after assembly, as it will be
	out   []written
	won   bool
}

// apart reports whether the share is written in a transaction of its own.
func (s *share) apart() bool { return s.items[0].apart() }

// take fills a batch with what is ready, besides what is to be written apart from it.
func (c *committer) take() (batch, apart []*share) {
	events, bytes := c.w.cfg.BatchEvents, c.w.cfg.BatchBytes
	if c.careful > 0 {
		c.careful--
		events = 1
	}
	for events > 0 && bytes > 0 {
		l := c.next()
		if l == nil {
			break
		}
		items, h := l.take(events, bytes)
		if len(items) == 0 {
			continue
		}
		for _, it := range items {
			for _, p := range it.events {
				events--
				bytes -= len(p.rec.event.JSON())
			}
		}
		s := &share{lane: l, items: items, head: h}
		if s.apart() {
			apart = append(apart, s)
			continue
		}
		batch = append(batch, s)
		if c.careful > 0 {
			break
		}
	}
	return batch, apart
}

// write commits a batch and says to each lane what became of its share. It returns an error only when this process may
// not write any more.
func (c *committer) write(ctx context.Context, batch []*share) error {
	n := 0
	after := int64(0)
	for _, s := range batch {
		for _, it := range s.items {
			n += len(it.events)
		}
		after = max(after, int64(s.head.last))
	}
	if n == 0 {
		for _, s := range batch {
			s.lane.settled(s.head)
		}
		return nil
	}
	ids, err := c.w.cfg.IDs.Take(ctx, n, after)
	if err != nil {
		c.giveBack(ctx, batch, fmt.Errorf("take event numbers: %w", err))
		return nil
	}
	rows, nodes, err := c.layOut(ctx, batch, ids.All())
	if err != nil {
		ids.Done()
		c.giveBack(ctx, batch, err)
		return nil
	}
	unknown, err := c.commit(ctx, batch, rows, ids, n)
	switch {
	case err == nil:
		c.w.cfg.Store.Nodes().Remember(nodes)
		// The numbers hold the position back until the rows are with the publisher: were they given back first, a
		// position of another writer could move this one's past rows that no follower was told of.
		c.announce(batch, c.w.cfg.IDs.PositionAfter(ids))
		ids.Done()
	case unknown:
		// The connection broke: what became of the transaction is found out before anybody is told. The position may
		// move on meanwhile, so followers look in the database themselves.
		c.w.cfg.Log.Warn().Err(err).Int("count", n).Msg("Connection lost in a commit")
		if c.w.cfg.Publisher != nil {
			all := ids.All()
			c.w.cfg.Publisher.Doubt(all[len(all)-1])
		}
		if err = c.settle(ctx, batch, ids); err == nil {
			c.w.cfg.Store.Nodes().Remember(nodes)
			c.announce(batch, c.w.cfg.IDs.Position())
		}
	default:
		ids.Done()
	}
	if errors.Is(err, storage.ErrWriterReplaced) {
		for _, s := range batch {
			s.lane.failInflight(errReplaced)
		}
		return err
	}
	if err != nil {
		c.giveBack(ctx, batch, err)
		return nil
	}
	for _, s := range batch {
		if s.won {
			s.lane.settled(s.head)
		} else {
			c.w.cfg.Log.Debug().Str("room_id", s.lane.roomID).Msg("Room was written by another process, starting over")
			s.lane.lost()
		}
	}
	return nil
}

var errReplaced = fmt.Errorf("write to room: %w", storage.ErrWriterReplaced)

// commit sends the batch, in one round trip. unknown says that the transaction may or may not have taken place.
func (c *committer) commit(ctx context.Context, batch []*share, rows batchRows, ids *storage.IDs, n int) (unknown bool, err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return false, err
	}
	won := make(map[storage.RoomNID]bool, len(batch))
	b := &pgx.Batch{}
	rows.Queue(b, func(room storage.RoomNID) { won[room] = true })
	c.w.cfg.IDs.QueuePosition(b, ids)
	c.w.cfg.IDs.QueueReserve(b, 2*n)
	// A server that does not answer for so long is treated as one that went away.
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	// The statements up to the end of the batch are one transaction, which is committed at its end.
	err = storage.TranslateError(conn.SendBatch(ctx, b).Close())
	if err != nil {
		// A server that has said what is wrong has rolled back. Otherwise who knows.
		unknown = conn.IsClosed()
		if unknown || storage.IsTransient(err) {
			unknown = true
			c.hangUp()
		}
		return unknown, fmt.Errorf("commit %d events: %w", n, err)
	}
	for _, s := range batch {
		s.won = won[s.lane.room.NID]
	}
	return false, nil
}

// settle waits until it is certain which rooms of a batch were written.
func (c *committer) settle(ctx context.Context, batch []*share, ids *storage.IDs) error {
	if err := c.w.cfg.IDs.Resolve(ctx, ids); err != nil && !errors.Is(err, storage.ErrWriterReplaced) {
		return err
	}
	// Each room's events were written all or none, and their numbers are in no other transaction.
	var marks []storage.EventNID
	for _, s := range batch {
		if len(s.out) > 0 {
			marks = append(marks, s.out[len(s.out)-1].row.NID)
		}
	}
	var there []storage.EventNID
	err := storage.Retry(ctx, storage.RetryPolicy{}, func(ctx context.Context) (err error) {
		there, err = storage.ExistingEvents(ctx, c.w.cfg.DB, marks)
		return err
	})
	if err != nil {
		return err
	}
	found := make(map[storage.EventNID]bool, len(there))
	for _, nid := range there {
		found[nid] = true
	}
	for _, s := range batch {
		s.won = len(s.out) == 0 || found[s.out[len(s.out)-1].row.NID]
	}
	return nil
}

// giveBack has the lanes build anew what could not be written. Where the reason lies in what was to be written, the
// request at fault is singled out and refused.
func (c *committer) giveBack(ctx context.Context, batch []*share, err error) {
	requests := 0
	for _, s := range batch {
		requests += len(s.items)
	}
	heals := storage.IsTransient(err) || storage.IsRetryable(err) || ctx.Err() != nil
	switch {
	case heals:
		c.w.cfg.Log.Warn().Err(err).Msg("Events were not written, trying again")
	case requests == 1:
		c.w.cfg.Log.Error().Err(err).Str("room_id", batch[0].lane.roomID).Msg("Event could not be written")
		batch[0].lane.failInflight(fmt.Errorf("write to room %s: %w", batch[0].lane.roomID, err))
		return
	default:
		c.w.cfg.Log.Warn().Err(err).Int("count", requests).Msg("Events were not written, trying one by one")
		c.careful = requests
	}
	for _, s := range batch {
		s.lane.lost()
	}
}

// connect returns the connection that commits go through: one of the committer's own, whose planner is told to probe
// indexes. All of the statements look up a few rows by key, and on a young table without statistics the planner may
// think that reading all of it is as good.
func (c *committer) connect(ctx context.Context) (*pgx.Conn, error) {
	if c.conn != nil && !c.conn.IsClosed() {
		return c.conn, nil
	}
	pooled, err := c.w.cfg.DB.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect for writing: %w", err)
	}
	c.conn = pooled.Hijack()
	const tune = `SELECT set_config(name, value, false) FROM (VALUES
		('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('enable_material', 'off'),
		('plan_cache_mode', 'force_generic_plan'), ('jit', 'off')) AS s(name, value)`
	if _, err := c.conn.Exec(ctx, tune); err != nil {
		c.hangUp()
		return nil, fmt.Errorf("connect for writing: %w", err)
	}
	return c.conn, nil
}

// hangUp closes the connection.
//
//nolint:contextcheck // also when the caller's context has ended
func (c *committer) hangUp() {
	if c.conn == nil {
		return
	}
	// The context may be what ended, and the goodbye is a courtesy.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.conn.Close(ctx)
	c.conn = nil
}

// rootOf turns a state root into what is stored.
func rootOf(r store.Root) []byte {
	if r == (store.Root{}) {
		return nil
	}
	return append([]byte(nil), r[:]...)
}
