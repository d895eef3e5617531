package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
)

// Logout is the group of ending sessions.
//
// Spec: client-server API, "Login" (v1.19).
func Logout(svc *account.Service) homeserver.Group {
	g := &logoutGroup{svc}
	return homeserver.Group{
		Name:     "logout",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/logout", Versions: legacyVersions(),
				Auth: homeserver.AuthGuest, Handle: g.logout,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/logout/all", Versions: legacyVersions(),
				Auth: homeserver.AuthGuest, Handle: g.logoutAll,
			},
		},
	}
}

type logoutGroup struct{ svc *account.Service }

func (g *logoutGroup) logout(ctx context.Context, r *homeserver.Request) (any, error) {
	return nil, g.svc.Logout(ctx, r.Requester())
}

func (g *logoutGroup) logoutAll(ctx context.Context, r *homeserver.Request) (any, error) {
	return nil, g.svc.LogoutAll(ctx, r.Requester())
}
