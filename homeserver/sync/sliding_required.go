package sync

import (
	"context"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// readStates fills the required state.
func (b *slidingBuilder) readStates(ctx context.Context) error {
	var lists, full, gaps []*stateList
	var rooms []*slidingRoom
	for _, r := range b.rooms {
		if r.job == nil || r.job.only != 0 {
			continue
		}
		l := newStateList(r.job)
		lists, rooms = append(lists, l), append(rooms, r)
		switch {
		case r.job.full:
		case r.job.query:
			gaps = append(gaps, l)
		default:
			if err := b.tailState(ctx, l); err != nil {
				return fmt.Errorf("read changes of state: %w", err)
			}
		}
	}
	if err := b.gapStates(ctx, gaps); err != nil {
		return fmt.Errorf("read changes of state: %w", err)
	}
	var of []*slidingRoom
	for i, r := range rooms {
		if r.job.full || r.more {
			full, of = append(full, lists[i]), append(of, r)
		}
	}
	if err := b.readWhole(ctx, full, of); err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := b.readWanted(ctx, lists); err != nil {
		return fmt.Errorf("read state events: %w", err)
	}
	for i, r := range rooms {
		b.chooseState(r, lists[i])
	}
	return nil
}

// readWhole has the lists hold what is wanted of the whole state of their rooms.
func (b *slidingBuilder) readWhole(ctx context.Context, lists []*stateList, rooms []*slidingRoom) error {
	if len(lists) == 0 {
		return nil
	}
	byNID := map[storage.RoomNID]int{}
	var plain, whole, named []storage.RoomNID
	for i, r := range rooms {
		byNID[r.room.nid] = i
		switch {
		case r.wanted.allMembers():
			whole = append(whole, r.room.nid)
		case r.wanted.wild() || r.job.left:
			plain = append(plain, r.room.nid)
		}
		if !r.job.left {
			named = append(named, r.room.nid)
		}
	}
	var rows []storage.SyncState
	for _, ask := range []struct {
		rooms   []storage.RoomNID
		members bool
	}{{plain, false}, {whole, true}} {
		if len(ask.rooms) > 0 {
			more, err := storage.SyncCurrentState(ctx, b.s.cfg.DB, ask.rooms, ask.members)
			if err != nil {
				return err
			}
			rows = append(rows, more...)
		}
	}
	keys := make([]storage.StateKeyNID, len(rows))
	for i, row := range rows {
		keys[i] = row.StateKeyNID
	}
	tuples, err := b.s.cfg.Store.Tuples(ctx, keys)
	if err != nil {
		return err
	}
	late := map[*stateList][]storage.StateKeyNID{}
	for i, row := range rows {
		at := byNID[row.RoomNID]
		if !rooms[at].wanted.matches(tuples[i]) {
			continue
		}
		if l := lists[at]; l.j.last != 0 && row.EventNID > l.j.last {
			late[l] = append(late[l], row.StateKeyNID)
		} else {
			b.take(l, row.EventNID)
		}
	}
	if err := b.lateStates(ctx, late); err != nil {
		return err
	}
	return b.readNamed(ctx, lists, rooms, byNID, named)
}

// readNamed takes the single pieces of state that are wanted.
func (b *slidingBuilder) readNamed(ctx context.Context, lists []*stateList, rooms []*slidingRoom, byNID map[storage.RoomNID]int, nids []storage.RoomNID) error {
	heads, err := b.s.cfg.Store.Heads(ctx, nids)
	if err != nil {
		return err
	}
	var lookups []store.StateLookup
	var of []int
	for i, nid := range nids {
		at := byNID[nid]
		if tuples := rooms[at].wanted.named(); len(tuples) > 0 && heads[i] != nil {
			lookups, of = append(lookups, store.StateLookup{Root: heads[i].StateRoot, Tuples: tuples}), append(of, at)
		}
	}
	if len(lookups) == 0 {
		return nil
	}
	found, err := b.s.cfg.Store.StateBatch(ctx, lookups)
	if err != nil {
		return err
	}
	for i, at := range of {
		for _, e := range found[i] {
			if e != nil {
				lists[at].putMissing(e)
			}
		}
	}
	return nil
}

// chooseState leaves of what changed in a room what is wanted of it, with the members that come with the timeline.
func (b *slidingBuilder) chooseState(r *slidingRoom, l *stateList) {
	j := r.job
	lazy := map[string]bool{}
	if j.lazy {
		b.putSenders(l)
		for _, it := range j.timeline {
			lazy[it.ev.Sender()] = true
			if key, _ := it.ev.StateKey(); it.ev.Type() == event.TypeMember {
				lazy[key] = true
			}
		}
		for _, it := range l.latest {
			if it.ev.Type() == event.TypeMember {
				l.put(it)
			}
		}
	}
	for _, it := range l.items {
		t := it.ev.Tuple()
		switch t {
		case event.Tuple{Type: "m.room.name"}:
			r.name = it.ev
		case event.Tuple{Type: "m.room.avatar"}:
			r.avatar = it.ev
		}
		// Without a gap every change of a member is told, so that the client may keep a list of them.
		if r.wanted.matches(t) || j.lazy && t.Type == event.TypeMember && (lazy[t.StateKey] || !j.full && !j.limited) {
			j.state = append(j.state, it)
		}
	}
}
