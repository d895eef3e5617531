package sender

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// transmit sends one transaction. It returns false when the destination has no goroutine any more.
func (s *Sender) transmit(ctx context.Context, d *destination, b batch) bool {
	pdus, err := s.load(ctx, d.name, b.txn.Events)
	if err != nil {
		s.log.Warn().Err(err).Str("destination", d.name).Msg("cannot read the events of a transaction")
		wait(ctx, backlogRetry)
		return true
	}
	if len(pdus) == 0 && len(b.edus) == 0 {
		s.arrived(d, b)
		return true
	}
	if !b.again {
		b.txn.ID, b.txn.TS = s.ids.next(), s.cfg.Now().UnixMilli()
		if len(pdus) > 0 && !s.note(ctx, d, &b.txn) {
			return true
		}
	}
	err = s.exchange(ctx, d, &b, pdus)
	var refused *mxerr.Error
	switch {
	case err == nil:
	case ctx.Err() != nil:
		s.mu.Lock()
		if len(pdus) > 0 {
			d.resume = &b.txn
		}
		s.mu.Unlock()
		return true
	case errors.Is(err, federation.ErrNotAllowed):
		s.mu.Lock()
		d.denied = true
		s.mu.Unlock()
	case errors.As(err, &refused) && !worthRepeating(refused):
		s.log.Warn().Err(err).Str("destination", d.name).Str("txn_id", b.txn.ID).Int("count", len(pdus)).
			Msg("a server refuses a transaction, which is given up")
	default:
		s.failed(ctx, d, b, err)
		return false
	}
	s.arrived(d, b)
	return true
}

// worthRepeating reports whether a server that refused a transaction may take it later.
func worthRepeating(err *mxerr.Error) bool {
	switch err.Status {
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	}
	return err.Status >= 500
}

// load returns events as they are sent, without those that came from the destination itself.
func (s *Sender) load(ctx context.Context, destination string, nids []storage.EventNID) ([]json.RawMessage, error) {
	found := make(map[storage.EventNID]*pdu, len(nids))
	var missing []storage.EventNID
	for _, nid := range nids {
		if p, ok := s.pdus.GetIfPresent(nid); ok {
			found[nid] = p
		} else {
			missing = append(missing, nid)
		}
	}
	events, err := s.cfg.Store.Events(ctx, missing)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e == nil || e.Flags&store.Outlier != 0 || e.Flags.Hidden() {
			continue
		}
		p := &pdu{sender: event.ServerName(e.Sender()), json: e.JSON()}
		found[e.NID] = p
		s.pdus.Set(e.NID, p)
	}
	out := make([]json.RawMessage, 0, len(nids))
	for _, nid := range nids {
		if p := found[nid]; p != nil && p.sender != destination {
			out = append(out, p.json)
		}
	}
	return out, nil
}

// note has the database know a transaction before it is sent. It returns false when that cannot be done now.
func (s *Sender) note(ctx context.Context, d *destination, txn *storage.OutboundTxn) bool {
	s.mu.Lock()
	c := storage.OutboundCursor{Destination: d.name, Sent: d.cursor, Txn: txn}
	s.mu.Unlock()
	if err := s.journal.put(ctx, c); err != nil {
		if ctx.Err() == nil {
			s.log.Warn().Err(err).Str("destination", d.name).Msg("cannot note a transaction")
			wait(ctx, backlogRetry)
		}
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.noted, d.open = max(d.noted, c.Sent), true
	return true
}

// drainTimeout is how long a transaction that is under way may take once the sender is to stop.
const drainTimeout = 5 * time.Second

// exchange sends a transaction, when there is a place for it.
func (s *Sender) exchange(ctx context.Context, d *destination, b *batch, pdus []json.RawMessage) error {
	s.mu.Lock()
	places := s.unproven
	if d.answered {
		places = s.proven
	}
	s.mu.Unlock()
	select {
	case places <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-places }()
	sendCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTimeout, cancel) })()
	results, err := s.cfg.Transport.SendTransaction(sendCtx, d.name, b.txn.ID, &federation.Transaction{
		Origin: s.cfg.ServerName, OriginServerTS: b.txn.TS, PDUs: pdus, EDUs: b.edus,
	})
	for id, r := range results {
		if r.Error != "" {
			s.log.Info().Str("destination", d.name).Str("event_id", id).Str("reason", r.Error).Msg("a server refuses an event")
		}
	}
	return err
}

// arrived notes that a server has a transaction.
func (s *Sender) arrived(d *destination, b batch) {
	floor := s.floor()
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.again {
		d.resume = nil
	}
	d.answered, d.failures = true, 0
	d.done(b.txn.Events, floor)
}

// How long to keep away from a server that answers, but does not take a transaction.
const (
	minRefused = time.Minute
	maxRefused = time.Hour
)

// failed parks a destination whose server has not taken a transaction.
func (s *Sender) failed(ctx context.Context, d *destination, b batch, err error) {
	s.log.Debug().Err(err).Str("destination", d.name).Str("txn_id", b.txn.ID).Msg("a transaction has not arrived")
	s.mu.Lock()
	d.failures++
	pause := min(minRefused<<min(d.failures-1, 10), maxRefused)
	s.mu.Unlock()
	pause += rand.N(pause / 4)
	var refused *mxerr.Error
	if errors.As(err, &refused) {
		if ms, ok := refused.Fields["retry_after_ms"].(float64); ok && ms > 0 {
			pause = time.Duration(min(ms, float64(maxRefused.Milliseconds()))) * time.Millisecond
		}
	}
	if at, err := s.cfg.Transport.RetryAt(ctx, d.name); err == nil && !at.IsZero() {
		pause = at.Sub(s.cfg.Now())
	}
	s.park(d, b, pause)
}

// minPause is the shortest time for which a destination is parked.
const minPause = 100 * time.Millisecond

// park lets a destination be for some time, or until its server makes itself heard. What is ephemeral is dropped: it will
// not be true any more.
func (s *Sender) park(d *destination, b batch, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.running = false
	if !d.mine || s.ctx == nil {
		return
	}
	if b.txn.ID != "" && len(b.txn.Events) > 0 {
		d.resume = &b.txn
	}
	d.fall(s.cfg.CatchUpPerRoom)
	d.edus.clear()
	d.parked = time.AfterFunc(max(pause, minPause), func() { s.Wake(d.name) })
}
