package clientapi

import (
	"context"
	"net/http"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/typing"
)

// Typing is the group of typing notifications.
//
// Spec: client-server API, "Typing Notifications" (v1.19).
func Typing(svc *typing.Service) homeserver.Group {
	g := &typingGroup{svc}
	return homeserver.Group{
		Name:     "typing",
		Affinity: homeserver.ByRoom,
		Stream:   "typing",
		Endpoints: []homeserver.Endpoint{{
			Method: http.MethodPut, Path: "/_matrix/client/{v}/rooms/{roomId}/typing/{userId}", Versions: legacyVersions(),
			Auth: homeserver.AuthUser, MaxBody: 16 << 10, Handle: g.put,
		}},
	}
}

type typingGroup struct{ svc *typing.Service }

func (g *typingGroup) put(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "set typing state"); err != nil {
		return nil, err
	}
	var req struct {
		Typing *bool `json:"typing"`
		// Timeout is in milliseconds.
		Timeout int64 `json:"timeout"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if req.Typing == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing param: typing")
	}
	timeout := time.Duration(min(max(req.Timeout, 0), typing.MaxTimeout.Milliseconds())) * time.Millisecond
	return nil, g.svc.Set(ctx, r.Requester(), r.Param("roomId"), *req.Typing, timeout)
}
