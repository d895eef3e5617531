package room

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// SendRequest is an event a user sends.
type SendRequest struct {
	// Type is the event type. Required.
	Type string
	// Content is a JSON object. Required.
	Content json.RawMessage
	// TxnID makes the request idempotent for the user's device; "" for none.
	TxnID string
	// TS is the time of the event in milliseconds since the Unix epoch, which only application services may set; 0 for
	// now.
	TS int64
}

// Send sends a message event and returns its event id. A repeated transaction id returns the first event's.
//
// Errors: M_FORBIDDEN for people who are not in the room (also for unknown rooms) or lack the power level, M_BAD_JSON for
// content that canonical JSON does not allow, M_TOO_LARGE.
func (s *Service) Send(ctx context.Context, who *Requester, roomID string, req SendRequest) (string, error) {
	if err := req.validate(who); err != nil {
		return "", err
	}
	r, err := s.member(ctx, who, roomID)
	if err != nil {
		return "", err
	}
	if err := s.checkRelation(ctx, who, r, &req); err != nil {
		return "", err
	}
	d := req.draft(who)
	if req.Type == event.TypeRedaction {
		// Sent like any other event in the room versions whose redactions say in the content what they redact.
		target := gjson.GetBytes(req.Content, "redacts").Str
		if err := s.mayRedact(ctx, who, r, target); err != nil {
			return "", err
		}
		d.Redacts = target
	}
	return s.sendOne(ctx, r, d)
}

// SendState sends a state event and returns its event id. One that says what the current one says returns that.
//
// Errors: those of Send; M_BAD_ALIAS, M_INVALID_PARAM and M_BAD_JSON for state that makes no sense (see checkState).
func (s *Service) SendState(ctx context.Context, who *Requester, roomID, stateKey string, req SendRequest) (string, error) {
	if err := req.validate(who); err != nil {
		return "", err
	}
	if stateKey != who.UserID {
		if err := active(who); err != nil {
			return "", err
		}
	}
	if req.Type == event.TypeMember && stateKey == who.UserID && gjson.GetBytes(req.Content, "membership").Str == event.MembershipJoin {
		return s.sendOwnJoin(ctx, who, roomID, req)
	}
	r, err := s.stateRoom(ctx, who, roomID, stateKey, req)
	if err != nil {
		return "", err
	}
	if err := s.checkState(ctx, r, r.Version, req.Type, stateKey, req.Content); err != nil {
		return "", err
	}
	d := req.draft(who)
	d.StateKey, d.SkipUnchanged = &stateKey, true
	invite := req.Type == event.TypeMember && gjson.GetBytes(req.Content, "membership").Str == event.MembershipInvite
	if invite {
		if err := s.checkInvitable(ctx, stateKey); err != nil {
			return "", err
		}
	}
	if invite && !s.isLocal(stateKey) {
		if s.cfg.Remote == nil {
			return "", mxerr.ConnectionFailed.WithMessage("The user's server cannot be reached")
		}
		res, err := s.cfg.Remote.Invite(ctx, r.ID, d)
		if err != nil {
			return "", err
		}
		return res.EventID, s.applied(ctx, res)
	}
	id, err := s.sendOne(ctx, r, d)
	if err != nil || stateKey != "" {
		return id, err
	}
	switch req.Type {
	case typeTombstone:
		s.replaced(ctx, r, gjson.GetBytes(req.Content, "replacement_room").Str)
	case typeGuestAccess:
		if gjson.GetBytes(req.Content, "guest_access").Str != "can_join" {
			s.sendGuestsAway(ctx, r)
		}
	}
	return id, nil
}

// sendGuestsAway has this server's guests leave a room that no longer lets them in. The event that said so is written,
// so what fails here is only logged.
func (s *Service) sendGuestsAway(ctx context.Context, r *store.Room) {
	guests, err := storage.JoinedGuests(ctx, s.cfg.DB, r.NID)
	if err != nil {
		s.log.Warn().Err(err).Str("room_id", r.ID).Msg("guests not found")
		return
	}
	for _, g := range guests {
		d := s.memberDraft(&Requester{UserID: g}, g, memberContent(event.MembershipLeave, profile{}))
		if _, err := s.send(ctx, r.ID, d); err != nil {
			s.log.Warn().Err(err).Str("room_id", r.ID).Str("user_id", g).Msg("guest could not leave")
		}
	}
}

// stateRoom finds the room of a state event: its sender is in it, or only leaves it.
func (s *Service) stateRoom(ctx context.Context, who *Requester, roomID, stateKey string, req SendRequest) (*store.Room, error) {
	if req.Type == event.TypeMember && stateKey == who.UserID {
		// Those who are invited or knock may say that they leave.
		r, err := s.room(ctx, roomID)
		if err != nil || s.cfg.NoticesFrom == "" {
			return r, err
		}
		m, err := s.store.Membership(ctx, r.NID, who.UserID)
		if err != nil || m == nil {
			return r, err
		}
		return r, s.checkNotices(ctx, m)
	}
	return s.member(ctx, who, roomID)
}

// sendOwnJoin joins by way of a state event, or changes the name and picture the user has in the room.
func (s *Service) sendOwnJoin(ctx context.Context, who *Requester, roomID string, req SendRequest) (string, error) {
	if err := checkMember(who.UserID, req.Content); err != nil {
		return "", err
	}
	r, err := s.member(ctx, who, roomID)
	if err != nil {
		var extra map[string]json.RawMessage
		if err := json.Unmarshal(req.Content, &extra); err != nil {
			return "", mxerr.BadJSON.Wrap(err)
		}
		if _, err := s.Join(ctx, who, roomID, JoinRequest{Content: extra}); err != nil {
			return "", err
		}
		if r, err = s.member(ctx, who, roomID); err != nil {
			return "", err
		}
		e, err := s.current(ctx, r, event.TypeMember, who.UserID)
		if err != nil {
			return "", err
		}
		if e == nil {
			return "", fmt.Errorf("membership of %s in %s is gone", who.UserID, roomID)
		}
		return e.ID(), nil
	}
	d := req.draft(who)
	d.StateKey, d.SkipUnchanged = &who.UserID, true
	return s.sendOne(ctx, r, d)
}

// Redact takes the content out of an event and returns the event id of the redaction. Everyone may redact what they sent,
// others need the room's redact level.
//
// Errors: those of Send, M_NOT_FOUND for an event that is not in the room.
func (s *Service) Redact(ctx context.Context, who *Requester, roomID, eventID, reason, txnID string) (string, error) {
	r, err := s.member(ctx, who, roomID)
	if err != nil {
		return "", err
	}
	if err := s.mayRedact(ctx, who, r, eventID); err != nil {
		return "", err
	}
	content := map[string]any{}
	addReason(content, reason)
	return s.sendOne(ctx, r, writer.Draft{
		Type: event.TypeRedaction, Sender: who.UserID, Content: mustJSON(content), Redacts: eventID,
		DeviceID: who.DeviceID, TxnID: txnID,
	})
}

func (s *Service) mayRedact(ctx context.Context, who *Requester, r *store.Room, eventID string) error {
	if !id.IsEvent(eventID) {
		return mxerr.InvalidParam.WithMessage("That is not an event ID")
	}
	target, err := s.eventIn(ctx, r, eventID)
	if err != nil {
		return err
	}
	switch target.Type() {
	case event.TypeCreate, typeServerACL:
		// Without them other servers would let in whom the room wants to keep out, or lose the room.
		return mxerr.Forbidden.WithMessage("Redacting " + target.Type() + " is not allowed")
	}
	if target.Sender() == who.UserID {
		return nil
	}
	if err := active(who); err != nil {
		return err
	}
	pl, err := s.levels(ctx, r)
	if err != nil {
		return err
	}
	if pl.UserLevel(who.UserID) < pl.Redact {
		return mxerr.Forbidden.WithMessage("You don't have permission to redact events of others")
	}
	return nil
}

func (s *Service) sendOne(ctx context.Context, r *store.Room, d writer.Draft) (string, error) {
	rs, err := s.send(ctx, r.ID, d)
	if err != nil {
		return "", err
	}
	return rs[0].EventID, nil
}

// validate checks what can be told without the room. Those who are suspended may leave and redact what they sent.
func (req *SendRequest) validate(who *Requester) error {
	leave := req.Type == event.TypeMember && gjson.GetBytes(req.Content, "membership").Str == event.MembershipLeave
	if req.Type != event.TypeRedaction && !leave {
		if err := active(who); err != nil {
			return err
		}
	}
	if req.Type == "" {
		return mxerr.InvalidParam.WithMessage("The event type must not be empty")
	}
	if !isObject(req.Content) {
		return mxerr.BadJSON.WithMessage("The content must be a JSON object")
	}
	if req.TS != 0 && who.AppserviceID == "" {
		return mxerr.Forbidden.WithMessage("Only application services may set the time of an event")
	}
	return nil
}

func (req *SendRequest) draft(who *Requester) writer.Draft {
	return writer.Draft{
		Type: req.Type, Sender: who.UserID, Content: req.Content, OriginServerTS: req.TS,
		DeviceID: who.DeviceID, TxnID: req.TxnID,
	}
}
