package store

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// firstWindow is how deep below the events asked about the first read of auth chains goes; each further read goes twice
// as deep.
const firstWindow = 32

// authPage is how many of the events that an event authorises are read at once.
const authPage = 200

// AuthSource is the event.EventSource of one resolution of state. It walks auth chains by number, along edges that the
// database keeps beside the events, as far down as the chains differ.
//
// An index of every chain (a chain cover) would answer without a walk. It is not kept: it costs each state event more
// rows than it saves, as the chains that meet in a resolution part a short way down.
type AuthSource struct {
	store *Store
	// unconflicted returns the events of the pieces on which the states to be resolved agree.
	unconflicted func(ctx context.Context, keys []storage.StateKeyNID) (map[storage.StateKeyNID]storage.EventNID, error)
	pending      map[string]*Event
	edges        map[storage.EventNID][]authNode
	floor        map[storage.EventNID]bool // events whose edges are not read yet
}

type authNode struct {
	nid   storage.EventNID
	depth int32
}

// AuthSource makes a source for one resolution. pending are events that are not in the database yet, under numbers that
// no stored event has; unconflicted answers for the pieces on which the states agree.
func (s *Store) AuthSource(pending []*Event, unconflicted func(ctx context.Context, keys []storage.StateKeyNID) (map[storage.StateKeyNID]storage.EventNID, error)) *AuthSource {
	src := &AuthSource{
		store: s, unconflicted: unconflicted, pending: make(map[string]*Event, len(pending)),
		edges: make(map[storage.EventNID][]authNode), floor: make(map[storage.EventNID]bool),
	}
	for _, e := range pending {
		src.pending[e.ID()] = e
	}
	return src
}

func (a *AuthSource) stored(ctx context.Context, ids []string) ([]*Event, error) {
	out := make([]*Event, len(ids))
	var missing []string
	for i, id := range ids {
		if out[i] = a.pending[id]; out[i] == nil {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := a.store.EventsByID(ctx, missing)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		if out[i] != nil {
			continue
		}
		if out[i] = found[0]; out[i] == nil {
			return nil, fmt.Errorf("event %s: %w", id, storage.ErrNotFound)
		}
		found = found[1:]
	}
	return out, nil
}

// Events implements event.EventSource.
func (a *AuthSource) Events(ctx context.Context, ids []string) (map[string]*event.Event, error) {
	events, err := a.stored(ctx, ids)
	if err != nil {
		return nil, err
	}
	m := make(map[string]*event.Event, len(ids))
	for i, e := range events {
		m[ids[i]] = e.Event
	}
	return m, nil
}

// Rejected implements event.EventSource.
func (a *AuthSource) Rejected(ctx context.Context, ids []string) (map[string]bool, error) {
	events, err := a.stored(ctx, ids)
	if err != nil {
		return nil, err
	}
	m := make(map[string]bool)
	for i, e := range events {
		if e.Flags&Rejected != 0 {
			m[ids[i]] = true
		}
	}
	return m, nil
}

// begin puts the edges of pending events among those read, and returns the events by number.
func (a *AuthSource) begin(ctx context.Context, ids []string) ([]authNode, error) {
	events, err := a.stored(ctx, ids)
	if err != nil {
		return nil, err
	}
	nodes := make([]authNode, len(events))
	for i, e := range events {
		nodes[i] = authNode{e.NID, e.AuthDepth}
		if _, ok := a.edges[e.NID]; ok {
			continue
		}
		if a.pending[ids[i]] == nil {
			a.floor[e.NID] = true
			continue
		}
		parents, err := a.stored(ctx, e.AuthEvents())
		if err != nil {
			return nil, err
		}
		a.edges[e.NID] = []authNode{}
		for _, p := range parents {
			a.edges[e.NID] = append(a.edges[e.NID], authNode{p.NID, p.AuthDepth})
			if _, ok := a.edges[p.NID]; !ok && a.pending[p.ID()] == nil {
				a.floor[p.NID] = true
			}
		}
	}
	return nodes, nil
}

// read reads the edges below all events whose edges are not read, down to the given auth depth.
func (a *AuthSource) read(ctx context.Context, depth int32) error {
	from := make([]storage.EventNID, 0, len(a.floor))
	for nid := range a.floor {
		from = append(from, nid)
	}
	edges, err := storage.AuthChain(ctx, a.store.db, from, depth)
	if err != nil {
		return err
	}
	for _, nid := range from {
		if a.edges[nid] == nil {
			a.edges[nid] = []authNode{}
		}
	}
	clear(a.floor)
	for _, e := range edges {
		a.edges[e.EventNID] = append(a.edges[e.EventNID], authNode{e.AuthNID, e.AuthDepth})
	}
	for _, e := range edges {
		if a.edges[e.AuthNID] != nil {
			continue
		}
		if e.AuthDepth > depth {
			a.edges[e.AuthNID] = []authNode{}
		} else {
			a.floor[e.AuthNID] = true
		}
	}
	return nil
}

// walkHeap orders events by auth depth, deepest first, so that an event is taken only after all that reach it.
type walkHeap []authNode

func (h walkHeap) Len() int           { return len(h) }
func (h walkHeap) Less(i, j int) bool { return h[i].depth > h[j].depth }
func (h walkHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *walkHeap) Push(x any)        { *h = append(*h, x.(authNode)) }
func (h *walkHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// AuthChainDifference implements event.EventSource for event.ResolveConflict.
func (a *AuthSource) AuthChainDifference(ctx context.Context, sets [][]string) ([]string, error) {
	if len(sets) > 64 {
		// A room with so many extremities has its own problem; the walk by masks cannot say more.
		return nil, fmt.Errorf("auth chain difference of %d states", len(sets))
	}
	full := ^uint64(0) >> (64 - len(sets))
	masks := make(map[storage.EventNID]uint64)
	var h walkHeap
	partial := 0 // events in h that not all sets reach
	reach := func(n authNode, mask uint64) {
		old, seen := masks[n.nid]
		if !seen {
			heap.Push(&h, n)
			partial++
			if mask == full {
				partial--
			}
		} else if old != full && old|mask == full {
			partial--
		}
		masks[n.nid] = old | mask
	}
	window := int32(firstWindow)
	parents := func(n authNode) ([]authNode, error) {
		if a.floor[n.nid] {
			if err := a.read(ctx, max(n.depth-window, -1)); err != nil {
				return nil, err
			}
			window *= 2
		}
		return a.edges[n.nid], nil
	}
	for i, set := range sets {
		nodes, err := a.begin(ctx, set)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			ps, err := parents(n)
			if err != nil {
				return nil, err
			}
			for _, p := range ps {
				reach(p, 1<<i)
			}
		}
	}
	var difference []authNode
	for partial > 0 {
		n := heap.Pop(&h).(authNode)
		mask := masks[n.nid]
		if mask != full {
			partial--
			difference = append(difference, n)
		}
		ps, err := parents(n)
		if err != nil {
			return nil, err
		}
		for _, p := range ps {
			reach(p, mask)
		}
	}
	difference, err := a.withoutCommon(ctx, difference)
	if err != nil {
		return nil, err
	}
	return a.ids(ctx, difference)
}

// withoutCommon takes out the events that are in the auth chain of some event on which the states agree. It walks from
// each event to those it authorises, newest first: as a rule one of the first is such an event, or there are few.
func (a *AuthSource) withoutCommon(ctx context.Context, difference []authNode) ([]authNode, error) {
	if len(difference) == 0 || a.unconflicted == nil {
		return difference, nil
	}
	common := make(map[storage.EventNID]bool)
	// origins[n] are the events of the difference that n leads back to.
	origins := make(map[storage.EventNID][]storage.EventNID)
	below := make(map[storage.EventNID]storage.EventNID)
	for _, d := range difference {
		if d.nid == 0 {
			continue
		}
		origins[d.nid] = []storage.EventNID{d.nid}
		below[d.nid] = math.MaxInt64
	}
	for len(below) > 0 {
		var nids, limits []storage.EventNID
		for nid, limit := range below {
			if slices.ContainsFunc(origins[nid], func(o storage.EventNID) bool { return !common[o] }) {
				nids, limits = append(nids, nid), append(limits, limit)
			}
		}
		if len(nids) == 0 {
			break
		}
		page, err := storage.AuthorisedBy(ctx, a.store.db, nids, limits, authPage)
		if err != nil {
			return nil, err
		}
		keys := make([]storage.StateKeyNID, 0, len(page))
		for _, p := range page {
			keys = append(keys, p.StateKeyNID)
		}
		agreed, err := a.unconflicted(ctx, keys)
		if err != nil {
			return nil, err
		}
		next := make(map[storage.EventNID]storage.EventNID)
		count := make(map[storage.EventNID]int)
		lowest := make(map[storage.EventNID]storage.EventNID)
		for _, p := range page {
			count[p.AuthNID]++
			if low, ok := lowest[p.AuthNID]; !ok || p.EventNID < low {
				lowest[p.AuthNID] = p.EventNID
			}
			if p.Rejected {
				continue
			}
			if agreed[p.StateKeyNID] == p.EventNID {
				for _, o := range origins[p.AuthNID] {
					common[o] = true
				}
				continue
			}
			added := false
			for _, o := range origins[p.AuthNID] {
				if !common[o] && !slices.Contains(origins[p.EventNID], o) {
					origins[p.EventNID] = append(origins[p.EventNID], o)
					added = true
				}
			}
			if added {
				// Its own pages are read from the start again: new origins lead through them.
				next[p.EventNID] = math.MaxInt64
			}
		}
		for nid, n := range count {
			if _, ok := next[nid]; !ok && n == authPage {
				next[nid] = lowest[nid]
			}
		}
		below = next
	}
	return slices.DeleteFunc(difference, func(n authNode) bool { return common[n.nid] }), nil
}

// ConflictedSubgraph implements event.EventSource.
func (a *AuthSource) ConflictedSubgraph(ctx context.Context, ids []string) ([]string, error) {
	ends, err := a.begin(ctx, ids)
	if err != nil {
		return nil, err
	}
	lowest := int32(math.MaxInt32)
	isEnd := make(map[storage.EventNID]bool, len(ends))
	for _, n := range ends {
		lowest = min(lowest, n.depth)
		isEnd[n.nid] = true
	}
	if len(a.floor) > 0 {
		// What lies below the lowest of the events cannot lead to one.
		if err := a.read(ctx, lowest-1); err != nil {
			return nil, err
		}
	}
	// All events that the given ones reach, in order of auth depth from below.
	reached := make(map[storage.EventNID]int32)
	stack := slices.Clone(ends)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if _, ok := reached[n.nid]; ok || n.depth < lowest {
			continue
		}
		reached[n.nid] = n.depth
		stack = append(stack, a.edges[n.nid]...)
	}
	order := make([]authNode, 0, len(reached))
	for nid, depth := range reached {
		order = append(order, authNode{nid, depth})
	}
	slices.SortFunc(order, func(x, y authNode) int { return cmp.Compare(x.depth, y.depth) })
	leads := make(map[storage.EventNID]bool) // to one of the events
	var on []authNode
	for _, n := range order {
		leads[n.nid] = isEnd[n.nid] || slices.ContainsFunc(a.edges[n.nid], func(p authNode) bool { return leads[p.nid] })
		if leads[n.nid] {
			on = append(on, n)
		}
	}
	return a.ids(ctx, on)
}

func (a *AuthSource) ids(ctx context.Context, nodes []authNode) ([]string, error) {
	out := make([]string, 0, len(nodes))
	byNID := make(map[storage.EventNID]string, len(a.pending))
	for id, e := range a.pending {
		byNID[e.NID] = id
	}
	var nids []storage.EventNID
	for _, n := range nodes {
		if id, ok := byNID[n.nid]; ok {
			out = append(out, id)
		} else {
			nids = append(nids, n.nid)
		}
	}
	events, err := a.store.Events(ctx, nids)
	if err != nil {
		return nil, err
	}
	for i, e := range events {
		if e == nil {
			return nil, fmt.Errorf("event %d of an auth chain: %w", nids[i], storage.ErrNotFound)
		}
		out = append(out, e.ID())
	}
	return out, nil
}
