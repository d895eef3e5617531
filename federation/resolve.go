package federation

import (
	"context"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// roomState is a state by number.
type roomState map[storage.StateKeyNID]storage.EventNID

// apply puts an event into the state, if it is one that can be there.
func (s roomState) apply(e *store.Event) {
	if e.StateKeyNID != 0 && e.Flags&store.Rejected == 0 {
		s[e.StateKeyNID] = e.NID
	}
}

// resolve resolves states whose events are all stored. It takes time for what differs, besides comparing them.
func (g *Ingest) resolve(ctx context.Context, r *store.Room, states []roomState) (roomState, error) {
	agreed := make(roomState)
	differ := make(map[storage.StateKeyNID]bool)
	for _, s := range states {
		for k, nid := range s {
			if differ[k] {
				continue
			}
			for _, other := range states {
				if other[k] != nid {
					differ[k] = true
					break
				}
			}
			if !differ[k] {
				agreed[k] = nid
			}
		}
	}
	if len(differ) == 0 {
		return agreed, nil
	}
	keys := make([]storage.StateKeyNID, 0, len(differ))
	for k := range differ {
		keys = append(keys, k)
	}
	tuples, err := g.store.Tuples(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("name state keys: %w", err)
	}
	known := &agreedState{store: g.store, state: agreed}
	c := event.Conflict{Unconflicted: known}
	for _, s := range states {
		nids := make([]storage.EventNID, 0, len(keys))
		at := make([]event.Tuple, 0, len(keys))
		for i, k := range keys {
			if s[k] != 0 {
				nids, at = append(nids, s[k]), append(at, tuples[i])
			}
		}
		m, err := stateIDs(ctx, g.store, at, nids)
		if err != nil {
			return nil, err
		}
		c.Sets = append(c.Sets, m)
	}
	resolved, err := event.ResolveConflict(ctx, r.Version, c, g.store.AuthSource(nil, known.events))
	if err != nil {
		return nil, fmt.Errorf("resolve state of %s: %w", r.ID, err)
	}
	ids := make([]string, 0, len(resolved))
	for _, id := range resolved {
		ids = append(ids, id)
	}
	won, err := g.store.EventsByID(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up resolved state: %w", err)
	}
	for _, e := range won {
		if e != nil {
			agreed.apply(e)
		}
	}
	return agreed, nil
}

// agreedState is the part of states on which they agree. It implements event.UnconflictedState.
type agreedState struct {
	store *store.Store
	state roomState
}

// StateIDs implements event.UnconflictedState.
func (a *agreedState) StateIDs(ctx context.Context, tuples []event.Tuple) (event.StateMap, error) {
	keys, err := a.store.StateKeyNIDs(ctx, tuples)
	if err != nil {
		return nil, fmt.Errorf("look up state keys: %w", err)
	}
	var nids []storage.EventNID
	var at []event.Tuple
	for i, k := range keys {
		if nid := a.state[k]; nid != 0 {
			nids, at = append(nids, nid), append(at, tuples[i])
		}
	}
	return stateIDs(ctx, a.store, at, nids)
}

// events returns the entries for keys, as store.AuthSource asks for them.
func (a *agreedState) events(_ context.Context, keys []storage.StateKeyNID) (map[storage.StateKeyNID]storage.EventNID, error) {
	out := make(map[storage.StateKeyNID]storage.EventNID, len(keys))
	for _, k := range keys {
		if nid := a.state[k]; nid != 0 {
			out[k] = nid
		}
	}
	return out, nil
}

// stateIDs names the events of pieces of a state.
func stateIDs(ctx context.Context, s *store.Store, tuples []event.Tuple, nids []storage.EventNID) (event.StateMap, error) {
	events, err := s.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("read state events: %w", err)
	}
	m := make(event.StateMap, len(events))
	for i, e := range events {
		if e == nil {
			return nil, fmt.Errorf("event %d of a state: %w", nids[i], storage.ErrNotFound)
		}
		m[tuples[i]] = e.ID()
	}
	return m, nil
}
