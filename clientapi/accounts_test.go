package clientapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/accountdata"
	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/typing"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// accountAPI is two processes that serve everything about accounts: the main process, which writes all streams, and a
// worker, which writes none.
type accountAPI struct {
	tb       testing.TB
	db       *storage.DB
	routers  []http.Handler
	accounts []*account.Service
	rooms    *streamstest.Rooms
	owner    []*streamstest.Process
}

func accountGroups(a *account.Service, t *typing.Service, r *receipts.Service, d *accountdata.Service) []homeserver.Group {
	return []homeserver.Group{
		clientapi.Registration(a), clientapi.Login(a), clientapi.Logout(a), clientapi.Devices(a), clientapi.Account(a),
		clientapi.Profile(a, clientapi.ProfileConfig{}), clientapi.Versions(a, clientapi.VersionsConfig{}),
		clientapi.WellKnown(clientapi.WellKnownConfig{
			ServerName: "test", PublicBaseURL: "https://matrix.test/", ServeServer: true, AdminContact: "mailto:admin@test",
		}),
		clientapi.AdminRegister(a), clientapi.AdminAccounts(a),
		clientapi.Typing(t), clientapi.Receipts(r), clientapi.AccountData(d),
	}
}

func newAccountAPI(tb testing.TB, change func(cfg *account.Config)) *accountAPI {
	tb.Helper()
	cluster := streamstest.New(tb, nil, "worker")
	api := &accountAPI{tb: tb, db: cluster.DB, owner: cluster.Processes}
	for i, p := range cluster.Processes {
		check := func(err error) {
			tb.Helper()
			if err != nil {
				tb.Fatal(err)
			}
		}
		caches, err := cache.NewGroup(cache.GroupConfig{DB: p.DB, Client: p.Client, IDs: p.IDs(tb, "caches")})
		check(err)
		cfg := account.Config{ServerName: streamstest.ServerName, DB: p.DB, Caches: caches}
		cfg.Registration.EnableRegistration = true
		cfg.Registration.EnableSetDisplayname, cfg.Registration.EnableSetAvatarURL = true, true
		cfg.Registration.Enable3PIDChanges = true
		cfg.Registration.BcryptRounds = 4
		cfg.Registration.RegistrationSharedSecret = "secret"
		cfg.Login.PasswordConfig.Enabled, cfg.Login.PasswordConfig.LocalDBEnabled = config.PasswordOn, true
		cfg.Login.LoginViaExistingSession.Enabled, cfg.Login.LoginViaExistingSession.RequireUIAuth = true, true
		if change != nil {
			change(&cfg)
		}
		a, err := account.New(cfg)
		check(err)
		rooms := p.Rooms(tb)
		if i == 0 {
			api.rooms = rooms
		}
		d, err := accountdata.New(accountdata.Config{
			DB: p.DB, Client: p.Client, Writers: p.Writers, RPC: p.RPC, IDs: p.IDsIf(tb, "account_data"),
		})
		check(err)
		r, err := receipts.New(receipts.Config{
			DB: p.DB, Rooms: rooms.Store, Markers: d, Client: p.Client, Writers: p.Writers, RPC: p.RPC, IDs: p.IDsIf(tb, "receipts"),
		})
		check(err)
		t, err := typing.New(typing.Config{Rooms: rooms.Store, Client: p.Client, Writers: p.Writers, RPC: p.RPC})
		check(err)
		p.Run(t.Run)
		p.Run(a.Run)
		router, err := homeserver.NewRouter(homeserver.RouterConfig{Groups: accountGroups(a, t, r, d), Authenticator: a})
		check(err)
		api.routers, api.accounts = append(api.routers, router), append(api.accounts, a)
	}
	cluster.Start(tb)
	return api
}

// do sends a request to one process.
func (a *accountAPI) do(process int, token, method, path, body string) (int, gjson.Result) {
	a.tb.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	a.routers[process].ServeHTTP(w, r)
	if w.Code == http.StatusInternalServerError {
		a.tb.Errorf("%s %s gave 500: %s", method, path, w.Body)
	}
	return w.Code, gjson.ParseBytes(w.Body.Bytes())
}

// must is do for requests that succeed.
func (a *accountAPI) must(process int, token, method, path, body string) gjson.Result {
	a.tb.Helper()
	code, result := a.do(process, token, method, path, body)
	if code != http.StatusOK {
		a.tb.Fatalf("%s %s gave %d: %s", method, path, code, result.Raw)
	}
	return result
}

// register makes an account and returns its access token.
func (a *accountAPI) register(name string) string {
	a.tb.Helper()
	return a.must(0, "", "POST", "/_matrix/client/v3/register",
		`{"auth":{"type":"m.login.dummy"},"username":"`+name+`","password":"pw"}`).Get("access_token").Str
}

// auth is the "auth" of a user with the password "pw".
func auth(name string) string {
	return `"auth":{"type":"m.login.password","identifier":{"type":"m.id.user","user":"` + name + `"},"password":"pw"}`
}

// A whole life of an account, each step on both processes and under every prefix that has it.
func TestAccountsOverEveryPrefix(t *testing.T) {
	t.Parallel()
	for process, name := range []string{"owner of the streams", "another process"} {
		for _, prefix := range []string{"v3", "r0", "unstable"} {
			t.Run(name+" "+prefix, func(t *testing.T) {
				t.Parallel()
				api := newAccountAPI(t, nil)
				base := "/_matrix/client/" + prefix
				do := func(token, method, path, body string) (int, gjson.Result) {
					t.Helper()
					return api.do(process, token, method, base+path, body)
				}
				must := func(token, method, path, body string) gjson.Result {
					t.Helper()
					return api.must(process, token, method, base+path, body)
				}
				must("", "GET", "/register/available?username=anna", "")
				code, challenge := do("", "POST", "/register", `{"username":"anna","password":"pw"}`)
				if code != 401 || challenge.Get("errcode").Exists() || !challenge.Get("flows.0.stages").IsArray() || !challenge.Get("params").IsObject() {
					t.Fatalf("register gave %d %s", code, challenge.Raw)
				}
				session := challenge.Get("session").Str
				in := must("", "POST", "/register", `{"auth":{"type":"m.login.dummy","session":"`+session+`"}}`)
				if in.Get("user_id").Str != "@anna:test" || in.Get("device_id").Str == "" || in.Get("home_server").Str != "test" {
					t.Fatalf("register gave %s", in.Raw)
				}
				token := in.Get("access_token").Str
				if me := must(token, "GET", "/account/whoami", ""); me.Get("user_id").Str != "@anna:test" || me.Get("is_guest").Bool() {
					t.Errorf("whoami gave %s", me.Raw)
				}
				if me := must("", "GET", "/account/whoami?access_token="+token, ""); me.Get("user_id").Str != "@anna:test" {
					t.Errorf("whoami with the token in the query gave %s", me.Raw)
				}
				if flows := must("", "GET", "/login", ""); flows.Get(`flows.#(type=="m.login.password")`).Raw == "" {
					t.Errorf("login flows are %s", flows.Raw)
				}
				second := must("", "POST", "/login", `{"type":"m.login.password","user":"anna","password":"pw","device_id":"D2","refresh_token":true}`)
				refreshed := must("", "POST", "/refresh", `{"refresh_token":"`+second.Get("refresh_token").Str+`"}`)
				if refreshed.Get("expires_in_ms").Int() == 0 || refreshed.Get("refresh_token").Str == "" {
					t.Errorf("refresh gave %s", refreshed.Raw)
				}
				must(token, "PUT", "/devices/D2", `{"display_name":"laptop"}`)
				if d := must(token, "GET", "/devices/D2", ""); d.Get("display_name").Str != "laptop" {
					t.Errorf("device is %s", d.Raw)
				}
				if code, c := do(token, "DELETE", "/devices/D2", ""); code != 401 || c.Get("session").Str == "" {
					t.Errorf("delete without a body gave %d %s", code, c.Raw)
				}
				must(token, "DELETE", "/devices/D2", `{`+auth("anna")+`}`)
				if ds := must(token, "GET", "/devices", ""); ds.Get("devices.#").Int() != 1 {
					t.Errorf("devices are %s", ds.Raw)
				}
				must(token, "POST", "/delete_devices", `{"devices":["NONE"],`+auth("anna")+`}`)
				must(token, "PUT", "/profile/@anna:test/displayname", `{"displayname":"Anna"}`)
				must(token, "PUT", "/profile/@anna:test/m.tz", `{"m.tz":"Europe/London"}`)
				if p := must("", "GET", "/profile/@anna:test", ""); p.Raw != `{"displayname":"Anna","m.tz":"Europe/London"}` {
					t.Errorf("profile is %s", p.Raw)
				}
				must(token, "DELETE", "/profile/@anna:test/m.tz", "")
				must(token, "POST", "/account/password", `{"new_password":"pw",`+auth("anna")+`}`)
				if c := must(token, "GET", "/capabilities", ""); c.Get(`capabilities.m\.room_versions.available.12`).Str != "stable" || !c.Get(`capabilities.m\.change_password.enabled`).Bool() {
					t.Errorf("capabilities are %s", c.Raw)
				}
				must("", "GET", "/password_policy", "")
				if p := must(token, "GET", "/account/3pid", ""); !p.Get("threepids").IsArray() {
					t.Errorf("3pid gave %s", p.Raw)
				}
				if o := must(token, "POST", "/user/@anna:test/openid/request_token", "{}"); o.Get("token_type").Str != "Bearer" {
					t.Errorf("openid gave %s", o.Raw)
				}

				// What travels on streams.
				room := api.rooms.Create("@anna:test")
				event := api.rooms.Send(room, "@anna:test", `{"body":"x"}`)
				must(token, "PUT", "/rooms/"+room+"/typing/@anna:test", `{"typing":true,"timeout":1000}`)
				must(token, "POST", "/rooms/"+room+"/receipt/m.read/"+event, "")
				must(token, "POST", "/rooms/"+room+"/receipt/m.read.private/"+event, `{"thread_id":"main"}`)
				must(token, "POST", "/rooms/"+room+"/read_markers", `{"m.fully_read":"`+event+`","m.read":"`+event+`"}`)
				if m := must(token, "GET", "/user/@anna:test/rooms/"+room+"/account_data/m.fully_read", ""); m.Get("event_id").Str != event {
					t.Errorf("m.fully_read is %s", m.Raw)
				}
				must(token, "PUT", "/user/@anna:test/account_data/org.test%2Fx", `{"a":[1,2]}`)
				if d := must(token, "GET", "/user/@anna:test/account_data/org.test%2Fx", ""); d.Raw != `{"a":[1,2]}` {
					t.Errorf("account data is %s", d.Raw)
				}
				must(token, "PUT", "/user/@anna:test/rooms/"+room+"/tags/u.x%2Fy", `{"order":0.1}`)
				if d := must(token, "GET", "/user/@anna:test/rooms/"+room+"/tags", ""); d.Raw != `{"tags":{"u.x/y":{"order":0.1}}}` {
					t.Errorf("tags are %s", d.Raw)
				}
				must(token, "DELETE", "/user/@anna:test/rooms/"+room+"/tags/u.x%2Fy", "")

				must(token, "POST", "/logout", "")
				if code, e := do(token, "GET", "/account/whoami", ""); code != 401 || e.Get("errcode").Str != "M_UNKNOWN_TOKEN" {
					t.Errorf("after logout whoami gave %d %s", code, e.Raw)
				}
				token = must("", "POST", "/login", `{"type":"m.login.password","user":"anna","password":"pw"}`).Get("access_token").Str
				must(token, "POST", "/logout/all", "{}")
				token = must("", "POST", "/login", `{"type":"m.login.password","user":"anna","password":"pw"}`).Get("access_token").Str
				if d := must(token, "POST", "/account/deactivate", `{"erase":true,`+auth("anna")+`}`); d.Get("id_server_unbind_result").Str == "" {
					t.Errorf("deactivate gave %s", d.Raw)
				}
				if code, _ := do("", "POST", "/login", `{"type":"m.login.password","user":"anna","password":"pw"}`); code != 403 {
					t.Errorf("login after deactivation gave %d", code)
				}
			})
		}
	}
}

func TestSharedSecretRegistrationOverHTTP(t *testing.T) {
	t.Parallel()
	api := newAccountAPI(t, func(cfg *account.Config) { cfg.Registration.EnableRegistration = false })
	const path = "/_synapse/admin/v1/register"
	// The nonce of one process is good on the other.
	nonce := api.must(0, "", "GET", path, "").Get("nonce").Str
	req := account.SharedSecretRequest{Nonce: nonce, Username: "Root", Password: "pw", Admin: true}
	req.MAC = account.SharedSecretMAC("secret", req)
	b, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	admin := api.must(1, "", "POST", path, string(b))
	if admin.Get("user_id").Str != "@root:test" {
		t.Fatalf("got %s", admin.Raw)
	}
	if code, e := api.do(1, "", "POST", path, string(b)); code != 400 {
		t.Errorf("the same again gave %d %s", code, e.Raw)
	}
	if code, _ := api.do(0, "", "POST", "/_matrix/client/v3/register", `{"username":"x","password":"y"}`); code != 403 {
		t.Errorf("open registration gave %d", code)
	}

	token := admin.Get("access_token").Str
	if _, _, err := api.accounts[0].Create(t.Context(), account.NewAccount{Localpart: "anna"}); err != nil {
		t.Fatal(err)
	}
	for _, what := range [][2]string{{"lock", "locked"}, {"suspend", "suspended"}} {
		path := "/_matrix/client/v1/admin/" + what[0] + "/"
		if s := api.must(1, token, "GET", path+"@anna:test", ""); s.Get(what[1]).Bool() {
			t.Errorf("%s is %s", what[0], s.Raw)
		}
		api.must(0, token, "PUT", path+"@anna:test", `{"`+what[1]+`":true}`)
		if s := api.must(1, token, "GET", path+"@anna:test", ""); !s.Get(what[1]).Bool() {
			t.Errorf("%s is %s", what[0], s.Raw)
		}
		for user, want := range map[string]int{"@root:test": 403, "@nobody:test": 404, "@anna:elsewhere": 400, "anna": 400} {
			if code, e := api.do(0, token, "PUT", path+user, `{"`+what[1]+`":true}`); code != want {
				t.Errorf("%s of %s gave %d %s, want %d", what[0], user, code, e.Raw, want)
			}
		}
		if code, e := api.do(0, token, "PUT", path+"@anna:test", `{}`); code != 400 {
			t.Errorf("%s without a value gave %d %s", what[0], code, e.Raw)
		}
	}
	api.must(0, token, "GET", "/_matrix/client/v3/admin/whois/@root:test", "")
	api.must(0, token, "GET", "/_synapse/admin/v1/whois/@root:test", "")
}

// A change on one process is felt on the others, where what it changes was cached.
func TestSessionsEndOnEveryProcess(t *testing.T) {
	t.Parallel()
	api := newAccountAPI(t, nil)
	first := api.register("anna")
	const whoami = "/_matrix/client/v3/account/whoami"
	for i := range api.routers {
		api.must(i, first, "GET", whoami, "")
	}
	api.must(0, first, "POST", "/_matrix/client/v3/logout", "")
	if code, _ := api.do(0, first, "GET", whoami, ""); code != 401 {
		t.Errorf("on the process that did it, whoami gave %d", code)
	}
	var at int64
	if err := api.db.QueryRow(t.Context(), `SELECT max(stream_id) FROM cache_invalidations`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	if err := api.owner[1].Client.WaitFor(t.Context(), "caches", "master", at); err != nil {
		t.Fatal(err)
	}
	if code, _ := api.do(1, first, "GET", whoami, ""); code != 401 {
		t.Errorf("on the other process, whoami gave %d", code)
	}
}

func TestGuestsOverHTTP(t *testing.T) {
	t.Parallel()
	api := newAccountAPI(t, func(cfg *account.Config) { cfg.Registration.AllowGuestAccess = true })
	guest := api.must(0, "", "POST", "/_matrix/client/v3/register?kind=guest", `{"device_id":"IGNORED","initial_device_display_name":"x"}`)
	token, user := guest.Get("access_token").Str, guest.Get("user_id").Str
	if guest.Get("device_id").Str == "IGNORED" {
		t.Error("a guest's device id must be the server's choice")
	}
	const v3 = "/_matrix/client/v3"
	for _, tc := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/account/whoami", "", 200},
		{"GET", "/devices", "", 200},
		{"PUT", "/devices/" + guest.Get("device_id").Str, `{"display_name":"y"}`, 200},
		{"PUT", "/profile/" + user + "/displayname", `{"displayname":"y"}`, 200},
		{"DELETE", "/profile/" + user + "/displayname", "", 200},
		{"PUT", "/profile/" + user + "/avatar_url", `{"avatar_url":"mxc://a/b"}`, 403},
		{"DELETE", "/devices/X", "", 403},
		{"POST", "/delete_devices", `{"devices":[]}`, 403},
		{"POST", "/account/password", `{"new_password":"x"}`, 403},
		{"POST", "/account/deactivate", `{}`, 403},
		{"GET", "/account/3pid", "", 403},
		{"GET", "/capabilities", "", 403},
		{"PUT", "/user/" + user + "/account_data/x", `{}`, 403},
		{"POST", "/user/" + user + "/openid/request_token", `{}`, 403},
		{"PUT", "/rooms/!a:test/typing/" + user, `{"typing":true}`, 403},
		{"POST", "/logout", "", 200},
	} {
		code, e := api.do(1, token, tc.method, v3+tc.path, tc.body)
		if code != tc.want {
			t.Errorf("%s %s gave %d %s, want %d", tc.method, tc.path, code, e.Raw, tc.want)
		}
		if code == 403 && e.Get("errcode").Str != "M_GUEST_ACCESS_FORBIDDEN" {
			t.Errorf("%s %s gave %s", tc.method, tc.path, e.Raw)
		}
	}
}

// rowsOfAccounts counts everything a request about accounts could write.
func (a *accountAPI) rowsOfAccounts() (n int) {
	a.tb.Helper()
	err := a.db.QueryRow(a.tb.Context(), `
SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM devices) + (SELECT count(*) FROM access_tokens) + (SELECT count(*) FROM account_data)
     + (SELECT count(*) FROM receipts) + (SELECT count(*) FROM profile_fields) + (SELECT count(*) FROM login_tokens) + (SELECT count(*) FROM openid_tokens)
     + (SELECT count(*) FROM user_ids)`).Scan(&n)
	if err != nil {
		a.tb.Fatal(err)
	}
	return n
}

// Whatever is wrong with a request has an answer of its own, and leaves nothing behind.
func TestBadAccountRequests(t *testing.T) {
	t.Parallel()
	api := newAccountAPI(t, nil)
	token := api.register("anna")
	api.register("bert")
	room := api.rooms.Create("@anna:test")
	other := api.rooms.Create("@bert:test")
	event := api.rooms.Send(room, "@anna:test", `{"body":"x"}`)
	elsewhere := api.rooms.Send(other, "@bert:test", `{"body":"x"}`)
	const v3 = "/_matrix/client/v3"
	mine, typingPath := v3+"/user/@anna:test", v3+"/rooms/"+room+"/typing/@anna:test"
	receiptPath := v3 + "/rooms/" + room + "/receipt/"
	long := strings.Repeat("x", 300)
	bodies := []struct{ name, body, code string }{
		{"not json", "{", "M_NOT_JSON"},
		{"empty", "", "M_NOT_JSON"},
		{"bad utf-8", "{\"a\":\"\xff\"}", "M_NOT_JSON"},
		{"trailing text", "{} x", "M_NOT_JSON"},
		{"list", "[]", "M_BAD_JSON"},
		{"null", "null", "M_BAD_JSON"},
		{"text", `"x"`, "M_BAD_JSON"},
	}
	type request struct {
		name, token, method, path, body string
		status                          int
		code                            string
	}
	var cases []request
	// Every endpoint that needs a body refuses what is none.
	for _, e := range []struct{ token, method, path string }{
		{"", "POST", v3 + "/register"},
		{"", "POST", v3 + "/login"},
		{"", "POST", v3 + "/refresh"},
		{token, "PUT", v3 + "/devices/D"},
		{token, "POST", v3 + "/delete_devices"},
		{token, "POST", v3 + "/account/password"},
		{token, "PUT", v3 + "/profile/@anna:test/displayname"},
		{token, "PUT", typingPath},
		{token, "POST", v3 + "/rooms/" + room + "/read_markers"},
		{token, "PUT", mine + "/account_data/a"},
		{token, "PUT", mine + "/rooms/" + room + "/account_data/a"},
		{token, "PUT", mine + "/rooms/" + room + "/tags/a"},
		{token, "POST", v3 + "/account/3pid/delete"},
		{"", "POST", "/_synapse/admin/v1/register"},
	} {
		for _, b := range bodies {
			cases = append(cases, request{b.name, e.token, e.method, e.path, b.body, 400, b.code})
		}
		cases = append(cases, request{"too long", e.token, e.method, e.path, `{"a":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "M_TOO_LARGE"})
	}
	cases = append(cases, []request{
		{"no token", "", "GET", v3 + "/account/whoami", "", 401, "M_MISSING_TOKEN"},
		{"no token", "", "POST", v3 + "/logout", "", 401, "M_MISSING_TOKEN"},
		{"no token", "", "GET", v3 + "/capabilities", "", 401, "M_MISSING_TOKEN"},
		{"wrong token", "x", "POST", v3 + "/logout", "", 401, "M_UNKNOWN_TOKEN"},
		{"unknown path", token, "GET", v3 + "/account/none", "", 404, "M_UNRECOGNIZED"},
		{"wrong method", token, "PATCH", v3 + "/login", "", 405, "M_UNRECOGNIZED"},

		{"kind", "", "POST", v3 + "/register?kind=robot", "{}", 400, "M_INVALID_PARAM"},
		{"guests are not allowed", "", "POST", v3 + "/register?kind=guest", "{}", 403, "M_FORBIDDEN"},
		{"name is a number", "", "POST", v3 + "/register", `{"username":5}`, 400, "M_BAD_JSON"},
		{"password is a list", "", "POST", v3 + "/register", `{"username":"x","password":[]}`, 400, "M_BAD_JSON"},
		{"auth is text", "", "POST", v3 + "/register", `{"username":"x","auth":"y"}`, 400, "M_BAD_JSON"},
		{"name is taken", "", "POST", v3 + "/register", `{"username":"anna","password":"pw"}`, 400, "M_USER_IN_USE"},
		{"bad name", "", "POST", v3 + "/register", `{"username":"a$b","password":"pw"}`, 400, "M_INVALID_USERNAME"},
		{"application service", "", "POST", v3 + "/register", `{"type":"m.login.application_service","username":"x"}`, 401, "M_MISSING_TOKEN"},
		{"not an application service", token, "POST", v3 + "/register", `{"type":"m.login.application_service","username":"x"}`, 403, "M_FORBIDDEN"},
		{"available without name", "", "GET", v3 + "/register/available", "", 400, "M_MISSING_PARAM"},
		{"name is taken", "", "GET", v3 + "/register/available?username=anna", "", 400, "M_USER_IN_USE"},
		{"bad name", "", "GET", v3 + "/register/available?username=a,b", "", 400, "M_INVALID_USERNAME"},
		{"bad utf-8 in name", "", "GET", v3 + "/register/available?username=%ff", "", 400, "M_INVALID_PARAM"},
		{"validity without token", "", "GET", "/_matrix/client/v1/register/m.login.registration_token/validity", "", 400, "M_MISSING_PARAM"},
		{"mail", "", "POST", v3 + "/register/email/requestToken", "{}", 403, "M_THREEPID_DENIED"},
		{"phone", "", "POST", v3 + "/account/password/msisdn/requestToken", "{}", 403, "M_THREEPID_DENIED"},

		{"login type", "", "POST", v3 + "/login", `{"type":"x"}`, 400, "M_UNKNOWN"},
		{"no login type", "", "POST", v3 + "/login", `{}`, 400, "M_MISSING_PARAM"},
		{"identifier is text", "", "POST", v3 + "/login", `{"type":"m.login.password","identifier":"x","password":"pw"}`, 400, "M_BAD_JSON"},
		{"wrong password", "", "POST", v3 + "/login", `{"type":"m.login.password","user":"anna","password":"x"}`, 403, "M_FORBIDDEN"},
		{"nul in name", "", "POST", v3 + "/login", `{"type":"m.login.password","user":"a\u0000","password":"x"}`, 403, "M_FORBIDDEN"},
		{"nul in device", "", "POST", v3 + "/login", `{"type":"m.login.password","user":"anna","password":"pw","device_id":"a\u0000"}`, 400, "M_INVALID_PARAM"},
		{"unknown refresh token", "", "POST", v3 + "/refresh", `{"refresh_token":"x"}`, 401, "M_UNKNOWN_TOKEN"},
		{"no refresh token", "", "POST", v3 + "/refresh", `{}`, 400, "M_MISSING_PARAM"},
		{"login token needs a password", token, "POST", "/_matrix/client/v1/login/get_token", `{}`, 401, ""},

		{"unknown device", token, "GET", v3 + "/devices/X", "", 404, "M_NOT_FOUND"},
		{"unknown device", token, "PUT", v3 + "/devices/X", `{"display_name":"x"}`, 404, "M_NOT_FOUND"},
		{"device name is a number", token, "PUT", v3 + "/devices/X", `{"display_name":5}`, 400, "M_BAD_JSON"},
		{"nul in device", token, "GET", v3 + "/devices/a%00b", "", 400, "M_INVALID_PARAM"},
		{"no devices", token, "POST", v3 + "/delete_devices", `{}`, 400, "M_MISSING_PARAM"},
		{"devices are numbers", token, "POST", v3 + "/delete_devices", `{"devices":[5]}`, 400, "M_BAD_JSON"},
		{"nul in devices", token, "POST", v3 + "/delete_devices", `{"devices":["a\u0000"]}`, 400, "M_INVALID_PARAM"},
		{"somebody else's password", token, "DELETE", v3 + "/devices/X", `{` + auth("bert") + `}`, 403, "M_FORBIDDEN"},
		{"wrong password", token, "DELETE", v3 + "/devices/X", `{"auth":{"type":"m.login.password","user":"anna","password":"x"}}`, 401, "M_FORBIDDEN"},
		{"unknown session", token, "DELETE", v3 + "/devices/X", `{"auth":{"session":"x"}}`, 400, "M_UNKNOWN"},
		{"no new password", token, "POST", v3 + "/account/password", `{` + auth("anna") + `}`, 400, "M_MISSING_PARAM"},
		{"empty password", token, "POST", v3 + "/account/password", `{"new_password":""}`, 400, "M_INVALID_PARAM"},
		{"deactivate without password", token, "POST", v3 + "/account/deactivate", `{}`, 401, ""},
		{"no validated session", token, "POST", v3 + "/account/3pid/add", `{}`, 400, "M_THREEPID_AUTH_FAILED"},
		{"bind without parameters", token, "POST", v3 + "/account/3pid/bind", `{}`, 400, "M_MISSING_PARAM"},
		{"delete without parameters", token, "POST", v3 + "/account/3pid/delete", `{}`, 400, "M_MISSING_PARAM"},
		{"somebody else's openid", token, "POST", v3 + "/user/@bert:test/openid/request_token", `{}`, 403, "M_FORBIDDEN"},

		{"nobody's profile", "", "GET", v3 + "/profile/@nobody:test", "", 404, "M_NOT_FOUND"},
		{"no user id", "", "GET", v3 + "/profile/nobody", "", 400, "M_INVALID_PARAM"},
		{"unset field", "", "GET", v3 + "/profile/@anna:test/m.tz", "", 404, "M_NOT_FOUND"},
		{"bad key", "", "GET", v3 + "/profile/@anna:test/Bad", "", 400, "M_INVALID_PARAM"},
		{"long key", token, "PUT", v3 + "/profile/@anna:test/a." + long, `{"a":1}`, 400, "M_MISSING_PARAM"},
		{"long key", token, "PUT", v3 + "/profile/@anna:test/a." + long, `{"a.` + long + `":1}`, 400, "M_KEY_TOO_LARGE"},
		{"other key in body", token, "PUT", v3 + "/profile/@anna:test/displayname", `{"avatar_url":"x"}`, 400, "M_MISSING_PARAM"},
		{"name is a number", token, "PUT", v3 + "/profile/@anna:test/displayname", `{"displayname":5}`, 400, "M_INVALID_PARAM"},
		{"somebody else's name", token, "PUT", v3 + "/profile/@bert:test/displayname", `{"displayname":"x"}`, 403, "M_FORBIDDEN"},
		{"another server's name", token, "PUT", v3 + "/profile/@bert:else/displayname", `{"displayname":"x"}`, 400, "M_INVALID_PARAM"},

		{"typing as somebody else", token, "PUT", v3 + "/rooms/" + room + "/typing/@bert:test", `{"typing":true}`, 403, "M_FORBIDDEN"},
		{"typing elsewhere", token, "PUT", v3 + "/rooms/" + other + "/typing/@anna:test", `{"typing":true}`, 403, "M_FORBIDDEN"},
		{"typing nowhere", token, "PUT", v3 + "/rooms/!x%2Fy:test/typing/@anna:test", `{"typing":true}`, 403, "M_FORBIDDEN"},
		{"typing is text", token, "PUT", typingPath, `{"typing":"yes"}`, 400, "M_BAD_JSON"},
		{"timeout is text", token, "PUT", typingPath, `{"typing":true,"timeout":"1"}`, 400, "M_BAD_JSON"},
		{"no typing", token, "PUT", typingPath, `{}`, 400, "M_MISSING_PARAM"},

		{"receipt type", token, "POST", receiptPath + "m.write/" + event, "{}", 400, "M_INVALID_PARAM"},
		{"no event", token, "POST", receiptPath + "m.read/x", "{}", 400, "M_INVALID_PARAM"},
		{"unknown event", token, "POST", receiptPath + "m.read/$a%2Fb", "{}", 404, "M_NOT_FOUND"},
		{"event elsewhere", token, "POST", receiptPath + "m.read/" + elsewhere, "{}", 404, "M_NOT_FOUND"},
		{"receipt elsewhere", token, "POST", v3 + "/rooms/" + other + "/receipt/m.read/" + elsewhere, "{}", 403, "M_FORBIDDEN"},
		{"thread is a number", token, "POST", receiptPath + "m.read/" + event, `{"thread_id":5}`, 400, "M_INVALID_PARAM"},
		{"thread is null", token, "POST", receiptPath + "m.read/" + event, `{"thread_id":null}`, 400, "M_INVALID_PARAM"},
		{"empty thread", token, "POST", receiptPath + "m.read/" + event, `{"thread_id":""}`, 400, "M_INVALID_PARAM"},
		{"thread of a marker", token, "POST", receiptPath + "m.fully_read/" + event, `{"thread_id":"main"}`, 400, "M_INVALID_PARAM"},
		{"marker is a number", token, "POST", v3 + "/rooms/" + room + "/read_markers", `{"m.fully_read":5}`, 400, "M_INVALID_PARAM"},
		{"marker at nothing", token, "POST", v3 + "/rooms/" + room + "/read_markers", `{"m.fully_read":"$x"}`, 404, "M_NOT_FOUND"},
		{"markers elsewhere", token, "POST", v3 + "/rooms/" + other + "/read_markers", `{}`, 403, "M_FORBIDDEN"},

		{"unset data", token, "GET", mine + "/account_data/none", "", 404, "M_NOT_FOUND"},
		{"somebody else's data", token, "GET", v3 + "/user/@bert:test/account_data/a", "", 403, "M_FORBIDDEN"},
		{"somebody else's data", token, "PUT", v3 + "/user/@bert:test/account_data/a", "{}", 403, "M_FORBIDDEN"},
		{"server's data", token, "PUT", mine + "/account_data/m.push_rules", `{"a":1}`, 405, "M_BAD_JSON"},
		{"server's data", token, "PUT", mine + "/rooms/" + room + "/account_data/m.fully_read", `{"a":1}`, 405, "M_BAD_JSON"},
		{"data of no room", token, "PUT", mine + "/rooms/x/account_data/a", `{"a":1}`, 400, "M_INVALID_PARAM"},
		{"long type", token, "PUT", mine + "/account_data/" + long, `{"a":1}`, 400, "M_INVALID_PARAM"},
		{"nul in type", token, "PUT", mine + "/account_data/a%00", `{"a":1}`, 400, "M_INVALID_PARAM"},
		{"bad utf-8 in type", token, "PUT", mine + "/account_data/%ff", `{"a":1}`, 400, "M_INVALID_PARAM"},
		{"removal by DELETE has a prefix of its own", token, "DELETE", mine + "/account_data/a", "", 405, "M_UNRECOGNIZED"},
		{"tags of somebody else", token, "GET", v3 + "/user/@bert:test/rooms/" + room + "/tags", "", 403, "M_FORBIDDEN"},
		{"long tag", token, "PUT", mine + "/rooms/" + room + "/tags/" + long, `{}`, 400, "M_INVALID_PARAM"},
		{"order is text", token, "PUT", mine + "/rooms/" + room + "/tags/a", `{"order":"1"}`, 400, "M_BAD_JSON"},

		{"not an administrator", token, "GET", "/_matrix/client/v1/admin/lock/@bert:test", "", 403, "M_FORBIDDEN"},
		{"not an administrator", token, "GET", v3 + "/admin/whois/@bert:test", "", 403, "M_FORBIDDEN"},
		{"not an administrator", token, "GET", "/_synapse/admin/v1/whois/@anna:test", "", 403, "M_FORBIDDEN"},
		{"fallback of nothing", "", "GET", v3 + "/auth/m.login.magic/fallback/web?session=x", "", 404, "M_NOT_FOUND"},
		{"fallback without session", "", "GET", v3 + "/auth/m.login.dummy/fallback/web", "", 400, "M_MISSING_PARAM"},
		{"fallback with markup", "", "GET", v3 + "/auth/m.login.dummy/fallback/web?session=%3Cb%3E", "", 400, "M_INVALID_PARAM"},
		{"fallback of no session", "", "POST", v3 + "/auth/m.login.dummy/fallback/web", "session=x", 404, "M_NOT_FOUND"},
	}...)
	before := api.rowsOfAccounts()
	for _, c := range cases {
		for process := range api.routers {
			code, e := api.do(process, c.token, c.method, c.path, c.body)
			if code != c.status || e.Get("errcode").Str != c.code {
				path := c.path[:min(len(c.path), 80)]
				t.Errorf("%s: process %d: %s %s gave %d %s, want %d %s", c.name, process, c.method, path, code, e.Raw, c.status, c.code)
			}
		}
	}
	if after := api.rowsOfAccounts(); after != before {
		t.Errorf("requests that failed left %d rows", after-before)
	}
}

func TestFallbackPage(t *testing.T) {
	t.Parallel()
	api := newAccountAPI(t, func(cfg *account.Config) { cfg.Registration.RegistrationRequiresToken = true })
	if err := storage.InsertRegistrationToken(t.Context(), api.db, storage.RegistrationToken{Token: "tok"}); err != nil {
		t.Fatal(err)
	}
	const v3 = "/_matrix/client/v3"
	if v := api.must(1, "", "GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=tok", ""); !v.Get("valid").Bool() {
		t.Errorf("validity gave %s", v.Raw)
	}
	_, challenge := api.do(0, "", "POST", v3+"/register", `{"username":"anna","password":"pw"}`)
	session := challenge.Get("session").Str
	page := func(method, body string) string {
		r := httptest.NewRequest(method, v3+"/auth/m.login.registration_token/fallback/web?session="+session, strings.NewReader(body))
		w := httptest.NewRecorder()
		api.routers[1].ServeHTTP(w, r)
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || w.Header().Get("X-Frame-Options") == "" {
			t.Errorf("%s gave %d %v", method, w.Code, w.Header())
		}
		return w.Body.String()
	}
	if form := page("GET", ""); !strings.Contains(form, session) || !strings.Contains(form, `name="token"`) {
		t.Errorf("page is %s", form)
	}
	if again := page("POST", "session="+session+"&token=wrong"); strings.Contains(again, "onAuthDone") {
		t.Error("a wrong token completed the stage")
	}
	if done := page("POST", "session="+session+"&token=tok"); !strings.Contains(done, "onAuthDone") {
		t.Errorf("page is %s", done)
	}
	in := api.must(0, "", "POST", v3+"/register", `{"auth":{"session":"`+session+`"}}`)
	if in.Get("user_id").Str != "@anna:test" {
		t.Errorf("register gave %s", in.Raw)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	api := newAccountAPI(t, nil)
	for path, want := range map[string]string{
		"/.well-known/matrix/client":  `{"m.homeserver":{"base_url":"https://matrix.test/"}}`,
		"/.well-known/matrix/server":  `{"m.server":"test:443"}`,
		"/.well-known/matrix/support": `{"contacts":[{"email_address":"admin@test","role":"m.role.admin"}]}`,
	} {
		if got := api.must(1, "", "GET", path, ""); got.Raw != want {
			t.Errorf("%s is %s, want %s", path, got.Raw, want)
		}
	}
	v := api.must(0, "", "GET", "/_matrix/client/versions", "")
	if v.Get("versions.#").Int() == 0 {
		t.Errorf("versions are %s", v.Raw)
	}
	v.Get("unstable_features").ForEach(func(k, on gjson.Result) bool {
		if !on.IsBool() {
			t.Errorf("feature %s is %s", k, on.Raw)
		}
		return true
	})
	w := httptest.NewRecorder()
	api.routers[0].ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/static/client/login/", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "onLogin") {
		t.Errorf("login page gave %d", w.Code)
	}
}
