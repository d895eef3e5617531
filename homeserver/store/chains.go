package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/weft-im/weft/storage"
)

// AuthChain returns the auth chain of events: the events that they name in their auth_events, those that these name, and
// so on. The given events are in it only where one of them reaches another.
func (s *Store) AuthChain(ctx context.Context, of []*Event) ([]*Event, error) {
	seen := make(map[storage.EventNID]bool)
	var from []storage.EventNID
	var unknown []string
	for _, e := range of {
		if e.StateKeyNID != 0 {
			from = append(from, e.NID)
			continue
		}
		// The edges of message events are not kept.
		unknown = append(unknown, e.AuthEvents()...)
	}
	first, err := s.EventsByID(ctx, unknown)
	if err != nil {
		return nil, err
	}
	for _, e := range first {
		if e != nil && !seen[e.NID] {
			seen[e.NID] = true
			from = append(from, e.NID)
		}
	}
	slices.Sort(from)
	edges, err := storage.AuthChain(ctx, s.db, slices.Compact(from), -1)
	if err != nil {
		return nil, err
	}
	for _, edge := range edges {
		seen[edge.AuthNID] = true
	}
	nids := make([]storage.EventNID, 0, len(seen))
	for nid := range seen {
		nids = append(nids, nid)
	}
	slices.Sort(nids)
	chain, err := s.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("read auth chain: %w", err)
	}
	return slices.DeleteFunc(chain, func(e *Event) bool { return e == nil }), nil
}
