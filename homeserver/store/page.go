package store

import (
	"context"

	"github.com/weft-im/weft/storage"
)

// Page returns events of a room in topological order, and for each whether other events relate to it. It takes one
// statement, and one more where some are redacted. The numbers of the pieces of state that the events set are known
// afterwards.
func (s *Store) Page(ctx context.Context, q storage.EventPageQuery) ([]*Event, []bool, error) {
	return s.paged(ctx, func() ([]storage.PagedEvent, error) { return storage.EventPage(ctx, s.db, q) })
}

// RelationPage is Page of the events that relate to one event.
func (s *Store) RelationPage(ctx context.Context, q storage.RelationPageQuery) ([]*Event, []bool, error) {
	return s.paged(ctx, func() ([]storage.PagedEvent, error) { return storage.RelationPage(ctx, s.db, q) })
}

func (s *Store) paged(ctx context.Context, query func() ([]storage.PagedEvent, error)) ([]*Event, []bool, error) {
	var related []bool
	events, err := s.load(ctx, func() ([]storage.Event, error) {
		page, err := query()
		rows := make([]storage.Event, len(page))
		related = make([]bool, len(page))
		for i, p := range page {
			rows[i], related[i] = p.Event, p.Related
		}
		return rows, err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, e := range events {
		if e.StateKeyNID != 0 {
			s.keyNIDs.Set(e.Tuple(), e.StateKeyNID)
			s.tuples.Set(e.StateKeyNID, e.Tuple())
		}
	}
	return events, related, nil
}
