package clientapi

import (
	"context"
	"net/http"
	"slices"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// Devices is the group of device management.
//
// Spec: client-server API, "Device Management" (v1.19).
func Devices(svc *account.Service) homeserver.Group {
	g := &devicesGroup{svc}
	return homeserver.Group{
		Name:     "devices",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/devices", Versions: legacyVersions(),
				Auth: homeserver.AuthGuest, Handle: g.list,
			},
			{
				Method: http.MethodGet, Path: "/_matrix/client/{v}/devices/{deviceId}", Versions: legacyVersions(),
				Auth: homeserver.AuthGuest, Handle: g.get,
			},
			{
				Method: http.MethodPut, Path: "/_matrix/client/{v}/devices/{deviceId}", Versions: legacyVersions(),
				Auth: homeserver.AuthGuest, Handle: g.put,
			},
			{
				Method: http.MethodDelete, Path: "/_matrix/client/{v}/devices/{deviceId}", Versions: legacyVersions(),
				Auth: homeserver.AuthUser, Handle: g.delete,
			},
			{
				Method: http.MethodPost, Path: "/_matrix/client/{v}/delete_devices", Versions: accountVersions(),
				Auth: homeserver.AuthUser, Handle: g.deleteMany,
			},
		},
	}
}

type devicesGroup struct{ svc *account.Service }

func (g *devicesGroup) list(ctx context.Context, r *homeserver.Request) (any, error) {
	devices, err := g.svc.Devices(ctx, r.UserID())
	if err != nil {
		return nil, err
	}
	return map[string]any{"devices": devices}, nil
}

func (g *devicesGroup) get(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.Device(ctx, r.UserID(), r.Param("deviceId"))
}

func (g *devicesGroup) put(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	deviceID := r.Param("deviceId")
	if r.Requester().AppserviceID == "" {
		return nil, g.svc.RenameDevice(ctx, r.UserID(), deviceID, req.DisplayName)
	}
	// Application services make devices this way, as they do not log in.
	made, err := g.svc.PutDevice(ctx, r.UserID(), deviceID, req.DisplayName)
	if err != nil || !made {
		return nil, err
	}
	return &homeserver.Response{Status: http.StatusCreated, JSON: struct{}{}}, nil
}

func (g *devicesGroup) delete(ctx context.Context, r *homeserver.Request) (any, error) {
	body, err := objectBody(r)
	if err != nil {
		return nil, err
	}
	deviceID := r.Param("deviceId")
	if err := g.confirm(ctx, r, "DELETE /devices/"+deviceID, body); err != nil {
		return challenged(nil, err)
	}
	return nil, g.svc.DeleteDevices(ctx, r.UserID(), []string{deviceID})
}

func (g *devicesGroup) deleteMany(ctx context.Context, r *homeserver.Request) (any, error) {
	var req struct {
		Devices *[]string `json:"devices"`
	}
	if err := r.Decode(&req); err != nil {
		return nil, err
	}
	body, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	if req.Devices == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing param: devices")
	}
	if slices.ContainsFunc(*req.Devices, func(d string) bool { return id.ValidateDevice(d) != nil }) {
		return nil, mxerr.InvalidParam.WithMessage("Invalid device ID")
	}
	if err := g.confirm(ctx, r, "POST /delete_devices", body); err != nil {
		return challenged(nil, err)
	}
	return nil, g.svc.DeleteDevices(ctx, r.UserID(), *req.Devices)
}

// confirm asks for the user's password, except of application services, which have none.
func (g *devicesGroup) confirm(ctx context.Context, r *homeserver.Request, operation string, body []byte) error {
	if r.Requester().AppserviceID != "" {
		return nil
	}
	_, err := g.svc.Interact(ctx, account.Interactive{
		Operation: operation, Who: r.Requester(), Body: body, Flows: passwordFlow(), MayReuse: true,
	})
	return err
}
