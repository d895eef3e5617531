package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/pushers"
)

// Pushers is the group of a user's pushers.
//
// Spec: client-server API, "Push Notifications", "Client behaviour" (v1.19).
func Pushers(svc *pushers.Service) homeserver.Group {
	g := &pushersGroup{svc}
	return homeserver.Group{
		Name:     "pushers",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodGet, Path: "/_matrix/client/{v}/pushers", Versions: legacyVersions(), Auth: homeserver.AuthUser, Handle: g.list},
			{Method: http.MethodPost, Path: "/_matrix/client/{v}/pushers/set", Versions: legacyVersions(), Auth: homeserver.AuthUser, MaxBody: 64 << 10, Handle: g.set},
		},
	}
}

type pushersGroup struct{ svc *pushers.Service }

func (g *pushersGroup) list(ctx context.Context, r *homeserver.Request) (any, error) {
	list, err := g.svc.List(ctx, r.UserID())
	if err != nil {
		return nil, err
	}
	return map[string]any{"pushers": list}, nil
}

func (g *pushersGroup) set(ctx context.Context, r *homeserver.Request) (any, error) {
	var fields map[string]json.RawMessage
	if err := r.Decode(&fields); err != nil {
		return nil, err
	}
	var req struct {
		pushers.Pusher
		Append bool `json:"append"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	required := []string{"kind", "app_id", "pushkey"}
	remove := string(fields["kind"]) == "null"
	if !remove {
		required = append(required, "app_display_name", "device_display_name", "lang", "data")
	}
	var missing []string
	for _, f := range required {
		if _, ok := fields[f]; !ok {
			missing = append(missing, f)
		}
	}
	if len(missing) > 0 {
		return nil, mxerr.MissingParam.WithMessage("Missing parameters: " + strings.Join(missing, ", "))
	}
	if remove {
		return nil, g.svc.Delete(ctx, r.UserID(), req.AppID, req.Pushkey)
	}
	return nil, g.svc.Set(ctx, r.Requester(), req.Pusher, req.Append)
}
