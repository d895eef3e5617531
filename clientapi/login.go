package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// Login is the group of opening sessions and keeping them open.
//
// Spec: client-server API, "Login", "Refreshing access tokens" (v1.19).
func Login(svc *account.Service) homeserver.Group {
	g := &loginGroup{svc}
	return homeserver.Group{
		Name: "login",
		Endpoints: []homeserver.Endpoint{
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/login", Versions: legacyVersions(),
				Handle: g.flows,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/login", Versions: legacyVersions(),
				Limit: "rc_login.address", Handle: g.login,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/login/get_token", Versions: []string{"v1"},
				Auth: homeserver.AuthUser, Limit: "rc_login.account", Handle: g.getToken,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/refresh", Versions: accountVersions(),
				Handle: g.refresh,
			},
			{
				Method: http.MethodGet, Path: "/_matrix/static/client/login/",
				Handle: g.page,
			},
		},
	}
}

type loginGroup struct{ svc *account.Service }

func (g *loginGroup) flows(context.Context, *homeserver.Request) (any, error) {
	return map[string]any{"flows": g.svc.LoginFlows()}, nil
}

func (g *loginGroup) login(ctx context.Context, r *homeserver.Request) (any, error) {
	var req account.LoginRequest
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	var who *homeserver.Requester
	if req.Type == account.LoginAppservice {
		var err error
		if who, err = appservice(ctx, g.svc, r); err != nil {
			return nil, err
		}
	}
	return g.svc.Login(ctx, req, who)
}

func (g *loginGroup) getToken(ctx context.Context, r *homeserver.Request) (any, error) {
	body, err := objectBody(r)
	if err != nil {
		return nil, err
	}
	if !g.svc.LoginTokensEnabled() {
		return nil, mxerr.Unrecognized
	}
	if g.svc.LoginTokenNeedsAuth() {
		_, err := g.svc.Interact(ctx, account.Interactive{
			Operation: "POST /login/get_token", Who: r.Requester(), Body: body, Flows: passwordFlow(),
		})
		if err != nil {
			return challenged(nil, err)
		}
	}
	return g.svc.NewLoginToken(ctx, r.Requester())
}

func (g *loginGroup) refresh(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	return g.svc.Refresh(ctx, req.RefreshToken)
}

// loginPage logs somebody in whose client knows none of the ways to, and hands the result to the client.
//
// Spec: client-server API, "Login Fallback" (v1.19).
const loginPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in</title>
</head>
<body>
<form id="login">
<p><label>Username <input id="user" autocomplete="username" required></label></p>
<p><label>Password <input id="password" type="password" autocomplete="current-password" required></label></p>
<p><button type="submit">Log in</button></p>
<p id="error" role="alert"></p>
</form>
<script>
document.getElementById("login").addEventListener("submit", async function (e) {
    e.preventDefault();
    const query = new URLSearchParams(window.location.search);
    const body = {
        type: "m.login.password",
        identifier: {type: "m.id.user", user: document.getElementById("user").value},
        password: document.getElementById("password").value,
    };
    for (const key of ["device_id", "initial_device_display_name"]) {
        if (query.has(key)) body[key] = query.get(key);
    }
    const response = await fetch("/_matrix/client/v3/login", {method: "POST", body: JSON.stringify(body)});
    const result = await response.json();
    if (!response.ok) {
        document.getElementById("error").textContent = result.error;
    } else if (window.matrixLogin && window.matrixLogin.onLogin) {
        window.matrixLogin.onLogin(result);
    } else if (window.onLogin) {
        window.onLogin(result);
    }
});
</script>
</body>
</html>
`

func (g *loginGroup) page(context.Context, *homeserver.Request) (any, error) {
	return &homeserver.Response{ContentType: "text/html; charset=utf-8", Header: pageHeader(), Body: []byte(loginPage)}, nil
}
