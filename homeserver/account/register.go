package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

// RegisterRequest is the body of a registration, without "auth".
type RegisterRequest struct {
	// Type is "m.login.application_service" where an application service makes the account.
	Type     string  `json:"type"`
	Username *string `json:"username"`
	Password *string `json:"password"`
	// InhibitLogin makes the account without opening a session.
	InhibitLogin bool `json:"inhibit_login"`
	// GuestAccessToken turns a guest into a registered user.
	GuestAccessToken string `json:"guest_access_token"`
	// ClientIP is where the request comes from; registrations are limited by it.
	ClientIP string `json:"-"`
	NewSession
}

// The keys of what is remembered with a session of registration.
const (
	dataRegistered   = "registered_user_id"
	dataPasswordHash = "password_hash"
)

// Register makes an account and opens its first session. body is the request's body with "auth"; where the request has
// to authenticate (further) the error is a *Challenge.
//
// Errors are M_FORBIDDEN where registration is closed, M_USER_IN_USE, M_INVALID_USERNAME, M_EXCLUSIVE, M_WEAK_PASSWORD,
// M_MISSING_PARAM, M_INVALID_PARAM. A repetition of the last request of an authentication session answers with the
// account that the first one made.
func (s *Service) Register(ctx context.Context, req RegisterRequest, body json.RawMessage) (*Session, error) {
	if !s.cfg.Registration.EnableRegistration {
		return nil, mxerr.Forbidden.WithMessage("Registration has been disabled")
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	// Counted when the account is made, so that the requests that lead up to it are not.
	if err := s.cfg.Limits.Check("rc_registration", req.ClientIP); err != nil {
		return nil, err
	}
	if req.Password != nil {
		if err := s.checkNewPassword(*req.Password); err != nil {
			return nil, err
		}
	}
	data, err := s.InteractiveData(ctx, body)
	if err != nil {
		return nil, err
	}
	if data[dataRegistered] == "" && req.Username != nil {
		if err := s.CheckUsername(ctx, NormalizeUsername(*req.Username), req.GuestAccessToken); err != nil {
			return nil, err
		}
	}
	passed, err := s.Interact(ctx, Interactive{
		Operation: "POST /register", Body: body, Flows: s.RegistrationFlows(), Keep: true, Forget: []string{"password"},
	})
	var challenge *Challenge
	if errors.As(err, &challenge) && req.Password != nil && data[dataPasswordHash] == "" {
		// A later request of the session may come without the parameters; the password is kept as its hash.
		hash, err := s.hasher.Hash(ctx, *req.Password)
		if err != nil {
			return nil, err
		}
		if err := s.SetInteractiveData(ctx, challenge.Session, dataPasswordHash, hash); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	if userID := passed.Data[dataRegistered]; userID != "" {
		return s.registeredAgain(ctx, userID, req)
	}
	var effective RegisterRequest
	if err := json.Unmarshal(passed.Request, &effective); err != nil {
		return nil, mxerr.BadJSON.Wrap(err)
	}
	if effective.Username != nil {
		*effective.Username = NormalizeUsername(*effective.Username)
		// The session may have begun long ago.
		if err := s.CheckUsername(ctx, *effective.Username, effective.GuestAccessToken); err != nil {
			return nil, err
		}
	}
	hash := passed.Data[dataPasswordHash]
	if hash == "" {
		if effective.Password == nil {
			return nil, mxerr.MissingParam.WithMessage("Missing params: password")
		}
		if hash, err = s.hasher.Hash(ctx, *effective.Password); err != nil {
			return nil, err
		}
	}
	if err := s.cfg.Limits.Allow("rc_registration", req.ClientIP); err != nil {
		return nil, err
	}
	out, err := s.register(ctx, &effective, hash)
	if err != nil {
		return nil, err
	}
	if token := passed.Stages[StageRegToken]; token != "" {
		if err := storage.CompleteRegistrationToken(ctx, s.cfg.DB, token); err != nil {
			return nil, err
		}
	}
	return out, s.SetInteractiveData(ctx, passed.SessionID, dataRegistered, out.UserID)
}

func (s *Service) register(ctx context.Context, req *RegisterRequest, hash string) (*Session, error) {
	if req.GuestAccessToken != "" {
		return s.upgradeGuest(ctx, req, hash)
	}
	n := NewAccount{PasswordHash: &hash}
	if req.Username != nil {
		n.Localpart = *req.Username
	}
	user, userID, err := s.Create(ctx, n)
	if err != nil {
		return nil, err
	}
	return s.finishRegistration(ctx, user, userID, req)
}

func (s *Service) finishRegistration(ctx context.Context, user storage.UserNID, userID string, req *RegisterRequest) (*Session, error) {
	if req.InhibitLogin {
		return &Session{UserID: userID, HomeServer: s.cfg.ServerName}, nil
	}
	return s.openSession(ctx, user, userID, req.NewSession, false)
}

func (s *Service) registeredAgain(ctx context.Context, userID string, req RegisterRequest) (*Session, error) {
	a, err := storage.GetAccount(ctx, s.cfg.DB, userID)
	if err != nil {
		return nil, err
	}
	if a.Deactivated {
		return nil, mxerr.UserDeactivated
	}
	return s.finishRegistration(ctx, a.NID, a.UserID, &req)
}

// upgradeGuest gives a guest's account a password.
func (s *Service) upgradeGuest(ctx context.Context, req *RegisterRequest, hash string) (*Session, error) {
	who, err := s.Authenticate(ctx, req.GuestAccessToken, nil)
	if err != nil {
		return nil, err
	}
	if !who.IsGuest || req.Username == nil || *req.Username != s.localpart(who.UserID) {
		return nil, mxerr.Forbidden.WithMessage("The guest access token is not of a guest of that name")
	}
	user, err := s.userNID(ctx, who.UserID)
	if err != nil {
		return nil, err
	}
	no := false
	if err := s.update(ctx, user, storage.AccountChange{PasswordHash: &hash, IsGuest: &no}); err != nil {
		return nil, err
	}
	return s.finishRegistration(ctx, user, who.UserID, req)
}

// RegistrationFlows returns the ways to pass user-interactive authentication for a registration.
func (s *Service) RegistrationFlows() [][]string {
	if s.cfg.Registration.RegistrationRequiresToken {
		return [][]string{{StageRegToken}}
	}
	return [][]string{{StageDummy}}
}

// RegisterGuest makes a guest's account and opens its session. Of the request only the display name of the device is
// looked at. It is M_FORBIDDEN where guests are not allowed.
func (s *Service) RegisterGuest(ctx context.Context, req RegisterRequest) (*Session, error) {
	if !s.cfg.Registration.AllowGuestAccess {
		return nil, mxerr.Forbidden.WithMessage("Guest access is disabled")
	}
	n := NewSession{InitialDeviceDisplayName: req.InitialDeviceDisplayName}
	if err := n.check(); err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.Allow("rc_registration", req.ClientIP); err != nil {
		return nil, err
	}
	user, userID, err := s.Create(ctx, NewAccount{Guest: true})
	if err != nil {
		return nil, err
	}
	return s.openSession(ctx, user, userID, n, true)
}

// RegisterAppservice makes an account for an application service.
func (s *Service) RegisterAppservice(ctx context.Context, req RegisterRequest, as *Requester) (*Session, error) {
	if as == nil || as.AppserviceID == "" {
		return nil, mxerr.Forbidden.WithMessage("Must use an application service token to register")
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	if req.Username == nil {
		return nil, mxerr.InvalidUsername.WithMessage("Desired Username is missing or not a string")
	}
	localpart := NormalizeUsername(*req.Username)
	userID, err := id.MakeUser(localpart, s.cfg.ServerName)
	if err != nil {
		return nil, mxerr.InvalidUsername.Wrap(err)
	}
	if !s.cfg.Appservices.MayActAs(&Appservice{ID: as.AppserviceID, Sender: as.UserID}, userID) {
		return nil, mxerr.Exclusive.WithMessage("Invalid user localpart for this application service.")
	}
	user, userID, err := s.Create(ctx, NewAccount{Localpart: localpart, AppserviceID: as.AppserviceID})
	if err != nil {
		return nil, err
	}
	return s.finishRegistration(ctx, user, userID, &req)
}

// CheckUsername checks that a new account may have a localpart and that nobody has it. guestToken is the access token of
// a guest who wants to become a registered user under the name they have, or "". Errors are M_INVALID_USERNAME,
// M_USER_IN_USE and M_EXCLUSIVE.
func (s *Service) CheckUsername(ctx context.Context, localpart, guestToken string) error {
	if guestToken != "" {
		return nil // must equal the guest's own name, which is checked with the token
	}
	if err := ValidateUsername(localpart, s.cfg.ServerName); err != nil {
		return err
	}
	userID := "@" + localpart + ":" + s.cfg.ServerName
	if s.cfg.Appservices != nil && s.cfg.Appservices.ExclusiveOwner(userID) != "" {
		return mxerr.Exclusive
	}
	if s.cfg.Registration.InhibitUserInUseError {
		return nil // found out when the account is made
	}
	_, err := storage.GetAccount(ctx, s.cfg.DB, userID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return mxerr.UserInUse
}

// RegistrationOpen returns M_FORBIDDEN where people cannot register.
func (s *Service) RegistrationOpen() error {
	if !s.cfg.Registration.EnableRegistration {
		return mxerr.Forbidden.WithMessage("Registration has been disabled")
	}
	return nil
}

// RegistrationTokenValid reports whether a registration could begin with a token.
func (s *Service) RegistrationTokenValid(ctx context.Context, token string) (bool, error) {
	if checkText("token", token, 64) != nil {
		return false, nil
	}
	t, err := storage.GetRegistrationToken(ctx, s.cfg.DB, token)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil && t.Usable(s.now()), err
}

// NewAccount is an account to be made.
type NewAccount struct {
	// Localpart is the localpart of the user id. Without one it is made.
	Localpart string
	// PasswordHash is the hash of the password, nil for an account without.
	PasswordHash *string
	// Admin makes a server administrator.
	Admin bool
	// UserType is "bot", "support" or "".
	UserType string
	// Guest makes a guest; the localpart is then a number.
	Guest bool
	// AppserviceID is the application service that makes the account, or "".
	AppserviceID string
	// DisplayName is the display name; without it the localpart is, except for guests.
	DisplayName string
}

// Create makes an account, without any check of the name but that it is free: M_USER_IN_USE.
func (s *Service) Create(ctx context.Context, n NewAccount) (storage.UserNID, string, error) {
	for attempt := 0; ; attempt++ {
		localpart := n.Localpart
		switch {
		case n.Guest:
			number, err := storage.NextGuest(ctx, s.cfg.DB)
			if err != nil {
				return 0, "", err
			}
			localpart = fmt.Sprint(number)
		case localpart == "":
			localpart = randomString(12, "abcdefghijklmnopqrstuvwxyz")
		}
		user, userID, err := s.create(ctx, n, localpart)
		if errors.Is(err, mxerr.UserInUse) && n.Localpart == "" && attempt < 10 {
			continue
		}
		return user, userID, err
	}
}

func (s *Service) create(ctx context.Context, n NewAccount, localpart string) (storage.UserNID, string, error) {
	userID, err := id.MakeUser(localpart, s.cfg.ServerName)
	if err != nil {
		return 0, "", mxerr.InvalidUsername.Wrap(err)
	}
	users, err := storage.InternUsers(ctx, s.cfg.DB, []string{userID})
	if err != nil {
		return 0, "", err
	}
	user := users[0].NID
	row := storage.Account{
		NID: user, PasswordHash: n.PasswordHash, CreatedTS: s.now(), IsGuest: n.Guest, Admin: n.Admin,
		UserType: nonEmpty(n.UserType), AppserviceID: nonEmpty(n.AppserviceID), Approved: true,
	}
	name := n.DisplayName
	if name == "" && !n.Guest {
		name = localpart
	}
	err = storage.InTx(ctx, s.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
		if err := storage.InsertAccount(ctx, tx, row); err != nil {
			return err
		}
		return setNames(ctx, tx, user, userID, nonEmpty(name), nil)
	})
	var conflict *storage.ConflictError
	if errors.As(err, &conflict) {
		return 0, "", mxerr.UserInUse.Wrap(err)
	}
	return user, userID, err
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// checkNewPassword holds a new password to the server's policy.
func (s *Service) checkNewPassword(password string) error {
	if password == "" || len(password) > MaxPasswordBytes {
		return mxerr.InvalidParam.WithMessage("Invalid password")
	}
	p := s.cfg.Login.PasswordConfig.Policy
	if !p.Enabled {
		return nil
	}
	weak := func(code, message string) error {
		e := *mxerr.WeakPassword
		e.Code, e.Message = code, message
		return &e
	}
	has := func(is func(r rune) bool) bool { return strings.IndexFunc(password, is) >= 0 }
	switch {
	case len([]rune(password)) < p.MinimumLength:
		return weak("M_PASSWORD_TOO_SHORT", fmt.Sprintf("The password must be at least %d characters long.", p.MinimumLength))
	case p.RequireDigit && !has(unicode.IsDigit):
		return weak("M_PASSWORD_NO_DIGIT", "The password must include at least one digit.")
	case p.RequireSymbol && !has(func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }):
		return weak("M_PASSWORD_NO_SYMBOL", "The password must include at least one symbol.")
	case p.RequireUppercase && !has(unicode.IsUpper):
		return weak("M_PASSWORD_NO_UPPERCASE", "The password must include at least one uppercase letter.")
	case p.RequireLowercase && !has(unicode.IsLower):
		return weak("M_PASSWORD_NO_LOWERCASE", "The password must include at least one lowercase letter.")
	}
	return nil
}

// PasswordPolicy returns what passwords must hold, by the names of the specification's proposal MSC2000; empty where
// nothing is asked.
func (s *Service) PasswordPolicy() map[string]any {
	p := s.cfg.Login.PasswordConfig.Policy
	out := map[string]any{}
	if !p.Enabled {
		return out
	}
	if p.MinimumLength > 0 {
		out["m.minimum_length"] = p.MinimumLength
	}
	for key, on := range map[string]bool{
		"m.require_digit": p.RequireDigit, "m.require_symbol": p.RequireSymbol,
		"m.require_lowercase": p.RequireLowercase, "m.require_uppercase": p.RequireUppercase,
	} {
		if on {
			out[key] = true
		}
	}
	return out
}
