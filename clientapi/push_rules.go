package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/push"
)

// PushRules is the group of a user's push rules.
//
// Spec: client-server API, "Push Rules: API" (v1.19).
func PushRules(svc *push.Service) homeserver.Group {
	g := &pushRulesGroup{svc}
	const (
		all    = "/_matrix/client/{v}/pushrules"
		global = all + "/global"
		kind   = global + "/{kind}"
		rule   = kind + "/{ruleId}"
	)
	endpoints := []homeserver.Endpoint{
		{Method: http.MethodGet, Path: all + "/", Handle: g.all},
		{Method: http.MethodGet, Path: all, Handle: g.all},
		{Method: http.MethodGet, Path: global + "/", Handle: g.global},
		{Method: http.MethodGet, Path: global, Handle: g.global},
		{Method: http.MethodGet, Path: kind + "/", Handle: g.kind},
		{Method: http.MethodGet, Path: kind, Handle: g.kind},
		{Method: http.MethodGet, Path: rule, Handle: g.rule},
	}
	for i := range endpoints {
		endpoints[i].Auth, endpoints[i].Versions = homeserver.AuthUser, legacyVersions()
	}
	return homeserver.Group{
		Name:      "push_rules",
		Affinity:  homeserver.ByUser,
		Stream:    "push_rules",
		Endpoints: endpoints,
	}
}

type pushRulesGroup struct{ svc *push.Service }

func (g *pushRulesGroup) all(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.PushRules(ctx, r.UserID())
}

func (g *pushRulesGroup) global(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.Rules(ctx, r.UserID())
}

func (g *pushRulesGroup) kind(ctx context.Context, r *homeserver.Request) (any, error) {
	k := push.Kind(r.Param("kind"))
	if !k.Known() {
		return nil, mxerr.NotFound.WithMessage("There is no such kind of push rule")
	}
	rules, err := g.svc.Rules(ctx, r.UserID())
	if err != nil {
		return nil, err
	}
	return rules.Of(k), nil
}

func (g *pushRulesGroup) rule(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.Rule(ctx, r.UserID(), push.Kind(r.Param("kind")), r.Param("ruleId"))
}
