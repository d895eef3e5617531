package clientapi

import (
	"context"
	"maps"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/event"
)

// VersionsConfig says what the server supports.
type VersionsConfig struct {
	// Versions are the versions of the specification. Defaults to those whose client-server API this package covers.
	Versions []string
	// UnstableFeatures are features that are not, or were not yet, in the specification. They are added to those of this
	// package.
	UnstableFeatures map[string]bool
	// DefaultRoomVersion is the version of new rooms. Defaults to event.DefaultVersion.
	DefaultRoomVersion string
}

// supportedVersions are the versions of the specification that are claimed: clients choose what they call by them, so
// none is listed before what it made mandatory is there. v1.11 made media need a token.
func supportedVersions() []string {
	return []string{
		"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
		"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
	}
}

// Versions is the group of /versions and /capabilities.
//
// Spec: client-server API, "API Versions", "Capabilities negotiation" (v1.19).
func Versions(svc *account.Service, cfg VersionsConfig) homeserver.Group {
	if cfg.Versions == nil {
		cfg.Versions = supportedVersions()
	}
	if cfg.DefaultRoomVersion == "" {
		cfg.DefaultRoomVersion = event.DefaultVersion
	}
	features := map[string]bool{
		"uk.tcpip.msc4133":        true, // profile fields
		"uk.tcpip.msc4133.stable": true,
		"org.matrix.msc3391":      true, // removal of account data
		"org.matrix.msc4222":      true, // use_state_after in /sync

		"org.matrix.simplified_msc3575": true, // simplified sliding sync (MSC4186)
	}
	maps.Copy(features, cfg.UnstableFeatures)
	cfg.UnstableFeatures = features
	g := &versionsGroup{svc, cfg}
	return homeserver.Group{
		Name: "versions",
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodGet, Path: "/_matrix/client/versions", Handle: g.versions},
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/capabilities", Versions: accountVersions(),
				Auth: homeserver.AuthUser, Handle: g.capabilities,
			},
		},
	}
}

type versionsGroup struct {
	svc *account.Service
	cfg VersionsConfig
}

// versions is the same for everybody, so the token a client may send is not looked at: an expired one must not keep a
// client from finding out what the server is.
func (g *versionsGroup) versions(context.Context, *homeserver.Request) (any, error) {
	return &homeserver.Response{
		Header: http.Header{"Cache-Control": {"public, max-age=3600"}},
		JSON: map[string]any{
			"versions":          g.cfg.Versions,
			"unstable_features": g.cfg.UnstableFeatures,
		},
	}, nil
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

func (g *versionsGroup) capabilities(context.Context, *homeserver.Request) (any, error) {
	available := make(map[string]string)
	for _, v := range event.Versions() {
		available[v.ID] = "stable"
	}
	name, avatar := g.svc.ProfileFieldAllowed(account.FieldDisplayName), g.svc.ProfileFieldAllowed(account.FieldAvatarURL)
	fields := map[string]any{"enabled": true}
	var disallowed []string
	if !name {
		disallowed = append(disallowed, account.FieldDisplayName)
	}
	if !avatar {
		disallowed = append(disallowed, account.FieldAvatarURL)
	}
	if disallowed != nil {
		fields["disallowed"] = disallowed
	}
	return map[string]any{"capabilities": map[string]any{
		"m.room_versions":                 map[string]any{"default": g.cfg.DefaultRoomVersion, "available": available},
		"m.change_password":               enabled{g.svc.PasswordChangeEnabled()},
		"m.set_displayname":               enabled{name},
		"m.set_avatar_url":                enabled{avatar},
		"m.3pid_changes":                  enabled{g.svc.ThreepidChangesEnabled()},
		"m.get_login_token":               enabled{g.svc.LoginTokensEnabled()},
		"m.profile_fields":                fields,
		"uk.tcpip.msc4133.profile_fields": fields,
		"m.forget_forced_upon_leave":      enabled{false},
	}}, nil
}
