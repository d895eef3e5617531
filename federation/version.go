package federation

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
)

// Version is the group that names this server's program.
//
// Spec: server-server API, "Server implementation" (v1.19).
func Version(v ServerVersion) homeserver.Group {
	return homeserver.Group{
		Name:     "federation_version",
		Resource: homeserver.ResourceFederation,
		Endpoints: []homeserver.Endpoint{{
			Method: http.MethodGet, Path: "/_matrix/federation/v1/version",
			Handle: func(context.Context, *homeserver.Request) (any, error) {
				return map[string]ServerVersion{"server": v}, nil
			},
		}},
	}
}
