package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// nonceLifetimeMS is how long a nonce of shared-secret registration is good.
const nonceLifetimeMS = 60 * 1000

// SharedSecretRequest is a registration by somebody who knows the registration_shared_secret, in Synapse's form.
type SharedSecretRequest struct {
	// Nonce is from RegistrationNonce, and good once.
	Nonce       string  `json:"nonce"`
	Username    string  `json:"username"`
	DisplayName *string `json:"displayname"`
	Password    string  `json:"password"`
	// Admin makes a server administrator.
	Admin bool `json:"admin"`
	// UserType is "bot", "support" or nil.
	UserType *string `json:"user_type"`
	// MAC is SharedSecretMAC in hexadecimal.
	MAC          string `json:"mac"`
	InhibitLogin bool   `json:"inhibit_login"`
}

// SharedSecretMAC returns what authenticates a registration: HMAC-SHA1 in hexadecimal over nonce, username, password,
// "admin" or "notadmin", and the user type where there is one, separated by NUL.
func SharedSecretMAC(secret string, r SharedSecretRequest) string {
	h := hmac.New(sha1.New, []byte(secret))
	parts := []string{r.Nonce, r.Username, r.Password, "notadmin"}
	if r.Admin {
		parts[3] = "admin"
	}
	if r.UserType != nil && *r.UserType != "" {
		parts = append(parts, *r.UserType)
	}
	h.Write([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h.Sum(nil))
}

func (s *Service) sharedSecret() (string, error) {
	secret := s.cfg.Registration.RegistrationSharedSecret.Reveal()
	if secret == "" {
		return "", mxerr.Unknown.WithStatus(400).WithMessage("Shared secret registration is not enabled")
	}
	return secret, nil
}

// RegistrationNonce makes a nonce for RegisterSharedSecret, good for a minute on any process.
func (s *Service) RegistrationNonce(ctx context.Context) (string, error) {
	if _, err := s.sharedSecret(); err != nil {
		return "", err
	}
	nonce := randomString(64, "0123456789abcdef")
	return nonce, storage.InsertRegistrationNonce(ctx, s.cfg.DB, nonce, s.now()+nonceLifetimeMS)
}

// RegisterSharedSecret makes an account, also where registration is closed. Errors are M_UNKNOWN with status 400 for a
// nonce that is not good and 403 for a wrong MAC, and those of Register.
func (s *Service) RegisterSharedSecret(ctx context.Context, r SharedSecretRequest) (*Session, error) {
	secret, err := s.sharedSecret()
	if err != nil {
		return nil, err
	}
	bad := func(message string) error { return mxerr.BadJSON.WithMessage(message) }
	switch {
	case r.Nonce == "":
		return nil, bad("nonce must be specified")
	case r.Username == "":
		return nil, bad("username must be specified")
	case r.Password == "":
		return nil, bad("password must be specified")
	case r.MAC == "":
		return nil, bad("mac must be specified")
	case strings.IndexByte(r.Username, 0) >= 0 || len(r.Username) > 512:
		return nil, bad("Invalid username")
	case strings.IndexByte(r.Password, 0) >= 0 || len(r.Password) > MaxPasswordBytes:
		return nil, bad("Invalid password")
	case r.UserType != nil && *r.UserType != "" && *r.UserType != "bot" && *r.UserType != "support":
		return nil, bad("Invalid user type")
	}
	if checkText("nonce", r.Nonce, 128) != nil {
		return nil, bad("Invalid nonce")
	}
	// The nonce is spent whether or not the rest is right, so that a MAC cannot be tried twice.
	ok, err := storage.TakeRegistrationNonce(ctx, s.cfg.DB, r.Nonce, s.now())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, mxerr.Unknown.WithStatus(400).WithMessage("unrecognised nonce")
	}
	if !hmac.Equal([]byte(SharedSecretMAC(secret, r)), []byte(strings.ToLower(r.MAC))) {
		return nil, mxerr.Unknown.WithStatus(403).WithMessage("HMAC incorrect")
	}
	localpart := NormalizeUsername(r.Username)
	if err := ValidateUsername(localpart, s.cfg.ServerName); err != nil {
		return nil, err
	}
	n := NewAccount{Localpart: localpart, Admin: r.Admin}
	if r.UserType != nil {
		n.UserType = *r.UserType
	}
	if r.DisplayName != nil {
		if err := checkText("displayname", *r.DisplayName, maxDisplayName); err != nil {
			return nil, err
		}
		n.DisplayName = *r.DisplayName
	}
	hash, err := s.hasher.Hash(ctx, r.Password)
	if err != nil {
		return nil, err
	}
	n.PasswordHash = &hash
	user, userID, err := s.Create(ctx, n)
	if err != nil {
		return nil, err
	}
	return s.finishRegistration(ctx, user, userID, &RegisterRequest{InhibitLogin: r.InhibitLogin})
}
