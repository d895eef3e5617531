package account

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// The login types.
const (
	LoginPassword    = "m.login.password"
	LoginToken       = "m.login.token"
	LoginAppservice  = "m.login.application_service"
	StageDummy       = "m.login.dummy"
	StageRegToken    = "m.login.registration_token"
	identifierUser   = "m.id.user"
	identifierThird  = "m.id.thirdparty"
	identifierPhone  = "m.id.phone"
	maxDeviceNameLen = 100
)

// Identifier says which account is meant.
//
// Spec: client-server API, "Identifier types" (v1.19).
type Identifier struct {
	// Type is "m.id.user", "m.id.thirdparty" or "m.id.phone".
	Type string `json:"type"`
	// User is a user id or a localpart, for m.id.user.
	User string `json:"user"`
	// Medium and Address are for m.id.thirdparty.
	Medium  string `json:"medium"`
	Address string `json:"address"`
	// Country and Phone (or, in an older form, Number) are for m.id.phone.
	Country string `json:"country"`
	Phone   string `json:"phone"`
	Number  string `json:"number"`
}

// LoginFlow is a way to log in.
type LoginFlow struct {
	Type string `json:"type"`
	// GetLoginToken says, for m.login.token, that users can make such tokens themselves.
	GetLoginToken bool `json:"get_login_token,omitempty"`
}

// LoginFlows returns the ways to log in.
func (s *Service) LoginFlows() []LoginFlow {
	flows := make([]LoginFlow, 0, 3)
	if s.passwordLogin() {
		flows = append(flows, LoginFlow{Type: LoginPassword})
	}
	if s.cfg.Login.LoginViaExistingSession.Enabled {
		flows = append(flows, LoginFlow{Type: LoginToken, GetLoginToken: true})
	}
	if s.cfg.Appservices != nil {
		flows = append(flows, LoginFlow{Type: LoginAppservice})
	}
	return flows
}

// passwordLogin reports whether passwords open new sessions; passwords reports whether they prove anything at all.
func (s *Service) passwordLogin() bool {
	p := s.cfg.Login.PasswordConfig
	return s.passwords() && p.Enabled != config.PasswordOnlyReauth
}

func (s *Service) passwords() bool {
	p := s.cfg.Login.PasswordConfig
	return p.Enabled != config.PasswordOff && p.LocalDBEnabled
}

// LoginRequest is the body of a login.
type LoginRequest struct {
	Type       string      `json:"type"`
	Identifier *Identifier `json:"identifier"`
	// User, Medium and Address stand for Identifier in requests of older clients.
	User     string `json:"user"`
	Medium   string `json:"medium"`
	Address  string `json:"address"`
	Password string `json:"password"`
	Token    string `json:"token"`
	NewSession
}

// NewSession is what a client says of the session it wants.
type NewSession struct {
	// DeviceID is the device to use; nil has one made.
	DeviceID *string `json:"device_id"`
	// InitialDeviceDisplayName names a new device.
	InitialDeviceDisplayName *string `json:"initial_device_display_name"`
	// RefreshToken asks for a short-lived access token and a refresh token.
	RefreshToken bool `json:"refresh_token"`
}

// Session is a session that was opened.
type Session struct {
	UserID      string `json:"user_id"`
	AccessToken string `json:"access_token,omitempty"`
	DeviceID    string `json:"device_id,omitempty"`
	// HomeServer is deprecated and sent for old clients.
	HomeServer   string `json:"home_server,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	// ExpiresInMS is the lifetime of the access token, nil where it does not expire.
	ExpiresInMS *int64 `json:"expires_in_ms,omitempty"`
}

// Login opens a session. as is who asks where an application service logs in (m.login.application_service), else nil.
//
// Errors are M_FORBIDDEN for wrong credentials, M_USER_DEACTIVATED, M_LIMIT_EXCEEDED, M_MISSING_PARAM, M_INVALID_PARAM,
// and M_UNKNOWN with status 400 for a login type that is not offered.
func (s *Service) Login(ctx context.Context, req LoginRequest, as *Requester) (*Session, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	var a *storage.Account
	var err error
	switch req.Type {
	case LoginPassword:
		if !s.passwordLogin() {
			return nil, mxerr.Unknown.WithStatus(400).WithMessage("Password login has been disabled.")
		}
		a, err = s.loginPassword(ctx, &req)
	case LoginToken:
		a, err = s.loginToken(ctx, req.Token)
	case LoginAppservice:
		a, err = s.loginAppservice(ctx, &req, as)
	case "":
		return nil, mxerr.MissingParam.WithMessage("Missing login type")
	default:
		return nil, mxerr.Unknown.WithStatus(400).WithMessage("Unknown login type")
	}
	if err != nil {
		return nil, err
	}
	if a.Deactivated {
		return nil, mxerr.UserDeactivated
	}
	return s.openSession(ctx, a.NID, a.UserID, req.NewSession, false)
}

func (n *NewSession) check() error {
	if n.DeviceID != nil {
		if err := id.ValidateDevice(*n.DeviceID); err != nil {
			return mxerr.InvalidParam.WithMessage("Invalid device_id").Wrap(err)
		}
	}
	if n.InitialDeviceDisplayName != nil {
		return checkText("initial_device_display_name", *n.InitialDeviceDisplayName, maxDeviceNameLen)
	}
	return nil
}

func (s *Service) loginPassword(ctx context.Context, req *LoginRequest) (*storage.Account, error) {
	ident := req.Identifier
	if ident == nil {
		switch {
		case req.User != "":
			ident = &Identifier{Type: identifierUser, User: req.User}
		case req.Medium != "" || req.Address != "":
			ident = &Identifier{Type: identifierThird, Medium: req.Medium, Address: req.Address}
		default:
			return nil, mxerr.MissingParam.WithMessage("Missing param: identifier")
		}
	}
	if req.Password == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing param: password")
	}
	userID, err := s.resolve(ctx, *ident)
	if err != nil {
		return nil, err
	}
	if userID != "" {
		if err := s.cfg.Limits.Allow("rc_login.account", strings.ToLower(userID)); err != nil {
			return nil, err
		}
	}
	return s.checkPassword(ctx, userID, req.Password)
}

// CheckPassword returns the account that an identifier and a password belong to. Errors are M_FORBIDDEN where they belong
// to none, M_USER_DEACTIVATED, M_LIMIT_EXCEEDED after too many failures, M_INVALID_PARAM for an identifier that is none.
func (s *Service) CheckPassword(ctx context.Context, ident Identifier, password string) (*storage.Account, error) {
	userID, err := s.resolve(ctx, ident)
	if err != nil {
		return nil, err
	}
	return s.checkPassword(ctx, userID, password)
}

// checkPassword is CheckPassword for a user id that was found, or "".
func (s *Service) checkPassword(ctx context.Context, userID, password string) (*storage.Account, error) {
	wrong := mxerr.Forbidden.WithMessage("Invalid username or password")
	var a *storage.Account
	if userID != "" {
		key := strings.ToLower(userID)
		if err := s.cfg.Limits.Check("rc_login.failed_attempts", key); err != nil {
			return nil, err
		}
		var err error
		a, err = storage.FindAccount(ctx, s.cfg.DB, userID, key)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
	}
	hash := ""
	if a != nil {
		if a.Deactivated {
			return nil, mxerr.UserDeactivated
		}
		if a.PasswordHash != nil {
			hash = *a.PasswordHash
		}
	}
	if len(password) > MaxPasswordBytes {
		return nil, wrong
	}
	ok, err := s.hasher.Check(ctx, hash, password)
	if err != nil {
		return nil, err
	}
	if !ok {
		if userID != "" {
			// Counted, not asked: this attempt was made, and the next is held back.
			_ = s.cfg.Limits.Allow("rc_login.failed_attempts", strings.ToLower(userID))
		}
		return nil, wrong
	}
	return a, nil
}

// resolve returns the user id an identifier stands for, "" where it stands for nobody.
func (s *Service) resolve(ctx context.Context, ident Identifier) (string, error) {
	medium, address := ident.Medium, ident.Address
	switch ident.Type {
	case identifierUser:
		if ident.User == "" {
			return "", mxerr.InvalidParam.WithMessage("User identifier is missing 'user' key")
		}
		return s.qualify(ident.User), nil
	case identifierThird:
		if medium == "" || address == "" {
			return "", mxerr.InvalidParam.WithMessage("Invalid thirdparty identifier")
		}
		if medium == "email" {
			address = strings.ToLower(address)
		}
	case identifierPhone:
		number := ident.Phone
		if number == "" {
			number = ident.Number
		}
		if number == "" || ident.Country == "" {
			return "", mxerr.InvalidParam.WithMessage("Invalid phone-type identifier")
		}
		medium, address = "msisdn", internationalNumber(number)
	default:
		return "", mxerr.Unknown.WithStatus(400).WithMessage("Unknown login identifier type")
	}
	if strings.IndexByte(medium+address, 0) >= 0 || address == "" {
		return "", nil
	}
	userID, err := storage.FindThreepid(ctx, s.cfg.DB, medium, address)
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	return userID, err
}

// qualify makes a user id of this server out of a localpart or user id; "" where it is of another server.
func (s *Service) qualify(user string) string {
	if !strings.HasPrefix(user, "@") {
		user = "@" + user + ":" + s.cfg.ServerName
	}
	if len(user) > id.MaxLength || strings.IndexByte(user, 0) >= 0 || !s.isLocal(user) {
		return ""
	}
	return user
}

// internationalNumber returns the digits of a phone number in international form, "" where it has none: national forms
// need a table of countries to be understood.
func internationalNumber(number string) string {
	digits := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, number)
	switch {
	case strings.HasPrefix(strings.TrimSpace(number), "+"):
		return digits
	case strings.HasPrefix(digits, "00"):
		return digits[2:]
	case strings.HasPrefix(digits, "0"):
		return ""
	}
	return digits
}

func (s *Service) loginToken(ctx context.Context, token string) (*storage.Account, error) {
	invalid := mxerr.Forbidden.WithMessage("Invalid login token")
	if token == "" {
		return nil, mxerr.MissingParam.WithMessage("Missing param: token")
	}
	hash := HashToken(token)
	userID, expiryTS, err := storage.TakeLoginToken(ctx, s.cfg.DB, hash[:])
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, invalid
	case err != nil:
		return nil, err
	case s.now() >= expiryTS:
		return nil, invalid
	}
	return storage.GetAccount(ctx, s.cfg.DB, userID)
}

func (s *Service) loginAppservice(ctx context.Context, req *LoginRequest, as *Requester) (*storage.Account, error) {
	if as == nil || as.AppserviceID == "" {
		return nil, mxerr.Forbidden.WithMessage("Must use an application service token to login")
	}
	user := req.User
	if req.Identifier != nil {
		if req.Identifier.Type != identifierUser {
			return nil, mxerr.Unknown.WithStatus(400).WithMessage("Unknown login identifier type")
		}
		user = req.Identifier.User
	}
	userID := s.qualify(user)
	if userID == "" || !s.cfg.Appservices.MayActAs(&Appservice{ID: as.AppserviceID, Sender: as.UserID}, userID) {
		return nil, mxerr.Exclusive.WithStatus(403).WithMessage("The user ID is not in the namespace of the application service")
	}
	a, err := storage.FindAccount(ctx, s.cfg.DB, userID, strings.ToLower(userID))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.Forbidden.WithMessage("Invalid username")
	}
	return a, err
}

// openSession makes the device (unless it is there) and its tokens. Tokens the device had are revoked.
// Guests get an access token that does not expire, as they have no way to log in again.
func (s *Service) openSession(ctx context.Context, user storage.UserNID, userID string, n NewSession, guest bool) (*Session, error) {
	now := s.now()
	localpart := s.localpart(userID)
	out := &Session{UserID: userID, HomeServer: s.cfg.ServerName, AccessToken: NewToken(AccessTokenKind, localpart)}
	if n.DeviceID != nil {
		out.DeviceID = *n.DeviceID
	} else {
		out.DeviceID = randomString(10, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	}
	name := n.InitialDeviceDisplayName
	sessionExpiry := s.after(now, s.cfg.Login.SessionLifetime.Milliseconds())
	access := storage.AccessToken{UserNID: user, DeviceID: &out.DeviceID, CreatedTS: now}
	var refresh *storage.RefreshToken
	if n.RefreshToken && !guest {
		out.RefreshToken = NewToken(RefreshTokenKind, localpart)
		hash := HashToken(out.RefreshToken)
		refresh = &storage.RefreshToken{
			Hash: hash[:], UserNID: user, DeviceID: out.DeviceID,
			ExpiryTS:        s.after(now, s.cfg.Login.RefreshTokenLifetime.Milliseconds()),
			SessionExpiryTS: sessionExpiry,
		}
		access.ValidUntilTS = s.accessExpiry(now, sessionExpiry)
	} else {
		access.ValidUntilTS = earlier(s.after(now, s.cfg.Login.NonrefreshableAccessTokenLifetime.Milliseconds()), sessionExpiry)
	}
	if guest {
		access.ValidUntilTS = nil
	}
	if access.ValidUntilTS != nil {
		in := *access.ValidUntilTS - now
		out.ExpiresInMS = &in
	}
	hash := HashToken(out.AccessToken)
	access.Hash = hash[:]
	err := s.cfg.Caches.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
		made, err := storage.InsertDevice(ctx, tx, storage.Device{UserNID: user, DeviceID: out.DeviceID, DisplayName: name, CreatedTS: now})
		if err != nil {
			return err
		}
		if !made {
			hashes, err := storage.DeleteTokensOfDevice(ctx, tx, user, out.DeviceID)
			if err != nil {
				return err
			}
			drop.Keys(tokensCache, tokenKeys(hashes)...)
		}
		access.RefreshTokenID = nil
		if refresh != nil {
			refreshID, err := storage.InsertRefreshToken(ctx, tx, *refresh)
			if err != nil {
				return err
			}
			access.RefreshTokenID = &refreshID
		}
		_, err = storage.InsertAccessToken(ctx, tx, access)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open session of %s: %w", userID, err)
	}
	return out, nil
}

// after returns now plus a lifetime, nil for a lifetime of 0, which is for ever.
func (s *Service) after(now, lifetimeMS int64) *int64 {
	if lifetimeMS == 0 {
		return nil
	}
	ts := now + lifetimeMS
	return &ts
}

// defaultRefreshableLifetimeMS is the lifetime of access tokens beside a refresh token where none is configured.
const defaultRefreshableLifetimeMS = 5 * 60 * 1000

func (s *Service) accessExpiry(now int64, sessionExpiry *int64) *int64 {
	lifetime := s.cfg.Login.RefreshableAccessTokenLifetime.Milliseconds()
	if lifetime == 0 {
		lifetime = defaultRefreshableLifetimeMS
	}
	return earlier(s.after(now, lifetime), sessionExpiry)
}

// earlier returns the earlier of two times, nil being never.
func earlier(a, b *int64) *int64 {
	if a == nil || b != nil && *b < *a {
		return b
	}
	return a
}
