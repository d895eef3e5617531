package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/userdir"
)

// UserDirectory is the group of the search for people.
//
// Spec: client-server API, "User Directory" (v1.19).
func UserDirectory(svc *userdir.Service) homeserver.Group {
	search := func(ctx context.Context, r *homeserver.Request) (any, error) {
		var body struct {
			SearchTerm *string `json:"search_term"`
			Limit      int     `json:"limit"`
		}
		if err := r.Decode(&body); err != nil {
			return nil, err
		}
		if body.SearchTerm == nil {
			return nil, mxerr.MissingParam.WithMessage("Missing search_term")
		}
		return svc.Search(ctx, r.Requester(), *body.SearchTerm, body.Limit)
	}
	return homeserver.Group{
		Name:     "user_directory",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{{
			Method: http.MethodPost, Path: "/_matrix/client/{v}/user_directory/search", Versions: roomVersions(),
			Auth: homeserver.AuthUser, Handle: search,
		}},
	}
}
