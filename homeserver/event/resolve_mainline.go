package event

import (
	"cmp"
	"context"
	"math"
	"slices"
)

// mainlineSort puts events into the mainline ordering based on the power levels of the state so far.
func (r *resolver) mainlineSort(ctx context.Context, events []*Event, useBase bool) error {
	if len(events) == 0 {
		return nil
	}
	m := mainline{r: r, position: map[string]int{}, through: map[string][]*powerWalk{}}
	m.tip = resolverState{r: r, useBase: useBase}.Event(Tuple{Type: TypePowerLevels})
	positions, err := m.positions(ctx, events)
	if err != nil {
		return err
	}
	slices.SortFunc(events, func(a, b *Event) int {
		return cmp.Or(cmp.Compare(positions[b.id], positions[a.id]), cmp.Compare(a.originServerTS, b.originServerTS),
			cmp.Compare(a.id, b.id))
	})
	return nil
}

// mainline finds mainline positions. The mainline reaches back to the creation of the room, but the events to be ordered
// seldom do, so it is walked only as far as needed: a step along the mainline and a step along the power levels of each
// event, by turns, until all have met it. Each round of steps is one fetch.
type mainline struct {
	r        *resolver
	tip      *Event         // the end of the mainline walked so far, nil when it is walked whole
	position map[string]int // of the power levels on the mainline
	through  map[string][]*powerWalk
	open     int // walks that have not met the mainline
}

// powerWalk is the walk from one m.room.power_levels event along auth events to earlier ones.
type powerWalk struct {
	at       *Event // nil at the end
	position int    // where it meets the mainline, noPosition until it does
	met      bool
}

// noPosition is the mainline position of an event that does not lead to the mainline.
const noPosition = math.MaxInt

// positions returns the mainline position of each event.
func (m *mainline) positions(ctx context.Context, events []*Event) (map[string]int, error) {
	if err := m.r.fetchAuth(ctx, events); err != nil {
		return nil, err
	}
	if m.tip != nil {
		m.position[m.tip.id] = 0
	}
	walks := map[string]*powerWalk{} // by first power levels event
	starts := make(map[string]string, len(events))
	for _, e := range events {
		first := m.r.powerLevelsOf(e)
		if first == nil {
			continue
		}
		starts[e.id] = first.id
		if walks[first.id] == nil {
			w := &powerWalk{position: noPosition}
			walks[first.id] = w
			m.open++
			m.visit(w, first)
		}
	}
	for length := 1; m.open > 0 && m.tip != nil; length++ {
		if err := m.step(ctx, walks, length); err != nil {
			return nil, err
		}
	}
	positions := make(map[string]int, len(events))
	for _, e := range events {
		positions[e.id] = noPosition
		if w := walks[starts[e.id]]; w != nil {
			positions[e.id] = w.position
		}
	}
	return positions, nil
}

// step takes one step along the mainline, to the event at the given position, and one along each open walk.
func (m *mainline) step(ctx context.Context, walks map[string]*powerWalk, position int) error {
	ends := []*Event{m.tip}
	for _, w := range walks {
		if !w.met && w.at != nil {
			ends = append(ends, w.at)
		}
	}
	if err := m.r.fetchAuth(ctx, ends); err != nil {
		return err
	}
	next := m.r.powerLevelsOf(m.tip)
	if next != nil {
		// Event ids of room versions 1 and 2 are not hashes, so auth events could form a circle.
		if _, circle := m.position[next.id]; circle {
			next = nil
		}
	}
	if m.tip = next; next != nil {
		m.position[next.id] = position
		for _, w := range m.through[next.id] {
			m.meet(w, position)
		}
	}
	for _, w := range walks {
		if !w.met && w.at != nil {
			m.visit(w, m.r.powerLevelsOf(w.at))
		}
	}
	return nil
}

// visit moves a walk to an event, nil at its end.
func (m *mainline) visit(w *powerWalk, e *Event) {
	if w.at = e; e == nil {
		return
	}
	if p, ok := m.position[e.id]; ok {
		m.meet(w, p)
		return
	}
	if slices.Contains(m.through[e.id], w) {
		w.at = nil // a circle
		return
	}
	m.through[e.id] = append(m.through[e.id], w)
}

func (m *mainline) meet(w *powerWalk, position int) {
	if !w.met {
		w.met, w.position = true, position
		m.open--
	}
}

// powerLevelsOf returns the m.room.power_levels event among the auth events of an event, nil if there is none. The auth
// events must have been fetched.
func (r *resolver) powerLevelsOf(e *Event) *Event {
	for _, id := range e.AuthEvents() {
		if a := r.events[id]; a.Is(TypePowerLevels, "") {
			return a
		}
	}
	return nil
}
