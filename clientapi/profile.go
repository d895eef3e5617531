package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// maxProfileBody bounds the body that sets a profile field: the largest profile, and what JSON may add to it.
const maxProfileBody = 256 << 10

// ProfileConfig says who may read profiles.
type ProfileConfig struct {
	// RequireAuth asks for an access token (require_auth_for_profile_requests).
	RequireAuth bool
	// SharedRoomsOnly shows a profile to those who share a room with its owner, and to no others
	// (limit_profile_requests_to_users_who_share_rooms). It implies RequireAuth.
	SharedRoomsOnly bool
}

// Profile is the group of profiles.
//
// Spec: client-server API, "Profiles" (v1.19).
func Profile(svc *account.Service, cfg ProfileConfig) homeserver.Group {
	g := &profileGroup{svc, cfg}
	read := homeserver.AuthNone
	if cfg.RequireAuth || cfg.SharedRoomsOnly {
		read = homeserver.AuthGuest
	}
	const all, field = "/_matrix/client/{v}/profile/{userId}", "/_matrix/client/{v}/profile/{userId}/{keyName}"
	// The prefix fields other than name and avatar had as a proposal (MSC4133).
	fieldVersions := append(legacyVersions(), "unstable/uk.tcpip.msc4133")
	return homeserver.Group{
		Name:     "profile",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodGet, Path: all, Versions: legacyVersions(), Auth: read, Handle: g.get},
			{Method: http.MethodGet, Path: field, Versions: fieldVersions, Auth: read, Handle: g.getField},
			{Method: http.MethodPut, Path: field, Versions: fieldVersions, Auth: homeserver.AuthGuest, MaxBody: maxProfileBody, Handle: g.putField},
			{Method: http.MethodDelete, Path: field, Versions: fieldVersions, Auth: homeserver.AuthGuest, Handle: g.deleteField},
		},
	}
}

type profileGroup struct {
	svc *account.Service
	cfg ProfileConfig
}

// visible refuses a look at a profile that is not for the requester.
func (g *profileGroup) visible(ctx context.Context, r *homeserver.Request) error {
	if !g.cfg.SharedRoomsOnly {
		return nil
	}
	return g.svc.CheckProfileVisible(ctx, r.Requester(), r.Param("userId"))
}

func (g *profileGroup) get(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := g.visible(ctx, r); err != nil {
		return nil, err
	}
	return g.svc.ProfileFields(ctx, r.Param("userId"), "")
}

func (g *profileGroup) getField(ctx context.Context, r *homeserver.Request) (any, error) {
	key := r.Param("keyName")
	if key == "" {
		return nil, mxerr.InvalidParam.WithMessage("Invalid profile key")
	}
	if err := g.visible(ctx, r); err != nil {
		return nil, err
	}
	return g.svc.ProfileFields(ctx, r.Param("userId"), key)
}

func (g *profileGroup) putField(ctx context.Context, r *homeserver.Request) (any, error) {
	var body map[string]json.RawMessage
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	key := r.Param("keyName")
	value, ok := body[key]
	if !ok {
		return nil, mxerr.MissingParam.WithMessage("Missing param: " + key)
	}
	return nil, g.svc.SetProfileField(ctx, r.Requester(), r.Param("userId"), key, value)
}

func (g *profileGroup) deleteField(ctx context.Context, r *homeserver.Request) (any, error) {
	return nil, g.svc.SetProfileField(ctx, r.Requester(), r.Param("userId"), r.Param("keyName"), nil)
}
