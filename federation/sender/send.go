package sender

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// pdu is an event as it is sent.
type pdu struct {
	sender string // the server it is from
	json   json.RawMessage
}

// maxPDUBytes bounds the events kept for the destinations that are to be sent them.
const maxPDUBytes = 64 << 20

func newPDUs() memo.Cache[storage.EventNID, *pdu] {
	return memo.NewWeighted(maxPDUBytes, func(_ storage.EventNID, p *pdu) uint32 { return uint32(len(p.json) + 200) })
}

// txnIDs makes transaction ids that no other process makes.
type txnIDs struct {
	prefix string
	last   atomic.Int64
}

func newTxnIDs(now time.Time) *txnIDs {
	return &txnIDs{prefix: strconv.FormatInt(now.UnixMilli(), 36) + rand.Text()[:6]}
}

func (t *txnIDs) next() string { return t.prefix + strconv.FormatInt(t.last.Add(1), 36) }

// batch is what goes into one transaction.
type batch struct {
	txn  storage.OutboundTxn
	edus []federation.EDU
	// again says that it may have been sent before.
	again bool
}

// send sends what waits for a destination until nothing is left, the server does not answer, or ctx is done.
func (s *Sender) send(ctx context.Context, d *destination) {
	defer s.work.Done()
	for {
		b, ok := s.next(ctx, d)
		if !ok {
			return
		}
		if at, err := s.cfg.Transport.RetryAt(ctx, d.name); err == nil && !at.IsZero() {
			s.park(d, b, at.Sub(s.cfg.Now()))
			return
		}
		if !s.transmit(ctx, d, b) {
			return
		}
	}
}

// next decides what a destination is sent next. It returns false when there is nothing, and the destination then has no
// goroutine any more.
func (s *Sender) next(ctx context.Context, d *destination) (batch, bool) {
	for {
		s.mu.Lock()
		if ctx.Err() != nil || !d.mine || !d.scanned || d.parked != nil {
			s.mu.Unlock()
			s.rest(ctx, d)
			return batch{}, false
		}
		if d.resume != nil {
			b := batch{txn: *d.resume, again: true}
			s.mu.Unlock()
			return b, true
		}
		if d.behind && len(d.plan) == 0 {
			s.mu.Unlock()
			s.readBacklog(ctx, d)
			s.mu.Lock()
		}
		b := batch{txn: storage.OutboundTxn{Events: d.take()}, edus: d.edus.take(federation.MaxTransactionEDUs, s.cfg.Now())}
		more := d.behind
		s.mu.Unlock()
		if len(b.txn.Events) > 0 || len(b.edus) > 0 {
			return b, true
		}
		if !more && s.rest(ctx, d) {
			return batch{}, false
		}
	}
}

// rest ends the goroutine of a destination for which nothing is left or may be done, once the database knows how far it
// has come. It returns false when something has come up.
func (s *Sender) rest(ctx context.Context, d *destination) bool {
	floor := s.floor()
	s.mu.Lock()
	if !d.waiting() {
		d.settle(floor)
	}
	c := storage.OutboundCursor{Destination: d.name, Sent: d.cursor, Txn: d.resume}
	note := d.mine && (d.open || d.noted < d.cursor)
	s.mu.Unlock()
	var err error
	if note {
		if err = s.journal.put(context.WithoutCancel(ctx), c); err != nil {
			// The next one will tell, and what is sent twice until then is known there.
			s.log.Warn().Err(err).Str("destination", d.name).Msg("cannot note what a server has been sent")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if note && err == nil {
		d.noted, d.open = max(d.noted, c.Sent), c.Txn != nil
	}
	if ctx.Err() == nil && d.ready() && d.waiting() {
		return false
	}
	d.running = false
	if len(d.ahead) > 0 && s.ctx != nil {
		time.AfterFunc(settleAgain, func() { s.settleLater(d) })
	}
	return true
}

// settleAgain is when to look again whether the cursor can move, where a writer of events lags behind the others.
const settleAgain = time.Second

func (s *Sender) settleLater(d *destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(d.ahead) > 0 && s.ctx != nil && d.ready() && !d.running {
		s.launch(d)
	}
}

// floor is the number below which no event is written any more, and up to which the handlers have seen all.
func (s *Sender) floor() storage.EventNID {
	return storage.EventNID(s.cfg.Replication.Position(eventsStream).Floor())
}

const (
	// maxPlan is the most of a backlog that is read at once.
	maxPlan = 2000
	// restartPerRoom is the number of events of a room up to which a server that was not out of reach is sent all that it
	// missed, while there was no sender.
	restartPerRoom = 1000
	// backlogRetry is the time between attempts to read a backlog.
	backlogRetry = 500 * time.Millisecond
)

// readBacklog reads what a destination is owed from the database.
func (s *Sender) readBacklog(ctx context.Context, d *destination) {
	s.mu.Lock()
	missed := maps.Clone(d.missed)
	q := storage.BacklogQuery{Destination: d.name, After: d.cursor, PerRoom: d.perRoom, Limit: maxPlan}
	s.mu.Unlock()
	// What was missed has been seen by the handler, or is being seen now.
	for writer, nid := range missed {
		if err := s.cfg.Replication.WaitFor(ctx, eventsStream, writer, nid); err != nil {
			s.log.Warn().Err(err).Str("destination", d.name).Msg("the events stream does not come to where a server has missed events")
		}
	}
	upTo := s.cfg.Replication.Position(eventsStream)
	var nids []storage.EventNID
	var err error
	if q.UpTo, err = s.bound(upTo); err == nil {
		nids, err = storage.OutboundBacklog(ctx, s.cfg.DB, q)
	}
	s.mu.Lock()
	if err == nil {
		d.setPlan(nids, upTo, len(nids) == q.Limit)
	}
	pause := d.behind && len(d.plan) == 0
	s.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		s.log.Warn().Err(err).Str("destination", d.name).Msg("cannot read what a server is owed")
	}
	if pause {
		wait(ctx, backlogRetry)
	}
}

// bound is a position of the events stream for the database.
func (s *Sender) bound(p replication.Position) (storage.StreamBound, error) {
	b := storage.StreamBound{Floor: storage.EventNID(p.Floor())}
	for name, at := range p.Writers() {
		id, ok := s.cfg.WriterIDs.WriterID(name)
		if !ok {
			return b, fmt.Errorf("find the number of writer %s", name)
		}
		b.Writers = append(b.Writers, storage.WriterNID(id))
		b.At = append(b.At, storage.EventNID(at))
	}
	return b, nil
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
