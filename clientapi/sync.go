package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/sync"
)

// maxFilterBytes bounds the body of a filter upload.
const maxFilterBytes = 64 << 10

// Sync is the group of /sync and of the filters it takes.
//
// Spec: client-server API, "Syncing" and "Filtering" (v1.19).
func Sync(svc *sync.Service) homeserver.Group {
	g := &syncGroup{svc}
	return homeserver.Group{
		Name:     "sync",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			{
				Method:   http.MethodGet,
				Path:     "/_matrix/client/{v}/sync",
				Versions: []string{"v3", "r0", "v2_alpha"},
				Auth:     homeserver.AuthGuest,
				Handle:   g.sync,
			},
			{
				Method:   http.MethodPost,
				Path:     "/_matrix/client/{v}/user/{userId}/filter",
				Versions: []string{"v3", "r0", "v2_alpha"},
				Auth:     homeserver.AuthGuest,
				MaxBody:  maxFilterBytes,
				Handle:   g.postFilter,
			},
			{
				Method:   http.MethodGet,
				Path:     "/_matrix/client/{v}/user/{userId}/filter/{filterId}",
				Versions: []string{"v3", "r0", "v2_alpha"},
				Auth:     homeserver.AuthGuest,
				Handle:   g.getFilter,
			},
		},
	}
}

type syncGroup struct{ svc *sync.Service }

func (g *syncGroup) sync(ctx context.Context, r *homeserver.Request) (any, error) {
	timeout, err := r.QueryInt("timeout", 0)
	if err != nil {
		return nil, err
	}
	fullState, err := r.QueryBool("full_state", false)
	if err != nil {
		return nil, err
	}
	stateAfter, err := r.QueryBool("use_state_after", false)
	if err != nil {
		return nil, err
	}
	// The name the parameter had as a proposal (MSC4222).
	unstable, err := r.QueryBool("org.matrix.msc4222.use_state_after", false)
	if err != nil {
		return nil, err
	}
	presence := r.Query("set_presence")
	switch presence {
	case "", "online", "offline", "unavailable":
	default:
		return nil, mxerr.InvalidParam.WithMessage("Query parameter set_presence must be online, offline or unavailable")
	}
	if r.HasQuery("since") && r.Query("since") == "" {
		return nil, mxerr.InvalidParam.WithMessage("Query parameter since must not be empty")
	}
	resp, err := g.svc.Sync(ctx, sync.Request{
		Requester:     r.Requester(),
		Since:         r.Query("since"),
		Filter:        r.Query("filter"),
		FullState:     fullState,
		UseStateAfter: stateAfter || unstable,
		SetPresence:   presence,
		Timeout:       time.Duration(min(timeout, int64(24*time.Hour/time.Millisecond))) * time.Millisecond,
		Stop:          r.Draining(),

		ProposedStateAfter: unstable && !stateAfter,
	})
	if err != nil {
		return nil, err
	}
	return &homeserver.Response{Write: resp.Write}, nil
}

func (g *syncGroup) postFilter(ctx context.Context, r *homeserver.Request) (any, error) {
	if r.Param("userId") != r.UserID() {
		return nil, mxerr.Forbidden.WithMessage("Cannot create filters for other users")
	}
	body, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	id, err := g.svc.StoreFilter(ctx, r.UserID(), body)
	if err != nil {
		return nil, err
	}
	return struct {
		FilterID string `json:"filter_id"`
	}{id}, nil
}

func (g *syncGroup) getFilter(ctx context.Context, r *homeserver.Request) (any, error) {
	if r.Param("userId") != r.UserID() {
		return nil, mxerr.Forbidden.WithMessage("Cannot get filters of other users")
	}
	f, err := g.svc.StoredFilter(ctx, r.UserID(), r.Param("filterId"))
	if err != nil {
		return nil, err
	}
	return json.RawMessage(f), nil
}
