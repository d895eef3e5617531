package delayed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/storage"
)

const (
	// claim is how long a taken event is left alone, should the process die that took it.
	claim = time.Minute
	// batch bounds the events taken at once.
	batch = 50
	// parallel bounds the rooms sent to at once.
	parallel = 8
	// maxAttempts bounds the attempts of an event whose sending fails for reasons of the server, spaced by retry.
	maxAttempts = 20
	retry       = 5 * time.Second
)

// Run sends what is due until ctx is done.
func (s *Service) Run(ctx context.Context) error {
	task.Poll(ctx, s.wake, func() time.Duration {
		next, err := s.sendDue(ctx)
		switch {
		case err == nil && next != 0:
			return min(s.cfg.Poll, max(time.UnixMilli(next).Sub(s.cfg.Now()), time.Millisecond))
		case err != nil && ctx.Err() == nil:
			s.log.Warn().Err(err).Msg("Delayed events could not be sent yet")
		}
		return s.cfg.Poll
	})
	return nil
}

// sendDue sends what is due and returns when the next event is, 0 if there is none.
func (s *Service) sendDue(ctx context.Context) (int64, error) {
	for {
		now := s.cfg.Now()
		events, err := storage.ClaimDelayedEvents(ctx, s.cfg.DB, now.UnixMilli(), now.Add(claim).UnixMilli(), batch)
		if err != nil {
			return 0, err
		}
		if err := s.sendAll(ctx, events); err != nil {
			return 0, err
		}
		if len(events) < batch {
			return storage.NextDelayedEvent(ctx, s.cfg.DB)
		}
	}
}

// sendAll sends claimed events: those of one room in the order of their time, rooms beside each other, so that one that
// waits for another server does not hold up the rest.
func (s *Service) sendAll(ctx context.Context, events []storage.DelayedEvent) error {
	slices.SortStableFunc(events, func(a, b storage.DelayedEvent) int { return cmp.Compare(a.SendTS, b.SendTS) })
	rooms := map[string][]*storage.DelayedEvent{}
	for i := range events {
		rooms[events[i].RoomID] = append(rooms[events[i].RoomID], &events[i])
	}
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, list := range rooms {
		g.Go(func() error {
			for _, e := range list {
				if err := s.sendOne(ctx, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// sendOne sends an event that is due and claimed. What the room or the server's rules refuse is refused for good.
func (s *Service) sendOne(ctx context.Context, e *storage.DelayedEvent) error {
	eventID, err := s.send(ctx, e)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now := s.cfg.Now()
	if err == nil {
		_, err = storage.FinaliseDelayedEvent(ctx, s.cfg.DB, e.DelayID, now.UnixMilli(), &eventID, nil)
		return err
	}
	refused, ok := mxerr.As(err)
	switch {
	case ok && refused.Status < 500:
	case e.Attempts+1 < maxAttempts:
		s.log.Warn().Err(err).Str("room_id", e.RoomID).Msg("A delayed event will be tried again")
		return storage.ReleaseDelayedEvent(ctx, s.cfg.DB, e.DelayID, now.Add(retry).UnixMilli())
	default:
		refused = mxerr.Unknown
	}
	body, err := json.Marshal(refused)
	if err != nil {
		return err
	}
	_, err = storage.FinaliseDelayedEvent(ctx, s.cfg.DB, e.DelayID, now.UnixMilli(), nil, body)
	return err
}

// send sends an event as its user would. Its delay id is the transaction id, so that it is only ever sent once.
func (s *Service) send(ctx context.Context, e *storage.DelayedEvent) (string, error) {
	a, err := s.cfg.Accounts.Account(ctx, e.UserID)
	switch {
	case errors.Is(err, mxerr.NotFound):
		return "", mxerr.Forbidden.WithMessage("The user has no account")
	case err != nil:
		return "", err
	case a.Deactivated:
		return "", mxerr.UserDeactivated
	case a.Locked:
		return "", mxerr.UserLocked
	case a.Suspended:
		return "", mxerr.UserSuspended
	}
	if a.AppserviceID == nil {
		if err := s.cfg.Limits.Allow("rc_message", e.UserID); err != nil {
			return "", err
		}
	}
	who := &Requester{UserID: e.UserID, DeviceID: store.DelayDevice, IsGuest: a.IsGuest, ShadowBanned: a.ShadowBanned}
	if a.AppserviceID != nil {
		who.AppserviceID = *a.AppserviceID
	}
	req := room.SendRequest{Type: e.Type, Content: e.Content, TxnID: e.DelayID}
	if e.OriginServerTS != nil {
		req.TS = *e.OriginServerTS
	}
	if e.StateKey != nil {
		return s.cfg.Rooms.SendState(ctx, who, e.RoomID, *e.StateKey, req)
	}
	return s.cfg.Rooms.Send(ctx, who, e.RoomID, req)
}

// Prune forgets what became of events a while ago.
func (s *Service) Prune(ctx context.Context) error {
	return storage.PruneDelayedEvents(ctx, s.cfg.DB, s.cfg.Now().Add(-keepFinalised).UnixMilli())
}
