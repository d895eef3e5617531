package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
)

// AdminRegister is the group of registration by those who know the registration_shared_secret, as Synapse's admin API
// has it. Keep it away from the public: it is as strong as the secret.
func AdminRegister(svc *account.Service) homeserver.Group {
	g := &adminRegisterGroup{svc}
	return homeserver.Group{
		Name: "admin_register",
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodGet, Path: "/_synapse/admin/v1/register", Handle: g.nonce},
			{Method: http.MethodPost, Path: "/_synapse/admin/v1/register", MaxBody: 64 << 10, Handle: g.register},
		},
	}
}

type adminRegisterGroup struct{ svc *account.Service }

func (g *adminRegisterGroup) nonce(ctx context.Context, _ *homeserver.Request) (any, error) {
	nonce, err := g.svc.RegistrationNonce(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{"nonce": nonce}, nil
}

func (g *adminRegisterGroup) register(ctx context.Context, r *homeserver.Request) (any, error) {
	var req account.SharedSecretRequest
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	return g.svc.RegisterSharedSecret(ctx, req)
}
