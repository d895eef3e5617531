package store

import (
	"context"

	"github.com/weft-im/weft/storage"
)

// Page returns events of a room in topological order, by one statement, and one more where some are redacted.
func (s *Store) Page(ctx context.Context, q storage.EventPageQuery) ([]*Event, error) {
	return s.load(ctx, func() ([]storage.Event, error) { return storage.EventPage(ctx, s.db, q) })
}
