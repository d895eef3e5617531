package event

import "context"

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
	panic("not yet")
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

// ResolveConflict resolves the states of a fork given by their difference. The result has the entries that differ from
// the unconflicted state: together they are the resolved state. Its cost depends on the size of the difference.
func ResolveConflict(ctx context.Context, v *Version, c Conflict, src EventSource) (StateMap, error) {
	panic("not yet")
}
