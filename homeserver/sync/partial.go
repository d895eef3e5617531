package sync

import (
	"context"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// Rooms that this server has just entered may lack most members (package fullstate). Clients that load members lazily are
// shown them at once, with the members their events name. The others are shown them when the members are known, as rooms
// newly joined.

// partial returns those of the rooms whose members are not known yet.
func (b *builder) partial(ctx context.Context, jobs []*job) (map[storage.RoomNID]bool, error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	nids := make([]storage.RoomNID, len(jobs))
	for i, j := range jobs {
		nids[i] = j.nid
	}
	partial, err := b.s.cfg.Store.Partial(ctx, nids)
	if err != nil {
		return nil, err
	}
	var out map[storage.RoomNID]bool
	for i, p := range partial {
		if p {
			if out == nil {
				out = make(map[storage.RoomNID]bool)
			}
			out[nids[i]] = true
		}
	}
	return out, nil
}

// holdBack takes out the rooms that a client is not to see yet.
func (b *builder) holdBack(ctx context.Context) error {
	var jobs []*job
	for _, j := range b.jobs {
		if !j.lazy && !j.left {
			jobs = append(jobs, j)
		}
	}
	partial, err := b.partial(ctx, jobs)
	if err != nil || len(partial) == 0 {
		return err
	}
	b.jobs = slices.DeleteFunc(b.jobs, func(j *job) bool {
		held := partial[j.nid] && !j.lazy && !j.left
		if held {
			delete(b.byID, j.id)
		}
		return held
	})
	return nil
}

// becameWhole returns the rooms whose members have become known, for clients that were not shown them before.
func (b *builder) becameWhole(ctx context.Context) (map[string]bool, error) {
	since, now := b.snap.since.Get(token.UnPartialStatedRooms), b.snap.now.Get(token.UnPartialStatedRooms)
	if b.q.lazy || since.Equal(now) {
		return nil, nil
	}
	// The stream has one writer.
	rows, err := storage.UnpartialRooms(ctx, b.s.cfg.DB, replication.MainInstance, since.Floor(), now.Max(), maxBecameWhole)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(rows))
	for _, r := range rows {
		out[r.RoomID] = true
	}
	return out, nil
}

// maxBecameWhole bounds the rooms that become whole between two responses; a client that was away for longer has missed
// more than their members.
const maxBecameWhole = 10_000

// assumeSenders finds the members who sent what is shown of rooms whose state does not have them yet: each event names
// its sender's membership among those that authorise it.
func (b *builder) assumeSenders(ctx context.Context, jobs []*job) error {
	var lazy []*job
	for _, j := range jobs {
		if j.lazy && !j.left {
			lazy = append(lazy, j)
		}
	}
	partial, err := b.partial(ctx, lazy)
	if err != nil || len(partial) == 0 {
		return err
	}
	for _, j := range lazy {
		if !partial[j.nid] {
			continue
		}
		var ids []string
		asked := map[string]bool{}
		ask := func(e *store.Event) {
			if sender := e.Sender(); !asked[sender] && j.atStart[memberTuple(sender)] == nil {
				asked[sender] = true
				ids = append(ids, e.AuthEvents()...)
			}
		}
		for _, e := range j.events {
			ask(e)
		}
		for _, it := range j.timeline {
			ask(it.ev)
		}
		named, err := b.s.cfg.Store.EventsByID(ctx, ids)
		if err != nil {
			return err
		}
		for _, e := range named {
			if e == nil || e.RoomNID != j.nid || !e.IsState() || e.Type() != event.TypeMember || e.Flags&store.Rejected != 0 {
				continue
			}
			if user, _ := e.StateKey(); asked[user] {
				if j.atStart == nil {
					j.atStart = map[event.Tuple]*store.Event{}
				}
				j.atStart[e.Tuple()] = e
			}
		}
	}
	return nil
}
