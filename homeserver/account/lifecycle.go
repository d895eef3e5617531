package account

import (
	"context"
	"errors"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// PasswordChangeEnabled reports whether users may change their passwords.
func (s *Service) PasswordChangeEnabled() bool {
	return s.passwords() && s.cfg.Login.PasswordConfig.Enabled != config.PasswordOff
}

// CheckNewPassword holds a new password to the server's policy: M_INVALID_PARAM, M_WEAK_PASSWORD.
func (s *Service) CheckNewPassword(password string) error { return s.checkNewPassword(password) }

// ChangePassword gives a user another password. logoutDevices ends all their sessions but that of keep, which may be nil.
func (s *Service) ChangePassword(ctx context.Context, userID, password string, logoutDevices bool, keep *Requester) error {
	if !s.PasswordChangeEnabled() {
		return mxerr.Forbidden.WithMessage("Password change disabled")
	}
	if err := s.checkNewPassword(password); err != nil {
		return err
	}
	hash, err := s.hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return err
	}
	return s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		if err := storage.UpdateAccount(ctx, tx, user, storage.AccountChange{PasswordHash: &hash}); err != nil {
			return err
		}
		if !logoutDevices {
			return nil
		}
		var f storage.DeviceFilter
		var keepToken int64
		if keep != nil {
			f.Except, keepToken = keep.DeviceID, keep.TokenID
		}
		return s.deleteDevicesTx(ctx, tx, drop, user, f, keepToken)
	})
}

// SetAdmin makes a user a server administrator, or takes that away.
func (s *Service) SetAdmin(ctx context.Context, userID string, admin bool) error {
	return s.change(ctx, userID, storage.AccountChange{Admin: &admin})
}

// SetLocked locks an account, which can then only log out, or unlocks it.
func (s *Service) SetLocked(ctx context.Context, userID string, locked bool) error {
	return s.change(ctx, userID, storage.AccountChange{Locked: &locked})
}

// SetSuspended suspends an account, which can then read and not act, or ends that.
func (s *Service) SetSuspended(ctx context.Context, userID string, suspended bool) error {
	return s.change(ctx, userID, storage.AccountChange{Suspended: &suspended})
}

// Account returns the account of a user of this server, M_NOT_FOUND where there is none.
func (s *Service) Account(ctx context.Context, userID string) (*storage.Account, error) {
	a, err := storage.GetAccount(ctx, s.cfg.DB, userID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.WithMessage("User not found")
	}
	return a, err
}

func (s *Service) change(ctx context.Context, userID string, c storage.AccountChange) error {
	a, err := s.Account(ctx, userID)
	if err != nil {
		return err
	}
	return s.update(ctx, a.NID, c)
}

// update changes an account and drops what is cached of its tokens.
func (s *Service) update(ctx context.Context, user storage.UserNID, c storage.AccountChange) error {
	return s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		if err := storage.UpdateAccount(ctx, tx, user, c); err != nil {
			return err
		}
		hashes, err := storage.GetAccessTokenHashes(ctx, tx, user)
		drop.Keys(tokensCache, tokenKeys(hashes)...)
		return err
	})
}

// Deactivate ends an account for good: sessions, devices, password, third-party identifiers and profile go, and the user
// leaves all rooms, in the background. The name is never given to anybody again. erase asks for the user's messages to be
// hidden from people who join later.
func (s *Service) Deactivate(ctx context.Context, userID string, erase bool) error {
	a, err := s.Account(ctx, userID)
	if err != nil {
		return err
	}
	yes, none := true, ""
	c := storage.AccountChange{Deactivated: &yes, PasswordHash: &none}
	if erase {
		c.Erased = &yes
	}
	err = s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		if err := storage.UpdateAccount(ctx, tx, a.NID, c); err != nil {
			return err
		}
		if err := s.deleteDevicesTx(ctx, tx, drop, a.NID, storage.DeviceFilter{}, 0); err != nil {
			return err
		}
		if err := storage.DeleteThreepids(ctx, tx, a.NID, "", ""); err != nil {
			return err
		}
		if err := storage.DeleteProfile(ctx, tx, a.NID); err != nil {
			return err
		}
		if err := storage.DeleteDirectoryUsers(ctx, tx, []storage.UserNID{a.NID}); err != nil {
			return err
		}
		drop.Keys(profilesCache, a.UserID)
		return storage.RequestRoomWork(ctx, tx, a.NID, storage.RoomWorkLeave, s.now())
	})
	if err != nil {
		return err
	}
	s.roomWork.Up()
	return nil
}

// Threepids returns the third-party identifiers of a user.
func (s *Service) Threepids(ctx context.Context, userID string) ([]storage.Threepid, error) {
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return nil, err
	}
	return storage.GetThreepids(ctx, s.cfg.DB, user)
}

// ThreepidChangesEnabled reports whether users may change their third-party identifiers.
func (s *Service) ThreepidChangesEnabled() bool { return s.cfg.Registration.Enable3PIDChanges }

// DeleteThreepid takes a third-party identifier from a user; one they do not have is passed over.
func (s *Service) DeleteThreepid(ctx context.Context, userID, medium, address string) error {
	if !s.ThreepidChangesEnabled() {
		return mxerr.Forbidden.WithMessage("3PID changes are disabled on this server")
	}
	if medium == "" || address == "" {
		return mxerr.MissingParam.WithMessage("Missing params: medium, address")
	}
	for _, text := range []string{medium, address} {
		if err := checkText("third-party identifier", text, 500); err != nil {
			return err
		}
	}
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return err
	}
	return storage.DeleteThreepids(ctx, s.cfg.DB, user, medium, address)
}

// UserIPs returns from where a user's devices were used, newest first.
func (s *Service) UserIPs(ctx context.Context, userID string) ([]storage.UserIP, error) {
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return nil, err
	}
	return storage.GetUserIPs(ctx, s.cfg.DB, user)
}
