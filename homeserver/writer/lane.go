package writer

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// maxState bounds the pieces of state that a lane remembers.
const maxState = 4096

// maxRecent bounds the transaction ids that a lane remembers; older ones are found by the database.
const maxRecent = 256

// record is an event as a lane knows it: stored, or on its way there.
type record struct {
	event     *event.Event
	senderNID storage.UserNID
	keyNID    storage.StateKeyNID
	authDepth int32
	flags     store.Flags
	// nid is the event's number. The committer sets it before the commit; others may read it once committed is set.
	nid       storage.EventNID
	committed atomic.Bool
	// writer is the instance that wrote it, "" for this one.
	writer string
}

func storedRecord(e *store.Event) *record {
	if e == nil {
		return nil
	}
	r := &record{event: e.Event, senderNID: e.SenderNID, keyNID: e.StateKeyNID, authDepth: e.AuthDepth, flags: e.Flags, nid: e.NID}
	r.committed.Store(true)
	return r
}

// head is the end of a room's graph as committed.
type head struct {
	generation  int64
	root        store.Root
	extremities []storage.EventNID
	depth       int64
	last        storage.EventNID
	partial     bool
}

// item is a request that is built and waits for its commit.
type item struct {
	req     *request
	events  []*pending
	outcome []outcome
	err     error // the request is refused
}

// apart reports whether a request is written in a transaction of its own.
func (it *item) apart() bool { return len(it.events) == 1 && it.events[0].outOfBand }

// outcome is what a draft of the request became.
type outcome struct {
	rec       *record
	duplicate bool
}

// txnKey names a request of a device.
type txnKey struct{ sender, device, txn string }

// lane puts the events of one room in order.
//
// The lane's goroutine (run) is the only one that builds; it lives while there is work. The committer takes what is
// ready and says what became of it (settled, lost).
type lane struct {
	w      *Writer
	roomID string

	// Guarded by Writer.mu.
	users int           // requests not answered
	idle  *list.Element // set while users is 0

	mu       sync.Mutex
	queue    []*request // to be built; the first may be in the works
	running  bool
	epoch    int  // counts losses
	loaded   bool // head is true, and so is what was built on it
	head     head
	ready    []*item
	held     bool // ready is not offered yet
	inflight []*item
	moved    chan struct{} // closed when something of the above changes, if somebody waits

	// Of the goroutine. built is the epoch in which the rest was built; when it is behind, the rest is forgotten.
	built       int
	room        *store.Room
	newRoom     *creation // the room is made by the first commit
	headless    bool      // the room has no head: it is known only from outside
	partial     bool      // most members are not known yet
	extremities []*record
	depth       int64
	state       map[event.Tuple]*record // pieces of the state at the tip, nil for absent ones
	recent      map[txnKey]*record
	recentOrder []txnKey
	ahead       map[string]lookup // of received events that are queued
	backoff     time.Duration
	audience    Audience // nil before the first event since the head was read
}

func newLane(w *Writer, roomID string) *lane { return &lane{w: w, roomID: roomID, built: -1} }

// push queues requests and reports whether a goroutine has to be started.
func (l *lane) push(reqs []*request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, reqs...)
	start := !l.running
	l.running = true
	return start
}

// run builds what is queued until nothing is left.
func (l *lane) run(ctx context.Context) {
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.running = false
			l.mu.Unlock()
			l.release()
			return
		}
		req, epoch, loaded := l.queue[0], l.epoch, l.loaded
		l.mu.Unlock()
		if ctx.Err() != nil {
			l.answer(req, nil, errShuttingDown)
			continue
		}
		if err := req.expired(time.Now()); err != nil {
			l.answer(req, nil, err)
			continue
		}
		it, err := l.work(ctx, req, epoch, loaded)
		if errors.Is(err, errStale) {
			continue
		}
		if err != nil {
			l.fail(ctx, req, err)
			continue
		}
		l.backoff = 0
		if it != nil {
			l.built1(req, it, epoch)
		}
	}
}

// work builds one request. It returns nil where the lane's state went stale under it.
func (l *lane) work(ctx context.Context, req *request, epoch int, loaded bool) (*item, error) {
	if l.built != epoch || !loaded {
		if err := l.load(ctx, epoch); err != nil {
			return nil, err
		}
	}
	it := &item{req: req}
	if req.received == nil {
		l.ahead = nil
	}
	var err error
	switch {
	case req.received != nil:
		err = l.receive(ctx, it)
	case req.outOfBand != nil:
		err = l.receiveOutOfBand(ctx, it)
	default:
		err = l.complete(ctx, it)
	}
	var refused *refusal
	if errors.As(err, &refused) {
		it.events, it.outcome, it.err = nil, nil, refused.err
		return it, nil
	}
	return it, err
}

// refusal is an error that answers a request, as opposed to one of the machinery.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }

func refuse(err error) error { return &refusal{err} }

// built1 hands a built request to the committer, if nothing was lost meanwhile.
func (l *lane) built1(req *request, it *item, epoch int) {
	l.mu.Lock()
	if l.epoch != epoch || len(l.queue) == 0 || l.queue[0] != req {
		l.mu.Unlock()
		return
	}
	l.queue = l.queue[1:]
	if len(it.events) == 0 && len(l.ready) == 0 && len(l.inflight) == 0 {
		// It rests on nothing that is still to be committed.
		l.mu.Unlock()
		l.deliver([]*item{it})
		return
	}
	l.ready = append(l.ready, it)
	// Received events that come together are written together.
	l.held = req.received != nil && len(l.queue) > 0 && l.queue[0].received != nil && len(l.ready) < maxAhead
	held := l.held
	l.mu.Unlock()
	if !held {
		l.w.committer.offer(l)
	}
}

// release offers the committer what was held back.
func (l *lane) release() {
	l.mu.Lock()
	held := l.held
	l.held = false
	l.mu.Unlock()
	if held {
		l.w.committer.offer(l)
	}
}

// fail deals with an error of the machinery: what heals is tried again while the request has time.
func (l *lane) fail(ctx context.Context, req *request, err error) {
	l.release()
	if ctx.Err() != nil {
		return
	}
	if !storage.IsTransient(err) && !storage.IsRetryable(err) {
		l.w.cfg.Log.Error().Err(err).Str("room_id", l.roomID).Msg("Event could not be built")
		l.forgetTip()
		l.answer(req, nil, fmt.Errorf("write to room %s: %w", l.roomID, err))
		return
	}
	l.backoff = min(max(2*l.backoff, 20*time.Millisecond), time.Second)
	wait := min(l.backoff, max(time.Until(req.deadline), 0)+time.Millisecond)
	l.w.cfg.Log.Warn().Err(err).Str("room_id", l.roomID).Dur("retry_in", wait).Msg("Database is away")
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// forgetTip has the next request load the room anew, unless something is on its way that the tip belongs to.
func (l *lane) forgetTip() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ready) == 0 && len(l.inflight) == 0 {
		l.epoch++
		l.loaded = false
	}
}

// answer takes a request out of the queue and answers it.
func (l *lane) answer(req *request, results []Result, err error) {
	l.mu.Lock()
	if i := slices.Index(l.queue, req); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
	l.mu.Unlock()
	req.finish(results, err)
	l.w.answered(l, 1)
}

// deliver answers requests whose fate is certain.
func (l *lane) deliver(items []*item) {
	for _, it := range items {
		if it.err != nil {
			it.req.finish(nil, it.err)
			continue
		}
		results := make([]Result, len(it.outcome))
		for i, o := range it.outcome {
			results[i] = Result{
				EventID: o.rec.event.ID(), NID: o.rec.nid, Writer: o.rec.writer, Duplicate: o.duplicate,
				Rejected: o.rec.flags&store.Rejected != 0, SoftFailed: o.rec.flags&store.SoftFailed != 0,
			}
			if results[i].Writer == "" {
				results[i].Writer = l.w.Instance()
			}
		}
		it.req.finish(results, nil)
	}
	l.w.answered(l, len(items))
}

// take moves ready items to the committer, up to the limits, at least one; none while earlier ones are still on their
// way, as then the lane offers itself again when these are settled.
func (l *lane) take(events, bytes int) (items []*item, h head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inflight) > 0 {
		return nil, head{}
	}
	n := 0
	for n < len(l.ready) {
		it := l.ready[n]
		for _, p := range it.events {
			events--
			bytes -= len(p.rec.event.JSON())
		}
		if n > 0 && (events < 0 || bytes < 0 || it.apart() || l.ready[0].apart()) {
			break
		}
		n++
	}
	items = l.ready[:n:n]
	l.ready = l.ready[n:]
	l.inflight = items
	return items, l.head
}

// settled says that what was taken is committed, with the head as it is now.
func (l *lane) settled(h head) {
	l.mu.Lock()
	items := l.inflight
	l.inflight = nil
	l.head = h
	for _, it := range items {
		for _, p := range it.events {
			p.rec.committed.Store(true)
		}
	}
	l.wakeWaiting()
	more := len(l.ready) > 0
	l.mu.Unlock()
	if more {
		l.w.committer.offer(l)
	}
	l.deliver(items)
}

// wakeWaiting is called with l.mu held.
func (l *lane) wakeWaiting() {
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

// lost says that nothing of what was taken is committed: all that was built goes back to the queue, in its order, to be
// built on the head as it then is.
func (l *lane) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	items := slices.Concat(l.inflight, l.ready)
	l.inflight, l.ready = nil, nil
	l.epoch++
	l.loaded = false
	l.wakeWaiting()
	queue := make([]*request, 0, len(items)+len(l.queue))
	for _, it := range items {
		it.req.retried = true
		queue = append(queue, it.req)
	}
	l.queue = append(queue, l.queue...)
	if !l.running && len(l.queue) > 0 {
		l.running = true
		l.w.restart(l)
	}
}

// restart starts the goroutine of a lane that got work back.
func (w *Writer) restart(l *lane) {
	// Not under w.mu, as the caller holds l.mu.
	go func() {
		w.mu.Lock()
		w.runnable = append(w.runnable, l)
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}()
}

// failInflight answers the one request that was taken, which cannot be written, and has the rest built anew.
func (l *lane) failInflight(err error) {
	l.mu.Lock()
	items := l.inflight
	l.inflight = nil
	l.mu.Unlock()
	l.lost()
	for _, it := range items {
		it.err = err
	}
	l.deliver(items)
}

// failAll answers everything; no goroutine works on the lane any more.
func (l *lane) failAll(err error) {
	l.mu.Lock()
	items := slices.Concat(l.inflight, l.ready)
	queue := l.queue
	l.inflight, l.ready, l.queue = nil, nil, nil
	l.mu.Unlock()
	for _, it := range items {
		it.err = err
	}
	l.deliver(items)
	for _, req := range queue {
		req.finish(nil, err)
	}
	l.w.answered(l, len(queue))
}

// load reads the room's head, and which of the queued requests were written before.
func (l *lane) load(ctx context.Context, epoch int) error {
	l.mu.Lock()
	queue := slices.Clone(l.queue)
	l.mu.Unlock()

	if l.newRoom != nil {
		// Whether it has been made since is for the database to say.
		l.room = nil
	}
	l.extremities, l.depth, l.newRoom, l.headless, l.partial, l.audience = nil, 0, nil, false, false, nil
	l.state = make(map[event.Tuple]*record)
	l.ahead = nil
	if l.recent == nil {
		l.recent = make(map[txnKey]*record)
	}
	for k, r := range l.recent {
		// What was not committed is gone.
		if !r.committed.Load() {
			delete(l.recent, k)
		}
	}
	l.recentOrder = slices.DeleteFunc(l.recentOrder, func(k txnKey) bool { return l.recent[k] == nil })

	h, err := l.loadHead(ctx)
	if err != nil {
		return err
	}
	if l.room != nil {
		if err := l.lookupTxns(ctx, queue); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch == epoch {
		l.head, l.loaded, l.built = h, true, epoch
	}
	return nil
}

func (l *lane) loadHead(ctx context.Context) (head, error) {
	if l.room == nil {
		rooms, err := l.w.cfg.Store.Rooms(ctx, []string{l.roomID})
		if err != nil {
			return head{}, err
		}
		l.room = rooms[0]
	}
	if l.room == nil {
		return head{}, nil
	}
	heads, err := l.w.cfg.Store.FreshHeads(ctx, []storage.RoomNID{l.room.NID})
	if err != nil {
		return head{}, err
	}
	if heads[0] == nil {
		l.headless = true
		return head{}, nil
	}
	h := head{
		generation: heads[0].Generation, root: heads[0].StateRoot, extremities: heads[0].Extremities, depth: heads[0].Depth,
		last: heads[0].LastNID, partial: heads[0].Partial,
	}
	if l.partial = h.partial; l.partial {
		// The states of its events may have been replaced by whole ones.
		l.w.cfg.Store.ForgetRoom(l.room.NID)
	}
	events, err := l.w.cfg.Store.Events(ctx, h.extremities)
	if err != nil {
		return head{}, err
	}
	for i, e := range events {
		if e == nil {
			return head{}, fmt.Errorf("extremity %d of room %s is missing", h.extremities[i], l.roomID)
		}
		l.extremities = append(l.extremities, storedRecord(e))
	}
	l.depth = h.depth
	return h, nil
}

// lookupTxns finds the events that earlier requests with the transaction ids of those in the queue have written.
func (l *lane) lookupTxns(ctx context.Context, queue []*request) error {
	type place struct {
		req   *request
		draft int
	}
	var senders []string
	var places []place
	for _, req := range queue {
		req.found = nil
		for i := range req.drafts {
			if d := &req.drafts[i]; d.TxnID != "" {
				senders, places = append(senders, d.Sender), append(places, place{req, i})
			}
		}
	}
	if len(places) == 0 {
		return nil
	}
	nids, err := l.w.cfg.Store.UserNIDs(ctx, senders)
	if err != nil {
		return err
	}
	txns := make([]storage.Txn, len(places))
	for i, p := range places {
		d := &p.req.drafts[p.draft]
		txns[i] = storage.Txn{RoomNID: l.room.NID, SenderNID: nids[i], Device: d.DeviceID, ID: d.TxnID}
	}
	sent, err := storage.LookupTxns(ctx, l.w.cfg.DB, txns)
	if err != nil || len(sent) == 0 {
		return err
	}
	eventNIDs := make([]storage.EventNID, len(sent))
	byTxn := make(map[storage.Txn]int, len(sent))
	for i, s := range sent {
		eventNIDs[i] = s.EventNID
		byTxn[s.Txn] = i
	}
	events, err := l.w.cfg.Store.Events(ctx, eventNIDs)
	if err != nil {
		return err
	}
	for i, p := range places {
		at, ok := byTxn[txns[i]]
		if !ok || events[at] == nil {
			continue
		}
		rec := storedRecord(events[at])
		if rec.writer, err = l.w.cfg.WriterNames.Name(ctx, l.w.cfg.DB, sent[at].WriterNID); err != nil {
			return err
		}
		if p.req.found == nil {
			p.req.found = make([]*record, len(p.req.drafts))
		}
		p.req.found[p.draft] = rec
	}
	return nil
}

// remember keeps what a request wrote under its transaction id.
func (l *lane) remember(k txnKey, r *record) {
	if _, ok := l.recent[k]; !ok {
		l.recentOrder = append(l.recentOrder, k)
	}
	l.recent[k] = r
	for len(l.recentOrder) > maxRecent {
		delete(l.recent, l.recentOrder[0])
		l.recentOrder = l.recentOrder[1:]
	}
}

// pieces returns the state at the tip for the given tuples, nil where there is none, looking at w first.
func (l *lane) pieces(ctx context.Context, w *work, tuples []event.Tuple) ([]*record, error) {
	out := make([]*record, len(tuples))
	var missing []event.Tuple
	var at []int
	for i, t := range tuples {
		r, ok := w.state[t]
		if !ok {
			r, ok = l.state[t]
		}
		if !ok {
			missing, at = append(missing, t), append(at, i)
			continue
		}
		out[i] = r
	}
	if len(missing) == 0 {
		return out, nil
	}
	l.mu.Lock()
	// Whatever is not in l.state is not changed by anything on its way, so any committed root will do.
	root := l.head.root
	l.mu.Unlock()
	events, err := l.w.cfg.Store.StateEvents(ctx, root, missing)
	if err != nil {
		return nil, err
	}
	if len(l.state)+len(missing) > maxState {
		for t, r := range l.state {
			if r == nil || r.committed.Load() {
				delete(l.state, t)
			}
		}
	}
	for i, t := range missing {
		r := storedRecord(events[i])
		l.state[t] = r
		out[at[i]] = r
	}
	return out, nil
}

// buildError says why a draft cannot become an event, as a Matrix error.
func buildError(err error) error {
	var auth *event.AuthError
	var format *event.FormatError
	switch {
	case errors.As(err, &auth):
		return mxerr.Forbidden.WithMessage(auth.Reason).Wrap(err)
	case errors.Is(err, event.ErrTooLarge):
		return mxerr.TooLarge.WithMessage("The event is too large").Wrap(err)
	case errors.As(err, &format):
		return mxerr.BadJSON.WithMessage(format.Error()).Wrap(err)
	}
	return err
}
