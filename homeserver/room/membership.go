package room

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

var errNoIdentity = mxerr.ServerNotTrusted.WithMessage("This server uses no identity server")

// Invite invites a user. Inviting somebody who is invited changes nothing.
//
// Errors: M_INVALID_PARAM for what is no user id, M_FORBIDDEN, M_CONNECTION_FAILED where the user's server cannot be
// reached.
func (s *Service) Invite(ctx context.Context, who *Requester, roomID, target, reason string) error {
	if err := active(who); err != nil {
		return err
	}
	r, err := s.targetIn(ctx, who, roomID, target)
	if err != nil {
		return err
	}
	profiles, err := s.profiles(ctx, []string{target})
	if err != nil {
		return err
	}
	if err := s.checkInvitable(ctx, target); err != nil {
		return err
	}
	if err := errors.Join(s.limit(who, "rc_invites.per_room", roomID), s.limit(who, "rc_invites.per_user", target)); err != nil {
		return err
	}
	content := memberContent(event.MembershipInvite, profiles[target])
	addReason(content, reason)
	return s.sendInvite(ctx, r, s.memberDraft(who, target, content))
}

// typeInvitePermission is account data that says whether its owner wants to be invited.
const typeInvitePermission = "m.invite_permission_config"

// checkInvitable refuses invites of local users who want none.
//
// Errors: M_INVITE_BLOCKED.
//
// Spec: client-server API, "Invite permission" (v1.19).
func (s *Service) checkInvitable(ctx context.Context, target string) error {
	if !s.isLocal(target) {
		return nil
	}
	nid, err := s.store.UserNID(ctx, target)
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	d, err := storage.GetAccountData(ctx, s.cfg.DB, nid, "", typeInvitePermission)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read invite permission of %s: %w", target, err)
	}
	if gjson.GetBytes(d.Content, "default_action").Str == "block" {
		return mxerr.InviteBlocked
	}
	return nil
}

// sendInvite writes an invite; an invite of another server's user is signed there first.
func (s *Service) sendInvite(ctx context.Context, r *store.Room, d writer.Draft) error {
	if s.isLocal(*d.StateKey) {
		_, err := s.send(ctx, r.ID, d)
		return err
	}
	if s.cfg.Remote == nil {
		return mxerr.ConnectionFailed.WithMessage("The user's server cannot be reached")
	}
	res, err := s.cfg.Remote.Invite(ctx, r.ID, d)
	if err != nil {
		return err
	}
	return s.applied(ctx, res)
}

// Invite3PID invites the owner of a third-party identifier.
//
// Errors: M_MISSING_PARAM, M_SERVER_NOT_TRUSTED without identity servers, M_FORBIDDEN.
func (s *Service) Invite3PID(ctx context.Context, who *Requester, roomID string, in Invite3PID) error {
	if err := active(who); err != nil {
		return err
	}
	for _, p := range []struct{ name, value string }{
		{"id_server", in.IDServer}, {"id_access_token", in.IDAccessToken}, {"medium", in.Medium}, {"address", in.Address},
	} {
		if p.value == "" {
			return mxerr.MissingParam.WithMessage("Missing " + p.name)
		}
	}
	r, err := s.member(ctx, who, roomID)
	if err != nil {
		return err
	}
	if s.cfg.Identity == nil {
		return errNoIdentity
	}
	userID, token, content, err := s.cfg.Identity.Invite(ctx, who, roomID, in)
	if err != nil {
		return err
	}
	if userID != "" {
		return s.Invite(ctx, who, roomID, userID, "")
	}
	_, err = s.send(ctx, r.ID, writer.Draft{
		Type: event.TypeThirdPartyInvite, StateKey: &token, Sender: who.UserID, Content: content,
	})
	return err
}

// Kick makes somebody leave who is in the room, invited or knocking.
//
// Errors: M_INVALID_PARAM for what is no user id, M_FORBIDDEN.
func (s *Service) Kick(ctx context.Context, who *Requester, roomID, target, reason string) error {
	if err := active(who); err != nil {
		return err
	}
	r, err := s.targetIn(ctx, who, roomID, target)
	if err != nil {
		return err
	}
	m, err := s.store.Membership(ctx, r.NID, target)
	if err != nil {
		return fmt.Errorf("read membership of %s in %s: %w", target, roomID, err)
	}
	if m == nil || m.Membership == storage.MembershipLeave || m.Membership == storage.MembershipBan {
		return mxerr.Forbidden.WithMessage("The target user is not in the room")
	}
	return s.setMembership(ctx, who, r, target, event.MembershipLeave, reason)
}

// Ban bans a user from the room, who need not be in it.
//
// Errors: M_INVALID_PARAM for what is no user id, M_FORBIDDEN.
func (s *Service) Ban(ctx context.Context, who *Requester, roomID, target, reason string) error {
	if err := active(who); err != nil {
		return err
	}
	r, err := s.targetIn(ctx, who, roomID, target)
	if err != nil {
		return err
	}
	return s.setMembership(ctx, who, r, target, event.MembershipBan, reason)
}

// Unban lifts a ban.
//
// Errors: M_INVALID_PARAM for what is no user id, M_BAD_STATE for somebody who is not banned, M_FORBIDDEN.
func (s *Service) Unban(ctx context.Context, who *Requester, roomID, target, reason string) error {
	if err := active(who); err != nil {
		return err
	}
	r, err := s.targetIn(ctx, who, roomID, target)
	if err != nil {
		return err
	}
	m, err := s.store.Membership(ctx, r.NID, target)
	if err != nil {
		return fmt.Errorf("read membership of %s in %s: %w", target, roomID, err)
	}
	if m == nil || m.Membership != storage.MembershipBan {
		return mxerr.BadState.WithMessage("The target user is not banned")
	}
	return s.setMembership(ctx, who, r, target, event.MembershipLeave, reason)
}

// Leave leaves a room, declines an invite or withdraws a knock.
//
// Errors: M_NOT_FOUND for unknown rooms, M_FORBIDDEN for people with nothing to leave.
func (s *Service) Leave(ctx context.Context, who *Requester, roomID, reason string) error {
	r, err := s.room(ctx, roomID)
	if err != nil {
		return err
	}
	m, err := s.store.Membership(ctx, r.NID, who.UserID)
	if err != nil {
		return fmt.Errorf("read membership of %s in %s: %w", who.UserID, roomID, err)
	}
	if m == nil {
		return mxerr.Forbidden.WithMessage(fmt.Sprintf("User %s is not in the room", who.UserID))
	}
	if err := s.checkNotices(ctx, m); err != nil {
		return err
	}
	content := memberContent(event.MembershipLeave, profile{})
	addReason(content, reason)
	here, err := s.participates(ctx, r)
	if err != nil {
		return err
	}
	if here {
		_, err = s.send(ctx, r.ID, s.memberDraft(who, who.UserID, content))
		return err
	}
	if m.Membership == storage.MembershipLeave || m.Membership == storage.MembershipBan {
		return mxerr.Forbidden.WithMessage(fmt.Sprintf("User %s is not in the room", who.UserID))
	}
	if s.cfg.Remote == nil {
		return mxerr.NotFound.WithMessage("The servers of the room cannot be reached")
	}
	servers, err := s.knownServers(ctx, r, who.UserID, nil)
	if err != nil {
		return err
	}
	return s.cfg.Remote.Leave(ctx, RemoteJoin{RoomID: roomID, UserID: who.UserID, Servers: servers, Content: mustJSON(content)})
}

// checkNotices keeps users from turning down the invite to the room of the server's notices.
func (s *Service) checkNotices(ctx context.Context, m *store.Member) error {
	if s.cfg.NoticesFrom == "" || m.Membership != storage.MembershipInvite {
		return nil
	}
	from, err := s.store.UserNID(ctx, s.cfg.NoticesFrom)
	if err != nil {
		return fmt.Errorf("find who sends notices: %w", err)
	}
	if from != 0 && m.SenderNID == from {
		return mxerr.CannotLeaveServerNoticeRoom
	}
	return nil
}

// Knock asks to be let into a room, given its id or an alias, and returns the room id.
//
// Errors: M_INVALID_PARAM, M_NOT_FOUND, M_FORBIDDEN.
func (s *Service) Knock(ctx context.Context, who *Requester, roomIDOrAlias string, via []string, extra map[string]json.RawMessage) (string, error) {
	if err := active(who); err != nil {
		return "", err
	}
	roomID, servers, err := s.target(ctx, roomIDOrAlias, via)
	if err != nil {
		return "", err
	}
	content, err := s.ownMemberContent(ctx, who, event.MembershipKnock, extra)
	if err != nil {
		return "", err
	}
	r, err := s.room(ctx, roomID)
	if err != nil && !errors.Is(err, mxerr.NotFound) {
		return "", err
	}
	if err == nil {
		here, err := s.participates(ctx, r)
		if err != nil {
			return "", err
		}
		if here {
			_, err := s.send(ctx, r.ID, s.memberDraft(who, who.UserID, content))
			return roomID, err
		}
		if servers, err = s.knownServers(ctx, r, who.UserID, servers); err != nil {
			return "", err
		}
	}
	if s.cfg.Remote == nil || len(servers) == 0 {
		return "", mxerr.NotFound.WithMessage("That room does not appear to exist.")
	}
	return roomID, s.cfg.Remote.Knock(ctx, RemoteJoin{RoomID: roomID, UserID: who.UserID, Servers: servers, Content: mustJSON(content)})
}

// Forget takes a room that the user has left off their list: its history is no longer theirs to read.
//
// Errors: M_NOT_FOUND for unknown rooms, M_UNKNOWN with status 400 for rooms the user has not left.
func (s *Service) Forget(ctx context.Context, who *Requester, roomID string) error {
	r, err := s.room(ctx, roomID)
	if err != nil {
		return err
	}
	m, err := s.store.Membership(ctx, r.NID, who.UserID)
	if err != nil {
		return fmt.Errorf("read membership of %s in %s: %w", who.UserID, roomID, err)
	}
	if m == nil {
		return nil
	}
	if m.Membership != storage.MembershipLeave && m.Membership != storage.MembershipBan {
		return mxerr.Unknown.WithStatus(400).WithMessage(fmt.Sprintf("User %s is in room %s", who.UserID, roomID))
	}
	if _, err := s.store.SetForgotten(ctx, r.NID, m.UserNID, true); err != nil {
		return fmt.Errorf("forget room %s: %w", roomID, err)
	}
	return nil
}

// JoinedRooms returns the ids of the rooms the user is in.
func (s *Service) JoinedRooms(ctx context.Context, who *Requester) ([]string, error) {
	nid, err := s.store.UserNID(ctx, who.UserID)
	if err != nil {
		return nil, fmt.Errorf("find user: %w", err)
	}
	urs, err := s.store.UserRooms(ctx, nid, storage.MembershipJoin)
	if err != nil {
		return nil, fmt.Errorf("list rooms of %s: %w", who.UserID, err)
	}
	return s.roomIDs(ctx, urs)
}

// MutualRooms are rooms that two users are both in.
type MutualRooms struct {
	Joined []string `json:"joined"`
	// Count is the number of all of them.
	Count     int    `json:"count"`
	NextBatch string `json:"next_batch,omitempty"`
}

// mutualPage is how many rooms a page of MutualRooms has.
const mutualPage = 100

// MutualRooms returns the rooms that the user and another are both in, a page of them: from is "" or the NextBatch of
// the page before.
//
// Errors: M_INVALID_PARAM for oneself, for what is no user id that new accounts might have, and for a token that is none.
//
// Spec: client-server API, "GET /mutual_rooms" (v1.19).
func (s *Service) MutualRooms(ctx context.Context, who *Requester, other, from string) (*MutualRooms, error) {
	u, err := id.ParseUser(other)
	if err != nil || !u.Compliant() || other == who.UserID {
		return nil, mxerr.InvalidParam.WithMessage("user_id must be the user ID of somebody else")
	}
	after := ""
	if from != "" {
		raw, err := base64.RawURLEncoding.DecodeString(from)
		if err != nil || len(raw) == 0 || raw[0] != '!' {
			return nil, mxerr.InvalidParam.WithMessage("from is not a token of this endpoint")
		}
		after = string(raw)
	}
	nids, err := s.store.UserNIDs(ctx, []string{who.UserID, other})
	if err != nil {
		return nil, fmt.Errorf("find users: %w", err)
	}
	out := &MutualRooms{Joined: []string{}}
	if nids[0] == 0 || nids[1] == 0 {
		return out, nil
	}
	rooms, err := storage.MutualRooms(ctx, s.cfg.DB, nids[0], nids[1])
	if err != nil {
		return nil, fmt.Errorf("list mutual rooms: %w", err)
	}
	out.Count = len(rooms)
	for _, r := range rooms {
		if r <= after {
			continue
		}
		if len(out.Joined) == mutualPage {
			out.NextBatch = base64.RawURLEncoding.EncodeToString([]byte(out.Joined[mutualPage-1]))
			break
		}
		out.Joined = append(out.Joined, r)
	}
	return out, nil
}

func (s *Service) roomIDs(ctx context.Context, urs []store.UserRoom) ([]string, error) {
	nids := make([]storage.RoomNID, len(urs))
	for i, ur := range urs {
		nids[i] = ur.RoomNID
	}
	rs, err := s.store.RoomsByNID(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("find rooms: %w", err)
	}
	out := make([]string, 0, len(rs))
	for _, r := range rs {
		if r != nil {
			out = append(out, r.ID)
		}
	}
	slices.Sort(out)
	return out, nil
}

// targetIn checks what an action on another user needs: a user id, and the requester in the room.
func (s *Service) targetIn(ctx context.Context, who *Requester, roomID, target string) (*store.Room, error) {
	if target == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing user_id")
	}
	if !id.IsUser(target) {
		return nil, mxerr.InvalidParam.WithMessage("user_id is not a user ID")
	}
	return s.member(ctx, who, roomID)
}

func (s *Service) setMembership(ctx context.Context, who *Requester, r *store.Room, target, membership, reason string) error {
	content := memberContent(membership, profile{})
	addReason(content, reason)
	_, err := s.send(ctx, r.ID, s.memberDraft(who, target, content))
	return err
}

// memberDraft is a membership event. One that says what the current one says is not written again.
func (s *Service) memberDraft(who *Requester, target string, content map[string]any) writer.Draft {
	return writer.Draft{
		Type: event.TypeMember, StateKey: &target, Sender: who.UserID, Content: mustJSON(content), SkipUnchanged: true,
	}
}

// ownMemberContent is the content of a membership event the user sends of themselves, with what the client adds to it.
// What the server vouches for cannot be added.
func (s *Service) ownMemberContent(ctx context.Context, who *Requester, membership string, extra map[string]json.RawMessage) (map[string]any, error) {
	ps, err := s.profiles(ctx, []string{who.UserID})
	if err != nil {
		return nil, err
	}
	content := memberContent(membership, ps[who.UserID])
	for k, v := range extra {
		switch k {
		case "membership", "third_party_signed", "third_party_invite", "join_authorised_via_users_server", "is_direct":
		case "reason", "displayname", "avatar_url":
			if err := checkString(k, v); err != nil {
				return nil, err
			}
			content[k] = v
		default:
			content[k] = v
		}
	}
	return content, nil
}

func checkString(key string, raw json.RawMessage) error {
	var s *string
	if json.Unmarshal(raw, &s) != nil {
		return mxerr.BadJSON.WithMessage(key + " must be a string")
	}
	return nil
}

func addReason(content map[string]any, reason string) {
	if reason != "" {
		content["reason"] = reason
	}
}
