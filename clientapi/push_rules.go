package clientapi

import (
	"context"
	"encoding/json"
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
		{Method: http.MethodPut, Path: rule, MaxBody: 128 << 10, Handle: g.putRule},
		{Method: http.MethodDelete, Path: rule, Handle: g.deleteRule},
		{Method: http.MethodGet, Path: rule + "/enabled", Handle: g.enabled},
		{Method: http.MethodPut, Path: rule + "/enabled", MaxBody: 16 << 10, Handle: g.putEnabled},
		{Method: http.MethodGet, Path: rule + "/actions", Handle: g.actions},
		{Method: http.MethodPut, Path: rule + "/actions", MaxBody: 128 << 10, Handle: g.putActions},
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

func (g *pushRulesGroup) putRule(ctx context.Context, r *homeserver.Request) (any, error) {
	var d struct {
		Actions    []json.RawMessage `json:"actions"`
		Conditions []json.RawMessage `json:"conditions"`
		Pattern    *string           `json:"pattern"`
	}
	if err := r.Decode(&d); err != nil {
		return nil, err
	}
	return nil, g.svc.PutRule(ctx, r.UserID(), push.Kind(r.Param("kind")), r.Param("ruleId"), push.Draft{
		Actions: d.Actions, Conditions: d.Conditions, Pattern: d.Pattern, Before: r.Query("before"), After: r.Query("after"),
	})
}

func (g *pushRulesGroup) deleteRule(ctx context.Context, r *homeserver.Request) (any, error) {
	return nil, g.svc.DeleteRule(ctx, r.UserID(), push.Kind(r.Param("kind")), r.Param("ruleId"))
}

func (g *pushRulesGroup) enabled(ctx context.Context, r *homeserver.Request) (any, error) {
	rule, err := g.svc.Rule(ctx, r.UserID(), push.Kind(r.Param("kind")), r.Param("ruleId"))
	if err != nil {
		return nil, err
	}
	return map[string]bool{"enabled": rule.Enabled}, nil
}

func (g *pushRulesGroup) putEnabled(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		Enabled *bool `json:"enabled"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if req.Enabled == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing parameters: enabled")
	}
	return nil, g.svc.Enable(ctx, r.UserID(), push.Kind(r.Param("kind")), r.Param("ruleId"), *req.Enabled)
}

func (g *pushRulesGroup) actions(ctx context.Context, r *homeserver.Request) (any, error) {
	rule, err := g.svc.Rule(ctx, r.UserID(), push.Kind(r.Param("kind")), r.Param("ruleId"))
	if err != nil {
		return nil, err
	}
	return map[string][]json.RawMessage{"actions": rule.Actions}, nil
}

func (g *pushRulesGroup) putActions(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		Actions []json.RawMessage `json:"actions"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	return nil, g.svc.SetActions(ctx, r.UserID(), push.Kind(r.Param("kind")), r.Param("ruleId"), req.Actions)
}
