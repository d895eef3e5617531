package delayed

import (
	"context"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// conflict is the answer to a request that comes too late.
func conflict(message string) error { return mxerr.Unknown.WithStatus(409).WithMessage(message) }

// Cancel has a scheduled event never be sent. One that is cancelled already stays so; M_UNKNOWN with status 409 for one
// that was sent, M_NOT_FOUND where there is none.
func (s *Service) Cancel(ctx context.Context, delayID string) error {
	ok, err := storage.CancelDelayedEvent(ctx, s.cfg.DB, delayID, s.cfg.Now().UnixMilli())
	if err != nil || ok {
		return err
	}
	e, err := s.find(ctx, delayID)
	switch {
	case err != nil:
		return err
	case e.FinalisedTS == nil:
		return conflict("The delayed event is being sent")
	case e.EventID != nil:
		return conflict("The delayed event has been sent")
	}
	return nil
}

// Restart has the delay of a scheduled event begin anew. Errors: M_UNKNOWN with status 409 for one that is no longer
// scheduled, M_NOT_FOUND where there is none.
func (s *Service) Restart(ctx context.Context, delayID string) error {
	ok, err := storage.RestartDelayedEvent(ctx, s.cfg.DB, delayID, s.cfg.Now().UnixMilli())
	if err != nil {
		return err
	}
	if ok {
		s.wake.Up()
		return nil
	}
	if _, err := s.find(ctx, delayID); err != nil {
		return err
	}
	return conflict("The delayed event is no longer scheduled")
}

// Send sends a scheduled event now. One that was sent already is not sent again. Where the event cannot be sent the error
// is that of sending it, and it stays scheduled. Errors: M_UNKNOWN with status 409 for one that was cancelled,
// M_NOT_FOUND where there is none.
func (s *Service) Send(ctx context.Context, delayID string) error {
	now := s.cfg.Now()
	claimed, err := storage.ClaimDelayedEvent(ctx, s.cfg.DB, delayID, now.UnixMilli(), now.Add(claim).UnixMilli())
	if err != nil {
		return err
	}
	e, err := s.find(ctx, delayID)
	switch {
	case err != nil:
		return err
	case claimed:
		return s.sendNow(ctx, e)
	case e.FinalisedTS != nil && e.EventID == nil:
		return conflict("The delayed event has been cancelled")
	}
	return nil // sent, or being sent
}

// sendNow sends an event that is claimed, on request.
func (s *Service) sendNow(ctx context.Context, e *storage.DelayedEvent) error {
	eventID, err := s.send(ctx, e)
	if err != nil {
		// The claim must not keep the event from its time.
		if err := storage.ReleaseDelayedEvent(context.WithoutCancel(ctx), s.cfg.DB, e.DelayID, 0); err != nil {
			s.log.Warn().Err(err).Msg("A delayed event could not be released")
		}
		s.wake.Up()
		return err
	}
	_, err = storage.FinaliseDelayedEvent(ctx, s.cfg.DB, e.DelayID, s.cfg.Now().UnixMilli(), &eventID, nil)
	return err
}
