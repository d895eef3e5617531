package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/push"
)

// Notifications is the group of the list of what a user was notified of.
//
// Spec: client-server API, "Listing Notifications" (v1.19).
func Notifications(svc *push.Unread) homeserver.Group {
	return homeserver.Group{
		Name:     "notifications",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{{
			Method: http.MethodGet, Path: "/_matrix/client/{v}/notifications", Versions: legacyVersions(), Auth: homeserver.AuthUser,
			Handle: func(ctx context.Context, r *homeserver.Request) (any, error) {
				limit, err := r.QueryInt("limit", push.DefaultNotifications)
				if err != nil {
					return nil, err
				}
				if limit < 0 {
					return nil, mxerr.InvalidParam.WithMessage("limit must not be negative")
				}
				return svc.Notifications(ctx, r.Requester(), r.Query("from"), clamp(limit), r.Query("only") == "highlight")
			},
		}},
	}
}
