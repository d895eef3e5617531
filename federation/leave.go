package federation

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
)

// leaveEndpoints are those by which users of other servers turn down invites, take back knocks and leave.
//
// Spec: server-server API, "Leaving Rooms (Rejecting Invites)" (v1.19).
func (in *Inbound) leaveEndpoints() []homeserver.Endpoint {
	v1 := func(ctx context.Context, r *homeserver.Request) (any, error) { return v1Response(in.sendLeave(ctx, r)) }
	return []homeserver.Endpoint{
		in.endpoint(http.MethodGet, "/make_leave/{roomId}/{userId}", in.makeLeave, "v1"),
		in.endpoint(http.MethodPut, "/send_leave/{roomId}/{eventId}", v1, "v1"),
		in.endpoint(http.MethodPut, "/send_leave/{roomId}/{eventId}", in.sendLeave, "v2"),
	}
}

func (in *Inbound) makeLeave(ctx context.Context, r *homeserver.Request) (any, error) {
	userID, err := ownUser(r)
	if err != nil {
		return nil, err
	}
	room, err := in.openRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	return in.makeMember(ctx, room, userID, map[string]any{"membership": event.MembershipLeave})
}

func (in *Inbound) sendLeave(ctx context.Context, r *homeserver.Request) (any, error) {
	room, err := in.openRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	e, err := in.signedMember(ctx, r, room, event.MembershipLeave)
	if err != nil {
		return nil, err
	}
	if _, err := in.accept(ctx, r.Origin(), room, e); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}
