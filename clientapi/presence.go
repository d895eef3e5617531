package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/presence"
)

// Presence is the group of who is online. Without a service, presence is switched off: then everybody is offline, and
// what clients say is passed over.
//
// Spec: client-server API, "Presence" (v1.19).
func Presence(svc *presence.Service) homeserver.Group {
	g := &presenceGroup{svc}
	const path = "/_matrix/client/{v}/presence/{userId}/status"
	return homeserver.Group{
		Name:     "presence",
		Affinity: homeserver.ByUser,
		Stream:   "presence",
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodGet, Path: path, Versions: legacyVersions(), Auth: homeserver.AuthGuest, Handle: g.get},
			{Method: http.MethodPut, Path: path, Versions: legacyVersions(), Auth: homeserver.AuthGuest, MaxBody: 16 << 10, Handle: g.put},
		},
	}
}

type presenceGroup struct{ svc *presence.Service }

func (g *presenceGroup) get(ctx context.Context, r *homeserver.Request) (any, error) {
	userID := r.Param("userId")
	if !id.IsUser(userID) {
		return nil, mxerr.InvalidParam.WithMessage("Invalid user ID")
	}
	if g.svc == nil {
		return map[string]string{"presence": presence.Offline}, nil
	}
	status, err := g.svc.Get(ctx, r.Requester(), userID)
	if err != nil {
		return nil, err
	}
	return status.Content(time.Now().UnixMilli())
}

func (g *presenceGroup) put(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "set presence state"); err != nil {
		return nil, err
	}
	var body map[string]json.RawMessage
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	raw, ok := body["presence"]
	if !ok {
		return nil, mxerr.MissingParam.WithMessage("Missing param: presence")
	}
	var state string
	if json.Unmarshal(raw, &state) != nil {
		return nil, mxerr.BadJSON.WithMessage("presence must be a string")
	}
	// null stands for no message.
	var message *string
	if raw, ok := body["status_msg"]; ok && json.Unmarshal(raw, &message) != nil {
		return nil, mxerr.BadJSON.WithMessage("status_msg must be a string")
	}
	if g.svc == nil {
		return nil, presence.Check(state)
	}
	return nil, g.svc.Set(ctx, r.Requester(), state, message)
}
