package event

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
)

// resolveV2 is the algorithm of room versions 2 to 11, and with the changes marked v2.1 that of version 12.
func (r *resolver) resolveV2(ctx context.Context, sets [][]string) error {
	v21 := r.v.StateResolution == StateResolutionV21
	full := map[string]bool{}
	for _, id := range r.conflicted {
		full[id] = true
	}
	difference, err := r.src.AuthChainDifference(ctx, sets)
	if err != nil {
		return err
	}
	for _, id := range difference {
		full[id] = true
	}
	var subgraph []string
	if v21 {
		if subgraph, err = r.src.ConflictedSubgraph(ctx, r.conflicted); err != nil {
			return err
		}
		for _, id := range subgraph {
			full[id] = true
		}
	}
	ids := make([]string, 0, len(full))
	for id := range full {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if err := r.fetch(ctx, ids); err != nil {
		return err
	}
	all := make([]*Event, 0, len(ids))
	for _, id := range ids {
		if e := r.events[id]; e.isState {
			all = append(all, e)
		}
	}
	if err := r.fetchAuth(ctx, all); err != nil {
		return err
	}
	if err := r.fetchBase(ctx, all, !v21); err != nil {
		return err
	}
	if r.v.RoomIDFromCreate {
		if err := r.fetchCreate(ctx, all); err != nil {
			return err
		}
	}

	power, err := r.powerEvents(ctx, all, full)
	if err != nil {
		return err
	}
	r.applyAll(power, !v21)

	picked := make(map[string]bool, len(power))
	for _, e := range power {
		picked[e.id] = true
	}
	rest := make([]*Event, 0, len(all)-len(power))
	for _, e := range all {
		if !picked[e.id] {
			rest = append(rest, e)
		}
	}
	if err := r.mainlineSort(ctx, rest, !v21); err != nil {
		return err
	}
	r.applyAll(rest, !v21)
	return nil
}

// applyAll is the iterative auth checks algorithm.
func (r *resolver) applyAll(events []*Event, useBase bool) {
	for _, e := range events {
		if r.allowed(e, useBase, true) {
			r.state[e.Tuple()] = e
		}
	}
}

// fetchCreate gets m.room.create by the room id.
func (r *resolver) fetchCreate(ctx context.Context, events []*Event) error {
	if len(events) == 0 {
		return nil
	}
	id := "$" + events[0].roomID[1:]
	if err := r.fetch(ctx, []string{id}); err != nil {
		return err
	}
	rejected, err := r.src.Rejected(ctx, []string{id})
	if err != nil {
		return err
	}
	if e := r.events[id]; e.Is(TypeCreate, "") && !rejected[id] {
		r.create = e
	}
	return nil
}

// isPower reports whether an event might take away someone's ability to do something in the room.
func isPower(e *Event) bool {
	switch e.typ {
	case TypePowerLevels, TypeJoinRules:
		return e.isState
	case TypeMember:
		m := e.Membership()
		return e.isState && e.sender != e.stateKey && (m == MembershipLeave || m == MembershipBan)
	}
	return false
}

// powerEvents returns the power events of the full conflicted set, with what of it is in their auth chains, in reverse
// topological power ordering.
//
// A path from a power event to another event of the set may lead through events outside the set. Those lie between
// conflicted events: all others in the set are in the auth difference, and what is outside it has its whole auth chain
// outside. So the conflicted subgraph, which version 2.1 has in the set anyway, shows every path.
func (r *resolver) powerEvents(ctx context.Context, all []*Event, full map[string]bool) ([]*Event, error) {
	var stack []*Event
	for _, e := range all {
		if isPower(e) {
			stack = append(stack, e)
		}
	}
	if len(stack) == 0 {
		return nil, nil
	}
	inGraph := func(id string) bool { return full[id] }
	if r.v.StateResolution == StateResolutionV2 {
		ids, err := r.src.ConflictedSubgraph(ctx, r.conflicted)
		if err != nil {
			return nil, err
		}
		if err := r.fetch(ctx, ids); err != nil {
			return nil, err
		}
		between := make(map[string]bool, len(ids))
		for _, id := range ids {
			between[id] = true
		}
		inGraph = func(id string) bool { return full[id] || between[id] }
	}

	g := powerGraph{waiting: map[string]int{}, children: map[string][]*Event{}}
	for _, e := range stack {
		g.waiting[e.id] = 0
	}
	var reached []*Event
	for len(stack) > 0 {
		e := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		reached = append(reached, e)
		edges := e.AuthEvents()
		for i, id := range edges {
			if !inGraph(id) || slices.Contains(edges[:i], id) {
				continue
			}
			g.waiting[e.id]++
			g.children[id] = append(g.children[id], e)
			if _, ok := g.waiting[id]; !ok {
				g.waiting[id] = 0
				stack = append(stack, r.events[id])
			}
		}
	}
	for _, e := range reached {
		n := powerNode{Event: e, listed: full[e.id] && e.isState}
		if n.listed {
			n.level = r.senderLevel(e)
		}
		g.nodes = append(g.nodes, n)
	}
	return g.sort(), nil
}

// senderLevel returns the power level of an event's sender by the event's own auth events.
func (r *resolver) senderLevel(e *Event) int64 {
	create := r.create
	var power *Event
	for _, id := range e.AuthEvents() {
		switch a := r.events[id]; {
		case a.Is(TypePowerLevels, "") && power == nil:
			power = a
		case a.Is(TypeCreate, "") && create == nil:
			create = a
		}
	}
	return NewPowerLevels(create, power).UserLevel(e.sender)
}

// powerGraph is the graph of auth events to be ordered by Kahn's algorithm.
type powerGraph struct {
	nodes    []powerNode
	waiting  map[string]int // auth events not yet in the order
	children map[string][]*Event
	ready    powerHeap
}

// powerNode is an event with its sender's level. Nodes that are not listed only carry paths: they are done as soon as
// they are ready, and hold up nothing else.
type powerNode struct {
	*Event
	level  int64
	listed bool
}

func (g *powerGraph) sort() []*Event {
	byID := make(map[string]powerNode, len(g.nodes))
	for _, n := range g.nodes {
		byID[n.id] = n
		if g.waiting[n.id] == 0 {
			heap.Push(&g.ready, n)
		}
	}
	order := make([]*Event, 0, len(g.nodes))
	for g.ready.Len() > 0 {
		n := heap.Pop(&g.ready).(powerNode)
		if n.listed {
			order = append(order, n.Event)
		}
		for _, child := range g.children[n.id] {
			g.waiting[child.id]--
			if g.waiting[child.id] == 0 {
				heap.Push(&g.ready, byID[child.id])
			}
		}
	}
	return order
}

// powerHeap has the next event of the reverse topological power ordering on top.
type powerHeap []powerNode

func (h powerHeap) Len() int      { return len(h) }
func (h powerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *powerHeap) Push(x any)   { *h = append(*h, x.(powerNode)) }

func (h *powerHeap) Pop() any {
	old := *h
	n := old[len(old)-1]
	*h = old[:len(old)-1]
	return n
}

func (h powerHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	if a.listed != b.listed {
		return !a.listed
	}
	return cmp.Or(cmp.Compare(b.level, a.level), cmp.Compare(a.originServerTS, b.originServerTS), cmp.Compare(a.id, b.id)) < 0
}
