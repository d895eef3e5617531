package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
)

// knockEndpoints are those by which users of other servers knock on rooms of this one.
//
// Spec: server-server API, "Knocking upon a room" (v1.19).
func (in *Inbound) knockEndpoints() []homeserver.Endpoint {
	return []homeserver.Endpoint{
		in.endpoint(http.MethodGet, "/make_knock/{roomId}/{userId}", in.makeKnock, "v1"),
		in.endpoint(http.MethodPut, "/send_knock/{roomId}/{eventId}", in.sendKnock, "v1"),
	}
}

// knockable finds a room whose version knows knocking.
func (in *Inbound) knockable(ctx context.Context, r *homeserver.Request) (*store.Room, error) {
	room, err := in.wholeRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	if !room.Version.Knock {
		return nil, mxerr.Forbidden.WithMessage("This room version does not support knocking")
	}
	return room, nil
}

func (in *Inbound) makeKnock(ctx context.Context, r *homeserver.Request) (any, error) {
	userID, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	room, err := in.knockable(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := speaksVersion(r, room); err != nil {
		return nil, err
	}
	return in.makeMember(ctx, room, userID, map[string]any{"membership": event.MembershipKnock})
}

func (in *Inbound) sendKnock(ctx context.Context, r *homeserver.Request) (any, error) {
	room, err := in.knockable(ctx, r)
	if err != nil {
		return nil, err
	}
	e, err := in.signedMember(ctx, r, room, event.MembershipKnock)
	if err != nil {
		return nil, err
	}
	stored, err := in.accept(ctx, r.Origin(), room, e)
	if err != nil {
		return nil, err
	}
	state, err := in.strippedState(ctx, stored.StateRoot)
	if err != nil {
		return nil, err
	}
	return struct {
		State []json.RawMessage `json:"knock_room_state"`
	}{state}, nil
}

// strippedState returns what those may see of a room who have not entered it yet, as whole events.
//
// Spec: client-server API, "Stripped state" (v1.19).
func (in *Inbound) strippedState(ctx context.Context, root store.Root) ([]json.RawMessage, error) {
	found, err := in.store.StateEvents(ctx, root, []event.Tuple{
		{Type: event.TypeCreate},
		{Type: "m.room.name"},
		{Type: "m.room.avatar"},
		{Type: "m.room.topic"},
		{Type: event.TypeJoinRules},
		{Type: "m.room.canonical_alias"},
		{Type: "m.room.encryption"},
	})
	if err != nil {
		return nil, fmt.Errorf("read state for those outside: %w", err)
	}
	return rawStored(without(found, nil)), nil
}
