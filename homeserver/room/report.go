package room

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// maxReasonBytes bounds the reason of a report.
const maxReasonBytes = 10 << 10

// ReportEvent tells the server's administrators of an event the user can see. score is what older clients send, or nil.
//
// Errors: M_NOT_FOUND for events the user may not see and rooms they are not in, M_INVALID_PARAM.
func (s *Service) ReportEvent(ctx context.Context, who *Requester, roomID, eventID, reason string, score *int) error {
	if score != nil && (*score < -100 || *score > 100) {
		return mxerr.InvalidParam.WithMessage("score must be from -100 to 0")
	}
	if _, err := s.member(ctx, who, roomID); err != nil {
		return mxerr.NotFound.WithMessage("The event was not found or you are not joined to the room.").Wrap(err)
	}
	r, e, err := s.visibleEvent(ctx, who, roomID, eventID)
	if errors.Is(err, mxerr.NotFound) {
		return mxerr.NotFound.WithMessage("The event was not found or you are not joined to the room.")
	}
	if err != nil {
		return err
	}
	return s.report(ctx, who, reason, storage.Report{Room: r.NID, Event: e.NID, User: e.SenderNID, Score: score})
}

// ReportRoom tells the server's administrators of a room, which the user need not be in.
//
// Errors: M_NOT_FOUND for unknown rooms, M_INVALID_PARAM.
func (s *Service) ReportRoom(ctx context.Context, who *Requester, roomID, reason string) error {
	r, err := s.room(ctx, roomID)
	if err != nil {
		return err
	}
	return s.report(ctx, who, reason, storage.Report{Room: r.NID})
}

// ReportUser tells the server's administrators of a user. Of users nobody here has ever met nothing is kept, and the
// answer is the same, so that it does not tell who has an account.
//
// Errors: M_INVALID_PARAM.
func (s *Service) ReportUser(ctx context.Context, who *Requester, userID, reason string) error {
	if !id.IsUser(userID) {
		return mxerr.InvalidParam.WithMessage("That is not a user ID")
	}
	nid, err := s.store.UserNID(ctx, userID)
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	if nid == 0 {
		return checkReason(reason)
	}
	return s.report(ctx, who, reason, storage.Report{User: nid})
}

func (s *Service) report(ctx context.Context, who *Requester, reason string, r storage.Report) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	nids, err := s.store.InternUsers(ctx, []string{who.UserID})
	if err != nil {
		return fmt.Errorf("number the reporter: %w", err)
	}
	r.Reporter, r.Reason, r.ReceivedTS = nids[0], reason, s.now()
	if _, err := storage.InsertReport(ctx, s.cfg.DB, r); err != nil {
		return fmt.Errorf("store report: %w", err)
	}
	return nil
}

func checkReason(reason string) error {
	if len(reason) > maxReasonBytes {
		return mxerr.InvalidParam.WithMessage(fmt.Sprintf("reason may have at most %d bytes", maxReasonBytes))
	}
	if strings.ContainsRune(reason, 0) {
		return mxerr.InvalidParam.WithMessage("reason must not have the character NUL")
	}
	return nil
}
