package writer

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// maxAhead is how many received events are looked up at once. It is less than maxRecent: an event that comes twice within
// so many is found among the recent ones.
const maxAhead = 100

// lookup is what the database says of an event that is to be received.
type lookup struct {
	stored *store.Event
	// waiting are redactions that arrived before it.
	waiting []storage.EventNID
}

// lookUp returns what the database says of the event of req, the first in the queue. It asks for those that wait behind
// it at the same time, and reads what these will need into the caches, so that a transaction of many events costs as many
// round trips as one of few. The answers stay true until they are used: nobody else writes events to the room, or the
// lane is lost.
func (l *lane) lookUp(ctx context.Context, req *request) (lookup, error) {
	id := req.received.Event.ID()
	if found, ok := l.ahead[id]; ok {
		delete(l.ahead, id)
		return found, nil
	}
	events := []*event.Event{req.received.Event}
	l.mu.Lock()
	for _, next := range l.queue[min(1, len(l.queue)):] {
		if next.received == nil || len(events) == maxAhead {
			break
		}
		events = append(events, next.received.Event)
	}
	l.mu.Unlock()
	if err := l.lookAhead(ctx, events); err != nil {
		return lookup{}, err
	}
	found := l.ahead[id]
	delete(l.ahead, id)
	return found, nil
}

func (l *lane) lookAhead(ctx context.Context, events []*event.Event) error {
	s := l.w.cfg.Store
	ids := make([]string, len(events))
	var named, users []string
	var keys, auth []event.Tuple
	for i, e := range events {
		ids[i] = e.ID()
		named = append(named, e.AuthEvents()...)
		if r := e.Redacts(); r != "" {
			named = append(named, r)
		}
		users = append(users, e.Sender())
		if sk, ok := e.StateKey(); ok {
			keys = append(keys, e.Tuple())
			if e.Type() == event.TypeMember {
				users = append(users, sk)
			}
		}
		auth = append(auth, e.AuthTuples()...)
	}
	// The redactions first: one that is not stored yet is then found on its way, or with its event.
	waiting, err := storage.PendingRedactions(ctx, l.w.cfg.DB, l.room.NID, ids)
	if err != nil {
		return err
	}
	stored, err := s.PlacedByID(ctx, ids)
	if err != nil {
		return err
	}
	l.ahead = make(map[string]lookup, len(ids))
	for i, id := range ids {
		l.ahead[id] = lookup{stored: stored[i]}
	}
	for _, r := range waiting {
		x := l.ahead[r.Redacts]
		x.waiting = append(x.waiting, r.RedactionNID)
		l.ahead[r.Redacts] = x
	}
	if len(events) == 1 {
		return nil
	}
	if _, err := s.EventsByID(ctx, named); err != nil {
		return err
	}
	if _, err := s.InternUsers(ctx, users); err != nil {
		return err
	}
	if _, err := s.InternStateKeys(ctx, keys); err != nil {
		return err
	}
	_, err = l.pieces(ctx, &work{}, auth)
	return err
}

// checkWaiting finds redactions that arrived before the event and may be applied now.
func (l *lane) checkWaiting(ctx context.Context, p *pending, waiting []storage.EventNID) error {
	allowed := func(redaction *event.Event) bool {
		// Those by power are allowed already: what is left is that sender and redacter share a server.
		return event.ServerName(redaction.Sender()) == event.ServerName(p.rec.event.Sender())
	}
	l.mu.Lock()
	committing := false
	for _, it := range l.inflight {
		for _, r := range it.events {
			committing = committing || r.redacts == p.rec.event.ID() && !r.allowed
		}
	}
	for _, it := range l.ready {
		for _, r := range it.events {
			if r.redacts == p.rec.event.ID() && allowed(r.rec.event) {
				r.allowed, p.redacted = true, true
			}
		}
	}
	l.mu.Unlock()
	if committing {
		if err := l.barrier(ctx); err != nil {
			return err
		}
		rows, err := storage.PendingRedactions(ctx, l.w.cfg.DB, l.room.NID, []string{p.rec.event.ID()})
		if err != nil {
			return err
		}
		waiting = nil
		for _, r := range rows {
			waiting = append(waiting, r.RedactionNID)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	events, err := l.w.cfg.Store.Events(ctx, waiting)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e != nil && allowed(e.Event) {
			p.unlocks = append(p.unlocks, e.NID)
		}
	}
	return nil
}
