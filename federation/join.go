package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// joinEndpoints are those by which users of other servers join rooms of this one.
//
// Spec: server-server API, "Joining Rooms" (v1.19).
func (in *Inbound) joinEndpoints() []homeserver.Endpoint {
	sendV1 := func(ctx context.Context, r *homeserver.Request) (any, error) {
		return v1Response(in.sendJoin(ctx, r, false))
	}
	sendV2 := func(ctx context.Context, r *homeserver.Request) (any, error) {
		omit, err := r.QueryBool("omit_members", false)
		if err != nil {
			return nil, err
		}
		return in.sendJoin(ctx, r, omit)
	}
	return []homeserver.Endpoint{
		in.endpoint(http.MethodGet, "/make_join/{roomId}/{userId}", in.makeJoin, "v1"),
		in.endpoint(http.MethodPut, "/send_join/{roomId}/{eventId}", sendV1, "v1"),
		in.endpoint(http.MethodPut, "/send_join/{roomId}/{eventId}", sendV2, "v2"),
	}
}

func (in *Inbound) makeJoin(ctx context.Context, r *homeserver.Request) (any, error) {
	userID, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	room, err := in.wholeRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	if err := speaksVersion(r, room); err != nil {
		return nil, err
	}
	content := map[string]any{"membership": event.MembershipJoin}
	by, err := in.cfg.Rooms.Authoriser(ctx, room, userID)
	if err != nil {
		return nil, err
	}
	if by != "" {
		content["join_authorised_via_users_server"] = by
	}
	return in.makeMember(ctx, room, userID, content)
}

// joined is what /send_join answers.
type joined struct {
	Origin         string            `json:"origin"`
	Event          json.RawMessage   `json:"event"`
	State          []json.RawMessage `json:"state"`
	AuthChain      []json.RawMessage `json:"auth_chain"`
	MembersOmitted bool              `json:"members_omitted"`
	ServersInRoom  []string          `json:"servers_in_room,omitempty"`
}

func (in *Inbound) sendJoin(ctx context.Context, r *homeserver.Request, omitMembers bool) (any, error) {
	room, err := in.wholeRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	e, err := in.signedMember(ctx, r, room, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	if e, err = in.vouch(ctx, room, e); err != nil {
		return nil, err
	}
	// As it was before the join.
	servers, err := in.store.Servers(ctx, room.NID)
	if err != nil {
		return nil, err
	}
	stored, err := in.accept(ctx, r.Origin(), room, e)
	if err != nil {
		return nil, err
	}
	res := &joined{Origin: in.cfg.ServerName, Event: e.JSON(), MembersOmitted: omitMembers}
	var filter *store.StateFilter
	if omitMembers {
		filter = &store.StateFilter{AllBut: []string{event.TypeMember}}
		res.ServersInRoom = servers
	}
	state, err := in.store.State(ctx, stored.StateRoot, filter)
	if err != nil {
		return nil, fmt.Errorf("read state before %s: %w", e.ID(), err)
	}
	if omitMembers {
		heroes, err := in.heroes(ctx, room, stored, state)
		if err != nil {
			return nil, err
		}
		state = append(state, heroes...)
	}
	chain, err := in.authChain(ctx, room, append(state, stored))
	if err != nil {
		return nil, fmt.Errorf("read auth chain: %w", err)
	}
	if omitMembers {
		chain = without(chain, state)
	}
	res.State, res.AuthChain = rawStored(state), rawStored(chain)
	return res, nil
}

// vouch adds this server's signature to a join that one of its users lets in by the conditions of a restricted room.
//
// Errors: M_UNABLE_TO_AUTHORISE_JOIN, M_FORBIDDEN.
func (in *Inbound) vouch(ctx context.Context, r *store.Room, e *event.Event) (*event.Event, error) {
	by := gjson.GetBytes(e.Content(), "join_authorised_via_users_server")
	if by.Type != gjson.String || !r.Version.Restricted {
		return e, nil
	}
	if id.ServerOf(by.Str) != in.cfg.ServerName {
		// Another server has vouched for it; that signature must be there already.
		if err := in.ingest.verify(ctx, e); err != nil {
			return nil, mxerr.InvalidParam.WithMessage("The server of the authorising user has not signed the event").Wrap(err)
		}
		return e, nil
	}
	m, err := in.store.Membership(ctx, r.NID, by.Str)
	if err != nil {
		return nil, fmt.Errorf("read membership of %s in %s: %w", by.Str, r.ID, err)
	}
	if m == nil || m.Membership != storage.MembershipJoin {
		return nil, mxerr.UnableToAuthoriseJoin.WithMessage("The authorising user is not in the room")
	}
	// Whether the conditions hold is asked again: it is this server's word that the others rely on.
	if _, err := in.cfg.Rooms.Authoriser(ctx, r, e.Sender()); err != nil {
		return nil, err
	}
	signed, err := e.Sign(in.cfg.Signer)
	if err != nil {
		return nil, fmt.Errorf("sign join: %w", err)
	}
	return signed, nil
}

// maxHeroes is how many members stand for the name of a room that has none.
const maxHeroes = 5

// heroes returns the member events of those who stand for the name of a room, if it has none.
func (in *Inbound) heroes(ctx context.Context, r *store.Room, e *store.Event, state []*store.Event) ([]*store.Event, error) {
	for _, s := range state {
		if s.Is("m.room.name", "") || s.Is("m.room.canonical_alias", "") {
			return nil, nil
		}
	}
	// One more, as the user who joins is no hero of their own.
	members, err := storage.SyncHeroes(ctx, in.cfg.DB, []storage.RoomNID{r.NID}, maxHeroes+1)
	if err != nil {
		return nil, err
	}
	tuples := make([]event.Tuple, 0, len(members))
	for _, m := range members {
		if m.UserID != e.Sender() {
			tuples = append(tuples, event.Tuple{Type: event.TypeMember, StateKey: m.UserID})
		}
	}
	found, err := in.store.StateEvents(ctx, e.StateRoot, tuples)
	if err != nil {
		return nil, fmt.Errorf("read members: %w", err)
	}
	return without(found, nil), nil
}

// without returns the events that are there and not among others.
func without(events, others []*store.Event) []*store.Event {
	drop := make(map[storage.EventNID]bool, len(others))
	for _, e := range others {
		drop[e.NID] = true
	}
	out := make([]*store.Event, 0, len(events))
	for _, e := range events {
		if e != nil && !drop[e.NID] {
			out = append(out, e)
		}
	}
	return out
}
