package clientapi

import (
	"context"
	"maps"
	"net/http"
	"strings"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// WellKnownConfig says what others find out about the server at its name.
type WellKnownConfig struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// PublicBaseURL is the URL clients reach the server at. Without it /.well-known/matrix/client is not served.
	PublicBaseURL string
	// IdentityServer is the URL of the identity server suggested to clients, or "".
	IdentityServer string
	// ClientContent is merged into /.well-known/matrix/client.
	ClientContent map[string]any
	// ServeServer answers /.well-known/matrix/server with port 443 of the server's name.
	ServeServer bool
	// AdminContact is how to reach the administrator: "mailto:" and an address, a user id, or the URL of a page. Without
	// it /.well-known/matrix/support is not served.
	AdminContact string
}

// WellKnown is the group of server discovery.
//
// Spec: client-server API, "Well-known URIs"; server-server API, "Server discovery" (v1.19).
func WellKnown(cfg WellKnownConfig) homeserver.Group {
	g := &wellKnownGroup{cfg}
	return homeserver.Group{
		Name: "well_known",
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodGet, Path: "/.well-known/matrix/client", Handle: g.client},
			{Method: http.MethodGet, Path: "/.well-known/matrix/server", Handle: g.server},
			{Method: http.MethodGet, Path: "/.well-known/matrix/support", Handle: g.support},
		},
	}
}

type wellKnownGroup struct{ cfg WellKnownConfig }

func (g *wellKnownGroup) client(context.Context, *homeserver.Request) (any, error) {
	if g.cfg.PublicBaseURL == "" {
		return nil, mxerr.NotFound.WithMessage(".well-known not available")
	}
	out := map[string]any{"m.homeserver": map[string]string{"base_url": g.cfg.PublicBaseURL}}
	if g.cfg.IdentityServer != "" {
		out["m.identity_server"] = map[string]string{"base_url": g.cfg.IdentityServer}
	}
	maps.Copy(out, g.cfg.ClientContent)
	return out, nil
}

func (g *wellKnownGroup) server(context.Context, *homeserver.Request) (any, error) {
	if !g.cfg.ServeServer {
		return nil, mxerr.NotFound.WithMessage(".well-known not available")
	}
	host := g.cfg.ServerName
	// A port in the name belongs to federation; behind 443 stands whoever serves this page.
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	return map[string]string{"m.server": host + ":443"}, nil
}

func (g *wellKnownGroup) support(context.Context, *homeserver.Request) (any, error) {
	contact := map[string]string{"role": "m.role.admin"}
	switch c := g.cfg.AdminContact; {
	case c == "":
		return nil, mxerr.NotFound.WithMessage("No server support information available")
	case strings.HasPrefix(c, "http://"), strings.HasPrefix(c, "https://"):
		return map[string]string{"support_page": c}, nil
	case strings.HasPrefix(c, "@"):
		contact["matrix_id"] = c
	default:
		contact["email_address"] = strings.TrimPrefix(c, "mailto:")
	}
	return map[string]any{"contacts": []map[string]string{contact}}, nil
}
