package writer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
)

// selfNID stands for the event that is being placed, whose number is not given out yet.
const selfNID storage.EventNID = math.MaxInt64

// errStale says that the lane's state was lost while it waited; the request is built anew.
var errStale = errors.New("lane was reset")

// barrier waits until nothing of the lane is on its way, so that all it refers to has a number and a stored state.
func (l *lane) barrier(ctx context.Context) error {
	l.release()
	for {
		l.mu.Lock()
		if l.epoch != l.built {
			l.mu.Unlock()
			return errStale
		}
		if len(l.ready) == 0 && len(l.inflight) == 0 {
			l.mu.Unlock()
			return nil
		}
		if l.moved == nil {
			l.moved = make(chan struct{})
		}
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fork places one event that does not simply follow the end of the room. It works on state trees in memory: nodes that
// are not in the database yet are in nodes.
type fork struct {
	l     *lane
	nodes *batchNodes
	self  *store.Event // the event that is placed, under selfNID; nil while its draft is built
}

func (l *lane) newFork() *fork {
	return &fork{l: l, nodes: &batchNodes{base: l.w.cfg.Store.Nodes(), nodes: make(map[statetree.Hash]*statetree.Node)}}
}

// placeFork puts an event at its place in a graph that is no line: the state before it is resolved over its
// prev_events, and the current state over all extremities.
func (l *lane) placeFork(ctx context.Context, w *work, p *pending, r *Received) error {
	if err := l.barrier(ctx); err != nil {
		return err
	}
	f := l.newFork()
	prevs, missing, err := f.prevs(ctx, p.rec.event)
	if err != nil {
		return err
	}
	if r.Anew {
		if p.anew, err = l.outside(ctx); err != nil {
			return err
		}
	}
	if p.anew {
		w.extremities = nil
		p.partial = r.Partial
	}
	var before store.Root
	if r.StateBefore != nil {
		p.gaps = missing
		before, err = f.listed(ctx, p.rec.event.ID(), r.StateBefore)
		if err == nil && r.Partial != nil && !p.anew {
			// Somebody else has entered, and more of the state may be known by now.
			before, err = f.over(ctx, l.head.root, before)
		}
	} else if len(missing) > 0 {
		return refuse(&MissingEventsError{EventID: p.rec.event.ID(), Prev: missing})
	} else {
		before, err = f.after(ctx, prevs)
	}
	if err != nil {
		return err
	}
	if r.History {
		return f.placeBehind(ctx, p, before)
	}
	return f.place(ctx, w, p, before, prevs)
}

// outside reports whether nobody of this server is in the room.
func (l *lane) outside(ctx context.Context) (bool, error) {
	stats, err := storage.GetRoomStats(ctx, l.w.cfg.DB, []storage.RoomNID{l.room.NID})
	if err != nil {
		return false, err
	}
	return len(stats) == 0 || stats[0].LocalJoined == 0, nil
}

// prevs finds the prev_events of an event, those whose state is known; and which are missing.
func (f *fork) prevs(ctx context.Context, e *event.Event) (prevs []*store.Event, missing []string, err error) {
	ids := e.PrevEvents()
	events, err := f.l.w.cfg.Store.PlacedByID(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	for i, prev := range events {
		if prev == nil || prev.RoomNID != f.l.room.NID || prev.Flags&store.Outlier != 0 {
			missing = append(missing, ids[i])
			continue
		}
		prevs = append(prevs, prev)
	}
	return prevs, missing, nil
}

// listed builds a state from the ids of its events.
func (f *fork) listed(ctx context.Context, eventID string, ids []string) (store.Root, error) {
	events, err := f.l.w.cfg.Store.EventsByID(ctx, ids)
	if err != nil {
		return store.Root{}, err
	}
	var missing []string
	entries := make([]statetree.Entry, 0, len(events))
	for i, e := range events {
		switch {
		case e == nil || e.RoomNID != f.l.room.NID || e.StateKeyNID == 0:
			missing = append(missing, ids[i])
		case e.Flags&store.Rejected == 0:
			entries = append(entries, statetree.Entry{Key: int64(e.StateKeyNID), Value: int64(e.NID)})
		}
	}
	if len(missing) > 0 {
		return store.Root{}, refuse(&MissingEventsError{EventID: eventID, Auth: missing})
	}
	root, nodes := statetree.Build(entries)
	f.nodes.add(nodes)
	return root, nil
}

// over returns a state with the entries of another put over it.
func (f *fork) over(ctx context.Context, under, top store.Root) (store.Root, error) {
	entries, err := statetree.All(ctx, f.nodes, top)
	if err != nil {
		return store.Root{}, fmt.Errorf("read state: %w", err)
	}
	root, nodes, err := statetree.Apply(ctx, f.nodes, under, entries)
	if err != nil {
		return store.Root{}, fmt.Errorf("write state: %w", err)
	}
	f.nodes.add(nodes)
	return root, nil
}

// after returns the state after events: resolved, if there are several. More states may be given to be resolved with
// theirs.
func (f *fork) after(ctx context.Context, events []*store.Event, more ...store.Root) (store.Root, error) {
	roots := more
	for _, e := range events {
		root := e.StateRoot
		if e.StateKeyNID != 0 && e.Flags&store.Rejected == 0 {
			var nodes []*statetree.Node
			var err error
			root, nodes, err = statetree.Apply(ctx, f.nodes, root, []statetree.Entry{{Key: int64(e.StateKeyNID), Value: int64(e.NID)}})
			if err != nil {
				return store.Root{}, fmt.Errorf("state after event %s: %w", e.ID(), err)
			}
			f.nodes.add(nodes)
		}
		if !slices.Contains(roots, root) {
			roots = append(roots, root)
		}
	}
	return f.resolve(ctx, roots)
}

// resolve resolves states. It reads what differs between them.
func (f *fork) resolve(ctx context.Context, roots []store.Root) (store.Root, error) {
	switch len(roots) {
	case 0:
		return store.Root{}, nil
	case 1:
		return roots[0], nil
	}
	s := f.l.w.cfg.Store
	differ := make(map[int64]bool)
	for _, r := range roots[1:] {
		diff, err := statetree.Diff(ctx, f.nodes, roots[0], r)
		if err != nil {
			return store.Root{}, fmt.Errorf("compare states: %w", err)
		}
		for _, d := range diff {
			differ[d.Key] = true
		}
	}
	keys := make([]int64, 0, len(differ))
	keyNIDs := make([]storage.StateKeyNID, 0, len(differ))
	for k := range differ {
		keys = append(keys, k)
		keyNIDs = append(keyNIDs, storage.StateKeyNID(k))
	}
	tuples, err := s.Tuples(ctx, keyNIDs)
	if err != nil {
		return store.Root{}, err
	}
	conflict := event.Conflict{Unconflicted: &unconflicted{f, roots[0], differ}}
	for _, r := range roots {
		got, err := statetree.Get(ctx, f.nodes, r, keys)
		if err != nil {
			return store.Root{}, fmt.Errorf("read conflicted state: %w", err)
		}
		set, err := f.stateMap(ctx, keys, tuples, got)
		if err != nil {
			return store.Root{}, err
		}
		conflict.Sets = append(conflict.Sets, set)
	}
	var pendings []*store.Event
	if f.self != nil {
		pendings = append(pendings, f.self)
	}
	src := s.AuthSource(pendings, func(ctx context.Context, keys []storage.StateKeyNID) (map[storage.StateKeyNID]storage.EventNID, error) {
		return f.agreed(ctx, roots[0], differ, keys)
	})
	resolved, err := event.ResolveConflict(ctx, f.l.room.Version, conflict, src)
	if err != nil {
		return store.Root{}, fmt.Errorf("resolve state of room %s: %w", f.l.roomID, err)
	}
	entries, err := f.entries(ctx, resolved)
	if err != nil {
		return store.Root{}, err
	}
	for _, e := range entries {
		delete(differ, e.Key)
	}
	for k := range differ {
		// No state won this piece.
		entries = append(entries, statetree.Entry{Key: k})
	}
	root, nodes, err := statetree.Apply(ctx, f.nodes, roots[0], entries)
	if err != nil {
		return store.Root{}, fmt.Errorf("write resolved state: %w", err)
	}
	f.nodes.add(nodes)
	return root, nil
}

// stateMap names the events of pieces of a state.
func (f *fork) stateMap(ctx context.Context, keys []int64, tuples []event.Tuple, got map[int64]int64) (event.StateMap, error) {
	nids := make([]storage.EventNID, 0, len(got))
	at := make([]event.Tuple, 0, len(got))
	for i, k := range keys {
		if v, ok := got[k]; ok {
			nids, at = append(nids, storage.EventNID(v)), append(at, tuples[i])
		}
	}
	events, err := f.events(ctx, nids)
	if err != nil {
		return nil, err
	}
	m := make(event.StateMap, len(events))
	for i, e := range events {
		m[at[i]] = e.ID()
	}
	return m, nil
}

// events returns events by number, the one that is placed among them.
func (f *fork) events(ctx context.Context, nids []storage.EventNID) ([]*store.Event, error) {
	events, err := f.l.w.cfg.Store.Events(ctx, nids)
	if err != nil {
		return nil, err
	}
	for i, e := range events {
		if nids[i] == selfNID && f.self != nil {
			events[i] = f.self
		} else if e == nil {
			return nil, fmt.Errorf("event %d of a state: %w", nids[i], storage.ErrNotFound)
		}
	}
	return events, nil
}

// entries turns a state by id into one by number.
func (f *fork) entries(ctx context.Context, m event.StateMap) ([]statetree.Entry, error) {
	ids := make([]string, 0, len(m))
	for _, id := range m {
		if f.self == nil || id != f.self.ID() {
			ids = append(ids, id)
		}
	}
	events, err := f.l.w.cfg.Store.EventsByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	entries := make([]statetree.Entry, 0, len(m))
	for i, e := range events {
		if e == nil {
			return nil, fmt.Errorf("event %s of a state: %w", ids[i], storage.ErrNotFound)
		}
		entries = append(entries, statetree.Entry{Key: int64(e.StateKeyNID), Value: int64(e.NID)})
	}
	if len(ids) < len(m) {
		entries = append(entries, statetree.Entry{Key: int64(f.self.StateKeyNID), Value: int64(selfNID)})
	}
	return entries, nil
}

// agreed returns the entries of a state for keys on which the states agree.
func (f *fork) agreed(ctx context.Context, root store.Root, differ map[int64]bool, keys []storage.StateKeyNID) (map[storage.StateKeyNID]storage.EventNID, error) {
	ask := make([]int64, 0, len(keys))
	for _, k := range keys {
		if k != 0 && !differ[int64(k)] && !slices.Contains(ask, int64(k)) {
			ask = append(ask, int64(k))
		}
	}
	if len(ask) == 0 {
		return nil, nil
	}
	got, err := statetree.Get(ctx, f.nodes, root, ask)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	out := make(map[storage.StateKeyNID]storage.EventNID, len(got))
	for k, v := range got {
		out[storage.StateKeyNID(k)] = storage.EventNID(v)
	}
	return out, nil
}

// unconflicted implements event.UnconflictedState.
type unconflicted struct {
	f      *fork
	root   store.Root
	differ map[int64]bool
}

// StateIDs implements event.UnconflictedState.
func (u *unconflicted) StateIDs(ctx context.Context, tuples []event.Tuple) (event.StateMap, error) {
	nids, err := u.f.l.w.cfg.Store.StateKeyNIDs(ctx, tuples)
	if err != nil {
		return nil, err
	}
	got, err := u.f.agreed(ctx, u.root, u.differ, nids)
	if err != nil {
		return nil, err
	}
	keys, plain := make([]int64, len(nids)), make(map[int64]int64, len(got))
	for i, k := range nids {
		keys[i] = int64(k)
	}
	for k, v := range got {
		plain[int64(k)] = int64(v)
	}
	return u.f.stateMap(ctx, keys, tuples, plain)
}

// authorise looks up the pieces of a state that an event is authorised by.
func (f *fork) authorise(ctx context.Context, root store.Root, tuples []event.Tuple) (*authState, error) {
	tuples = append(slices.Clone(tuples), event.Tuple{Type: event.TypeCreate})
	nids, err := f.l.w.cfg.Store.StateKeyNIDs(ctx, tuples)
	if err != nil {
		return nil, err
	}
	got, err := f.agreed(ctx, root, nil, nids)
	if err != nil {
		return nil, err
	}
	st := &authState{tuples: tuples, recs: make([]*record, len(tuples))}
	for i, k := range nids {
		nid, ok := got[k]
		if !ok {
			continue
		}
		events, err := f.events(ctx, []storage.EventNID{nid})
		if err != nil {
			return nil, err
		}
		st.recs[i] = storedRecord(events[0])
		if i < len(tuples)-1 {
			st.auth = append(st.auth, st.recs[i])
		}
	}
	return st, nil
}

// placeBehind judges an event by the state before it, and puts it in its place, which is not at the end of the room.
func (f *fork) placeBehind(ctx context.Context, p *pending, before store.Root) error {
	p.before = &before
	f.keepNodes(p)
	p.aside = true
	st, err := f.authorise(ctx, before, p.rec.event.AuthTuples())
	if err != nil {
		return err
	}
	f.l.assume(p, st)
	return f.l.judge(p, store.Rejected, event.Authorise(p.rec.event, st))
}

// place judges an event by the state before it and by the current state, and puts it in its place.
func (f *fork) place(ctx context.Context, w *work, p *pending, before store.Root, prevs []*store.Event) error {
	l, e := f.l, p.rec.event
	p.before = &before
	f.keepNodes(p)
	st, err := f.authorise(ctx, before, e.AuthTuples())
	if err != nil {
		return err
	}
	l.assume(p, st)
	if err := l.judge(p, store.Rejected, event.Authorise(e, st)); err != nil {
		return err
	}
	// Of a room whose members are not known nobody can say who has left it.
	if !p.aside && !l.partial {
		current, err := f.currentBeside(ctx, w, before)
		if err != nil {
			return err
		}
		now, err := f.authorise(ctx, current, e.AuthTuples())
		if err != nil {
			return err
		}
		if err := l.judge(p, store.SoftFailed, event.Authorise(e, now)); err != nil {
			return err
		}
	}
	late, err := storage.AfterGaps(ctx, l.w.cfg.DB, []string{e.ID()})
	if err != nil {
		return err
	}
	if p.aside || len(late) > 0 {
		// It stands where it belongs, and the end of the room is not moved by it.
		p.aside = true
		return nil
	}
	return f.extend(ctx, w, p, before, prevs)
}

// currentBeside returns the current state that an event is soft-failed by: that of the extremities and the one before the
// event together, so that what became of the room in a gap counts, while a ban that is known still wins.
func (f *fork) currentBeside(ctx context.Context, w *work, before store.Root) (store.Root, error) {
	if before == f.l.head.root {
		return before, nil
	}
	nids := make([]storage.EventNID, len(w.extremities))
	for i, x := range w.extremities {
		nids[i] = x.nid
	}
	ends, err := f.events(ctx, nids)
	if err != nil {
		return store.Root{}, err
	}
	return f.after(ctx, ends, before)
}

// extend works out what the room's extremities and current state are with an event.
func (f *fork) extend(ctx context.Context, w *work, p *pending, before store.Root, prevs []*store.Event) error {
	l, e := f.l, p.rec.event
	p.follows = make([]*record, 0, len(prevs))
	w.extremities = slices.Clone(w.extremities)
	for _, prev := range prevs {
		if i := slices.IndexFunc(w.extremities, func(x *record) bool { return x.nid == prev.NID }); i >= 0 {
			p.follows = append(p.follows, w.extremities[i])
			w.extremities = slices.Delete(w.extremities, i, i+1)
		}
	}
	f.self = &store.Event{
		Event: e, NID: selfNID, RoomNID: l.room.NID, SenderNID: p.rec.senderNID, StateKeyNID: p.rec.keyNID, StateRoot: before,
		AuthDepth: p.rec.authDepth,
	}
	if p.upgrade {
		f.self.NID = p.rec.nid
	}
	nids := make([]storage.EventNID, len(w.extremities))
	for i, x := range w.extremities {
		nids[i] = x.nid
	}
	ends, err := f.events(ctx, nids)
	if err != nil {
		return err
	}
	current, err := f.after(ctx, append(ends, f.self))
	if err != nil {
		return err
	}
	if p.anew {
		p.follows = nil
	}
	w.extremities = append(w.extremities, p.rec)
	w.depth = 0
	for _, x := range w.extremities {
		w.depth = max(w.depth, x.event.Depth())
	}
	return f.change(ctx, w, p, current)
}

// keepNodes has the committer write the nodes of the state before the event. It is called before the event itself gets
// into the trees under a number that is not its own.
func (f *fork) keepNodes(p *pending) {
	for _, n := range f.nodes.nodes {
		p.beforeNodes = append(p.beforeNodes, n)
	}
}

// change works out what an event changes in the current state.
func (f *fork) change(ctx context.Context, w *work, p *pending, current store.Root) error {
	l, s := f.l, f.l.w.cfg.Store
	diff, err := statetree.Diff(ctx, f.nodes, l.head.root, current)
	if err != nil {
		return fmt.Errorf("compare the current state: %w", err)
	}
	if len(diff) == 0 {
		return nil
	}
	slices.SortFunc(diff, func(a, b statetree.Difference) int { return cmp.Compare(a.Key, b.Key) })
	keys := make([]storage.StateKeyNID, len(diff))
	var nids []storage.EventNID
	for i, d := range diff {
		keys[i] = storage.StateKeyNID(d.Key)
		nids = append(nids, storage.EventNID(d.A), storage.EventNID(d.B))
	}
	tuples, err := s.Tuples(ctx, keys)
	if err != nil {
		return err
	}
	events, err := s.Events(ctx, nids)
	if err != nil {
		return err
	}
	var members []string
	for _, t := range tuples {
		if t.Type == event.TypeMember {
			members = append(members, t.StateKey)
		}
	}
	users, err := s.InternUsers(ctx, members)
	if err != nil {
		return err
	}
	for i, d := range diff {
		ch := change{tuple: tuples[i], key: keys[i], old: storedRecord(events[2*i]), new: storedRecord(events[2*i+1])}
		if storage.EventNID(d.B) == f.self.NID {
			ch.new = p.rec
		}
		if ch.tuple.Type == event.TypeMember {
			ch.user, users = users[0], users[1:]
		}
		p.changes = append(p.changes, ch)
		if ch.new != p.rec {
			p.reset = true
		}
		w.set(ch.tuple, ch.new)
	}
	return nil
}

// gather makes an event of a draft in a room that has more extremities than an event may name. It follows the deepest
// of them, and leaves fewer behind.
func (l *lane) gather(ctx context.Context, w *work, d *Draft) (*pending, error) {
	if err := l.barrier(ctx); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(w.extremities, func(r *record) bool { return !r.committed.Load() }) {
		// An earlier draft of the same request: its state cannot be resolved before it has a number.
		return nil, refuse(mxerr.Unknown.WithStatus(503).WithMessage("The room has too many loose ends for several events at once"))
	}
	ends := slices.SortedFunc(slices.Values(w.extremities), func(a, b *record) int { return cmp.Compare(b.event.Depth(), a.event.Depth()) })
	ends = ends[:event.MaxPrevEvents]
	nids := make([]storage.EventNID, len(ends))
	for i, x := range ends {
		nids[i] = x.nid
	}
	f := l.newFork()
	prevs, err := f.events(ctx, nids)
	if err != nil {
		return nil, err
	}
	before, err := f.after(ctx, prevs)
	if err != nil {
		return nil, err
	}
	st, err := f.authorise(ctx, before, event.AuthTuples(l.room.Version, d.Sender, d.Type, d.StateKey, d.Content))
	if err != nil {
		return nil, err
	}
	p, err := l.build(ctx, d, st, ends, w.depth+1)
	if err != nil {
		return nil, err
	}
	if p.rec.event.Type() == event.TypeRedaction {
		if err := l.checkRedaction(ctx, w, p, true); err != nil {
			return nil, err
		}
	}
	p.before = &before
	f.keepNodes(p)
	return p, f.extend(ctx, w, p, before, prevs)
}
