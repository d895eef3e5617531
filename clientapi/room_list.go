package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
)

// maxDirectoryPage is a limit above any page of the published room directory.
const maxDirectoryPage = 1 << 20

// RoomDirectory is the group of what finds or makes rooms, which any instance serves alike: creation, aliases, the
// published room directory.
//
// Spec: client-server API, "Creation", "Room aliases" and "Published room directory" (v1.19).
func RoomDirectory(svc *room.Service) homeserver.Group {
	g := &directoryGroup{svc}
	none, user := homeserver.AuthNone, homeserver.AuthUser
	create := on("POST", "/createRoom", user, "rc_room_creation", g.create)
	create.MaxBody = maxCreateBody
	return homeserver.Group{
		Name:     "room_directory",
		Affinity: homeserver.AnyInstance,
		Endpoints: []homeserver.Endpoint{
			create,
			on("GET", "/directory/room/{roomAlias}", none, "", g.getAlias),
			on("PUT", "/directory/room/{roomAlias}", user, "", g.putAlias),
			on("DELETE", "/directory/room/{roomAlias}", user, "", g.deleteAlias),
			on("GET", "/directory/list/room/{roomId}", none, "", g.getVisibility),
			on("PUT", "/directory/list/room/{roomId}", user, "", g.putVisibility),
			on("PUT", "/directory/list/appservice/{networkId}/{roomId}", homeserver.AuthAppservice, "", g.putAppserviceVisibility),
			on("DELETE", "/directory/list/appservice/{networkId}/{roomId}", homeserver.AuthAppservice, "", g.deleteAppserviceVisibility),
			on("GET", "/publicRooms", none, "", g.getPublicRooms),
			on("POST", "/publicRooms", user, "", g.postPublicRooms),
		},
	}
}

type directoryGroup struct{ svc *room.Service }

func (g *directoryGroup) create(ctx context.Context, r *homeserver.Request) (any, error) {
	var req room.CreateRequest
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	id, err := g.svc.Create(ctx, r.Requester(), req)
	return roomID(id, err)
}

func (g *directoryGroup) getAlias(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.ResolveAlias(ctx, r.Param("roomAlias"))
}

func (g *directoryGroup) putAlias(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		RoomID string `json:"room_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.RoomID == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing room_id")
	}
	return nil, g.svc.CreateAlias(ctx, r.Requester(), r.Param("roomAlias"), body.RoomID)
}

func (g *directoryGroup) deleteAlias(ctx context.Context, r *homeserver.Request) (any, error) {
	return nil, g.svc.DeleteAlias(ctx, r.Requester(), r.Param("roomAlias"))
}

type visibilityBody struct {
	Visibility string `json:"visibility"`
}

func (g *directoryGroup) getVisibility(ctx context.Context, r *homeserver.Request) (any, error) {
	v, err := g.svc.Visibility(ctx, r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	return visibilityBody{v}, nil
}

func (g *directoryGroup) putVisibility(ctx context.Context, r *homeserver.Request) (any, error) {
	var body visibilityBody
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	return nil, g.svc.SetVisibility(ctx, r.Requester(), r.Param("roomId"), body.Visibility)
}

func (g *directoryGroup) putAppserviceVisibility(ctx context.Context, r *homeserver.Request) (any, error) {
	var body visibilityBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, g.svc.SetAppserviceVisibility(ctx, r.Requester(), r.Param("networkId"), r.Param("roomId"), body.Visibility)
}

func (g *directoryGroup) deleteAppserviceVisibility(ctx context.Context, r *homeserver.Request) (any, error) {
	return nil, g.svc.SetAppserviceVisibility(ctx, r.Requester(), r.Param("networkId"), r.Param("roomId"), room.VisibilityPrivate)
}

func (g *directoryGroup) getPublicRooms(ctx context.Context, r *homeserver.Request) (any, error) {
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	return g.svc.PublicRooms(ctx, room.PublicRoomsQuery{
		Server: r.Query("server"), Limit: int(min(limit, maxDirectoryPage)), Since: r.Query("since"),
	})
}

func (g *directoryGroup) postPublicRooms(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		Limit  int    `json:"limit"`
		Since  string `json:"since"`
		Filter struct {
			Search    string    `json:"generic_search_term"`
			RoomTypes []*string `json:"room_types"`
		} `json:"filter"`
		AllNetworks bool   `json:"include_all_networks"`
		Network     string `json:"third_party_instance_id"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	if body.Limit < 0 {
		return nil, mxerr.InvalidParam.WithMessage("limit must not be negative")
	}
	if body.AllNetworks && body.Network != "" {
		return nil, mxerr.InvalidParam.WithMessage("include_all_networks and third_party_instance_id exclude each other")
	}
	return g.svc.PublicRooms(ctx, room.PublicRoomsQuery{
		Server: r.Query("server"), Limit: min(body.Limit, maxDirectoryPage), Since: body.Since, Search: body.Filter.Search,
		RoomTypes: body.Filter.RoomTypes, AllNetworks: body.AllNetworks, Network: body.Network,
	})
}

// UserRooms is the group of what concerns all rooms of one user.
//
// Spec: client-server API, "Room membership", "Mutual Rooms", "Reporting Content" and the deprecated parts of "Syncing"
// (v1.19).
func UserRooms(svc *room.Service) homeserver.Group {
	g := &userRoomsGroup{svc}
	user := homeserver.AuthUser
	mutual := homeserver.Endpoint{
		Method: http.MethodGet, Path: "/_matrix/client/{v}/mutual_rooms", Versions: []string{"v1"}, Auth: user, Handle: g.mutual,
	}
	proposed := mutual // the name it had as a proposal (MSC2666)
	proposed.Path, proposed.Versions = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms", nil
	return homeserver.Group{
		Name:     "user_rooms",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			on("GET", "/joined_rooms", user, "", g.joined),
			mutual, proposed,
			on("POST", "/users/{userId}/report", user, "rc_reports", g.report),
			on("GET", "/initialSync", user, "", g.initialSync),
			on("GET", "/events/{eventId}", user, "", g.event),
		},
	}
}

type userRoomsGroup struct{ svc *room.Service }

func (g *userRoomsGroup) joined(ctx context.Context, r *homeserver.Request) (any, error) {
	ids, err := g.svc.JoinedRooms(ctx, r.Requester())
	if err != nil {
		return nil, err
	}
	return struct {
		JoinedRooms []string `json:"joined_rooms"`
	}{ids}, nil
}

func (g *userRoomsGroup) mutual(ctx context.Context, r *homeserver.Request) (any, error) {
	if !r.HasQuery("user_id") {
		return nil, mxerr.MissingParam.WithMessage("Missing query parameter user_id")
	}
	return g.svc.MutualRooms(ctx, r.Requester(), r.Query("user_id"), r.Query("from"))
}

func (g *userRoomsGroup) report(ctx context.Context, r *homeserver.Request) (any, error) {
	var body reportBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, g.svc.ReportUser(ctx, r.Requester(), r.Param("userId"), body.Reason)
}

func (g *userRoomsGroup) initialSync(ctx context.Context, r *homeserver.Request) (any, error) {
	limit, err := r.QueryInt("limit", room.DefaultPage)
	if err != nil {
		return nil, err
	}
	archived, err := r.QueryBool("archived", false)
	if err != nil {
		return nil, err
	}
	return g.svc.InitialSync(ctx, r.Requester(), clamp(limit), archived)
}

func (g *userRoomsGroup) event(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.AnyEvent(ctx, r.Requester(), r.Param("eventId"))
}
