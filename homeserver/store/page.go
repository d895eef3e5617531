package store

import (
	"context"

	"github.com/weft-im/weft/storage"
)

// Page returns events of a room in topological order, by one statement, and one more where some are redacted. The numbers
// of the pieces of state that the events set are known afterwards.
func (s *Store) Page(ctx context.Context, q storage.EventPageQuery) ([]*Event, error) {
	events, err := s.load(ctx, func() ([]storage.Event, error) { return storage.EventPage(ctx, s.db, q) })
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.StateKeyNID != 0 {
			s.keyNIDs.Set(e.Tuple(), e.StateKeyNID)
			s.tuples.Set(e.StateKeyNID, e.Tuple())
		}
	}
	return events, nil
}
