package account_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func TestLogout(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	first := k.register(t, "anna", "pw")
	second, third := k.login(t, "anna", "pw", account.NewSession{}), k.login(t, "anna", "pw", account.NewSession{})
	if err := k.Logout(ctx, k.who(t, second.AccessToken)); err != nil {
		t.Fatal(err)
	}
	_, err := k.Authenticate(ctx, second.AccessToken, nil)
	wantCode(t, "token after logout", err, 401, "M_UNKNOWN_TOKEN")
	if devices, err := k.Devices(ctx, "@anna:test"); err != nil || len(devices) != 2 {
		t.Errorf("devices are %v, %v, want two", devices, err)
	}
	if err := k.LogoutAll(ctx, k.who(t, third.AccessToken)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*account.Session{first, third} {
		_, err := k.Authenticate(ctx, s.AccessToken, nil)
		wantCode(t, "token after logout of all", err, 401, "M_UNKNOWN_TOKEN")
	}
	if devices, err := k.Devices(ctx, "@anna:test"); err != nil || len(devices) != 0 {
		t.Errorf("devices are %v, %v, want none", devices, err)
	}
}

func TestLoginWithADeviceRevokesItsTokens(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	k.register(t, "anna", "pw")
	n := account.NewSession{DeviceID: ptr("PHONE"), InitialDeviceDisplayName: ptr("first")}
	first := k.login(t, "anna", "pw", n)
	k.who(t, first.AccessToken)
	n.InitialDeviceDisplayName = ptr("second")
	second := k.login(t, "anna", "pw", n)
	_, err := k.Authenticate(t.Context(), first.AccessToken, nil)
	wantCode(t, "the device's earlier token", err, 401, "M_UNKNOWN_TOKEN")
	k.who(t, second.AccessToken)
	if d, err := k.Device(t.Context(), "@anna:test", "PHONE"); err != nil || *d.DisplayName != "first" {
		t.Errorf("device is %+v, %v: the name of a known device must stay", d, err)
	}
}

func TestTokensThatNeverWere(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	good := k.register(t, "anna", "pw").AccessToken
	for name, token := range map[string]string{
		"word": "abc", "changed letter": good[:len(good)-1] + "#", "other form": "MDAxabc", "refresh kind": strings.Replace(good, "syt", "syr", 1),
		"long": strings.Repeat("x", 100_000), "nul": "a\x00b", "bad utf-8": "\xff\xfe",
	} {
		_, err := k.Authenticate(t.Context(), token, nil)
		mx := wantCode(t, name, err, 401, "M_UNKNOWN_TOKEN")
		if mx.Fields["soft_logout"] != false {
			t.Errorf("%s: soft_logout is %v", name, mx.Fields["soft_logout"])
		}
	}
	// A token of our form with a wrong checksum costs no query.
	counts := storagetest.Count(t, k.db, func() {
		_, _ = k.Authenticate(t.Context(), "syt_YW5uYQ_aaaaaaaaaaaaaaaaaaaa_000000", nil)
	})
	if counts.Statements != 0 {
		t.Errorf("a made-up token cost %d statements", counts.Statements)
	}
	k.who(t, good)
	if counts := storagetest.Count(t, k.db, func() { k.who(t, good) }); counts.Statements != 0 {
		t.Errorf("a known token cost %d statements", counts.Statements)
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(cfg *account.Config) {
		cfg.Login.RefreshableAccessTokenLifetime = time.Minute
		cfg.Login.RefreshTokenLifetime = time.Hour
		cfg.Login.SessionLifetime = 90 * time.Minute
	})
	ctx := t.Context()
	k.register(t, "anna", "pw")
	s := k.login(t, "anna", "pw", account.NewSession{RefreshToken: true})
	if s.RefreshToken == "" || s.ExpiresInMS == nil || *s.ExpiresInMS != 60_000 {
		t.Fatalf("got %+v", s)
	}
	k.who(t, s.AccessToken)
	k.clock.advance(time.Minute)
	_, err := k.Authenticate(ctx, s.AccessToken, nil)
	if mx := wantCode(t, "expired access token", err, 401, "M_UNKNOWN_TOKEN"); mx.Fields["soft_logout"] != true {
		t.Error("an expired token must say soft_logout")
	}
	lost, err := k.Refresh(ctx, s.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	// The answer was lost: the old token is good until the new ones are used, and then what was lost is not.
	next, err := k.Refresh(ctx, s.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Authenticate(ctx, lost.AccessToken, nil)
	wantCode(t, "access token of the answer that was lost", err, 401, "M_UNKNOWN_TOKEN")
	_, err = k.Refresh(ctx, lost.RefreshToken)
	wantCode(t, "refresh token of the answer that was lost", err, 401, "M_UNKNOWN_TOKEN")
	if who := k.who(t, next.AccessToken); who.DeviceID != s.DeviceID {
		t.Errorf("refreshed token has device %q, want %q", who.DeviceID, s.DeviceID)
	}
	_, err = k.Refresh(ctx, s.RefreshToken)
	wantCode(t, "refresh token whose successor is in use", err, 401, "M_UNKNOWN_TOKEN")

	// A refresh token that was exchanged is spent as soon as its successor is exchanged.
	third, err := k.Refresh(ctx, next.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Refresh(ctx, third.RefreshToken); err != nil {
		t.Fatal(err)
	}
	_, err = k.Refresh(ctx, next.RefreshToken)
	wantCode(t, "refresh token before the last", err, 401, "M_UNKNOWN_TOKEN")
	_, err = k.Authenticate(ctx, next.AccessToken, nil)
	wantCode(t, "access token before the last", err, 401, "M_UNKNOWN_TOKEN")

	late, err := k.Refresh(ctx, third.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	k.clock.advance(61 * time.Minute)
	_, err = k.Refresh(ctx, late.RefreshToken)
	if mx := wantCode(t, "expired refresh token", err, 401, "M_UNKNOWN_TOKEN"); mx.Fields["soft_logout"] != true {
		t.Error("an expired refresh token must say soft_logout")
	}
	_, err = k.Refresh(ctx, "")
	wantCode(t, "no token", err, 400, "M_MISSING_PARAM")

	// The login ends with the session, however often it is refreshed.
	s = k.login(t, "anna", "pw", account.NewSession{RefreshToken: true})
	k.clock.advance(50 * time.Minute)
	again, err := k.Refresh(ctx, s.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	k.clock.advance(45 * time.Minute)
	_, err = k.Refresh(ctx, again.RefreshToken)
	wantCode(t, "refresh after the session's end", err, 401, "M_UNKNOWN_TOKEN")
}

func TestChangePassword(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	mine := k.register(t, "anna", "old")
	other := k.login(t, "anna", "old", account.NewSession{})
	who := k.who(t, mine.AccessToken)
	k.who(t, other.AccessToken)
	if err := k.ChangePassword(ctx, who.UserID, "new", true, who); err != nil {
		t.Fatal(err)
	}
	k.who(t, mine.AccessToken)
	_, err := k.Authenticate(ctx, other.AccessToken, nil)
	wantCode(t, "another session", err, 401, "M_UNKNOWN_TOKEN")
	_, err = k.Login(ctx, passwordLogin("anna", "old", account.NewSession{}), nil)
	wantCode(t, "old password", err, 403, "M_FORBIDDEN")
	other = k.login(t, "anna", "new", account.NewSession{})
	if err := k.ChangePassword(ctx, who.UserID, "newer", false, who); err != nil {
		t.Fatal(err)
	}
	k.who(t, other.AccessToken)
}

func TestDeactivate(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	s := k.register(t, "anna", "pw")
	k.who(t, s.AccessToken)
	if _, err := k.ProfileFields(ctx, s.UserID, ""); err != nil {
		t.Fatal(err)
	}
	if err := k.Deactivate(ctx, s.UserID, true); err != nil {
		t.Fatal(err)
	}
	_, err := k.Authenticate(ctx, s.AccessToken, nil)
	wantCode(t, "token", err, 401, "M_UNKNOWN_TOKEN")
	_, err = k.Login(ctx, passwordLogin("anna", "pw", account.NewSession{}), nil)
	wantCode(t, "login", err, 403, "M_USER_DEACTIVATED")
	_, err = k.ProfileFields(ctx, s.UserID, "")
	wantCode(t, "profile", err, 404, "M_NOT_FOUND")
	req := account.RegisterRequest{Username: ptr("anna"), Password: ptr("pw")}
	_, err = k.Register(ctx, req, body(t, req, `{"type":"m.login.dummy"}`))
	wantCode(t, "the name again", err, 400, "M_USER_IN_USE")
	if a, err := k.Account(ctx, s.UserID); err != nil || !a.Deactivated || !a.Erased || a.PasswordHash != nil {
		t.Errorf("account is %+v, %v", a, err)
	}
	job, err := storage.ClaimRoomWork(ctx, k.db, k.clock.now().UnixMilli(), k.clock.now().UnixMilli()+1000)
	if err != nil || job == nil || job.Kind != storage.RoomWorkLeave || job.UserID != s.UserID {
		t.Errorf("work left to do is %+v, %v, want to leave the rooms", job, err)
	}
}

func TestLockedAndSuspended(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	s := k.register(t, "anna", "pw")
	k.who(t, s.AccessToken)
	if err := k.SetLocked(ctx, s.UserID, true); err != nil {
		t.Fatal(err)
	}
	_, err := k.Authenticate(ctx, s.AccessToken, request("/_matrix/client/v3/sync"))
	if mx := wantCode(t, "locked account", err, 401, "M_USER_LOCKED"); mx.Fields["soft_logout"] != true {
		t.Error("M_USER_LOCKED must say soft_logout")
	}
	for _, path := range []string{"/_matrix/client/v3/logout", "/_matrix/client/v3/logout/all"} {
		if _, err := k.Authenticate(ctx, s.AccessToken, request(path)); err != nil {
			t.Errorf("%s of a locked account: %v", path, err)
		}
	}
	if err := k.SetLocked(ctx, s.UserID, false); err != nil {
		t.Fatal(err)
	}
	if err := k.SetSuspended(ctx, s.UserID, true); err != nil {
		t.Fatal(err)
	}
	who := k.who(t, s.AccessToken)
	if !who.Suspended {
		t.Error("the requester is not marked as suspended")
	}
	err = k.SetProfileField(ctx, who, s.UserID, "displayname", json.RawMessage(`"x"`))
	wantCode(t, "profile change of a suspended account", err, 403, "M_USER_SUSPENDED")
	if err := k.SetAdmin(ctx, s.UserID, true); err != nil {
		t.Fatal(err)
	}
	if !k.who(t, s.AccessToken).IsAdmin {
		t.Error("the requester is not marked as administrator")
	}
	wantCode(t, "nobody", k.SetAdmin(ctx, "@nobody:test", true), 404, "M_NOT_FOUND")
}

func request(path string) *http.Request {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, path, nil)
	if err != nil {
		panic(err)
	}
	r.RemoteAddr = "192.0.2.1:4711"
	r.Header.Set("User-Agent", "test\x00\xff agent")
	return r
}

func TestLastSeenIsWrittenInBatches(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	s := k.register(t, "anna", "pw")
	k.who(t, s.AccessToken)
	counts := storagetest.Count(t, k.db, func() {
		for range 100 {
			if _, err := k.Authenticate(ctx, s.AccessToken, request("/x")); err != nil {
				t.Fatal(err)
			}
		}
	})
	if counts.Statements != 0 {
		t.Errorf("100 requests cost %d statements", counts.Statements)
	}
	// Run writes what is left when it ends.
	ended, end := context.WithCancel(ctx)
	end()
	if err := k.Run(ended); err != nil {
		t.Fatal(err)
	}
	d, err := k.Device(ctx, s.UserID, s.DeviceID)
	if err != nil || d.LastSeenIP == nil || *d.LastSeenIP != "192.0.2.1" || *d.LastSeenTS != k.clock.now().UnixMilli() {
		t.Errorf("device is %+v, %v", d, err)
	}
	ips, err := k.UserIPs(ctx, s.UserID)
	if err != nil || len(ips) != 1 || ips[0].UserAgent != "test agent" {
		t.Errorf("addresses are %+v, %v", ips, err)
	}
}

func TestLoginTokens(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	s := k.register(t, "anna", "pw")
	grant, err := k.NewLoginToken(ctx, k.who(t, s.AccessToken))
	if err != nil || grant.ExpiresInMS != 120_000 {
		t.Fatalf("got %+v, %v", grant, err)
	}
	req := account.LoginRequest{Type: account.LoginToken, Token: grant.LoginToken}
	if in, err := k.Login(ctx, req, nil); err != nil || in.UserID != s.UserID {
		t.Fatalf("got %+v, %v", in, err)
	}
	_, err = k.Login(ctx, req, nil)
	wantCode(t, "a token used twice", err, 403, "M_FORBIDDEN")
	if grant, err = k.NewLoginToken(ctx, k.who(t, s.AccessToken)); err != nil {
		t.Fatal(err)
	}
	k.clock.advance(2 * time.Minute)
	_, err = k.Login(ctx, account.LoginRequest{Type: account.LoginToken, Token: grant.LoginToken}, nil)
	wantCode(t, "an expired token", err, 403, "M_FORBIDDEN")
}

func TestOpenID(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	s := k.register(t, "anna", "pw")
	tok, err := k.NewOpenIDToken(ctx, s.UserID)
	if err != nil || tok.TokenType != "Bearer" || tok.ExpiresIn != 3600 || tok.MatrixServerName != "test" {
		t.Fatalf("got %+v, %v", tok, err)
	}
	if user, err := k.OpenIDUser(ctx, tok.AccessToken); err != nil || user != s.UserID {
		t.Errorf("token stands for %q, %v", user, err)
	}
	_, err = k.Authenticate(ctx, tok.AccessToken, nil)
	wantCode(t, "use as access token", err, 401, "M_UNKNOWN_TOKEN")
	k.clock.advance(time.Hour)
	_, err = k.OpenIDUser(ctx, tok.AccessToken)
	wantCode(t, "expired", err, 401, "M_UNKNOWN_TOKEN")
	if err := k.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := k.db.QueryRow(ctx, `SELECT count(*) FROM openid_tokens`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d expired tokens are left, %v", n, err)
	}
}
