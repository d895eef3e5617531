package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// AdminAccounts is the group of what the specification lets administrators do with accounts.
//
// Spec: client-server API, "Server Administration", "Account moderation" (v1.19).
func AdminAccounts(svc *account.Service) homeserver.Group {
	g := &adminAccountsGroup{svc}
	const lock, suspend = "/_matrix/client/{v}/admin/lock/{userId}", "/_matrix/client/{v}/admin/suspend/{userId}"
	v1 := []string{"v1"}
	return homeserver.Group{
		Name: "admin_accounts",
		Endpoints: []homeserver.Endpoint{
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/admin/whois/{userId}", Versions: legacyVersions(),
				Auth: homeserver.AuthUser, Handle: g.whois,
			},
			{Method: http.MethodGet, Path: "/_synapse/admin/v1/whois/{userId}", Auth: homeserver.AuthAdmin, Handle: g.whois},
			{Method: http.MethodGet, Path: lock, Versions: v1, Auth: homeserver.AuthAdmin, Handle: g.getLock},
			{Method: http.MethodPut, Path: lock, Versions: v1, Auth: homeserver.AuthAdmin, Handle: g.putLock},
			{Method: http.MethodGet, Path: suspend, Versions: v1, Auth: homeserver.AuthAdmin, Handle: g.getSuspend},
			{Method: http.MethodPut, Path: suspend, Versions: v1, Auth: homeserver.AuthAdmin, Handle: g.putSuspend},
		},
	}
}

type adminAccountsGroup struct{ svc *account.Service }

func (g *adminAccountsGroup) whois(ctx context.Context, r *homeserver.Request) (any, error) {
	userID := r.Param("userId")
	if userID != r.UserID() && !r.Requester().IsAdmin {
		return nil, mxerr.Forbidden.WithMessage("You are not a server admin")
	}
	if _, err := g.target(ctx, r); err != nil {
		return nil, err
	}
	ips, err := g.svc.UserIPs(ctx, userID)
	if err != nil {
		return nil, err
	}
	type connection struct {
		IP        string `json:"ip"`
		LastSeen  int64  `json:"last_seen"`
		UserAgent string `json:"user_agent"`
	}
	type session struct {
		Connections []connection `json:"connections"`
	}
	type device struct {
		Sessions []session `json:"sessions"`
	}
	devices := make(map[string]device)
	for _, ip := range ips {
		d, ok := devices[ip.DeviceID]
		if !ok {
			d.Sessions = []session{{}}
		}
		d.Sessions[0].Connections = append(d.Sessions[0].Connections, connection{ip.IP, ip.LastSeenTS, ip.UserAgent})
		devices[ip.DeviceID] = d
	}
	return map[string]any{"user_id": userID, "devices": devices}, nil
}

// target returns what the account of the path is: M_INVALID_PARAM where the user is of another server, M_NOT_FOUND where
// there is none.
func (g *adminAccountsGroup) target(ctx context.Context, r *homeserver.Request) (accountState, error) {
	u, err := id.ParseUser(r.Param("userId"))
	if err != nil || u.Server != g.svc.ServerName() {
		return accountState{}, mxerr.InvalidParam.WithMessage("The user does not belong to this server")
	}
	a, err := g.svc.Account(ctx, u.String())
	if err != nil {
		return accountState{}, err
	}
	if a.Deactivated {
		return accountState{}, mxerr.NotFound.WithMessage("User not found")
	}
	return accountState{a.UserID, a.Admin, a.Locked, a.Suspended}, nil
}

type accountState struct {
	userID                   string
	admin, locked, suspended bool
}

// victim is target for what must not be done to oneself or another administrator.
func (g *adminAccountsGroup) victim(ctx context.Context, r *homeserver.Request) (accountState, error) {
	a, err := g.target(ctx, r)
	if err == nil && (a.admin || a.userID == r.UserID()) {
		err = mxerr.Forbidden.WithMessage("You cannot do this to an administrator")
	}
	return a, err
}

func (g *adminAccountsGroup) getLock(ctx context.Context, r *homeserver.Request) (any, error) {
	a, err := g.target(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"locked": a.locked}, nil
}

func (g *adminAccountsGroup) putLock(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		Locked *bool `json:"locked"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if req.Locked == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing param: locked")
	}
	a, err := g.victim(ctx, r)
	if err != nil {
		return nil, err
	}
	return req, g.svc.SetLocked(ctx, a.userID, *req.Locked)
}

func (g *adminAccountsGroup) getSuspend(ctx context.Context, r *homeserver.Request) (any, error) {
	a, err := g.target(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"suspended": a.suspended}, nil
}

func (g *adminAccountsGroup) putSuspend(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		Suspended *bool `json:"suspended"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if req.Suspended == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing param: suspended")
	}
	a, err := g.victim(ctx, r)
	if err != nil {
		return nil, err
	}
	return req, g.svc.SetSuspended(ctx, a.userID, *req.Suspended)
}
