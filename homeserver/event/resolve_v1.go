package event

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" // the algorithm of room version 1 asks for it
	"maps"
	"slices"
)

// resolveV1 is the algorithm of room version 1. A tuple on which the states that have it agree is no conflict, even if
// another state lacks it.
func (r *resolver) resolveV1(ctx context.Context, sets []StateMap) error {
	if err := r.fetch(ctx, r.conflicted); err != nil {
		return err
	}
	events := make([]*Event, 0, len(r.conflicted))
	for _, id := range r.conflicted {
		events = append(events, r.events[id])
	}
	if err := r.fetchBase(ctx, events, true); err != nil {
		return err
	}
	conflicts := map[Tuple][]*Event{}
	for _, s := range sets {
		for t, id := range s {
			if e := r.events[id]; !slices.Contains(conflicts[t], e) {
				conflicts[t] = append(conflicts[t], e)
			}
		}
	}
	var members, others []Tuple
	for _, t := range slices.SortedFunc(maps.Keys(conflicts), compareTuples) {
		switch list := conflicts[t]; {
		case len(list) == 1:
			r.state[t] = list[0]
			delete(conflicts, t)
		case t.Type == TypeMember:
			members = append(members, t)
		case t.Type != TypePowerLevels && t.Type != TypeJoinRules:
			others = append(others, t)
		}
	}
	passes := [][]Tuple{
		tuplesOfType(conflicts, TypePowerLevels), tuplesOfType(conflicts, TypeJoinRules), members,
	}
	for _, pass := range passes {
		for _, t := range pass {
			r.resolveV1Auth(t, conflicts[t])
		}
	}
	for _, t := range others {
		list := conflicts[t]
		slices.SortFunc(list, func(a, b *Event) int { return compareDepth(b, a) })
		for _, e := range list {
			if r.allowed(e, true, false) {
				r.state[t] = e
				break
			}
		}
	}
	return nil
}

// resolveV1Auth resolves a tuple that later passes authorise with: each event must be allowed by those before it, and the
// first that is not ends the pass.
func (r *resolver) resolveV1Auth(t Tuple, list []*Event) {
	slices.SortFunc(list, compareDepth)
	r.state[t] = list[0]
	for _, e := range list[1:] {
		if !r.allowed(e, true, false) {
			return
		}
		r.state[t] = e
	}
}

func tuplesOfType(conflicts map[Tuple][]*Event, typ string) []Tuple {
	var tuples []Tuple
	for t := range conflicts {
		if t.Type == typ {
			tuples = append(tuples, t)
		}
	}
	slices.SortFunc(tuples, compareTuples)
	return tuples
}

func compareTuples(a, b Tuple) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.StateKey, b.StateKey))
}

// compareDepth orders events by ascending depth, then descending SHA-1 of the event id.
func compareDepth(a, b *Event) int {
	if c := cmp.Compare(a.depth, b.depth); c != 0 {
		return c
	}
	x, y := sha1.Sum([]byte(a.id)), sha1.Sum([]byte(b.id))
	return bytes.Compare(y[:], x[:])
}
