package view

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
)

type stateMap = map[event.Tuple]*store.Event

// statesBefore returns for each event those pieces of the state before it that decide who may see it, and the piece it
// replaces. Events that share a state share a lookup.
func (v *Views) statesBefore(ctx context.Context, who Viewer, events []*store.Event) ([]stateMap, error) {
	wanted := make(map[store.Root]map[event.Tuple]bool)
	want := func(r store.Root, t event.Tuple) {
		if wanted[r] == nil {
			wanted[r] = map[event.Tuple]bool{visibilityTuple: true, memberTuple(who.UserID): true}
		}
		wanted[r][t] = true
	}
	for _, e := range events {
		want(e.StateRoot, visibilityTuple)
		if e.IsState() {
			want(e.StateRoot, e.Tuple())
		}
	}
	found := make(map[store.Root]stateMap, len(wanted))
	for root, tuples := range wanted {
		f := &store.StateFilter{Tuples: make([]event.Tuple, 0, len(tuples))}
		for t := range tuples {
			f.Tuples = append(f.Tuples, t)
		}
		es, err := v.store.State(ctx, root, f)
		if err != nil {
			return nil, err
		}
		m := make(stateMap, len(es))
		for _, e := range es {
			m[e.Tuple()] = e
		}
		found[root] = m
	}
	out := make([]stateMap, len(events))
	for i, e := range events {
		out[i] = found[e.StateRoot]
	}
	return out, nil
}
