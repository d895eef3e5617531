package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// maxKeyUsers bounds the users of one request for keys.
const maxKeyUsers = 1000

// QueriedDevices is what other servers may know of users' devices. *account.Service answers.
type QueriedDevices interface {
	// Devices returns a user's devices; M_NOT_FOUND for unknown users.
	Devices(ctx context.Context, userID string) ([]account.Device, error)
}

// DevicesConfig holds what Devices answers with.
type DevicesConfig struct {
	// ServerName is the name of this server.
	ServerName string
	Devices    QueriedDevices
	// Names shows the names of devices to other servers.
	Names bool
}

// Devices is the group of what other servers ask about the devices of this server's users and their keys. No device of
// this server has keys yet, and the answers say so. in bounds how often a server asks.
//
// Spec: server-server API, "Device Management" and "End-to-End Encryption" (v1.19).
func Devices(in *Inbound, cfg DevicesConfig) homeserver.Group {
	g := &deviceGroup{cfg}
	return homeserver.Group{
		Name:     "federation_devices",
		Affinity: homeserver.AnyInstance,
		Resource: homeserver.ResourceFederation,
		Endpoints: []homeserver.Endpoint{
			in.endpoint(http.MethodGet, "/user/devices/{userId}", g.devices, "v1"),
			in.endpoint(http.MethodPost, "/user/keys/query", g.queryKeys, "v1"),
			in.endpoint(http.MethodPost, "/user/keys/claim", g.claimKeys, "v1"),
		},
	}
}

type deviceGroup struct{ cfg DevicesConfig }

// remoteDevice is a device as other servers see it.
type remoteDevice struct {
	DeviceID string  `json:"device_id"`
	Name     *string `json:"device_display_name,omitempty"`
}

func (g *deviceGroup) devices(ctx context.Context, r *homeserver.Request) (any, error) {
	userID := r.Param("userId")
	if err := ofThisServer(g.cfg.ServerName, userID); err != nil {
		return nil, err
	}
	devices, err := g.cfg.Devices.Devices(ctx, userID)
	if err != nil && !errors.Is(err, mxerr.NotFound) {
		return nil, err
	}
	out := struct {
		UserID   string         `json:"user_id"`
		StreamID int64          `json:"stream_id"`
		Devices  []remoteDevice `json:"devices"`
	}{UserID: userID, Devices: []remoteDevice{}}
	for _, d := range devices {
		rd := remoteDevice{DeviceID: d.DeviceID}
		if g.cfg.Names {
			rd.Name = d.DisplayName
		}
		out.Devices = append(out.Devices, rd)
	}
	return out, nil
}

func (g *deviceGroup) queryKeys(_ context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		Devices map[string][]string `json:"device_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Devices == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing device_keys")
	}
	if len(body.Devices) > maxKeyUsers {
		return nil, mxerr.TooLarge.WithMessage("Too many users")
	}
	keys := make(map[string]struct{}, len(body.Devices))
	for userID := range body.Devices {
		if err := ofThisServer(g.cfg.ServerName, userID); err != nil {
			return nil, err
		}
		keys[userID] = struct{}{}
	}
	return map[string]any{"device_keys": keys}, nil
}

func (*deviceGroup) claimKeys(_ context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		Keys map[string]json.RawMessage `json:"one_time_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Keys == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing one_time_keys")
	}
	return map[string]any{"one_time_keys": struct{}{}}, nil
}

// ofThisServer returns an error unless userID is a user id of this server.
func ofThisServer(server, userID string) error {
	if !id.IsUser(userID) || id.ServerOf(userID) != server {
		return mxerr.InvalidParam.WithMessage("User is not hosted on this homeserver")
	}
	return nil
}
