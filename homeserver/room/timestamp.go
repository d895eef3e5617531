package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

var errNoEventThen = mxerr.NotFound.WithMessage("Unable to find an event in that direction")

// eventAt returns the nearest event this server has, nil where it has none.
func (s *Service) eventAt(ctx context.Context, r *store.Room, ts int64, forwards bool) (*EventAt, error) {
	row, err := storage.EventNearest(ctx, s.cfg.DB, r.NID, ts, forwards)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the event of %s nearest to a time: %w", r.ID, err)
	}
	es, err := s.store.Events(ctx, []storage.EventNID{row.NID})
	if err != nil {
		return nil, fmt.Errorf("read event %d: %w", row.NID, err)
	}
	if es[0] == nil {
		return nil, nil
	}
	return &EventAt{EventID: es[0].ID(), TS: row.TS}, nil
}

// askElsewhere reports whether another server may know a nearer event: this one has none, or the one it has is the
// earliest it knows of a room that began elsewhere.
func (s *Service) askElsewhere(ctx context.Context, r *store.Room, here *EventAt, forwards bool) bool {
	if here == nil {
		return !forwards
	}
	first, _, err := s.store.Page(ctx, storage.EventPageQuery{
		Room: r.NID, UpTo: storage.EventPoint{Depth: event.MaxDepth}, Limit: 1,
	})
	return err == nil && len(first) == 1 && first[0].ID() == here.EventID && first[0].Type() != event.TypeCreate
}

func nearer(a, b *EventAt, forwards bool) bool {
	switch {
	case a == nil:
		return false
	case b == nil:
		return true
	case forwards:
		return a.TS < b.TS
	}
	return a.TS > b.TS
}
