package store

import (
	"context"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
)

// Root names an immutable state. Equal roots are equal states; the zero Root is the empty state.
type Root = statetree.Hash

// StateFilter says which part of a state is wanted. A nil *StateFilter is all of it. The parts are added up.
type StateFilter struct {
	// Tuples are single pieces of state.
	Tuples []event.Tuple
	// Types are event types of which every state key is wanted.
	Types []string
	// AllBut, if not nil, wants every type except these.
	AllBut []string
}

// onlyTuples reports whether single pieces are all that is wanted, so that the state need not be read whole.
func (f *StateFilter) onlyTuples() bool { return f != nil && len(f.Types) == 0 && f.AllBut == nil }

func (f *StateFilter) wants(t event.Tuple) bool {
	if f == nil || slices.Contains(f.Types, t.Type) || slices.Contains(f.Tuples, t) {
		return true
	}
	return f.AllBut != nil && !slices.Contains(f.AllBut, t.Type)
}

// StateEntry is one piece of a state by number.
type StateEntry struct {
	Key   storage.StateKeyNID
	Event storage.EventNID
}

// StateChange is the difference of two states in one piece: 0 where a state does not have it.
type StateChange struct {
	Key           storage.StateKeyNID
	Before, After storage.EventNID
}

// State returns the events of a state in no particular order.
func (s *Store) State(ctx context.Context, root Root, filter *StateFilter) ([]*Event, error) {
	entries, err := s.StateEntries(ctx, root, filter)
	if err != nil {
		return nil, err
	}
	return s.entryEvents(ctx, entries)
}

func (s *Store) entryEvents(ctx context.Context, entries []StateEntry) ([]*Event, error) {
	nids := make([]storage.EventNID, len(entries))
	for i, e := range entries {
		nids[i] = e.Event
	}
	events, err := s.Events(ctx, nids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(events, func(e *Event) bool { return e == nil }), nil
}

// StateEntries returns a state by number, without reading the events.
func (s *Store) StateEntries(ctx context.Context, root Root, filter *StateFilter) ([]StateEntry, error) {
	if root == (Root{}) {
		return nil, nil
	}
	if filter.onlyTuples() {
		keys, err := s.StateKeyNIDs(ctx, filter.Tuples)
		if err != nil {
			return nil, err
		}
		got, err := s.stateGet(ctx, root, keys)
		if err != nil {
			return nil, err
		}
		out := make([]StateEntry, 0, len(got))
		for k, v := range got {
			out = append(out, StateEntry{storage.StateKeyNID(k), storage.EventNID(v)})
		}
		return out, nil
	}
	all, err := statetree.All(ctx, s.nodes, root)
	if err != nil {
		return nil, err
	}
	out := make([]StateEntry, len(all))
	for i, e := range all {
		out[i] = StateEntry{storage.StateKeyNID(e.Key), storage.EventNID(e.Value)}
	}
	if filter == nil {
		return out, nil
	}
	keys := make([]storage.StateKeyNID, len(out))
	for i, e := range out {
		keys[i] = e.Key
	}
	tuples, err := s.Tuples(ctx, keys)
	if err != nil {
		return nil, err
	}
	kept := out[:0]
	for i, e := range out {
		if filter.wants(tuples[i]) {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

func (s *Store) stateGet(ctx context.Context, root Root, keys []storage.StateKeyNID) (map[int64]int64, error) {
	wanted := make([]int64, 0, len(keys))
	for _, k := range keys {
		if k != 0 {
			wanted = append(wanted, int64(k))
		}
	}
	if len(wanted) == 0 || root == (Root{}) {
		return nil, nil
	}
	return statetree.Get(ctx, s.nodes, root, wanted)
}

// StateEvents returns pieces of a state in the order of tuples, nil where the state does not have one.
func (s *Store) StateEvents(ctx context.Context, root Root, tuples []event.Tuple) ([]*Event, error) {
	keys, err := s.StateKeyNIDs(ctx, tuples)
	if err != nil {
		return nil, err
	}
	got, err := s.stateGet(ctx, root, keys)
	if err != nil {
		return nil, err
	}
	nids := make([]storage.EventNID, len(keys))
	for i, k := range keys {
		nids[i] = storage.EventNID(got[int64(k)])
	}
	return s.Events(ctx, nids)
}

// StateEvent returns one piece of a state, nil (and no error) if the state does not have it.
func (s *Store) StateEvent(ctx context.Context, root Root, typ, stateKey string) (*Event, error) {
	events, err := s.StateEvents(ctx, root, []event.Tuple{{Type: typ, StateKey: stateKey}})
	if err != nil {
		return nil, err
	}
	return events[0], nil
}

// StateLookup asks for pieces of one state.
type StateLookup struct {
	Root   Root
	Tuples []event.Tuple
}

// StateBatch answers many lookups at once: as many statements as one takes. Each answer has the order of its Tuples,
// with nil where the state does not have one.
func (s *Store) StateBatch(ctx context.Context, lookups []StateLookup) ([][]*Event, error) {
	var tuples []event.Tuple
	for _, l := range lookups {
		tuples = append(tuples, l.Tuples...)
	}
	keys, err := s.StateKeyNIDs(ctx, tuples)
	if err != nil {
		return nil, err
	}
	asked, at := make([]statetree.Lookup, len(lookups)), 0
	for i, l := range lookups {
		asked[i].Root = l.Root
		for range l.Tuples {
			if k := keys[at]; k != 0 && l.Root != (Root{}) {
				asked[i].Keys = append(asked[i].Keys, int64(k))
			}
			at++
		}
	}
	got, err := statetree.GetBatch(ctx, s.nodes, asked)
	if err != nil {
		return nil, err
	}
	nids := make([]storage.EventNID, len(keys))
	at = 0
	for i, l := range lookups {
		for range l.Tuples {
			nids[at] = storage.EventNID(got[i][int64(keys[at])])
			at++
		}
	}
	events, err := s.Events(ctx, nids)
	if err != nil {
		return nil, err
	}
	out := make([][]*Event, len(lookups))
	for i, l := range lookups {
		out[i], events = events[:len(l.Tuples):len(l.Tuples)], events[len(l.Tuples):]
	}
	return out, nil
}

// StateAfter returns the root of the state after an event: its StateRoot, with itself in it if it is an accepted state
// event. The nodes of such a root need not be in the database yet; WriteState writes them.
func (s *Store) StateAfter(ctx context.Context, e *Event) (Root, error) {
	root, nodes, err := s.StateAfterNodes(ctx, e)
	if err == nil {
		s.nodes.Remember(nodes)
	}
	return root, err
}

// StateAfterNodes is StateAfter that also returns the nodes of the root that differ from those of e.StateRoot.
func (s *Store) StateAfterNodes(ctx context.Context, e *Event) (Root, []*statetree.Node, error) {
	if e.StateKeyNID == 0 || e.Flags&Rejected != 0 {
		return e.StateRoot, nil, nil
	}
	return statetree.Apply(ctx, s.nodes, e.StateRoot, []statetree.Entry{{Key: int64(e.StateKeyNID), Value: int64(e.NID)}})
}

// StateDiff returns the pieces in which two states differ. It reads only what differs.
func (s *Store) StateDiff(ctx context.Context, before, after Root) ([]StateChange, error) {
	if before == after {
		return nil, nil
	}
	diff, err := statetree.Diff(ctx, s.nodes, before, after)
	if err != nil {
		return nil, err
	}
	out := make([]StateChange, len(diff))
	for i, d := range diff {
		out[i] = StateChange{storage.StateKeyNID(d.Key), storage.EventNID(d.A), storage.EventNID(d.B)}
	}
	return out, nil
}

// CurrentState returns the room's current state. The error is storage.ErrNotFound if the room has no state here.
func (s *Store) CurrentState(ctx context.Context, room storage.RoomNID, filter *StateFilter) ([]*Event, error) {
	head, err := s.Head(ctx, room)
	if err != nil {
		return nil, err
	}
	return s.State(ctx, head.StateRoot, filter)
}

// CurrentStateEvent returns one piece of the room's current state, nil (and no error) if it has none. The error is
// storage.ErrNotFound if the room has no state here.
func (s *Store) CurrentStateEvent(ctx context.Context, room storage.RoomNID, typ, stateKey string) (*Event, error) {
	head, err := s.Head(ctx, room)
	if err != nil {
		return nil, err
	}
	return s.StateEvent(ctx, head.StateRoot, typ, stateKey)
}

// CurrentStates returns the current state of many rooms by number in one statement, whatever their number. A filter's
// Tuples are not looked at: give Types or AllBut.
func (s *Store) CurrentStates(ctx context.Context, rooms []storage.RoomNID, filter *StateFilter) (map[storage.RoomNID][]StateEntry, error) {
	var types, not []string
	if filter != nil {
		types, not = filter.Types, filter.AllBut
	}
	rows, err := storage.GetCurrentStates(ctx, s.db, rooms, types, not)
	if err != nil {
		return nil, err
	}
	out := make(map[storage.RoomNID][]StateEntry, len(rooms))
	for _, r := range rows {
		out[r.RoomNID] = append(out[r.RoomNID], StateEntry{r.StateKeyNID, r.EventNID})
	}
	return out, nil
}
