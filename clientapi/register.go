package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// Registration is the group of making accounts.
//
// Spec: client-server API, "Account registration" (v1.19).
func Registration(svc *account.Service) homeserver.Group {
	g := &registrationGroup{svc}
	return homeserver.Group{
		Name: "registration",
		Endpoints: []homeserver.Endpoint{
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/register", Versions: accountVersions(),
				Handle: g.register,
			},
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/register/available", Versions: accountVersions(),
				Handle: g.available,
			},
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/register/m.login.registration_token/validity",
				Versions: []string{"v1"}, Limit: "rc_registration_token_validity", Handle: g.tokenValidity,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/register/email/requestToken", Versions: accountVersions(),
				Limit: "rc_3pid_validation", Handle: noEmail,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/register/msisdn/requestToken", Versions: accountVersions(),
				Limit: "rc_3pid_validation", Handle: noPhone,
			},
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/auth/{authType}/fallback/web", Versions: accountVersions(),
				Handle: g.getFallback,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/auth/{authType}/fallback/web", Versions: accountVersions(),
				MaxBody: 16 << 10, Limit: "rc_registration_token_validity", Handle: g.postFallback,
			},
		},
	}
}

type registrationGroup struct{ svc *account.Service }

func (g *registrationGroup) register(ctx context.Context, r *homeserver.Request) (any, error) {
	var req account.RegisterRequest
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	req.ClientIP = r.ClientIP()
	switch kind := r.Query("kind"); kind {
	case "guest":
		return g.svc.RegisterGuest(ctx, req)
	case "", "user":
	default:
		return nil, mxerr.InvalidParam.WithMessage("Do not understand membership kind: " + kind)
	}
	if req.Type == account.LoginAppservice {
		who, err := appservice(ctx, g.svc, r)
		if err != nil {
			return nil, err
		}
		return g.svc.RegisterAppservice(ctx, req, who)
	}
	body, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	return challenged(g.svc.Register(ctx, req, body))
}

// appservice returns the application service that makes a request of an endpoint which others use without a token.
func appservice(ctx context.Context, svc *account.Service, r *homeserver.Request) (*homeserver.Requester, error) {
	token := homeserver.AccessToken(r.Request)
	if token == "" {
		return nil, mxerr.MissingToken
	}
	return svc.Authenticate(ctx, token, r.Request)
}

func (g *registrationGroup) available(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := g.svc.RegistrationOpen(); err != nil {
		return nil, err
	}
	if !r.HasQuery("username") {
		return nil, mxerr.MissingParam.WithMessage("Missing param: username")
	}
	if err := g.svc.CheckUsername(ctx, r.Query("username"), ""); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

func (g *registrationGroup) tokenValidity(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := g.svc.RegistrationOpen(); err != nil {
		return nil, err
	}
	if !r.HasQuery("token") {
		return nil, mxerr.MissingParam.WithMessage("Missing param: token")
	}
	ok, err := g.svc.RegistrationTokenValid(ctx, r.Query("token"))
	if err != nil {
		return nil, err
	}
	return map[string]bool{"valid": ok}, nil
}

// noEmail and noPhone answer requests for validation by a server that sends neither mail nor messages.
func noEmail(context.Context, *homeserver.Request) (any, error) {
	return nil, mxerr.ThreepidDenied.WithMessage("This server does not validate email addresses")
}

func noPhone(context.Context, *homeserver.Request) (any, error) {
	return nil, mxerr.ThreepidDenied.WithMessage("This server does not validate phone numbers")
}
