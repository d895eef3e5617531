package event

import (
	"context"
	"fmt"
)

// AuthEdges returns the auth_events of events.
type AuthEdges func(ctx context.Context, ids []string) (map[string][]string, error)

// WalkAuthChainDifference computes EventSource.AuthChainDifference by walking the whole auth chains, a generation at a
// time. A store that has an index of auth chains does better.
func WalkAuthChainDifference(ctx context.Context, sets [][]string, edges AuthEdges) ([]string, error) {
	known := map[string][]string{}
	inSets := map[string]int{}
	for _, set := range sets {
		chain, err := walkChain(ctx, set, known, edges)
		if err != nil {
			return nil, err
		}
		for id := range chain {
			inSets[id]++
		}
	}
	var difference []string
	for id, n := range inSets {
		if n < len(sets) {
			difference = append(difference, id)
		}
	}
	return difference, nil
}

// WalkConflictedSubgraph computes EventSource.ConflictedSubgraph by walking the whole auth chains, a generation at a time.
// A store that has an index of auth chains does better.
func WalkConflictedSubgraph(ctx context.Context, ids []string, edges AuthEdges) ([]string, error) {
	known := map[string][]string{}
	below, err := walkChain(ctx, ids, known, edges)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		below[id] = true
	}
	// Back up from the conflicted events, within what is below them.
	parents := map[string][]string{}
	for id := range below {
		for _, a := range known[id] {
			parents[a] = append(parents[a], id)
		}
	}
	above := map[string]bool{}
	stack := append([]string(nil), ids...)
	var subgraph []string
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if above[id] {
			continue
		}
		above[id] = true
		subgraph = append(subgraph, id)
		stack = append(stack, parents[id]...)
	}
	return subgraph, nil
}

// walkChain returns the auth chain of events. known keeps the edges found.
func walkChain(ctx context.Context, from []string, known map[string][]string, edges AuthEdges) (map[string]bool, error) {
	chain := map[string]bool{}
	visited := map[string]bool{}
	frontier := from
	for len(frontier) > 0 {
		var unknown []string
		for _, id := range frontier {
			if _, ok := known[id]; !ok {
				unknown = append(unknown, id)
			}
		}
		if len(unknown) > 0 {
			got, err := edges(ctx, unknown)
			if err != nil {
				return nil, err
			}
			for _, id := range unknown {
				known[id] = got[id]
			}
		}
		var next []string
		for _, id := range frontier {
			if visited[id] {
				continue
			}
			visited[id] = true
			for _, a := range known[id] {
				chain[a] = true
				if !visited[a] {
					next = append(next, a)
				}
			}
		}
		frontier = next
	}
	return chain, nil
}

// MapSource is an EventSource over events in memory, as for the auth chain and state of a send_join response, and for
// tests. Fill it before use; reading is safe from any goroutine.
type MapSource struct {
	events   map[string]*Event
	rejected map[string]bool
}

// NewMapSource makes a source of events.
func NewMapSource(events ...*Event) *MapSource {
	s := &MapSource{events: make(map[string]*Event, len(events)), rejected: map[string]bool{}}
	s.Add(events...)
	return s
}

// Add adds events.
func (s *MapSource) Add(events ...*Event) {
	for _, e := range events {
		s.events[e.id] = e
	}
}

// Reject marks an event as rejected.
func (s *MapSource) Reject(id string) { s.rejected[id] = true }

// Events returns the events with the given ids.
func (s *MapSource) Events(_ context.Context, ids []string) (map[string]*Event, error) {
	found := make(map[string]*Event, len(ids))
	for _, id := range ids {
		e := s.events[id]
		if e == nil {
			return nil, fmt.Errorf("event %s is missing", id)
		}
		found[id] = e
	}
	return found, nil
}

// Rejected returns those of the ids whose events were rejected.
func (s *MapSource) Rejected(_ context.Context, ids []string) (map[string]bool, error) {
	found := map[string]bool{}
	for _, id := range ids {
		if s.rejected[id] {
			found[id] = true
		}
	}
	return found, nil
}

// AuthChainDifference returns the events in the auth chain of some set but not of all.
func (s *MapSource) AuthChainDifference(ctx context.Context, sets [][]string) ([]string, error) {
	return WalkAuthChainDifference(ctx, sets, s.edges)
}

// ConflictedSubgraph returns the events on paths between the given ones.
func (s *MapSource) ConflictedSubgraph(ctx context.Context, ids []string) ([]string, error) {
	return WalkConflictedSubgraph(ctx, ids, s.edges)
}

func (s *MapSource) edges(ctx context.Context, ids []string) (map[string][]string, error) {
	events, err := s.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	edges := make(map[string][]string, len(events))
	for id, e := range events {
		edges[id] = e.AuthEvents()
	}
	return edges, nil
}
