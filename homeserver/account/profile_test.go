package account_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/weft-im/weft/homeserver/account"
)

func TestSharedSecretRegistration(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(cfg *account.Config) { cfg.Registration.EnableRegistration = false })
	ctx := t.Context()
	nonce := func() string {
		n, err := k.RegistrationNonce(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	signed := func(r account.SharedSecretRequest) account.SharedSecretRequest {
		r.MAC = account.SharedSecretMAC("secret", r)
		return r
	}
	admin, err := k.RegisterSharedSecret(ctx, signed(account.SharedSecretRequest{Nonce: nonce(), Username: "Root", Password: "pw", Admin: true}))
	if err != nil || admin.UserID != "@root:test" || !k.who(t, admin.AccessToken).IsAdmin {
		t.Fatalf("got %+v, %v", admin, err)
	}
	bot := signed(account.SharedSecretRequest{Nonce: nonce(), Username: "bot", Password: "pw", UserType: ptr("bot"), DisplayName: ptr("Robot")})
	if s, err := k.RegisterSharedSecret(ctx, bot); err != nil || k.who(t, s.AccessToken).IsAdmin {
		t.Fatalf("got %+v, %v", s, err)
	}
	if name, _, _ := k.Profile(ctx, "@bot:test"); name != "Robot" {
		t.Errorf("display name is %q", name)
	}
	_, err = k.RegisterSharedSecret(ctx, bot)
	wantCode(t, "a nonce used twice", err, 400, "M_UNKNOWN")

	old := nonce()
	k.clock.advance(61 * time.Second)
	_, err = k.RegisterSharedSecret(ctx, signed(account.SharedSecretRequest{Nonce: old, Username: "late", Password: "pw"}))
	wantCode(t, "an expired nonce", err, 400, "M_UNKNOWN")

	promoted := signed(account.SharedSecretRequest{Nonce: nonce(), Username: "eve", Password: "pw"})
	promoted.Admin = true
	_, err = k.RegisterSharedSecret(ctx, promoted)
	wantCode(t, "a request that was changed", err, 403, "M_UNKNOWN")

	_, err = k.RegisterSharedSecret(ctx, signed(account.SharedSecretRequest{Nonce: nonce(), Username: "us,er", Password: "pw"}))
	wantCode(t, "a bad name", err, 400, "M_INVALID_USERNAME")
	_, err = k.RegisterSharedSecret(ctx, signed(account.SharedSecretRequest{Nonce: nonce(), Username: "root", Password: "pw"}))
	wantCode(t, "a name that is taken", err, 400, "M_USER_IN_USE")
	for name, r := range map[string]account.SharedSecretRequest{
		"no nonce": {Username: "a", Password: "b", MAC: "c"}, "no name": {Nonce: "n", Password: "b", MAC: "c"},
		"no password": {Nonce: "n", Username: "a", MAC: "c"}, "no mac": {Nonce: "n", Username: "a", Password: "b"},
		"nul in name":     {Nonce: "n", Username: "a\x00", Password: "b", MAC: "c"},
		"nul in password": {Nonce: "n", Username: "a", Password: "b\x00", MAC: "c"},
		"nul in nonce":    {Nonce: "n\x00", Username: "a", Password: "b", MAC: "c"},
		"user type":       {Nonce: "n", Username: "a", Password: "b", MAC: "c", UserType: ptr("king")},
	} {
		_, err := k.RegisterSharedSecret(ctx, r)
		wantCode(t, name, err, 400, "M_BAD_JSON")
	}
	off := newKit(t, func(cfg *account.Config) { cfg.Registration.RegistrationSharedSecret = "" })
	_, err = off.RegistrationNonce(ctx)
	wantCode(t, "without a secret", err, 400, "M_UNKNOWN")
}

func TestProfileFields(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	s := k.register(t, "anna", "pw")
	who := k.who(t, s.AccessToken)
	set := func(field, value string) error {
		return k.SetProfileField(ctx, who, s.UserID, field, json.RawMessage(value))
	}
	for _, f := range [][2]string{
		{"displayname", `"Anna \u00e9"`},
		{"avatar_url", `"mxc://test/abc"`},
		{"m.tz", `"Europe/London"`},
		{"org.example.job-title_2", `{"a":[1,null,"\u0000"]}`},
		{"com.example.null", `null`},
	} {
		if err := set(f[0], f[1]); err != nil {
			t.Fatalf("set %s: %v", f[0], err)
		}
	}
	all, err := k.ProfileFields(ctx, s.UserID, "")
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(all)
	want := `{"avatar_url":"mxc://test/abc","com.example.null":null,"displayname":"Anna é","m.tz":"Europe/London","org.example.job-title_2":{"a":[1,null,"\u0000"]}}`
	if string(got) != want {
		t.Errorf("profile is %s, want %s", got, want)
	}
	if one, err := k.ProfileFields(ctx, s.UserID, "m.tz"); err != nil || len(one) != 1 {
		t.Errorf("one field is %v, %v", one, err)
	}
	if err := k.SetProfileField(ctx, who, s.UserID, "m.tz", nil); err != nil {
		t.Fatal(err)
	}
	_, err = k.ProfileFields(ctx, s.UserID, "m.tz")
	wantCode(t, "a field that was taken away", err, 404, "M_NOT_FOUND")
	if err := set("displayname", `""`); err != nil {
		t.Fatal(err)
	}
	if name, avatar, err := k.Profile(ctx, s.UserID); err != nil || name != "" || avatar != "mxc://test/abc" {
		t.Errorf("names are %q %q, %v", name, avatar, err)
	}

	for name, tc := range map[string]struct {
		field, value string
		code         string
	}{
		"name that is a number": {"displayname", `5`, "M_INVALID_PARAM"},
		"name that is null":     {"displayname", `null`, "M_INVALID_PARAM"},
		"long name":             {"displayname", `"` + strings.Repeat("x", 257) + `"`, "M_INVALID_PARAM"},
		"nul in name":           {"displayname", `"a\u0000b"`, "M_INVALID_PARAM"},
		"long avatar":           {"avatar_url", `"` + strings.Repeat("x", 1001) + `"`, "M_INVALID_PARAM"},
		"key without dot":       {"title", `1`, "M_INVALID_PARAM"},
		"key with capitals":     {"Org.example", `1`, "M_INVALID_PARAM"},
		"key with slash":        {"org.example/x", `1`, "M_INVALID_PARAM"},
		"empty key":             {"", `1`, "M_INVALID_PARAM"},
		"long key":              {"a." + strings.Repeat("x", 254), `1`, "M_KEY_TOO_LARGE"},
		"large value":           {"org.example.big", `"` + strings.Repeat("x", 65_500) + `"`, "M_PROFILE_TOO_LARGE"},
	} {
		wantCode(t, name, set(tc.field, tc.value), 400, tc.code)
	}
	// The whole counts, not the field.
	for i := range 2 {
		err = set(fmt.Sprintf("org.example.half%d", i), `"`+strings.Repeat("x", 40_000)+`"`)
	}
	wantCode(t, "two halves", err, 400, "M_PROFILE_TOO_LARGE")

	other := k.who(t, k.register(t, "bert", "pw").AccessToken)
	err = k.SetProfileField(ctx, other, s.UserID, "displayname", json.RawMessage(`"x"`))
	wantCode(t, "somebody else's profile", err, 403, "M_FORBIDDEN")
	_, err = k.ProfileFields(ctx, "@nobody:test", "")
	wantCode(t, "nobody", err, 404, "M_NOT_FOUND")
	_, err = k.ProfileFields(ctx, "nobody", "")
	wantCode(t, "no user id", err, 400, "M_INVALID_PARAM")
	_, err = k.ProfileFields(ctx, "@anna:elsewhere", "")
	wantCode(t, "another server", err, 404, "M_NOT_FOUND")
}

func TestDevices(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	s := k.register(t, "anna", "pw")
	a := k.login(t, "anna", "pw", account.NewSession{DeviceID: ptr("A")})
	k.login(t, "anna", "pw", account.NewSession{DeviceID: ptr("B")})
	if err := k.RenameDevice(ctx, s.UserID, "A", ptr("phone")); err != nil {
		t.Fatal(err)
	}
	if err := k.RenameDevice(ctx, s.UserID, "A", nil); err != nil {
		t.Fatal(err)
	}
	if d, err := k.Device(ctx, s.UserID, "A"); err != nil || *d.DisplayName != "phone" {
		t.Errorf("device is %+v, %v", d, err)
	}
	wantCode(t, "rename of nothing", k.RenameDevice(ctx, s.UserID, "X", ptr("x")), 404, "M_NOT_FOUND")
	wantCode(t, "long name", k.RenameDevice(ctx, s.UserID, "A", ptr(strings.Repeat("x", 101))), 400, "M_TOO_LARGE")
	_, err := k.Device(ctx, s.UserID, "X")
	wantCode(t, "nothing", err, 404, "M_NOT_FOUND")
	if err := k.DeleteDevices(ctx, s.UserID, []string{"A", "X"}); err != nil {
		t.Fatal(err)
	}
	_, err = k.Authenticate(ctx, a.AccessToken, nil)
	wantCode(t, "token of a deleted device", err, 401, "M_UNKNOWN_TOKEN")
	if devices, err := k.Devices(ctx, s.UserID); err != nil || len(devices) != 2 {
		t.Errorf("devices are %+v, %v, want two", devices, err)
	}
}

func TestInteractive(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(cfg *account.Config) { cfg.Login.UIAuth.SessionTimeout = time.Minute })
	ctx := t.Context()
	anna := k.who(t, k.register(t, "anna", "pw").AccessToken)
	k.register(t, "bert", "bpw")
	in := account.Interactive{Operation: "op", Who: anna, Flows: [][]string{{"m.login.dummy", "m.login.password"}}}
	try := func(body string) (*account.Passed, *account.Challenge, error) {
		in.Body = json.RawMessage(body)
		p, err := k.Interact(ctx, in)
		var c *account.Challenge
		errors.As(err, &c)
		return p, c, err
	}
	_, c, err := try(`{"key":"value"}`)
	if c == nil || c.Params == nil {
		t.Fatalf("got %v", err)
	}
	auth := func(session, rest string) string { return `{"auth":{"session":"` + session + `",` + rest + `}}` }
	password := func(user, pw string) string {
		return `"type":"m.login.password","identifier":{"type":"m.id.user","user":"` + user + `"},"password":"` + pw + `"`
	}
	if _, c2, _ := try(auth(c.Session, password("anna", "pw"))); c2 == nil || c2.Code == "" || len(c2.Completed) != 0 {
		t.Errorf("stages must come in order, got %+v", c2)
	}
	if _, c2, _ := try(auth(c.Session, `"type":"m.login.dummy"`)); c2 == nil || c2.Code != "" || len(c2.Completed) != 1 || c2.Session != c.Session {
		t.Errorf("after the first stage got %+v", c2)
	}
	if _, c2, _ := try(auth(c.Session, password("anna", "wrong"))); c2 == nil || c2.Code != "M_FORBIDDEN" || len(c2.Completed) != 1 {
		t.Errorf("after a wrong password got %+v", c2)
	}
	_, _, err = try(auth(c.Session, password("bert", "bpw")))
	wantCode(t, "somebody else's password", err, 403, "M_FORBIDDEN")
	in.Operation = "other"
	_, _, err = try(auth(c.Session, password("anna", "pw")))
	wantCode(t, "another operation", err, 403, "M_FORBIDDEN")
	in.Operation = "op"
	p, _, err := try(auth(c.Session, password("anna", "pw")))
	if err != nil || string(p.Request) != `{"key":"value"}` || p.Stages["m.login.password"] != "@anna:test" {
		t.Fatalf("got %+v, %v", p, err)
	}
	_, _, err = try(auth(c.Session, password("anna", "pw")))
	wantCode(t, "a session that is over", err, 400, "M_UNKNOWN")

	// Who has passed a moment ago need not again, where the operation lets that count.
	if _, c, _ := try(`{}`); c == nil {
		t.Error("an operation that must ask did not")
	}
	in.MayReuse = true
	if _, _, err := try(`{}`); err != nil {
		t.Errorf("asked again: %v", err)
	}
	k.clock.advance(time.Minute)
	if _, c, _ := try(`{}`); c == nil {
		t.Error("not asked again after the timeout")
	}

	for name, body := range map[string]string{
		"auth is a list": `{"auth":[]}`, "session is a number": `{"auth":{"session":5}}`, "nul": `{"auth":{"session":"a\u0000"}}`,
	} {
		if _, _, err := try(body); err == nil || errors.As(err, &c) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	in.Flows = [][]string{{"m.login.password"}}
	counts := func() (n int) {
		if err := k.db.QueryRow(ctx, `SELECT count(*) FROM ui_auth_sessions`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := counts()
	if _, _, err := try(`{"auth":{` + password("anna", "pw") + `}}`); err != nil {
		t.Errorf("everything in one request: %v", err)
	}
	if counts() != before {
		t.Error("a request that needed no session made one")
	}
}

func TestPasswordsAreSynapses(t *testing.T) {
	t.Parallel()
	h, err := account.NewHasher(4, "pepper")
	if err != nil {
		t.Fatal(err)
	}
	hash, err := h.Hash(t.Context(), "ﬁne") // a ligature
	if err != nil || !strings.HasPrefix(hash, "$2b$04$") {
		t.Fatalf("hash is %q, %v", hash, err)
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte("finepepper")) != nil {
		t.Error("the hash is not of the normalised password and the pepper")
	}
	long := strings.Repeat("x", 100)
	for _, tc := range []struct {
		hash, password string
		want           bool
	}{
		{hash, "fine", true}, {hash, "Fine", false}, {hash, "", false}, {"", "fine", false}, {"nonsense", "fine", false},
	} {
		if got, err := h.Check(t.Context(), tc.hash, tc.password); err != nil || got != tc.want {
			t.Errorf("Check(%q, %q) = %v, %v", tc.hash, tc.password, got, err)
		}
	}
	if hash, err := h.Hash(t.Context(), long); err != nil {
		t.Errorf("long password: %v", err)
	} else if ok, err := h.Check(t.Context(), hash, long); !ok || err != nil {
		t.Errorf("long password does not match: %v", err)
	}
	// Nobody's hash takes a whole bcrypt too, so that time does not tell who has an account.
	slow, err := account.NewHasher(10, "")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := slow.Check(t.Context(), "", "x"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 5*time.Millisecond {
		t.Errorf("no hash was checked in %v", took)
	}
	for _, rounds := range []int{-1, 3, 32} {
		if _, err := account.NewHasher(rounds, ""); err == nil {
			t.Errorf("%d rounds were accepted", rounds)
		}
	}
}

func TestTokenForm(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, localpart := range []string{"a", "user_with_underscores", "é", "", "a/b+c=d"} {
		for range 50 {
			token := account.NewToken(account.AccessTokenKind, localpart)
			kind, got, ok := account.ParseToken(token)
			if !ok || kind != "syt" || got != localpart || seen[token] {
				t.Fatalf("%q parses as %q, %v", token, got, ok)
			}
			seen[token] = true
		}
	}
	// CRC-32 in base 62, digits first, then small letters: computed apart from this package.
	const known = "syt_YW5uYQ_abcdefghijABCDEFGHIJ_09OQG0"
	if _, localpart, ok := account.ParseToken(known); !ok || localpart != "anna" {
		t.Errorf("%q does not parse", known)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("syt_YW5uYQ_aaaaaaaaaaaaaaaaaaaa_000000")
	f.Add(account.NewToken(account.RefreshTokenKind, "anna"))
	f.Add("___")
	f.Fuzz(func(t *testing.T, token string) {
		kind, localpart, ok := account.ParseToken(token)
		if !ok {
			return
		}
		// What parses is exactly what NewToken could have made of it.
		head := string(kind) + "_"
		if !strings.HasPrefix(token, head) || strings.Count(token, "_") < 3 {
			t.Fatalf("%q parsed as %q %q", token, kind, localpart)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	b.Run("hash", func(b *testing.B) {
		token := account.NewToken(account.AccessTokenKind, "anna")
		for b.Loop() {
			account.HashToken(token)
		}
	})
	b.Run("parse", func(b *testing.B) {
		token := account.NewToken(account.AccessTokenKind, "anna")
		for b.Loop() {
			account.ParseToken(token)
		}
	})
}
