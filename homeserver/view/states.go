package view

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
)

// before is what the state before an event says that matters for showing it.
type before struct {
	// visibility and member are the m.room.history_visibility and the viewer's m.room.member, replaced the event of the
	// same type and state key as the event; each nil where there is none.
	visibility, member, replaced *store.Event
}

// statesBefore looks up what matters in the state before each event. Events that share a state share its lookup.
func (v *Views) statesBefore(ctx context.Context, who Viewer, events []*store.Event) ([]before, error) {
	const always = 2 // the pieces wanted of every state
	index := make(map[store.Root]int)
	var lookups []store.StateLookup
	type place struct{ lookup, replaced int }
	places := make([]place, len(events))
	for i, e := range events {
		l, ok := index[e.StateRoot]
		if !ok {
			l = len(lookups)
			index[e.StateRoot] = l
			lookups = append(lookups, store.StateLookup{Root: e.StateRoot, Tuples: []event.Tuple{visibilityTuple, memberTuple(who.UserID)}})
		}
		places[i] = place{lookup: l, replaced: -1}
		if e.IsState() {
			places[i].replaced = len(lookups[l].Tuples)
			lookups[l].Tuples = append(lookups[l].Tuples, e.Tuple())
		}
	}
	found, err := v.store.StateBatch(ctx, lookups)
	if err != nil {
		return nil, err
	}
	out := make([]before, len(events))
	for i, p := range places {
		got := found[p.lookup]
		out[i].visibility, out[i].member = got[0], got[1]
		if p.replaced >= always {
			out[i].replaced = got[p.replaced]
		}
	}
	return out, nil
}
