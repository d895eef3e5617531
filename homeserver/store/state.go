package store

import (
	"context"

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
	panic("not yet")
}

// StateEntries returns a state by number, without reading the events.
func (s *Store) StateEntries(ctx context.Context, root Root, filter *StateFilter) ([]StateEntry, error) {
	panic("not yet")
}

// StateEvent returns one piece of a state, nil (and no error) if the state does not have it.
func (s *Store) StateEvent(ctx context.Context, root Root, typ, stateKey string) (*Event, error) {
	panic("not yet")
}

// StateAfter returns the root of the state after an event: its StateRoot, with itself in it if it is an accepted state
// event.
func (s *Store) StateAfter(ctx context.Context, e *Event) (Root, error) { panic("not yet") }

// StateDiff returns the pieces in which two states differ. It reads only what differs.
func (s *Store) StateDiff(ctx context.Context, before, after Root) ([]StateChange, error) {
	panic("not yet")
}

// CurrentState returns the room's current state. The error is storage.ErrNotFound if the room has no state here.
func (s *Store) CurrentState(ctx context.Context, room storage.RoomNID, filter *StateFilter) ([]*Event, error) {
	panic("not yet")
}

// CurrentStateEvent returns one piece of the room's current state, nil (and no error) if it has none.
func (s *Store) CurrentStateEvent(ctx context.Context, room storage.RoomNID, typ, stateKey string) (*Event, error) {
	panic("not yet")
}
