package account

import (
	"context"
	"encoding/json"
	"errors"
	"maps"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/userdir"
	"github.com/weft-im/weft/storage"
)

// The profile fields with a meaning of their own.
const (
	FieldDisplayName = "displayname"
	FieldAvatarURL   = "avatar_url"
)

const (
	maxDisplayName   = 256
	maxAvatarURL     = 1000
	maxProfileBytes  = 64 << 10
	maxProfileKeyLen = 255
)

// Profile returns the display name and the avatar URL of a user of this server, each "" where there is none.
func (s *Service) Profile(ctx context.Context, userID string) (displayName, avatarURL string, err error) {
	p, err := s.profile(ctx, userID)
	if errors.Is(err, mxerr.NotFound) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	return deref(p.DisplayName), deref(p.AvatarURL), nil
}

func (s *Service) profile(ctx context.Context, userID string) (*storage.Profile, error) {
	p, err := s.profiles.Get(ctx, userID, func(ctx context.Context, userID string) (*storage.Profile, error) {
		found, err := storage.GetProfiles(ctx, s.cfg.DB, []string{userID})
		if err != nil {
			return nil, err
		}
		if p := found[userID]; p != nil {
			return p, nil
		}
		return nil, storage.ErrNotFound
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.WithMessage("Profile was not found")
	}
	return p, err
}

// ProfileFields returns the profile of a user, of this server or another, as a JSON object, or one field of it where
// field is not "". Errors are M_NOT_FOUND where there is no such user or field, and M_INVALID_PARAM for what is no user
// id.
func (s *Service) ProfileFields(ctx context.Context, userID, field string) (map[string]any, error) {
	if !id.IsUser(userID) {
		return nil, mxerr.InvalidParam.WithMessage("Invalid user ID")
	}
	if field != "" {
		if err := checkProfileKey(field); err != nil {
			return nil, err
		}
	}
	if !s.isLocal(userID) {
		if s.cfg.RemoteProfiles == nil {
			return nil, mxerr.NotFound.WithMessage("Failed to fetch profile")
		}
		return s.cfg.RemoteProfiles.Profile(ctx, userID, field)
	}
	p, err := s.profile(ctx, userID)
	if err != nil {
		return nil, err
	}
	all := fieldsOf(p)
	if field == "" {
		return all, nil
	}
	v, ok := all[field]
	if !ok {
		return nil, mxerr.NotFound.WithMessage("Profile field was not found")
	}
	return map[string]any{field: v}, nil
}

// CheckProfileVisible returns M_FORBIDDEN unless the requester shares a room with the user, or is the user, or the user
// is in a room that is open to everybody. It is for servers that show profiles to no others
// (limit_profile_requests_to_users_who_share_rooms).
func (s *Service) CheckProfileVisible(ctx context.Context, who *Requester, userID string) error {
	if who.UserID == userID {
		return nil
	}
	visible, err := storage.ProfileVisible(ctx, s.cfg.DB, who.UserID, userID)
	if err == nil && !visible {
		return mxerr.Forbidden.WithMessage("Profile isn't available")
	}
	return err
}

func fieldsOf(p *storage.Profile) map[string]any {
	out := make(map[string]any, len(p.Fields)+2)
	for k, v := range p.Fields {
		out[k] = v
	}
	if p.DisplayName != nil {
		out[FieldDisplayName] = *p.DisplayName
	}
	if p.AvatarURL != nil {
		out[FieldAvatarURL] = *p.AvatarURL
	}
	return out
}

// ProfileFieldAllowed reports whether users may change a profile field.
func (s *Service) ProfileFieldAllowed(field string) bool {
	switch field {
	case FieldDisplayName:
		return s.cfg.Registration.EnableSetDisplayname
	case FieldAvatarURL:
		return s.cfg.Registration.EnableSetAvatarURL
	}
	return true
}

// SetProfileField sets a field of a user's profile, or takes it away where value is nil. by is who does it. A change of
// name or avatar is sent to the user's rooms in the background.
//
// Errors are M_FORBIDDEN, M_INVALID_PARAM for a bad key or value, M_KEY_TOO_LARGE, M_PROFILE_TOO_LARGE, M_USER_SUSPENDED.
func (s *Service) SetProfileField(ctx context.Context, by *Requester, userID, field string, value json.RawMessage) error {
	if err := checkProfileKey(field); err != nil {
		return err
	}
	switch {
	case !s.isLocal(userID):
		return mxerr.InvalidParam.WithMessage("User is not hosted on this homeserver")
	case by.UserID != userID && !by.IsAdmin:
		return mxerr.Forbidden.WithMessage("Cannot set another user's profile")
	case by.Suspended:
		return mxerr.UserSuspended.WithMessage("Your account has been suspended, and you may not change your profile")
	case by.IsGuest && field != FieldDisplayName:
		return mxerr.GuestAccessForbidden.WithMessage("Guests may only change their display name")
	case !by.IsAdmin && !s.ProfileFieldAllowed(field):
		return mxerr.Forbidden.WithMessage("Changing " + field + " is disabled on this server")
	}
	change, err := parseProfileChange(field, value)
	if err != nil {
		return err
	}
	a, err := s.Account(ctx, userID)
	if err != nil {
		return err
	}
	if a.Deactivated {
		return mxerr.NotFound.WithMessage("User not found")
	}
	names := false
	err = s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		p, err := storage.LockProfile(ctx, tx, a.NID)
		if err != nil {
			return err
		}
		before, beforeName, beforeAvatar := len(p.Fields), deref(p.DisplayName), deref(p.AvatarURL)
		change(p)
		if value != nil {
			if err := checkProfileSize(p); err != nil {
				return err
			}
		}
		switch field {
		case FieldDisplayName, FieldAvatarURL:
			names = deref(p.DisplayName) != beforeName || deref(p.AvatarURL) != beforeAvatar
			if !names {
				return nil
			}
			if err := setNames(ctx, tx, a.NID, a.UserID, p.DisplayName, p.AvatarURL); err != nil {
				return err
			}
			if err := storage.RequestRoomWork(ctx, tx, a.NID, storage.RoomWorkProfile, s.now()); err != nil {
				return err
			}
		default:
			if value == nil && len(p.Fields) == before {
				return nil
			}
			if err := storage.SetProfileField(ctx, tx, a.NID, field, p.Fields[field]); err != nil {
				return err
			}
		}
		drop.Keys(profilesCache, a.UserID)
		return nil
	})
	if err == nil && names {
		s.roomWork.Up()
	}
	return err
}

// setNames sets display name and avatar, in the profile and in the user directory.
func setNames(ctx context.Context, q storage.Querier, user storage.UserNID, userID string, displayName, avatarURL *string) error {
	if err := storage.SetProfileNames(ctx, q, user, displayName, avatarURL); err != nil {
		return err
	}
	return storage.PutDirectoryUsers(ctx, q, []storage.DirectoryUser{userdir.Entry(user, userID, displayName, avatarURL)})
}

// parseProfileChange checks a value and returns what puts it into a profile.
func parseProfileChange(field string, value json.RawMessage) (func(p *storage.Profile), error) {
	if field != FieldDisplayName && field != FieldAvatarURL {
		return func(p *storage.Profile) {
			fields := maps.Clone(p.Fields)
			delete(fields, field)
			if value != nil {
				if fields == nil {
					fields = map[string]json.RawMessage{}
				}
				fields[field] = value
			}
			p.Fields = fields
		}, nil
	}
	var text *string
	if value != nil {
		var t string
		if string(value) == "null" || json.Unmarshal(value, &t) != nil {
			return nil, mxerr.InvalidParam.WithMessage("'" + field + "' must be a string")
		}
		limit := maxDisplayName
		if field == FieldAvatarURL {
			limit = maxAvatarURL
		}
		if err := checkText(field, t, limit); err != nil {
			return nil, err
		}
		text = nonEmpty(t)
	}
	return func(p *storage.Profile) {
		if field == FieldAvatarURL {
			p.AvatarURL = text
		} else {
			p.DisplayName = text
		}
	}, nil
}

// checkProfileKey holds a profile key to the Common Namespaced Identifier Grammar.
//
// Spec: appendices, "Common Namespaced Identifier Grammar"; client-server API, "Profiles" (v1.19).
func checkProfileKey(key string) error {
	switch key {
	case FieldDisplayName, FieldAvatarURL:
		return nil
	}
	if len(key) > maxProfileKeyLen {
		return mxerr.KeyTooLarge
	}
	bad := mxerr.InvalidParam.WithMessage("Invalid profile key")
	dots := 0
	for i := range len(key) {
		c := key[i]
		switch {
		case c >= 'a' && c <= 'z':
		case i > 0 && (c >= '0' && c <= '9' || c == '_' || c == '-'):
		case i > 0 && c == '.':
			dots++
		default:
			return bad
		}
	}
	if dots == 0 {
		return bad
	}
	return nil
}

// checkProfileSize holds a whole profile to 64 KiB.
func checkProfileSize(p *storage.Profile) error {
	b, err := json.Marshal(fieldsOf(p))
	if err != nil {
		return mxerr.BadJSON.Wrap(err)
	}
	if len(b) > maxProfileBytes {
		return mxerr.ProfileTooLarge
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
