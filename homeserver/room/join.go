package room

import (
	"context"
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

// JoinRequest is what a user sends to join a room.
type JoinRequest struct {
	// Via are servers that may be in the room.
	Via []string
	// Content are further keys for the content of the m.room.member event: reason, and whatever else the client sends.
	Content map[string]json.RawMessage
	// ThirdPartySigned shows that a third-party invite was meant for the user, or is nil.
	ThirdPartySigned *ThirdPartySigned
}

// ThirdPartySigned is what an identity server signs for the owner of an invited third-party identifier.
type ThirdPartySigned struct {
	MXID       string          `json:"mxid"`
	Sender     string          `json:"sender"`
	Token      string          `json:"token"`
	Signatures json.RawMessage `json:"signatures"`
}

// Join joins the user to a room, given its id or an alias, and returns the room id. Joining a room one is in changes
// nothing, unless the request has content for the membership event.
//
// Errors: M_INVALID_PARAM for what is neither a room id nor an alias, M_NOT_FOUND for rooms that cannot be found or
// reached, M_FORBIDDEN for people who may not join, M_GUEST_ACCESS_FORBIDDEN.
func (s *Service) Join(ctx context.Context, who *Requester, roomIDOrAlias string, req JoinRequest) (string, error) {
	if err := active(who); err != nil {
		return "", err
	}
	roomID, servers, err := s.target(ctx, roomIDOrAlias, req.Via)
	if err != nil {
		return "", err
	}
	content, err := s.ownMemberContent(ctx, who, event.MembershipJoin, req.Content)
	if err != nil {
		return "", err
	}
	r, err := s.room(ctx, roomID)
	switch {
	case errors.Is(err, mxerr.NotFound):
		return roomID, s.joinRemote(ctx, who, roomID, servers, content)
	case err != nil:
		return "", err
	}
	here, err := s.participates(ctx, r)
	if err != nil {
		return "", err
	}
	if !here {
		if servers, err = s.knownServers(ctx, r, who.UserID, servers); err != nil {
			return "", err
		}
		return roomID, s.joinRemote(ctx, who, roomID, servers, content)
	}
	return roomID, s.joinLocal(ctx, who, r, servers, req, content)
}

// joinLocal joins a room this server is in.
func (s *Service) joinLocal(ctx context.Context, who *Requester, r *store.Room, servers []string, req JoinRequest, content map[string]any) error {
	m, err := s.store.Membership(ctx, r.NID, who.UserID)
	if err != nil {
		return fmt.Errorf("read membership of %s in %s: %w", who.UserID, r.ID, err)
	}
	joined := m != nil && m.Membership == storage.MembershipJoin
	if joined && len(req.Content) == 0 {
		return nil
	}
	if err := s.limit(who, "rc_joins_per_room", r.ID); err != nil {
		return err
	}
	if who.IsGuest {
		ga, err := s.current(ctx, r, typeGuestAccess, "")
		if err != nil {
			return err
		}
		if ga == nil || gjson.GetBytes(ga.Content(), "guest_access").Str != "can_join" {
			return mxerr.GuestAccessForbidden.WithMessage("Guests may not join this room")
		}
	}
	var drafts []writer.Draft
	if req.ThirdPartySigned != nil && !joined {
		d, err := s.thirdPartyInvite(ctx, r, who.UserID, req.ThirdPartySigned)
		if err != nil {
			return err
		}
		drafts = append(drafts, d)
	} else if !joined && (m == nil || m.Membership != storage.MembershipInvite) {
		by, elsewhere, err := s.authorisingUser(ctx, r, who.UserID)
		if err != nil {
			return err
		}
		if elsewhere {
			if servers, err = s.othersIn(ctx, r, servers); err != nil {
				return err
			}
			return s.joinRemote(ctx, who, r.ID, servers, content)
		}
		if by != "" {
			content["join_authorised_via_users_server"] = by
		}
	}
	drafts = append(drafts, s.memberDraft(who, who.UserID, content))
	if _, err := s.send(ctx, r.ID, drafts...); err != nil {
		return err
	}
	if !joined {
		s.carryOver(ctx, who.UserID, r)
	}
	return nil
}

// othersIn adds to servers the others that are in a room.
//
// Errors: M_FORBIDDEN where there are none, so that nobody could let the user in.
func (s *Service) othersIn(ctx context.Context, r *store.Room, servers []string) ([]string, error) {
	in, err := s.store.Servers(ctx, r.NID)
	if err != nil {
		return nil, fmt.Errorf("list servers of %s: %w", r.ID, err)
	}
	servers = distinct(append(slices.Clone(servers), in...), s.cfg.ServerName)
	if len(servers) == 0 {
		return nil, mxerr.Forbidden.WithMessage("Nobody in the room may let you join it.")
	}
	return servers, nil
}

// joinRemote joins a room through another server.
func (s *Service) joinRemote(ctx context.Context, who *Requester, roomID string, servers []string, content map[string]any) error {
	if s.cfg.Remote == nil || len(servers) == 0 {
		return mxerr.NotFound.WithMessage("Can't join remote room because no servers that are in the room have been provided.")
	}
	if err := s.limit(who, "rc_joins.remote", who.UserID); err != nil {
		return err
	}
	j := RemoteJoin{RoomID: roomID, UserID: who.UserID, Servers: servers, Content: mustJSON(content)}
	if err := s.cfg.Remote.Join(ctx, j); err != nil {
		return err
	}
	if r, err := s.room(ctx, roomID); err == nil {
		s.carryOver(ctx, who.UserID, r)
	}
	return nil
}

// participates reports whether this server's view of a room is the room's: it has members here, or none anywhere.
func (s *Service) participates(ctx context.Context, r *store.Room) (bool, error) {
	st, err := s.stats(ctx, r)
	if err != nil || st.LocalJoined > 0 {
		return err == nil, err
	}
	hs, err := s.store.Heads(ctx, []storage.RoomNID{r.NID})
	if err != nil {
		return false, fmt.Errorf("read head of %s: %w", r.ID, err)
	}
	return hs[0] != nil && st.Joined == 0, nil
}

// knownServers adds to servers those that must know a room this server is not in: the inviter's, and the room id's.
func (s *Service) knownServers(ctx context.Context, r *store.Room, userID string, servers []string) ([]string, error) {
	servers = slices.Clone(servers)
	m, err := s.store.Membership(ctx, r.NID, userID)
	if err != nil {
		return nil, fmt.Errorf("read membership of %s in %s: %w", userID, r.ID, err)
	}
	if m != nil && m.SenderNID != 0 && m.Membership == storage.MembershipInvite {
		ids, err := s.store.UserIDs(ctx, []storage.UserNID{m.SenderNID})
		if err != nil {
			return nil, fmt.Errorf("find inviter: %w", err)
		}
		servers = append([]string{id.ServerOf(ids[0])}, servers...)
	}
	if m != nil {
		// Where the room's id names no server, those who are told of in what came with an invite or a knock must know it.
		stripped, err := s.store.Stripped(ctx, []storage.EventNID{m.EventNID})
		if err != nil {
			return nil, fmt.Errorf("read stripped state of %s: %w", r.ID, err)
		}
		for _, e := range gjson.ParseBytes(stripped[m.EventNID]).Array() {
			servers = append(servers, id.ServerOf(e.Get("sender").Str))
		}
	}
	servers = append(servers, id.ServerOf(r.ID))
	return slices.DeleteFunc(distinct(servers, s.cfg.ServerName), func(v string) bool { return v == "" }), nil
}

// authorisingUser finds a local user in whose name this server may let somebody join a restricted room; "" where the
// room is not restricted. elsewhere says that only another server can.
//
// Errors: M_FORBIDDEN where the user meets none of the conditions, as far as this server can tell.
//
// Spec: client-server API, "Restricted rooms" (v1.19).
func (s *Service) authorisingUser(ctx context.Context, r *store.Room, userID string) (by string, elsewhere bool, err error) {
	jr, restricted, err := s.restriction(ctx, r)
	if err != nil || !restricted {
		return "", false, err
	}
	ok, known, err := s.meetsCondition(ctx, jr.Content(), userID)
	if err != nil {
		return "", false, err
	}
	if !ok {
		if !known && s.cfg.Remote != nil {
			return "", true, nil
		}
		return "", false, mxerr.Forbidden.WithMessage("You do not belong to any of the required rooms or spaces to join this room.")
	}
	by, err = s.localInviter(ctx, r)
	if err != nil {
		return "", false, err
	}
	if by == "" {
		if s.cfg.Remote != nil {
			return "", true, nil
		}
		return "", false, mxerr.Forbidden.WithMessage("Nobody on this server may let you join this room.")
	}
	return by, false, nil
}

// restriction returns the join rules of a room, and whether they let in the members of other rooms.
func (s *Service) restriction(ctx context.Context, r *store.Room) (*store.Event, bool, error) {
	jr, err := s.current(ctx, r, event.TypeJoinRules, "")
	if err != nil || jr == nil {
		return nil, false, err
	}
	switch gjson.GetBytes(jr.Content(), "join_rule").Str {
	case event.JoinRuleRestricted:
		return jr, r.Version.Restricted, nil
	case event.JoinRuleKnockRestricted:
		return jr, r.Version.KnockRestricted, nil
	}
	return jr, false, nil
}

// meetsCondition reports whether a user is in one of the rooms that m.room.join_rules allows to join from. known is
// false where there are such rooms and this server is in none of them.
func (s *Service) meetsCondition(ctx context.Context, joinRules json.RawMessage, userID string) (ok, known bool, err error) {
	rooms := allowedRooms(joinRules)
	known = len(rooms) == 0
	for _, roomID := range rooms {
		r, err := s.store.Room(ctx, roomID)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, false, fmt.Errorf("find room %s: %w", roomID, err)
		}
		m, err := s.store.Membership(ctx, r.NID, userID)
		if err != nil {
			return false, false, fmt.Errorf("read membership of %s in %s: %w", userID, roomID, err)
		}
		if m != nil && m.Membership == storage.MembershipJoin {
			return true, true, nil
		}
		here, err := s.locallyJoined(ctx, r)
		if err != nil {
			return false, false, err
		}
		known = known || here
	}
	return false, known, nil
}

// allowedRooms returns the rooms whose members m.room.join_rules lets join.
func allowedRooms(joinRules json.RawMessage) []string {
	var out []string
	for _, a := range gjson.GetBytes(joinRules, "allow").Array() {
		if a.Get("type").Str == "m.room_membership" && a.Get("room_id").Type == gjson.String {
			out = append(out, a.Get("room_id").Str)
		}
	}
	return distinct(out, "")
}

// localInviter returns a local user of the room who may invite, "" if there is none. The one with the highest level is
// taken: the fewest changes of levels can make the join invalid later.
func (s *Service) localInviter(ctx context.Context, r *store.Room) (string, error) {
	pl, err := s.levels(ctx, r)
	if err != nil {
		return "", err
	}
	nids, err := s.store.LocalJoined(ctx, r.NID)
	if err != nil {
		return "", fmt.Errorf("list local members of %s: %w", r.ID, err)
	}
	users, err := s.store.UserIDs(ctx, nids)
	if err != nil {
		return "", fmt.Errorf("find local members of %s: %w", r.ID, err)
	}
	best := ""
	for _, u := range users {
		if l := pl.UserLevel(u); l >= pl.Invite && (best == "" || l > pl.UserLevel(best)) {
			best = u
		}
	}
	return best, nil
}

// thirdPartyInvite turns a third-party invite into an invite of the user who has shown that it was meant for them.
func (s *Service) thirdPartyInvite(ctx context.Context, r *store.Room, userID string, signed *ThirdPartySigned) (writer.Draft, error) {
	if signed.MXID != userID {
		return writer.Draft{}, mxerr.Forbidden.WithMessage("third_party_signed is for another user")
	}
	pending, err := s.current(ctx, r, event.TypeThirdPartyInvite, signed.Token)
	if err != nil {
		return writer.Draft{}, err
	}
	if pending == nil || signed.Token == "" {
		return writer.Draft{}, mxerr.Forbidden.WithMessage("There is no such third-party invite")
	}
	if !s.isLocal(pending.Sender()) {
		return writer.Draft{}, mxerr.Forbidden.WithMessage("The third-party invite was sent from another server")
	}
	content := map[string]any{
		"membership": event.MembershipInvite,
		"third_party_invite": map[string]any{
			"display_name": gjson.GetBytes(pending.Content(), "display_name").Str,
			"signed": map[string]any{
				"mxid": signed.MXID, "token": signed.Token, "signatures": signed.Signatures,
			},
		},
	}
	return writer.Draft{Type: event.TypeMember, StateKey: &userID, Sender: pending.Sender(), Content: mustJSON(content)}, nil
}

// carryOver gives a user who joins a room that replaces another the settings they had there. Failing to is no reason to
// fail the join.
func (s *Service) carryOver(ctx context.Context, userID string, r *store.Room) {
	if s.cfg.Personal == nil || !s.isLocal(userID) {
		return
	}
	create, err := s.current(ctx, r, event.TypeCreate, "")
	if err != nil || create == nil {
		return
	}
	before := gjson.GetBytes(create.Content(), "predecessor.room_id").Str
	if before == "" {
		return
	}
	old, err := s.store.Room(ctx, before)
	if err != nil {
		return
	}
	m, err := s.store.Membership(ctx, old.NID, userID)
	if err != nil || m == nil {
		return
	}
	if err := s.cfg.Personal.CopyRoomSettings(ctx, userID, before, r.ID); err != nil {
		s.log.Warn().Err(err).Str("room_id", r.ID).Str("user_id", userID).Msg("settings of replaced room not carried over")
	}
}
