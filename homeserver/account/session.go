package account

import (
	"context"
	"errors"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// Logout ends the requester's session: the device goes with its tokens, or the token alone where it has no device.
func (s *Service) Logout(ctx context.Context, who *Requester) error {
	if who.DeviceID != "" && who.AppserviceID == "" {
		return s.deleteDevices(ctx, who.UserID, storage.DeviceFilter{Only: []string{who.DeviceID}}, 0)
	}
	return s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		hash, err := storage.DeleteAccessToken(ctx, tx, who.TokenID)
		if hash != nil {
			drop.Keys(tokensCache, tokenKey(hash))
		}
		return err
	})
}

// LogoutAll ends all sessions of the requester.
func (s *Service) LogoutAll(ctx context.Context, who *Requester) error {
	return s.deleteDevices(ctx, who.UserID, storage.DeviceFilter{}, 0)
}

// Refreshed are the tokens that replace a refresh token.
type Refreshed struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	// ExpiresInMS is the lifetime of the access token.
	ExpiresInMS *int64 `json:"expires_in_ms,omitempty"`
}

// Refresh exchanges a refresh token for a new one and a new access token. The old one stays good until one of the new
// ones is used, so that a client that has lost the answer can ask again.
//
// Errors are M_UNKNOWN_TOKEN, with soft_logout where the device may log in again.
func (s *Service) Refresh(ctx context.Context, token string) (*Refreshed, error) {
	unknown := mxerr.UnknownToken.WithMessage("Unrecognised refresh token").WithField("soft_logout", false)
	if token == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing param: refresh_token")
	}
	hash := HashToken(token)
	now := s.now()
	var out *Refreshed
	err := s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		old, userID, err := storage.LockRefreshToken(ctx, tx, hash[:])
		if err != nil {
			return err
		}
		if old.ExpiryTS != nil && now >= *old.ExpiryTS || old.SessionExpiryTS != nil && now >= *old.SessionExpiryTS {
			return mxerr.UnknownToken.WithMessage("Refresh token has expired").WithField("soft_logout", true)
		}
		localpart := s.localpart(userID)
		out = &Refreshed{AccessToken: NewToken(AccessTokenKind, localpart), RefreshToken: NewToken(RefreshTokenKind, localpart)}
		refreshHash, accessHash := HashToken(out.RefreshToken), HashToken(out.AccessToken)
		refreshID, err := storage.InsertRefreshToken(ctx, tx, storage.RefreshToken{
			Hash: refreshHash[:], UserNID: old.UserNID, DeviceID: old.DeviceID,
			ExpiryTS:        s.after(now, s.cfg.Login.RefreshTokenLifetime.Milliseconds()),
			SessionExpiryTS: old.SessionExpiryTS,
		})
		if err != nil {
			return err
		}
		access := storage.AccessToken{
			Hash: accessHash[:], UserNID: old.UserNID, DeviceID: &old.DeviceID, CreatedTS: now,
			ValidUntilTS: s.accessExpiry(now, old.SessionExpiryTS), RefreshTokenID: &refreshID,
		}
		if _, err := storage.InsertAccessToken(ctx, tx, access); err != nil {
			return err
		}
		if access.ValidUntilTS != nil {
			in := *access.ValidUntilTS - now
			out.ExpiresInMS = &in
		}
		hashes, err := storage.ExchangeRefreshToken(ctx, tx, old, refreshID)
		drop.Keys(tokensCache, tokenKeys(hashes)...)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// LoginTokenGrant is a one-time token that logs its owner in on another device.
type LoginTokenGrant struct {
	LoginToken  string `json:"login_token"`
	ExpiresInMS int64  `json:"expires_in_ms"`
}

// defaultLoginTokenMS is the lifetime of a login token where none is configured.
const defaultLoginTokenMS = 2 * 60 * 1000

// LoginTokensEnabled reports whether users may make login tokens.
func (s *Service) LoginTokensEnabled() bool { return s.cfg.Login.LoginViaExistingSession.Enabled }

// LoginTokenNeedsAuth reports whether users have to authenticate again to make a login token.
func (s *Service) LoginTokenNeedsAuth() bool {
	return s.cfg.Login.LoginViaExistingSession.RequireUIAuth
}

// NewLoginToken makes a login token for the requester. Where the server does not offer it, it is M_UNRECOGNIZED.
func (s *Service) NewLoginToken(ctx context.Context, who *Requester) (*LoginTokenGrant, error) {
	if !s.LoginTokensEnabled() {
		return nil, mxerr.Unrecognized
	}
	lifetime := s.cfg.Login.LoginViaExistingSession.TokenTimeout.Milliseconds()
	if lifetime == 0 {
		lifetime = defaultLoginTokenMS
	}
	user, err := s.userNID(ctx, who.UserID)
	if err != nil {
		return nil, err
	}
	token := NewToken(LoginTokenKind, s.localpart(who.UserID))
	hash := HashToken(token)
	if err := storage.InsertLoginToken(ctx, s.cfg.DB, hash[:], user, s.now()+lifetime); err != nil {
		return nil, err
	}
	return &LoginTokenGrant{LoginToken: token, ExpiresInMS: lifetime}, nil
}

// OpenIDToken proves a user's identity to a third party.
type OpenIDToken struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"`
	MatrixServerName string `json:"matrix_server_name"`
	// ExpiresIn is in seconds.
	ExpiresIn int64 `json:"expires_in"`
}

const openIDLifetimeMS = 60 * 60 * 1000

// NewOpenIDToken makes an OpenID token for a user, good for an hour.
func (s *Service) NewOpenIDToken(ctx context.Context, userID string) (*OpenIDToken, error) {
	user, err := s.userNID(ctx, userID)
	if err != nil {
		return nil, err
	}
	token := RandomLetters(24)
	hash := HashToken(token)
	if err := storage.InsertOpenIDToken(ctx, s.cfg.DB, hash[:], user, s.now()+openIDLifetimeMS); err != nil {
		return nil, err
	}
	return &OpenIDToken{AccessToken: token, TokenType: "Bearer", MatrixServerName: s.cfg.ServerName, ExpiresIn: openIDLifetimeMS / 1000}, nil
}

// OpenIDUser returns the user an OpenID token stands for; M_UNKNOWN_TOKEN where it stands for none.
func (s *Service) OpenIDUser(ctx context.Context, token string) (string, error) {
	hash := HashToken(token)
	userID, err := storage.GetOpenIDToken(ctx, s.cfg.DB, hash[:], s.now())
	if errors.Is(err, storage.ErrNotFound) {
		return "", mxerr.UnknownToken.WithMessage("Access Token unknown or expired")
	}
	return userID, err
}

// userNID returns the number of a user of this server.
func (s *Service) userNID(ctx context.Context, userID string) (storage.UserNID, error) {
	users, err := storage.LookupUsers(ctx, s.cfg.DB, []string{userID})
	if err != nil {
		return 0, err
	}
	if len(users) == 0 {
		return 0, mxerr.NotFound.WithMessage("User not found")
	}
	return users[0].NID, nil
}
