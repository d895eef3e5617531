package event

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// EventSource gives state resolution the events of one room. Implementations may be made anew for each resolution.
type EventSource interface {
	// Events returns the events with the given ids, rejected ones included. An unknown id is an error.
	Events(ctx context.Context, ids []string) (map[string]*Event, error)
	// Rejected returns those of the ids whose events were rejected.
	Rejected(ctx context.Context, ids []string) (map[string]bool, error)
	// AuthChainDifference returns the ids of the events that are in the auth chain of some set but not of all, where the
	// auth chain of a set is the union of the auth chains of its events (the events themselves are in it only if another
	// event reaches them). Resolve passes whole states; ResolveConflict passes the conflicted events only, and the source
	// must then count what the auth chains of the unconflicted state reach as common to all.
	AuthChainDifference(ctx context.Context, sets [][]string) ([]string, error)
	// ConflictedSubgraph returns the ids of the events on the paths of auth_events from one of the events to another,
	// endpoints included (room version 12, "Conflicted state subgraph").
	ConflictedSubgraph(ctx context.Context, ids []string) ([]string, error)
}

// Resolve resolves the states of a fork by the algorithm of the room version.
func Resolve(ctx context.Context, v *Version, sets []StateMap, src EventSource) (StateMap, error) {
	switch len(sets) {
	case 0:
		return StateMap{}, nil
	case 1:
		return maps.Clone(sets[0]), nil
	}
	c, unconflicted := split(sets)
	whole := func() [][]string {
		ids := make([][]string, len(sets))
		for i, s := range sets {
			ids[i] = slices.Collect(maps.Values(s))
		}
		return ids
	}
	resolved, err := resolve(ctx, v, c, whole, src)
	if err != nil {
		return nil, err
	}
	maps.Copy(unconflicted, resolved)
	return unconflicted, nil
}

// Conflict is a set of states given by their difference, for rooms whose whole state is too much to list.
type Conflict struct {
	// Sets holds for each state the entries of the tuples in which the states are not all the same. A tuple that a state
	// does not have is left out of its map.
	Sets []StateMap
	// Unconflicted looks up the entries that are the same in all states.
	Unconflicted UnconflictedState
}

// UnconflictedState is the part of the states on which they agree.
type UnconflictedState interface {
	// StateIDs returns the entries for those of the tuples that are in the unconflicted state.
	StateIDs(ctx context.Context, tuples []Tuple) (StateMap, error)
}

// StateIDs returns the entries of the map for those of the tuples that it has, so that a map is an UnconflictedState.
func (m StateMap) StateIDs(_ context.Context, tuples []Tuple) (StateMap, error) {
	found := make(StateMap, len(tuples))
	for _, t := range tuples {
		if id, ok := m[t]; ok {
			found[t] = id
		}
	}
	return found, nil
}

// ResolveConflict resolves the states of a fork given by their difference. The result has the entries that differ from
// the unconflicted state: together they are the resolved state. Its cost depends on the size of the difference.
func ResolveConflict(ctx context.Context, v *Version, c Conflict, src EventSource) (StateMap, error) {
	conflicted := func() [][]string {
		ids := make([][]string, len(c.Sets))
		for i, s := range c.Sets {
			ids[i] = slices.Collect(maps.Values(s))
		}
		return ids
	}
	return resolve(ctx, v, c, conflicted, src)
}

// split divides states into what differs and what they have in common.
func split(sets []StateMap) (Conflict, StateMap) {
	unconflicted := make(StateMap, len(sets[0]))
	c := Conflict{Sets: make([]StateMap, len(sets)), Unconflicted: unconflicted}
	for i := range c.Sets {
		c.Sets[i] = StateMap{}
	}
	for t, id := range sets[0] {
		same := true
		for _, s := range sets[1:] {
			if s[t] != id {
				same = false
				break
			}
		}
		if same {
			unconflicted[t] = id
		} else {
			c.Sets[0][t] = id
		}
	}
	for i, s := range sets[1:] {
		for t, id := range s {
			if _, ok := unconflicted[t]; !ok {
				c.Sets[i+1][t] = id
			}
		}
	}
	return c, unconflicted
}

func resolve(ctx context.Context, v *Version, c Conflict, sets func() [][]string, src EventSource) (StateMap, error) {
	r := &resolver{
		v: v, src: src, unconflicted: c.Unconflicted,
		events: map[string]*Event{}, rejected: map[string]bool{}, asked: map[string]bool{},
		base: map[Tuple]string{}, state: map[Tuple]*Event{},
	}
	distinct := map[string]bool{}
	for _, s := range c.Sets {
		for _, id := range s {
			distinct[id] = true
		}
	}
	if len(distinct) == 0 {
		return StateMap{}, nil
	}
	r.conflicted = slices.Sorted(maps.Keys(distinct))
	var err error
	if v.StateResolution == StateResolutionV1 {
		err = r.resolveV1(ctx, c.Sets)
	} else {
		err = r.resolveV2(ctx, sets())
	}
	if err != nil {
		return nil, fmt.Errorf("resolve state: %w", err)
	}
	resolved := make(StateMap, len(r.state))
	for t, e := range r.state {
		// The last step of version 2: the unconflicted state wins.
		if _, ok := r.base[t]; !ok {
			resolved[t] = e.id
		}
	}
	return resolved, nil
}

// resolver is one run of state resolution. What it needs it asks for in batches, a fixed number of times, but for the
// walk along the mainline.
type resolver struct {
	v            *Version
	src          EventSource
	unconflicted UnconflictedState
	conflicted   []string // the conflicted state set, sorted

	events   map[string]*Event // fetched so far
	asked    map[string]bool   // ids whose rejection is known
	rejected map[string]bool
	base     map[Tuple]string // the unconflicted state, as far as asked for

	state  map[Tuple]*Event // the result so far, over base
	create *Event           // room version 12: m.room.create, which auth_events do not name
}

// fetch gets events that are not here yet.
func (r *resolver) fetch(ctx context.Context, ids []string) error {
	var missing []string
	seen := map[string]bool{}
	for _, id := range ids {
		if r.events[id] == nil && !seen[id] {
			seen[id] = true
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	got, err := r.src.Events(ctx, missing)
	if err != nil {
		return err
	}
	for _, id := range missing {
		e := got[id]
		if e == nil {
			return fmt.Errorf("event %s is missing", id)
		}
		r.events[id] = e
	}
	return nil
}

// fetchAuth gets the auth events of events, and learns which of them were rejected.
func (r *resolver) fetchAuth(ctx context.Context, events []*Event) error {
	var ids, unasked []string
	for _, e := range events {
		for _, id := range e.AuthEvents() {
			ids = append(ids, id)
			if !r.asked[id] {
				r.asked[id] = true
				unasked = append(unasked, id)
			}
		}
	}
	if err := r.fetch(ctx, ids); err != nil {
		return err
	}
	if len(unasked) == 0 {
		return nil
	}
	rejected, err := r.src.Rejected(ctx, unasked)
	if err != nil {
		return err
	}
	for id, yes := range rejected {
		if yes {
			r.rejected[id] = true
		}
	}
	return nil
}

// fetchBase looks up tuples in the unconflicted state. withEvents gets the events too, to authorise against.
func (r *resolver) fetchBase(ctx context.Context, events []*Event, withEvents bool) error {
	var tuples []Tuple
	seen := map[Tuple]bool{}
	add := func(t Tuple) {
		if !seen[t] {
			seen[t] = true
			tuples = append(tuples, t)
		}
	}
	if withEvents {
		add(Tuple{Type: TypeCreate})
		add(Tuple{Type: TypePowerLevels})
	}
	for _, e := range events {
		add(e.Tuple())
		if withEvents {
			for _, t := range e.AuthTuples() {
				add(t)
			}
		}
	}
	found, err := r.unconflicted.StateIDs(ctx, tuples)
	if err != nil {
		return err
	}
	maps.Copy(r.base, found)
	if !withEvents {
		return nil
	}
	return r.fetch(ctx, slices.Collect(maps.Values(found)))
}

// allowed authorises an event against the state so far.
func (r *resolver) allowed(e *Event, useBase, useAuthEvents bool) bool {
	return Authorise(e, resolverState{r: r, e: e, useBase: useBase, useAuthEvents: useAuthEvents}) == nil
}

// resolverState is the state against which one event is authorised.
type resolverState struct {
	r                      *resolver
	e                      *Event
	useBase, useAuthEvents bool
}

func (s resolverState) Event(t Tuple) *Event {
	if e := s.r.state[t]; e != nil {
		return e
	}
	if s.useBase {
		if id, ok := s.r.base[t]; ok {
			return s.r.events[id]
		}
	}
	if s.useAuthEvents {
		for _, id := range s.e.AuthEvents() {
			if a := s.r.events[id]; a.isState && a.Tuple() == t && !s.r.rejected[id] {
				return a
			}
		}
	}
	if t.Type == TypeCreate && t.StateKey == "" {
		return s.r.create
	}
	return nil
}
