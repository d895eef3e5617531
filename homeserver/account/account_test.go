package account_test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/ratelimit"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type kit struct {
	*account.Service
	db     *storage.DB
	caches *cache.Group
	clock  *clock
}

// options are those of a server that is open to everybody, with cheap passwords.
func options() account.Config {
	cfg := account.Config{ServerName: "test"}
	cfg.Registration.EnableRegistration = true
	cfg.Registration.EnableSetDisplayname = true
	cfg.Registration.EnableSetAvatarURL = true
	cfg.Registration.Enable3PIDChanges = true
	cfg.Registration.BcryptRounds = 4
	cfg.Registration.RegistrationSharedSecret = "secret"
	cfg.Login.PasswordConfig.Enabled = config.PasswordOn
	cfg.Login.PasswordConfig.LocalDBEnabled = true
	cfg.Login.LoginViaExistingSession.Enabled = true
	return cfg
}

func newKit(t *testing.T, change func(cfg *account.Config)) *kit {
	t.Helper()
	k := &kit{db: storagetest.New(t), clock: &clock{at: time.UnixMilli(1_700_000_000_000)}}
	var err error
	if k.caches, err = cache.NewGroup(cache.GroupConfig{DB: k.db}); err != nil {
		t.Fatal(err)
	}
	cfg := options()
	cfg.DB, cfg.Caches, cfg.Now = k.db, k.caches, k.clock.now
	if change != nil {
		change(&cfg)
	}
	if k.Service, err = account.New(cfg); err != nil {
		t.Fatal(err)
	}
	return k
}

func ptr[T any](v T) *T { return &v }

// wantCode fails the test unless err is a Matrix error with the code and status.
func wantCode(t *testing.T, what string, err error, status int, code string) *mxerr.Error {
	t.Helper()
	mx, ok := mxerr.As(err)
	if !ok || mx.Code != code || mx.Status != status {
		t.Fatalf("%s: got error %v, want %d %s", what, err, status, code)
	}
	return mx
}

func (k *kit) register(t *testing.T, name, password string) *account.Session {
	t.Helper()
	return k.registerAs(t, account.RegisterRequest{Username: &name, Password: &password})
}

func (k *kit) registerAs(t *testing.T, req account.RegisterRequest) *account.Session {
	t.Helper()
	s, err := k.Register(t.Context(), req, body(t, req, `{"type":"m.login.dummy"}`))
	if err != nil {
		t.Fatalf("register %v: %v", *req.Username, err)
	}
	return s
}

// body is the body of a registration as a client sends it.
func body(t *testing.T, req account.RegisterRequest, auth string) json.RawMessage {
	t.Helper()
	m := map[string]any{}
	if req.Username != nil {
		m["username"] = *req.Username
	}
	if req.Password != nil {
		m["password"] = *req.Password
	}
	if req.DeviceID != nil {
		m["device_id"] = *req.DeviceID
	}
	if req.InitialDeviceDisplayName != nil {
		m["initial_device_display_name"] = *req.InitialDeviceDisplayName
	}
	if req.RefreshToken {
		m["refresh_token"] = true
	}
	if req.InhibitLogin {
		m["inhibit_login"] = true
	}
	if req.GuestAccessToken != "" {
		m["guest_access_token"] = req.GuestAccessToken
	}
	if auth != "" {
		m["auth"] = json.RawMessage(auth)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (k *kit) login(t *testing.T, user, password string, n account.NewSession) *account.Session {
	t.Helper()
	s, err := k.Login(t.Context(), passwordLogin(user, password, n), nil)
	if err != nil {
		t.Fatalf("log in %s: %v", user, err)
	}
	return s
}

func passwordLogin(user, password string, n account.NewSession) account.LoginRequest {
	return account.LoginRequest{
		Type: account.LoginPassword, Identifier: &account.Identifier{Type: "m.id.user", User: user}, Password: password, NewSession: n,
	}
}

func (k *kit) who(t *testing.T, token string) *account.Requester {
	t.Helper()
	who, err := k.Authenticate(t.Context(), token, nil)
	if err != nil {
		t.Fatalf("authenticate: %v", err)
	}
	return who
}

func TestRegisterOpensASession(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	s := k.registerAs(t, account.RegisterRequest{
		Username: ptr("User-UPPER"), Password: ptr("übers3kr1t"),
		NewSession: account.NewSession{DeviceID: ptr("DEV"), InitialDeviceDisplayName: ptr("phone")},
	})
	if s.UserID != "@user-upper:test" || s.DeviceID != "DEV" || s.AccessToken == "" || s.RefreshToken != "" || s.ExpiresInMS != nil {
		t.Errorf("got %+v", s)
	}
	kind, localpart, ok := account.ParseToken(s.AccessToken)
	if !ok || kind != account.AccessTokenKind || localpart != "user-upper" {
		t.Errorf("access token %q parses as %q %q %v", s.AccessToken, kind, localpart, ok)
	}
	who := k.who(t, s.AccessToken)
	if who.UserID != s.UserID || who.DeviceID != "DEV" || who.IsGuest || who.IsAdmin {
		t.Errorf("token stands for %+v", who)
	}
	name, avatar, err := k.Profile(t.Context(), s.UserID)
	if err != nil || name != "user-upper" || avatar != "" {
		t.Errorf("profile is %q %q %v, want the localpart as name", name, avatar, err)
	}
	d, err := k.Device(t.Context(), s.UserID, "DEV")
	if err != nil || *d.DisplayName != "phone" {
		t.Errorf("device is %+v, %v", d, err)
	}
	quiet := k.registerAs(t, account.RegisterRequest{Username: ptr("quiet"), Password: ptr("pw"), InhibitLogin: true})
	if quiet.AccessToken != "" || quiet.DeviceID != "" || quiet.UserID != "@quiet:test" {
		t.Errorf("inhibit_login gave %+v", quiet)
	}
	// The token itself is nowhere in the database.
	var found int
	if err := k.db.QueryRow(t.Context(), `SELECT count(*) FROM access_tokens WHERE token_hash = $1`, []byte(s.AccessToken)).Scan(&found); err != nil || found != 0 {
		t.Errorf("the token is stored as it is: %d, %v", found, err)
	}
}

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(cfg *account.Config) {
		cfg.Login.PasswordConfig.Policy = config.PasswordPolicy{Enabled: true, MinimumLength: 3, RequireDigit: true}
	})
	k.register(t, "taken", "pw1")
	for name, tc := range map[string]struct {
		username, password, device string
		code                       string
	}{
		"taken":              {"taken", "pw1", "", "M_USER_IN_USE"},
		"taken in capitals":  {"TAKEN", "pw1", "", "M_USER_IN_USE"},
		"colon":              {"user:x", "pw1", "", "M_INVALID_USERNAME"},
		"accent":             {"usér", "pw1", "", "M_INVALID_USERNAME"},
		"newline":            {"us\ner", "pw1", "", "M_INVALID_USERNAME"},
		"nul":                {"us\x00er", "pw1", "", "M_INVALID_USERNAME"},
		"empty":              {"", "pw1", "", "M_INVALID_USERNAME"},
		"underscore":         {"_bridge", "pw1", "", "M_INVALID_USERNAME"},
		"number":             {"1234", "pw1", "", "M_INVALID_USERNAME"},
		"too long":           {strings.Repeat("a", 250), "pw1", "", "M_INVALID_USERNAME"},
		"empty password":     {"new", "", "", "M_INVALID_PARAM"},
		"long password":      {"new", strings.Repeat("1", 513), "", "M_INVALID_PARAM"},
		"short password":     {"new", "1", "", "M_PASSWORD_TOO_SHORT"},
		"no digit":           {"new", "abc", "", "M_PASSWORD_NO_DIGIT"},
		"control in device":  {"new", "pw1", "a\x00b", "M_INVALID_PARAM"},
		"long device":        {"new", "pw1", strings.Repeat("d", 600), "M_INVALID_PARAM"},
		"badly encoded name": {"ne\xffw", "pw1", "", "M_INVALID_USERNAME"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := account.RegisterRequest{Username: &tc.username, Password: &tc.password}
			if tc.device != "" {
				req.DeviceID = &tc.device
			}
			// Refused before anything is asked of the user, too.
			for _, auth := range []string{"", `{"type":"m.login.dummy"}`} {
				_, err := k.Register(t.Context(), req, body(t, req, auth))
				wantCode(t, "register", err, 400, tc.code)
			}
		})
	}
	closed := newKit(t, func(cfg *account.Config) { cfg.Registration.EnableRegistration = false })
	req := account.RegisterRequest{Username: ptr("new"), Password: ptr("pw1")}
	_, err := closed.Register(t.Context(), req, body(t, req, ""))
	wantCode(t, "registration that is closed", err, 403, "M_FORBIDDEN")
}

func TestRegistrationGoesThroughASession(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	req := account.RegisterRequest{Username: ptr("anna"), Password: ptr("pw"), NewSession: account.NewSession{DeviceID: ptr("D1")}}
	_, err := k.Register(t.Context(), req, body(t, req, ""))
	var c *account.Challenge
	if !errors.As(err, &c) || c.Session == "" || c.Code != "" || len(c.Flows) != 1 || c.Flows[0].Stages[0] != "m.login.dummy" {
		t.Fatalf("got %v %+v, want a challenge", err, c)
	}
	// A second process has the same database and nothing else.
	other := newKit(t, func(cfg *account.Config) { cfg.DB = k.db })
	auth := `{"type":"m.login.dummy","session":"` + c.Session + `"}`
	empty := account.RegisterRequest{}
	first, err := other.Register(t.Context(), empty, body(t, empty, auth))
	if err != nil || first.UserID != "@anna:test" || first.DeviceID != "D1" {
		t.Fatalf("the session's parameters were forgotten: %+v, %v", first, err)
	}
	k.login(t, "anna", "pw", account.NewSession{})
	// The answer was lost and the client asks again.
	again, err := k.Register(t.Context(), req, body(t, req, auth))
	if err != nil || again.UserID != first.UserID {
		t.Errorf("the last request again: %+v, %v", again, err)
	}
	var stored string
	if err := k.db.QueryRow(t.Context(), `SELECT convert_from(request, 'UTF8') FROM ui_auth_sessions WHERE session_id = $1`, c.Session).Scan(&stored); err != nil || strings.Contains(stored, "pw") {
		t.Errorf("the session holds %s (%v), which must not have the password", stored, err)
	}
	unknown := `{"type":"m.login.dummy","session":"nosuchsession"}`
	_, err = k.Register(t.Context(), empty, body(t, empty, unknown))
	wantCode(t, "unknown session", err, 400, "M_UNKNOWN")
}

func TestRegistrationTokens(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(cfg *account.Config) { cfg.Registration.RegistrationRequiresToken = true })
	ctx := t.Context()
	for _, tok := range []storage.RegistrationToken{
		{Token: "once", UsesAllowed: ptr(int32(1))}, {Token: "old", ExpiryTS: ptr(k.clock.now().UnixMilli() - 1)}, {Token: "open"},
	} {
		if err := storage.InsertRegistrationToken(ctx, k.db, tok); err != nil {
			t.Fatal(err)
		}
	}
	for token, want := range map[string]bool{"once": true, "old": false, "open": true, "none": false, "\x00": false} {
		if got, err := k.RegistrationTokenValid(ctx, token); err != nil || got != want {
			t.Errorf("token %q is valid: %v, %v, want %v", token, got, err, want)
		}
	}
	try := func(name, token string) error {
		req := account.RegisterRequest{Username: &name, Password: ptr("pw")}
		_, err := k.Register(ctx, req, body(t, req, `{"type":"m.login.registration_token","token":"`+token+`"}`))
		return err
	}
	if err := try("first", "once"); err != nil {
		t.Fatal(err)
	}
	var c *account.Challenge
	for _, token := range []string{"once", "old", "none"} {
		if err := try("second", token); !errors.As(err, &c) || c.Code != "M_UNAUTHORIZED" {
			t.Errorf("token %q: got %v, want a failed challenge", token, err)
		}
	}
	req := account.RegisterRequest{Username: ptr("third"), Password: ptr("pw")}
	if _, err := k.Register(ctx, req, body(t, req, `{"type":"m.login.dummy"}`)); !errors.As(err, &c) {
		t.Errorf("the dummy stage is not offered, got %v", err)
	}
	got, err := storage.GetRegistrationToken(ctx, k.db, "once")
	if err != nil || got.Pending != 0 || got.Completed != 1 {
		t.Errorf("token is %+v, %v, want one completed use", got, err)
	}
}

func TestGuests(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(cfg *account.Config) { cfg.Registration.AllowGuestAccess = true })
	ctx := t.Context()
	guest, err := k.RegisterGuest(ctx, account.RegisterRequest{Username: ptr("ignored")})
	if err != nil {
		t.Fatal(err)
	}
	if who := k.who(t, guest.AccessToken); !who.IsGuest || strings.Contains(guest.UserID, "ignored") {
		t.Errorf("guest is %+v", who)
	}
	name := strings.TrimSuffix(strings.TrimPrefix(guest.UserID, "@"), ":test")
	wrong := account.RegisterRequest{Username: ptr("other"), Password: ptr("pw"), GuestAccessToken: guest.AccessToken}
	_, err = k.Register(ctx, wrong, body(t, wrong, `{"type":"m.login.dummy"}`))
	wantCode(t, "upgrade under another name", err, 403, "M_FORBIDDEN")
	up := k.registerAs(t, account.RegisterRequest{Username: &name, Password: ptr("pw"), GuestAccessToken: guest.AccessToken})
	if who := k.who(t, up.AccessToken); who.IsGuest || up.UserID != guest.UserID {
		t.Errorf("upgraded guest is %+v", who)
	}
	if who := k.who(t, guest.AccessToken); who.IsGuest {
		t.Error("the old token still stands for a guest")
	}
	closed := newKit(t, nil)
	_, err = closed.RegisterGuest(ctx, account.RegisterRequest{})
	wantCode(t, "guests that are not allowed", err, 403, "M_FORBIDDEN")
}

func TestLogin(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	k.register(t, "anna", "pw")
	user, err := k.Account(ctx, "@anna:test")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []storage.Threepid{{Medium: "email", Address: "anna@example.org"}, {Medium: "msisdn", Address: "447700900000"}} {
		if err := storage.InsertThreepid(ctx, k.db, user.NID, p); err != nil {
			t.Fatal(err)
		}
	}
	for name, req := range map[string]account.LoginRequest{
		"localpart":           passwordLogin("anna", "pw", account.NewSession{}),
		"user id":             passwordLogin("@anna:test", "pw", account.NewSession{}),
		"capitals":            passwordLogin("@ANNA:test", "pw", account.NewSession{}),
		"legacy user":         {Type: "m.login.password", User: "anna", Password: "pw"},
		"legacy email":        {Type: "m.login.password", Medium: "email", Address: "anna@example.org", Password: "pw"},
		"email":               {Type: "m.login.password", Identifier: &account.Identifier{Type: "m.id.thirdparty", Medium: "email", Address: "Anna@example.org"}, Password: "pw"},
		"phone":               {Type: "m.login.password", Identifier: &account.Identifier{Type: "m.id.phone", Country: "GB", Phone: "+44 7700 900000"}, Password: "pw"},
		"phone in older form": {Type: "m.login.password", Identifier: &account.Identifier{Type: "m.id.phone", Country: "GB", Number: "00447700900000"}, Password: "pw"},
	} {
		s, err := k.Login(ctx, req, nil)
		if err != nil || s.UserID != "@anna:test" {
			t.Errorf("%s: got %+v, %v", name, s, err)
		}
	}
	for name, tc := range map[string]struct {
		req    account.LoginRequest
		status int
		code   string
	}{
		"wrong password":      {passwordLogin("anna", "wrong", account.NewSession{}), 403, "M_FORBIDDEN"},
		"nobody":              {passwordLogin("nobody", "pw", account.NewSession{}), 403, "M_FORBIDDEN"},
		"another server":      {passwordLogin("@anna:else", "pw", account.NewSession{}), 403, "M_FORBIDDEN"},
		"nul":                 {passwordLogin("an\x00na", "pw", account.NewSession{}), 403, "M_FORBIDDEN"},
		"long":                {passwordLogin(strings.Repeat("a", 9000), "pw", account.NewSession{}), 403, "M_FORBIDDEN"},
		"long password":       {passwordLogin("anna", strings.Repeat("a", 9000), account.NewSession{}), 403, "M_FORBIDDEN"},
		"no password":         {passwordLogin("anna", "", account.NewSession{}), 400, "M_MISSING_PARAM"},
		"no identifier":       {account.LoginRequest{Type: "m.login.password", Password: "pw"}, 400, "M_MISSING_PARAM"},
		"no user":             {passwordLogin("", "pw", account.NewSession{}), 400, "M_INVALID_PARAM"},
		"no type":             {account.LoginRequest{}, 400, "M_MISSING_PARAM"},
		"unknown type":        {account.LoginRequest{Type: "m.login.magic"}, 400, "M_UNKNOWN"},
		"unknown identifier":  {account.LoginRequest{Type: "m.login.password", Identifier: &account.Identifier{Type: "m.id.dog"}, Password: "pw"}, 400, "M_UNKNOWN"},
		"unknown address":     {account.LoginRequest{Type: "m.login.password", Medium: "email", Address: "x@example.org", Password: "pw"}, 403, "M_FORBIDDEN"},
		"device":              {passwordLogin("anna", "pw", account.NewSession{DeviceID: ptr("")}), 400, "M_INVALID_PARAM"},
		"device name":         {passwordLogin("anna", "pw", account.NewSession{InitialDeviceDisplayName: ptr(strings.Repeat("x", 101))}), 400, "M_INVALID_PARAM"},
		"no token":            {account.LoginRequest{Type: "m.login.token"}, 400, "M_MISSING_PARAM"},
		"wrong token":         {account.LoginRequest{Type: "m.login.token", Token: "syl_x"}, 403, "M_FORBIDDEN"},
		"application service": {account.LoginRequest{Type: "m.login.application_service"}, 403, "M_FORBIDDEN"},
	} {
		_, err := k.Login(ctx, tc.req, nil)
		wantCode(t, name, err, tc.status, tc.code)
	}
}

func TestFailedLoginsAreLimited(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(cfg *account.Config) {
		cfg.Limits = ratelimit.New(ratelimit.Config{
			Limits: map[string]config.Rate{"rc_login.failed_attempts": {PerSecond: 0.001, BurstCount: 2}}, Now: cfg.Now,
		})
	})
	k.register(t, "anna", "pw")
	k.register(t, "bert", "pw")
	for range 2 {
		_, err := k.Login(t.Context(), passwordLogin("anna", "wrong", account.NewSession{}), nil)
		wantCode(t, "wrong password", err, 403, "M_FORBIDDEN")
	}
	_, err := k.Login(t.Context(), passwordLogin("@Anna:test", "pw", account.NewSession{}), nil)
	wantCode(t, "the right password after too many wrong ones", err, 429, "M_LIMIT_EXCEEDED")
	k.login(t, "bert", "pw", account.NewSession{})
	k.clock.advance(time.Hour)
	k.login(t, "anna", "pw", account.NewSession{})
}
