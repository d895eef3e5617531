package writer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
)

// Received is an event of another server.
type Received struct {
	// Event is the event, of the room's version, with its signatures and hashes checked.
	Event *event.Event
	// StateBefore are the ids of the events that make up the state before the event, for an event whose prev_events are
	// not all here. They must be stored, as outliers at least. Nil has the state follow from the prev_events.
	StateBefore []string
	// Anew is set for the join of a user of this server by which the server enters the room: the room begins with it, as
	// far as this server can tell, and what it knew of an earlier stay is no end of the room any more. Where somebody else
	// has entered in the meantime it is placed like any other event.
	Anew bool
	// Partial is set, with Anew, where most members are missing in StateBefore.
	Partial *Partial
	// History is set for an event from before what is known of the room, which takes its place there and moves neither the
	// room's end nor its current state. Stored as an outlier first, it keeps its number below zero and is no news to anybody.
	History bool
	// Relay has this server tell the other servers of the room of the event: it was made through this one, by send_join,
	// send_leave or send_knock, and its own server does not; or it is this server's own and needed another's signature.
	Relay bool
}

// Partial says of whom the rest of a room's state may be had.
type Partial struct {
	// Via is the server that helped with the join, Servers are those that it says are in the room.
	Via     string
	Servers []string
}

// MissingEventsError says which events have to be stored before an event can be received.
type MissingEventsError struct {
	EventID string
	// Prev and Auth are its missing prev_events and auth_events.
	Prev, Auth []string
}

// Error implements error.
func (e *MissingEventsError) Error() string {
	return fmt.Sprintf("event %s refers to unknown events: %d prev_events, %d auth_events", e.EventID, len(e.Prev), len(e.Auth))
}

// codeMissing is how a MissingEventsError crosses processes.
const codeMissing = "WEFT_MISSING_EVENTS"

// Receive writes events of other servers to a room, in their order, on whichever process owns the room: it authorises
// them, resolves the state where the graph forks, and marks those that are rejected or soft-failed (server-server API,
// "Checks performed on receipt of a PDU", steps 4 to 6). An event that is there already is a duplicate, unless it was an
// outlier, which it then no longer is. Each event stands for itself: when one fails, those before it are written, and
// the error is about the first that failed, the results are those of the events before it; *MissingEventsError says what to
// fetch and store first.
func (w *Writer) Receive(ctx context.Context, roomID string, events ...Received) ([]Result, error) {
	if len(events) == 0 {
		return nil, nil
	}
	owner, local := w.owner(roomID)
	if !local {
		reply, err := forward(ctx, w, owner, receiveMethod(), receiveRequest{roomID, events[0].Event.Version().ID, events})
		if err == nil && reply.failed != nil {
			err = missingFrom(fromRPC(reply.failed))
		}
		return reply.results, err
	}
	return w.receiveHere(ctx, roomID, events)
}

// receiveHere queues the events one by one, so that they share transactions and not their fate.
func (w *Writer) receiveHere(ctx context.Context, roomID string, events []Received) ([]Result, error) {
	reqs := make([]*request, len(events))
	for i := range events {
		reqs[i] = &request{received: &events[i]}
	}
	if err := w.start(ctx, roomID, reqs...); err != nil {
		return nil, err
	}
	var results []Result
	var failed error
	for _, req := range reqs {
		res, err := w.wait(ctx, roomID, req)
		if failed == nil {
			failed = err
		}
		if failed == nil {
			results = append(results, res...)
		}
	}
	return results, failed
}

// receive puts an event of another server in its place.
func (l *lane) receive(ctx context.Context, it *item) error {
	if err := l.enter(it.req); err != nil {
		return err
	}
	r := it.req.received
	e := r.Event
	if e.RoomID() != l.roomID || e.Version() != l.room.Version {
		return refuse(mxerr.InvalidParam.WithMessage("The event is of another room"))
	}
	if sk, _ := e.StateKey(); strings.ContainsRune(sk, 0) || strings.ContainsRune(e.Type(), 0) || strings.ContainsRune(e.ID(), 0) {
		return refuse(mxerr.InvalidParam.WithMessage("The event has a null character in a key"))
	}
	key := txnKey{txn: e.ID()}
	if rec := l.recent[key]; rec != nil {
		it.outcome = []outcome{{rec: rec, duplicate: true}}
		return nil
	}
	found, err := l.lookUp(ctx, it.req)
	if err != nil {
		return err
	}
	old := found.stored
	if old != nil && old.Flags&store.Outlier == 0 {
		rec := storedRecord(old)
		if rec.writer, err = l.w.cfg.WriterNames.Name(ctx, l.w.cfg.DB, old.WriterNID); err != nil {
			return err
		}
		it.outcome = []outcome{{rec: rec, duplicate: true}}
		return nil
	}
	p := &pending{rec: &record{event: e}, receivedTS: l.w.cfg.Now().UnixMilli(), outbound: r.Relay}
	if old != nil {
		p.upgrade = true
		p.rec.nid = old.NID
	}
	if err := l.number(ctx, p); err != nil {
		return err
	}
	w := l.begin()
	if err := l.checkAuthEvents(ctx, p); err != nil {
		return err
	}
	if !r.History && l.isNext(w, r) {
		err = l.placeNext(ctx, w, p)
	} else {
		err = l.placeFork(ctx, w, p, r)
	}
	if err != nil {
		return err
	}
	if e.Type() == event.TypeRedaction && !p.rec.flags.Hidden() {
		if err := l.checkRedaction(ctx, w, p, false); err != nil {
			return err
		}
	}
	if err := l.checkWaiting(ctx, p, found.waiting); err != nil {
		return err
	}
	it.events = []*pending{p}
	if err := l.notify(ctx, w, it.events); err != nil {
		return err
	}
	w.txns = map[txnKey]*record{key: p.rec}
	l.adopt(w)
	if p.anew && !p.aside {
		l.partial = p.partial != nil
	}
	it.outcome = []outcome{{rec: p.rec}}
	return nil
}

// isNext reports whether an event follows exactly what is the end of the room, so that the state before it is the
// current one.
func (l *lane) isNext(w *work, r *Received) bool {
	prev := r.Event.PrevEvents()
	if r.StateBefore != nil || len(prev) != len(w.extremities) || len(prev) == 0 {
		return false
	}
	for _, x := range w.extremities {
		if !slices.Contains(prev, x.event.ID()) {
			return false
		}
	}
	return true
}

// checkAuthEvents applies the rules to the event's own auth_events.
func (l *lane) checkAuthEvents(ctx context.Context, p *pending) error {
	e := p.rec.event
	recs, missing, err := l.findRecords(ctx, e.AuthEvents())
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return refuse(&MissingEventsError{EventID: e.ID(), Auth: missing})
	}
	p.named = recs
	if e.IsState() {
		p.auth = recs
	}
	p.rec.authDepth = authDepth(recs)
	events := make([]*event.Event, len(recs))
	rejected := make(map[string]bool)
	for i, r := range recs {
		events[i] = r.event
		if r.flags&store.Rejected != 0 {
			rejected[r.event.ID()] = true
		}
	}
	state := event.NewAuthMap(events...)
	if l.room.Version.RoomIDFromCreate && e.Type() != event.TypeCreate {
		// The event that the room is named by.
		id := "$" + l.roomID[1:]
		create, missing, err := l.findRecords(ctx, []string{id})
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return refuse(&MissingEventsError{EventID: e.ID(), Auth: missing})
		}
		state[event.Tuple{Type: event.TypeCreate}] = create[0].event
	}
	err = event.CheckAuthEvents(e, events, func(id string) bool { return rejected[id] })
	if err == nil {
		err = event.Authorise(e, state)
	}
	return l.judge(p, store.Rejected, err)
}

// assume adds to a state of which only a part is known the members whom an event names in its auth_events. The event may
// lie: who is in the room is not known before the whole state is.
func (l *lane) assume(p *pending, st *authState) {
	if !l.partial {
		return
	}
	for i, t := range st.tuples {
		if st.recs[i] != nil || t.Type != event.TypeMember {
			continue
		}
		for _, r := range p.named {
			if r.flags&store.Rejected == 0 && r.event.Is(t.Type, t.StateKey) {
				st.recs[i] = r
			}
		}
	}
}

// judge flags an event that a rule refuses.
func (l *lane) judge(p *pending, flag store.Flags, err error) error {
	var auth *event.AuthError
	if errors.As(err, &auth) {
		if p.rec.flags == 0 {
			l.w.cfg.Log.Info().Str("room_id", l.roomID).Str("event_id", p.rec.event.ID()).Str("reason", auth.Error()).
				Bool("soft", flag == store.SoftFailed).Msg("Event of another server is refused")
		}
		p.rec.flags |= flag
		p.aside = true
		return nil
	}
	return err
}

// placeNext puts an event at the end of the room.
func (l *lane) placeNext(ctx context.Context, w *work, p *pending) error {
	e := p.rec.event
	var stateKey *string
	if sk, ok := e.StateKey(); ok {
		stateKey = &sk
	}
	st, err := l.authState(ctx, w, e.AuthTuples(), e.Type(), stateKey)
	if err != nil {
		return err
	}
	l.assume(p, st)
	if err := l.judge(p, store.Rejected, event.Authorise(e, st)); err != nil {
		return err
	}
	if p.aside {
		return nil
	}
	if e.IsState() {
		p.changes = []change{{tuple: e.Tuple(), key: p.rec.keyNID, old: st.own, new: p.rec, user: p.target}}
		if p.stripped, err = l.strippedFor(ctx, w, e); err != nil {
			return err
		}
		w.set(e.Tuple(), p.rec)
	}
	w.extremities, w.depth = []*record{p.rec}, e.Depth()
	return nil
}

// findRecords finds events by id, on their way or stored, and says which are neither.
func (l *lane) findRecords(ctx context.Context, ids []string) (recs []*record, missing []string, err error) {
	found := make(map[string]*record, len(ids))
	want := make(map[string]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	l.mu.Lock()
	for _, items := range [][]*item{l.inflight, l.ready} {
		for _, it := range items {
			for _, p := range it.events {
				if id := p.rec.event.ID(); want[id] {
					found[id] = p.rec
				}
			}
		}
	}
	l.mu.Unlock()
	var ask []string
	for _, id := range ids {
		if found[id] == nil {
			ask = append(ask, id)
		}
	}
	events, err := l.w.cfg.Store.EventsByID(ctx, ask)
	if err != nil {
		return nil, nil, err
	}
	for i, id := range ask {
		if events[i] != nil && events[i].RoomNID == l.room.NID {
			found[id] = storedRecord(events[i])
		}
	}
	for _, id := range ids {
		if found[id] == nil {
			missing = append(missing, id)
			continue
		}
		recs = append(recs, found[id])
	}
	return recs, missing, nil
}

// missingFrom finds a MissingEventsError that came from another process.
func missingFrom(err error) error {
	var mx *mxerr.Error
	if !errors.As(err, &mx) || mx.Code != codeMissing {
		return err
	}
	list := func(key string) []string {
		s, _ := mx.Fields[key].(string)
		return strings.Fields(s)
	}
	return &MissingEventsError{EventID: strings.Join(list("event_id"), ""), Prev: list("prev_events"), Auth: list("auth_events")}
}

func (e *MissingEventsError) crossing() *mxerr.Error {
	return (&mxerr.Error{Status: 409, Code: codeMissing, Message: e.Error()}).
		WithField("event_id", e.EventID).WithField("prev_events", strings.Join(e.Prev, " ")).WithField("auth_events", strings.Join(e.Auth, " "))
}
