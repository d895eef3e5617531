package federation

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
)

// buildAt makes an event of a draft at the end of a room, as the room's writer would, without writing it: one that another
// server is still to sign. The draft says who sends what; the rest follows from the room.
//
// Errors: M_FORBIDDEN where the rules do not allow it, M_BAD_JSON, M_TOO_LARGE.
func buildAt(ctx context.Context, s *store.Store, signer event.Signer, r *store.Room, head *store.Head, d event.Draft) (*event.Event, error) {
	prevs, err := s.Events(ctx, head.Extremities)
	if err != nil {
		return nil, fmt.Errorf("read extremities of %s: %w", r.ID, err)
	}
	prevs = slices.DeleteFunc(prevs, func(e *store.Event) bool { return e == nil })
	slices.SortFunc(prevs, func(a, b *store.Event) int { return cmp.Compare(b.Depth(), a.Depth()) })
	prevs = prevs[:min(len(prevs), event.MaxPrevEvents)]
	tuples := event.AuthTuples(r.Version, d.Sender, d.Type, d.StateKey, d.Content)
	auth, err := s.StateEvents(ctx, head.StateRoot, append(slices.Clone(tuples), event.Tuple{Type: event.TypeCreate}))
	if err != nil {
		return nil, fmt.Errorf("read auth events: %w", err)
	}
	d.RoomID, d.Depth, d.RefHashes = r.ID, head.Depth+1, make(map[string]string)
	state := make(event.AuthMap, len(auth))
	for i, e := range auth {
		if e == nil {
			continue
		}
		state[e.Tuple()] = e.Event
		if i < len(tuples) {
			d.AuthEvents = append(d.AuthEvents, e.ID())
			d.RefHashes[e.ID()] = refHash(e.Event)
		}
	}
	for _, e := range prevs {
		d.PrevEvents = append(d.PrevEvents, e.ID())
		d.RefHashes[e.ID()] = refHash(e.Event)
	}
	e, err := event.Build(r.Version, d, signer)
	switch {
	case errors.Is(err, event.ErrTooLarge):
		return nil, mxerr.TooLarge.WithMessage(err.Error()).Wrap(err)
	case err != nil:
		return nil, mxerr.BadJSON.WithMessage(err.Error()).Wrap(err)
	}
	if err := event.Authorise(e, state); err != nil {
		return nil, notAllowed(err)
	}
	return e, nil
}

// notAllowed turns the verdict of a rule into a Matrix error.
func notAllowed(err error) error {
	var auth *event.AuthError
	if errors.As(err, &auth) {
		return mxerr.Forbidden.WithMessage(auth.Reason).Wrap(err)
	}
	return err
}

// refHash returns the reference hash of an event as room versions 1 and 2 write it.
func refHash(e *event.Event) string {
	h := e.ReferenceHash()
	return base64.RawStdEncoding.EncodeToString(h[:])
}
