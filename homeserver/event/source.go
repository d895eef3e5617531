package event

import "context"

// MapSource is an EventSource over events in memory, as for the auth chain and state of a send_join response, and for
// tests.
type MapSource struct {
	events   map[string]*Event
	rejected map[string]bool
}

// NewMapSource makes a source of events. Auth chains are followed as far as the events reach.
func NewMapSource(events ...*Event) *MapSource { panic("not yet") }

// Reject marks an event as rejected.
func (s *MapSource) Reject(id string) { panic("not yet") }

// Events returns the events with the given ids.
func (s *MapSource) Events(_ context.Context, ids []string) (map[string]*Event, error) {
	panic("not yet")
}

// Rejected returns those of the ids whose events were rejected.
func (s *MapSource) Rejected(_ context.Context, ids []string) (map[string]bool, error) {
	panic("not yet")
}

// AuthChainDifference returns the events in the auth chain of some set but not of all.
func (s *MapSource) AuthChainDifference(_ context.Context, sets [][]string) ([]string, error) {
	panic("not yet")
}

// ConflictedSubgraph returns the events on paths between the given ones.
func (s *MapSource) ConflictedSubgraph(_ context.Context, ids []string) ([]string, error) {
	panic("not yet")
}
