package account

import (
	"context"
	"errors"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// Device is a device as its owner sees it.
type Device struct {
	DeviceID    string  `json:"device_id"`
	DisplayName *string `json:"display_name,omitempty"`
	LastSeenIP  *string `json:"last_seen_ip,omitempty"`
	// LastSeenTS is in milliseconds since the epoch. It lags behind by some minutes.
	LastSeenTS *int64 `json:"last_seen_ts,omitempty"`
}

func deviceOf(d *storage.Device) Device {
	return Device{DeviceID: d.DeviceID, DisplayName: d.DisplayName, LastSeenIP: d.IP, LastSeenTS: d.LastSeenTS}
}

// Devices returns a user's devices, oldest first.
func (s *Service) Devices(ctx context.Context, userID string) ([]Device, error) {
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return nil, err
	}
	rows, err := storage.GetDevices(ctx, s.cfg.DB, user)
	if err != nil {
		return nil, err
	}
	out := make([]Device, len(rows))
	for i := range rows {
		out[i] = deviceOf(&rows[i])
	}
	return out, nil
}

// Device returns one device of a user, M_NOT_FOUND where there is none.
func (s *Service) Device(ctx context.Context, userID, deviceID string) (*Device, error) {
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return nil, err
	}
	d, err := storage.GetDevice(ctx, s.cfg.DB, user, deviceID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.WithMessage("Unknown device")
	}
	if err != nil {
		return nil, err
	}
	out := deviceOf(d)
	return &out, nil
}

// RenameDevice gives a device another display name (nil keeps the one it has), M_NOT_FOUND where there is no such device.
func (s *Service) RenameDevice(ctx context.Context, userID, deviceID string, name *string) error {
	if name == nil {
		_, err := s.Device(ctx, userID, deviceID)
		return err
	}
	if err := checkText("display_name", *name, maxDeviceNameLen); err != nil {
		return mxerr.TooLarge.WithStatus(400).WithMessage("Device display name is too long or has NUL characters").Wrap(err)
	}
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return err
	}
	err = storage.RenameDevice(ctx, s.cfg.DB, user, deviceID, name)
	if errors.Is(err, storage.ErrNotFound) {
		return mxerr.NotFound.WithMessage("Unknown device")
	}
	return err
}

// PutDevice makes a device of a user, or renames it, as application services may. It reports whether the device is new.
func (s *Service) PutDevice(ctx context.Context, userID, deviceID string, name *string) (made bool, err error) {
	if err := id.ValidateDevice(deviceID); err != nil {
		return false, mxerr.InvalidParam.WithMessage("Invalid device ID").Wrap(err)
	}
	if name != nil {
		if err := checkText("display_name", *name, maxDeviceNameLen); err != nil {
			return false, err
		}
	}
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return false, err
	}
	made, err = storage.InsertDevice(ctx, s.cfg.DB, storage.Device{UserNID: user, DeviceID: deviceID, DisplayName: name, CreatedTS: s.now()})
	if err != nil || made {
		return made, err
	}
	return false, s.RenameDevice(ctx, userID, deviceID, name)
}

// DeleteDevices deletes devices of a user and ends their sessions. Devices that are not there are passed over.
func (s *Service) DeleteDevices(ctx context.Context, userID string, deviceIDs []string) error {
	if len(deviceIDs) == 0 {
		return nil
	}
	return s.deleteDevices(ctx, userID, storage.DeviceFilter{Only: deviceIDs}, 0)
}

func (s *Service) deleteDevices(ctx context.Context, userID string, f storage.DeviceFilter, keepToken int64) error {
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return err
	}
	return s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		return s.deleteDevicesTx(ctx, tx, drop, user, f, keepToken)
	})
}

func (s *Service) deleteDevicesTx(ctx context.Context, tx *storage.Tx, drop *cache.Drops, user storage.UserNID, f storage.DeviceFilter, keepToken int64) error {
	_, hashes, err := storage.DeleteDevices(ctx, tx, user, f, keepToken)
	drop.Keys(tokensCache, tokenKeys(hashes)...)
	return err
}
