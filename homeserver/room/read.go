package room

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// eventIn finds an event that is part of a room's history.
//
// Errors: M_NOT_FOUND.
func (s *Service) eventIn(ctx context.Context, r *store.Room, eventID string) (*store.Event, error) {
	es, err := s.store.EventsByID(ctx, []string{eventID})
	if err != nil {
		return nil, fmt.Errorf("read event %s: %w", eventID, err)
	}
	if e := es[0]; e != nil && e.RoomNID == r.NID && e.Flags == 0 {
		return e, nil
	}
	return nil, mxerr.NotFound.WithMessage("Could not find event " + eventID)
}

// visibleEvent finds an event that the user may see.
//
// Errors: M_NOT_FOUND, also for events the user may not see.
func (s *Service) visibleEvent(ctx context.Context, who *Requester, roomID, eventID string) (*store.Room, *view.Event, error) {
	notFound := mxerr.NotFound.WithMessage("Could not find event " + eventID)
	if !id.IsEvent(eventID) {
		return nil, nil, notFound
	}
	r, err := s.room(ctx, roomID)
	if err != nil {
		return nil, nil, err
	}
	m, err := s.store.Membership(ctx, r.NID, who.UserID)
	if err != nil {
		return nil, nil, fmt.Errorf("read membership of %s in %s: %w", who.UserID, roomID, err)
	}
	if m != nil && (m.Membership == storage.MembershipLeave || m.Membership == storage.MembershipBan) {
		gone, err := s.forgotten(ctx, r, m.UserNID)
		if err != nil {
			return nil, nil, err
		}
		if gone {
			return nil, nil, notFound
		}
	}
	e, err := s.eventIn(ctx, r, eventID)
	if err != nil {
		return nil, nil, err
	}
	v, err := s.reader(ctx, who)
	if err != nil {
		return nil, nil, err
	}
	vs, err := s.views.Of(ctx, v, []*store.Event{e})
	if err != nil {
		return nil, nil, fmt.Errorf("view event %s: %w", eventID, err)
	}
	if !vs[0].Visible {
		return nil, nil, notFound
	}
	return r, &vs[0], nil
}

// Event returns one event of a room.
//
// Errors: M_NOT_FOUND, also for events the user may not see.
func (s *Service) Event(ctx context.Context, who *Requester, roomID, eventID string) (json.RawMessage, error) {
	r, e, err := s.visibleEvent(ctx, who, roomID, eventID)
	if err != nil {
		return nil, err
	}
	return s.one(ctx, who, r, e)
}

// State returns the room's state as a JSON array: the current one, or for those who have left that of when they did.
//
// Errors: M_FORBIDDEN, for unknown rooms too.
func (s *Service) State(ctx context.Context, who *Requester, roomID string) (json.RawMessage, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	if err := s.whole(ctx, a.room); err != nil {
		return nil, err
	}
	es, err := s.state(ctx, a, nil)
	if err != nil {
		return nil, err
	}
	return view.AppendStateArray(nil, es, s.viewer(who), s.format()), nil
}

func (s *Service) state(ctx context.Context, a *access, f *store.StateFilter) ([]*store.Event, error) {
	root, err := s.root(ctx, a)
	if err != nil {
		return nil, err
	}
	es, err := s.store.State(ctx, root, f)
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", a.room.ID, err)
	}
	return es, nil
}

// StateEvent returns the content of a piece of the room's state, or the whole event; see State.
//
// Errors: M_FORBIDDEN, for unknown rooms too; M_NOT_FOUND for a piece the state does not have.
func (s *Service) StateEvent(ctx context.Context, who *Requester, roomID, typ, stateKey string, whole bool) (json.RawMessage, error) {
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	if typ == event.TypeMember && !s.isLocal(stateKey) {
		// All others are known.
		if err := s.whole(ctx, a.room); err != nil {
			return nil, err
		}
	}
	root, err := s.root(ctx, a)
	if err != nil {
		return nil, err
	}
	e, err := s.store.StateEvent(ctx, root, typ, stateKey)
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", roomID, err)
	}
	if e == nil {
		return nil, mxerr.NotFound.WithMessage("Event not found.")
	}
	if whole {
		return view.AppendState(nil, e, s.viewer(who), s.format()), nil
	}
	return e.Content(), nil
}

// MembersRequest says which membership events of a room are wanted.
type MembersRequest struct {
	// At is a token of /sync or /messages: the members of then, "" for now.
	At string
	// Membership and NotMembership, if not "", are the membership wanted and the one not wanted.
	Membership, NotMembership string
}

// Members returns membership events of a room as a JSON array. Those who have left see the members of when they did.
//
// Errors: M_INVALID_PARAM for a token that is none and for memberships that are none, M_FORBIDDEN, for unknown rooms too.
func (s *Service) Members(ctx context.Context, who *Requester, roomID string, req MembersRequest) (json.RawMessage, error) {
	wanted, err := req.wanted()
	if err != nil {
		return nil, err
	}
	a, err := s.readable(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	if err := s.whole(ctx, a.room); err != nil {
		return nil, err
	}
	var es []*store.Event
	if req.At == "" && a.left == nil {
		es, err = s.membersNow(ctx, a.room, wanted)
	} else {
		es, err = s.membersThen(ctx, a, req.At, wanted)
	}
	if err != nil {
		return nil, err
	}
	return view.AppendStateArray(nil, es, s.viewer(who), s.format()), nil
}

// wanted returns the memberships asked for, nil for all. The two parameters are alternatives: an event is wanted if it
// has the one, or has not the other.
func (req *MembersRequest) wanted() ([]storage.Membership, error) {
	if req.Membership == "" && req.NotMembership == "" {
		return nil, nil
	}
	in, out := storage.MembershipOf(req.Membership), storage.MembershipOf(req.NotMembership)
	if req.Membership != "" && in == 0 || req.NotMembership != "" && out == 0 {
		return nil, mxerr.InvalidParam.WithMessage("membership and not_membership must be join, invite, leave, ban or knock")
	}
	wanted := []storage.Membership{}
	for m := storage.MembershipInvite; m <= storage.MembershipBan; m++ {
		if in != 0 && m == in || out != 0 && m != out {
			wanted = append(wanted, m)
		}
	}
	return wanted, nil
}

func (s *Service) membersNow(ctx context.Context, r *store.Room, wanted []storage.Membership) ([]*store.Event, error) {
	ms, err := s.store.Members(ctx, r.NID, wanted...)
	if err != nil {
		return nil, fmt.Errorf("list members of %s: %w", r.ID, err)
	}
	nids := make([]storage.EventNID, len(ms))
	for i, m := range ms {
		nids[i] = m.EventNID
	}
	es, err := s.store.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("read members of %s: %w", r.ID, err)
	}
	return present(es), nil
}

func (s *Service) membersThen(ctx context.Context, a *access, at string, wanted []storage.Membership) ([]*store.Event, error) {
	root, err := s.root(ctx, a)
	if err != nil {
		return nil, err
	}
	if at != "" {
		p, _, err := s.pointOf(ctx, a, at)
		if err != nil {
			return nil, err
		}
		es, _, err := s.store.Page(ctx, storage.EventPageQuery{Room: a.room.NID, UpTo: p, Backwards: true, Limit: 1})
		if err != nil {
			return nil, fmt.Errorf("read the event before a token: %w", err)
		}
		if len(es) == 0 {
			// The token of a timeline that starts with the room. Clients ask with it for the members of what they have been
			// shown, and those begin with who made the room.
			es, _, err = s.store.Page(ctx, storage.EventPageQuery{
				Room: a.room.NID, After: p, UpTo: storage.EventPoint{Depth: event.MaxDepth}, Types: []string{event.TypeMember}, Limit: 1,
			})
			if err != nil {
				return nil, fmt.Errorf("read the first member of %s: %w", a.room.ID, err)
			}
		}
		if len(es) == 0 {
			return nil, nil
		}
		if root, err = s.store.StateAfter(ctx, es[0]); err != nil {
			return nil, fmt.Errorf("find the state at a token: %w", err)
		}
	}
	all, err := s.store.State(ctx, root, &store.StateFilter{Types: []string{event.TypeMember}})
	if err != nil {
		return nil, fmt.Errorf("read members of %s: %w", a.room.ID, err)
	}
	if wanted == nil {
		return all, nil
	}
	var out []*store.Event
	for _, e := range all {
		n := storage.MembershipOf(gjson.GetBytes(e.Content(), "membership").Str)
		for _, w := range wanted {
			if n == w {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// JoinedMember is what /joined_members says of a member.
type JoinedMember struct {
	DisplayName *string `json:"display_name"`
	AvatarURL   *string `json:"avatar_url"`
}

// JoinedMembers returns the members of a room by user id, to those who are in it.
//
// Errors: M_FORBIDDEN, for unknown rooms too.
func (s *Service) JoinedMembers(ctx context.Context, who *Requester, roomID string) (map[string]JoinedMember, error) {
	r, err := s.member(ctx, who, roomID)
	if err != nil {
		return nil, err
	}
	if err := s.whole(ctx, r); err != nil {
		return nil, err
	}
	ms, err := s.store.Members(ctx, r.NID, storage.MembershipJoin)
	if err != nil {
		return nil, fmt.Errorf("list members of %s: %w", roomID, err)
	}
	out := make(map[string]JoinedMember, len(ms))
	for _, m := range ms {
		out[m.UserID] = JoinedMember{orNil(m.DisplayName), orNil(m.AvatarURL)}
	}
	return out, nil
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func present(es []*store.Event) []*store.Event {
	out := es[:0:0]
	for _, e := range es {
		if e != nil {
			out = append(out, e)
		}
	}
	return out
}

// nameOf returns the name of a membership; whoever has none has left.
func nameOf(m storage.Membership) string { return cmp.Or(m.String(), event.MembershipLeave) }

// whole waits until the whole state of a room is known.
func (s *Service) whole(ctx context.Context, r *store.Room) error {
	if s.cfg.Whole == nil {
		return nil
	}
	if err := s.cfg.Whole.Wait(ctx, r.NID); err != nil {
		return fmt.Errorf("wait for the state of %s: %w", r.ID, err)
	}
	return nil
}
