package sync

import (
	"context"
	"math"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// stateList collects the state section of one room: one event a piece of state.
type stateList struct {
	j     *job
	items []item
	at    map[event.Tuple]int
	// shown are the state events of the timeline, by number; latest the last of each piece.
	shown  map[storage.EventNID]*store.Event
	latest map[event.Tuple]item
	// wanted are events still to be read.
	wanted []storage.EventNID
}

func newStateList(j *job) *stateList {
	l := &stateList{j: j, at: map[event.Tuple]int{}, shown: map[storage.EventNID]*store.Event{}, latest: map[event.Tuple]item{}}
	for _, it := range j.timeline {
		if it.ev.IsState() {
			l.shown[it.ev.NID] = it.ev
			l.latest[it.ev.Tuple()] = it
		}
	}
	return l
}

// put adds an event; a later one of the same piece takes its place.
func (l *stateList) put(it item) {
	it.membership = ""
	t := it.ev.Tuple()
	if i, ok := l.at[t]; ok {
		l.items[i] = it
		return
	}
	l.at[t] = len(l.items)
	l.items = append(l.items, it)
}

// putMissing adds an event unless there is one of its piece.
func (l *stateList) putMissing(e *store.Event) {
	if e == nil {
		return
	}
	if _, ok := l.at[e.Tuple()]; !ok {
		l.put(item{ev: e})
	}
}

// fillStates fills the state sections: of full rooms all state at the start of the timeline (or at its end, as asked), of
// others what changed since the client's last response and is not in the timeline.
func (b *builder) fillStates(ctx context.Context) error {
	f := &b.q.f.Room.State
	if f.MatchesNone() {
		return nil
	}
	lists := make([]*stateList, 0, len(b.jobs))
	var full, gaps []*stateList
	for _, j := range b.jobs {
		if !f.AllowsRoom(j.id) || j.only != 0 {
			continue
		}
		l := newStateList(j)
		lists = append(lists, l)
		switch {
		case j.full:
			full = append(full, l)
		case !j.limited && !b.q.UseStateAfter:
		case j.query:
			gaps = append(gaps, l)
		default:
			if err := b.tailState(ctx, l); err != nil {
				return err
			}
		}
	}
	if err := b.fullStates(ctx, full); err != nil {
		return err
	}
	if err := b.gapStates(ctx, gaps); err != nil {
		return err
	}
	if err := b.readWanted(ctx, lists); err != nil {
		return err
	}
	for _, l := range lists {
		if b.q.lazy && !l.j.left {
			b.putSenders(l)
		}
		l.j.state = l.items
		if !f.MatchesAll() {
			kept := l.items[:0]
			for _, it := range l.items {
				if f.Match(subject(it.ev)) {
					kept = append(kept, it)
				}
			}
			l.j.state = kept
		}
		if b.q.lazy {
			b.remember(l)
		}
	}
	return nil
}

// tailState takes what changed from the rows of the tail.
func (b *builder) tailState(ctx context.Context, l *stateList) error {
	j := l.j
	for _, e := range j.entries {
		if e.row.StateReset {
			return b.resetState(ctx, l)
		}
	}
	for _, e := range j.entries {
		if e.row.StateKey == nil || !e.row.Current {
			continue
		}
		if _, shown := l.shown[storage.EventNID(e.nid)]; shown && !b.q.UseStateAfter {
			continue
		}
		r, err := b.s.rendered(ctx, e)
		if err != nil {
			return err
		}
		l.put(item{ev: r.ev, made: r})
	}
	return nil
}

// resetState takes what changed in a room whose state was resolved anew: more may have changed than the events say.
func (b *builder) resetState(ctx context.Context, l *stateList) error {
	var before store.Root
	copy(before[:], l.j.entries[0].row.StateRoot)
	head, err := b.s.cfg.Store.Head(ctx, l.j.nid)
	if err != nil {
		return err
	}
	diff, err := b.s.cfg.Store.StateDiff(ctx, before, head.StateRoot)
	if err != nil {
		return err
	}
	for _, d := range diff {
		if _, shown := l.shown[d.After]; d.After != 0 && (!shown || b.q.UseStateAfter) {
			l.wanted = append(l.wanted, d.After)
		}
	}
	return nil
}

// fullStates takes all state. What the timeline shows of it is taken from the state before the timeline.
func (b *builder) fullStates(ctx context.Context, lists []*stateList) error {
	if len(lists) == 0 {
		return nil
	}
	byNID := make(map[storage.RoomNID]*stateList, len(lists))
	rooms := make([]storage.RoomNID, len(lists))
	for i, l := range lists {
		byNID[l.j.nid], rooms[i] = l, l.j.nid
	}
	rows, err := storage.SyncCurrentState(ctx, b.s.cfg.DB, rooms, !b.q.lazy)
	if err != nil {
		return err
	}
	late := map[*stateList][]storage.StateKeyNID{}
	for _, r := range rows {
		l := byNID[r.RoomNID]
		if l.j.last != 0 && r.EventNID > l.j.last {
			late[l] = append(late[l], r.StateKeyNID)
			continue
		}
		b.take(l, r.EventNID)
	}
	if b.q.lazy {
		for _, l := range lists {
			b.take(l, l.j.memberNID)
		}
	}
	return b.lateStates(ctx, late)
}

// take adds an event of the state at the end of the timeline, or what came before it.
func (b *builder) take(l *stateList, nid storage.EventNID) {
	e, shown := l.shown[nid]
	switch {
	case !shown:
		l.wanted = append(l.wanted, nid)
	case b.q.UseStateAfter:
		l.put(item{ev: e})
	default:
		l.putMissing(l.j.atStart[e.Tuple()])
	}
}

// lateStates takes, for rooms the user has left, the pieces of state that changed after that, as they were before.
func (b *builder) lateStates(ctx context.Context, late map[*stateList][]storage.StateKeyNID) error {
	if len(late) == 0 {
		return nil
	}
	var lists []*stateList
	var ends []storage.EventNID
	var keys []storage.StateKeyNID
	for l, ks := range late {
		lists, ends, keys = append(lists, l), append(ends, l.j.last), append(keys, ks...)
	}
	events, err := b.s.cfg.Store.Events(ctx, ends)
	if err != nil {
		return err
	}
	tuples, err := b.s.cfg.Store.Tuples(ctx, keys)
	if err != nil {
		return err
	}
	lookups := make([]store.StateLookup, len(lists))
	for i, l := range lists {
		n := len(late[l])
		if events[i] != nil {
			lookups[i] = store.StateLookup{Root: events[i].StateRoot, Tuples: tuples[:n]}
		}
		tuples = tuples[n:]
	}
	found, err := b.s.cfg.Store.StateBatch(ctx, lookups)
	if err != nil {
		return err
	}
	for i, l := range lists {
		for _, e := range found[i] {
			if e != nil {
				b.take(l, e.NID)
			}
		}
		b.take(l, l.j.last)
	}
	return nil
}

// gapStates takes what changed from the database.
func (b *builder) gapStates(ctx context.Context, lists []*stateList) error {
	if len(lists) == 0 {
		return nil
	}
	byNID := make(map[storage.RoomNID]*stateList, len(lists))
	rooms, starts, last := make([]storage.RoomNID, len(lists)), make([]storage.EventNID, len(lists)), make([]storage.EventNID, len(lists))
	for i, l := range lists {
		byNID[l.j.nid], rooms[i], starts[i], last[i] = l, l.j.nid, l.j.first, math.MaxInt64
		if l.j.first == 0 {
			starts[i] = math.MaxInt64
		}
		if l.j.last != 0 {
			last[i] = l.j.last
		}
	}
	rows, err := storage.SyncStateChanges(ctx, b.s.cfg.DB, rooms, starts, last, b.bounds())
	if err != nil {
		return err
	}
	for _, r := range rows {
		l := byNID[r.RoomNID]
		nid := r.Last
		if _, shown := l.shown[nid]; shown && !b.q.UseStateAfter {
			nid = r.Before
		}
		if r.Current != 0 && r.Current < nid {
			// The event lost against another when the state was resolved.
			nid = r.Current
		}
		if _, shown := l.shown[nid]; nid != 0 && (!shown || b.q.UseStateAfter) {
			l.wanted = append(l.wanted, nid)
		}
	}
	return nil
}

// readWanted reads the wanted events of all rooms.
func (b *builder) readWanted(ctx context.Context, lists []*stateList) error {
	n := 0
	for _, l := range lists {
		n += len(l.wanted)
	}
	if n == 0 {
		return nil
	}
	nids := make([]storage.EventNID, 0, n)
	for _, l := range lists {
		nids = append(nids, l.wanted...)
	}
	events, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return err
	}
	for _, l := range lists {
		for range l.wanted {
			l.putMissing(events[0])
			if e := events[0]; e != nil && e.Type() == event.TypeMember {
				l.j.members = true
			}
			events = events[1:]
		}
		l.wanted = nil
	}
	return nil
}

// putSenders adds the members who sent something in the timeline, as they were at its start or end.
func (b *builder) putSenders(l *stateList) {
	known := map[string]bool{}
	for _, it := range l.j.timeline {
		sender := it.ev.Sender()
		t := memberTuple(sender)
		if !known[sender] {
			known[sender] = true
			latest, changed := l.latest[t]
			switch e := l.j.atStart[t]; {
			case b.q.UseStateAfter && changed:
				l.putMissing(latest.ev)
			case e != nil:
				l.putMissing(e)
			}
		}
	}
}

// remember notes whose member events the device now has.
func (b *builder) remember(l *stateList) {
	sent := b.sent(l.j)
	if b.q.initial {
		sent.clear()
	}
	// Members that changed in rows the device is not shown are no longer known to it.
	for _, e := range l.j.entries {
		if e.isMember() {
			sent.drop(*e.row.StateKey)
		}
	}
	for _, items := range [][]item{l.j.state, l.j.timeline} {
		for _, it := range items {
			if it.ev.IsState() && it.ev.Type() == event.TypeMember {
				key, _ := it.ev.StateKey()
				sent.put(key, b.upTo())
			}
		}
	}
}
