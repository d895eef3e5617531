package federation

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
)

// QueriedRooms is what other servers ask about rooms by name. *room.Service answers.
type QueriedRooms interface {
	// ResolveAlias returns the room an alias points to.
	ResolveAlias(ctx context.Context, alias string) (*room.Resolved, error)
	// PublicRooms returns a page of the published room directory.
	PublicRooms(ctx context.Context, q room.PublicRoomsQuery) (*room.PublicRoomsPage, error)
	// ServerHierarchy returns a room and its children as far as a server may know of them.
	ServerHierarchy(ctx context.Context, server, roomID string, suggestedOnly bool) (*room.RemoteHierarchy, error)
}

// QueriedUsers is what other servers ask about users. *account.Service answers.
type QueriedUsers interface {
	// ProfileFields returns the profile of a user, or one field of it where field is not "".
	ProfileFields(ctx context.Context, userID, field string) (map[string]any, error)
	// OpenIDUser returns the user an OpenID token stands for.
	OpenIDUser(ctx context.Context, token string) (string, error)
}

// QueriesConfig is what other servers may ask.
type QueriesConfig struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// Rooms and Users answer. Required.
	Rooms QueriedRooms
	Users QueriedUsers
	// ShowProfiles and ShowPublicRooms say whether other servers may see profiles and the published room directory.
	ShowProfiles, ShowPublicRooms bool
}

// Queries is the group of questions other servers ask about users and rooms, whether they are in them or not.
//
// Spec: server-server API, "Querying for information", "Published room directory", "Spaces" (v1.19).
func Queries(in *Inbound, cfg QueriesConfig) homeserver.Group {
	g := &queriesGroup{cfg}
	return homeserver.Group{
		Name:     "federation_queries",
		Resource: homeserver.ResourceFederation,
		Endpoints: []homeserver.Endpoint{
			in.endpoint(http.MethodGet, "/query/directory", g.directory, "v1"),
			in.endpoint(http.MethodGet, "/query/profile", g.profile, "v1"),
			in.endpoint(http.MethodGet, "/query/{queryType}", g.unknown, "v1"),
			in.endpoint(http.MethodGet, "/publicRooms", g.getPublicRooms, "v1"),
			in.endpoint(http.MethodPost, "/publicRooms", g.postPublicRooms, "v1"),
			in.endpoint(http.MethodGet, "/hierarchy/{roomId}", g.hierarchy, "v1"),
		},
	}
}

// OpenID is the group that tells whose an OpenID token is.
//
// Spec: server-server API, "OpenID" (v1.19).
func OpenID(users QueriedUsers) homeserver.Group {
	return homeserver.Group{
		Name:     "openid",
		Resource: homeserver.ResourceOpenID,
		Endpoints: []homeserver.Endpoint{{
			Method: http.MethodGet, Path: "/_matrix/federation/v1/openid/userinfo",
			Handle: func(ctx context.Context, r *homeserver.Request) (any, error) {
				token := r.Query("access_token")
				if token == "" {
					return nil, mxerr.MissingToken.WithMessage("Access Token required")
				}
				user, err := users.OpenIDUser(ctx, token)
				if err != nil {
					return nil, err
				}
				return map[string]string{"sub": user}, nil
			},
		}},
	}
}

type queriesGroup struct{ cfg QueriesConfig }

func (g *queriesGroup) directory(ctx context.Context, r *homeserver.Request) (any, error) {
	alias := r.Query("room_alias")
	if alias == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing room_alias")
	}
	if id.ServerOf(alias) != g.cfg.ServerName {
		return nil, mxerr.InvalidParam.WithMessage("Room alias is not hosted on this homeserver")
	}
	return g.cfg.Rooms.ResolveAlias(ctx, alias)
}

// unknown refuses the queries that nobody has specified.
func (*queriesGroup) unknown(_ context.Context, r *homeserver.Request) (any, error) {
	return nil, mxerr.NotFound.WithMessage("No answer to queries of type " + r.Param("queryType"))
}

func (g *queriesGroup) profile(ctx context.Context, r *homeserver.Request) (any, error) {
	if !g.cfg.ShowProfiles {
		return nil, mxerr.Forbidden.WithMessage("Profile lookup over federation is disabled on this homeserver")
	}
	user, field := r.Query("user_id"), r.Query("field")
	if user == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing user_id")
	}
	if id.ServerOf(user) != g.cfg.ServerName {
		return nil, mxerr.InvalidParam.WithMessage("User is not hosted on this homeserver")
	}
	all, err := g.cfg.Users.ProfileFields(ctx, user, "")
	if err != nil || field == "" {
		return all, err
	}
	// A field that is not set is left out.
	out := map[string]any{}
	if v, ok := all[field]; ok {
		out[field] = v
	}
	return out, nil
}

func (g *queriesGroup) getPublicRooms(ctx context.Context, r *homeserver.Request) (any, error) {
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	all, err := r.QueryBool("include_all_networks", false)
	if err != nil {
		return nil, err
	}
	return g.publicRooms(ctx, PublicRoomsQuery{
		Limit: int(min(limit, maxPublicRooms)), Since: r.Query("since"), IncludeAllNetworks: all, ThirdPartyInstanceID: r.Query("third_party_instance_id"),
	})
}

func (g *queriesGroup) postPublicRooms(ctx context.Context, r *homeserver.Request) (any, error) {
	var q PublicRoomsQuery
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	return g.publicRooms(ctx, q)
}

// maxPublicRooms is the limit where a server asks for more or does not say.
const maxPublicRooms = 100

func (g *queriesGroup) publicRooms(ctx context.Context, q PublicRoomsQuery) (any, error) {
	if !g.cfg.ShowPublicRooms {
		return nil, mxerr.Forbidden.WithMessage("The room directory is not shown to other servers")
	}
	if q.Limit < 0 {
		return nil, mxerr.InvalidParam.WithMessage("limit must not be negative")
	}
	if q.IncludeAllNetworks && q.ThirdPartyInstanceID != "" {
		return nil, mxerr.InvalidParam.WithMessage("include_all_networks and third_party_instance_id exclude each other")
	}
	if q.Limit == 0 || q.Limit > maxPublicRooms {
		q.Limit = maxPublicRooms
	}
	ask := room.PublicRoomsQuery{
		Limit: q.Limit, Since: q.Since, Network: q.ThirdPartyInstanceID, AllNetworks: q.IncludeAllNetworks, Federation: true,
	}
	if q.Filter != nil {
		ask.Search, ask.RoomTypes = q.Filter.GenericSearchTerm, q.Filter.RoomTypes
	}
	return g.cfg.Rooms.PublicRooms(ctx, ask)
}

func (g *queriesGroup) hierarchy(ctx context.Context, r *homeserver.Request) (any, error) {
	suggestedOnly, err := r.QueryBool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	roomID := r.Param("roomId")
	if !id.IsRoom(roomID) {
		return nil, mxerr.InvalidParam.WithMessage("Invalid room ID")
	}
	h, err := g.cfg.Rooms.ServerHierarchy(ctx, r.Origin(), roomID, suggestedOnly)
	if err != nil {
		return nil, err
	}
	return hierarchyAnswer{h.Room, h.Children, h.Inaccessible}, nil
}

// hierarchyAnswer is the response of /hierarchy.
type hierarchyAnswer struct {
	Room         room.HierarchyRoom   `json:"room"`
	Children     []room.HierarchyRoom `json:"children"`
	Inaccessible []string             `json:"inaccessible_children"`
}
