package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// Account is the group of managing one's own account.
//
// Spec: client-server API, "Account management", "Adding Account Administrative Contact Information", "OpenID" (v1.19).
func Account(svc *account.Service) homeserver.Group {
	g := &accountGroup{svc}
	return homeserver.Group{
		Name:     "account",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/account/whoami", Versions: accountVersions(),
				Auth: homeserver.AuthGuest, Handle: g.whoami,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/password", Versions: accountVersions(),
				Auth: homeserver.AuthOptional, Handle: g.password,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/deactivate", Versions: accountVersions(),
				Auth: homeserver.AuthOptional, Handle: g.deactivate,
			},
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/password_policy", Versions: accountVersions(),
				Affinity: homeserver.AnyInstance, Handle: g.passwordPolicy,
			},
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/account/3pid", Versions: legacyVersions(),
				Auth: homeserver.AuthUser, Handle: g.threepids,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/3pid", Versions: legacyVersions(),
				Auth: homeserver.AuthUser, Handle: g.addThreepid,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/3pid/add", Versions: accountVersions(),
				Auth: homeserver.AuthUser, Handle: g.addThreepid,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/3pid/bind", Versions: accountVersions(),
				Auth: homeserver.AuthUser, Handle: g.bindThreepid,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/3pid/delete", Versions: accountVersions(),
				Auth: homeserver.AuthUser, Handle: g.deleteThreepid,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/3pid/unbind", Versions: accountVersions(),
				Auth: homeserver.AuthUser, Handle: g.unbindThreepid,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/3pid/email/requestToken", Versions: accountVersions(),
				Limit: "rc_3pid_validation", Handle: noEmail,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/3pid/msisdn/requestToken", Versions: accountVersions(),
				Limit: "rc_3pid_validation", Handle: noPhone,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/password/email/requestToken", Versions: accountVersions(),
				Limit: "rc_3pid_validation", Handle: noEmail,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/account/password/msisdn/requestToken", Versions: accountVersions(),
				Limit: "rc_3pid_validation", Handle: noPhone,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/user/{userId}/openid/request_token", Versions: accountVersions(),
				Auth: homeserver.AuthUser, Handle: g.openID,
			},
		},
	}
}

type accountGroup struct{ svc *account.Service }

func (g *accountGroup) whoami(_ context.Context, r *homeserver.Request) (any, error) {
	who := r.Requester()
	return struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id,omitempty"`
		IsGuest  bool   `json:"is_guest"`
		// The name is_guest had as a proposal (MSC3069).
		UnstableIsGuest bool `json:"org.matrix.msc3069.is_guest"`
	}{who.UserID, who.DeviceID, who.IsGuest, who.IsGuest}, nil
}

// confirm has the owner of an account confirm an operation with their password and returns the account: the requester's,
// or, for somebody who is not logged in, the one the password belongs to.
func (g *accountGroup) confirm(ctx context.Context, r *homeserver.Request, operation string, body []byte, forget ...string) (string, *account.Passed, error) {
	who := r.Requester()
	if who != nil && who.IsGuest {
		return "", nil, mxerr.GuestAccessForbidden
	}
	passed, err := g.svc.Interact(ctx, account.Interactive{
		Operation: operation, Who: who, Body: body, Flows: passwordFlow(), Forget: forget,
	})
	if err != nil {
		return "", nil, err
	}
	if who != nil {
		return who.UserID, passed, nil
	}
	return passed.Stages[account.LoginPassword], passed, nil
}

func (g *accountGroup) password(ctx context.Context, r *homeserver.Request) (any, error) {
	type request struct {
		NewPassword *string `json:"new_password"`
		// LogoutDevices ends the user's other sessions. Defaults to true.
		LogoutDevices *bool `json:"logout_devices"`
	}
	var req request
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	body, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	if req.NewPassword != nil {
		if err := g.svc.CheckNewPassword(*req.NewPassword); err != nil {
			return nil, err
		}
	}
	userID, _, err := g.confirm(ctx, r, "POST /account/password", body, "new_password")
	if err != nil {
		return challenged(nil, err)
	}
	if req.NewPassword == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing param: new_password")
	}
	logout := req.LogoutDevices == nil || *req.LogoutDevices
	return nil, g.svc.ChangePassword(ctx, userID, *req.NewPassword, logout, r.Requester())
}

func (g *accountGroup) deactivate(ctx context.Context, r *homeserver.Request) (any, error) {
	body, err := objectBody(r)
	if err != nil {
		return nil, err
	}
	type request struct {
		Erase bool `json:"erase"`
	}
	var req request
	if err := homeserver.DecodeJSON(body, &req); err != nil {
		return nil, err
	}
	userID := ""
	if who := r.Requester(); who != nil && who.AppserviceID != "" {
		userID = who.UserID
	} else {
		var passed *account.Passed
		if userID, passed, err = g.confirm(ctx, r, "POST /account/deactivate", body); err != nil {
			return challenged(nil, err)
		}
		if err := homeserver.DecodeJSON(passed.Request, &req); err != nil {
			return nil, err
		}
	}
	if err := g.svc.Deactivate(ctx, userID, req.Erase); err != nil {
		return nil, err
	}
	return map[string]string{"id_server_unbind_result": "success"}, nil
}

func (g *accountGroup) passwordPolicy(context.Context, *homeserver.Request) (any, error) {
	return g.svc.PasswordPolicy(), nil
}

func (g *accountGroup) threepids(ctx context.Context, r *homeserver.Request) (any, error) {
	found, err := g.svc.Threepids(ctx, r.UserID())
	if err != nil {
		return nil, err
	}
	type threepid struct {
		Medium      string `json:"medium"`
		Address     string `json:"address"`
		ValidatedAt int64  `json:"validated_at"`
		AddedAt     int64  `json:"added_at"`
	}
	out := make([]threepid, len(found))
	for i, t := range found {
		out[i] = threepid{t.Medium, t.Address, t.ValidatedTS, t.AddedTS}
	}
	return map[string]any{"threepids": out}, nil
}

// addThreepid refuses: this server validates no identifiers, so no session of a client can be a validated one.
func (g *accountGroup) addThreepid(_ context.Context, r *homeserver.Request) (any, error) {
	var req map[string]any
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if !g.svc.ThreepidChangesEnabled() {
		return nil, mxerr.Forbidden.WithMessage("3PID changes are disabled on this server")
	}
	return nil, mxerr.ThreepidAuthFailed.WithStatus(http.StatusBadRequest).WithMessage("No validated 3pid session found")
}

func (g *accountGroup) bindThreepid(_ context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		IDServer      string `json:"id_server"`
		IDAccessToken string `json:"id_access_token"`
		ClientSecret  string `json:"client_secret"`
		SID           string `json:"sid"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if req.IDServer == "" || req.IDAccessToken == "" || req.ClientSecret == "" || req.SID == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing params: id_server, id_access_token, client_secret, sid")
	}
	return nil, mxerr.ServerNotTrusted
}

func (g *accountGroup) deleteThreepid(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if err := g.svc.DeleteThreepid(ctx, r.UserID(), req.Medium, req.Address); err != nil {
		return nil, err
	}
	return map[string]string{"id_server_unbind_result": "no-support"}, nil
}

func (g *accountGroup) unbindThreepid(_ context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	if req.Medium == "" || req.Address == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing params: medium, address")
	}
	return map[string]string{"id_server_unbind_result": "no-support"}, nil
}

func (g *accountGroup) openID(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "request tokens"); err != nil {
		return nil, err
	}
	var body map[string]any
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	return g.svc.NewOpenIDToken(ctx, r.UserID())
}
