package homeserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/ratelimit"
)

// tokens is an Authenticator that knows some tokens.
type tokens map[string]*homeserver.Requester

func (t tokens) Authenticate(_ context.Context, token string, _ *http.Request) (*homeserver.Requester, error) {
	if r, ok := t[token]; ok {
		return r, nil
	}
	return nil, mxerr.UnknownToken
}

// origins is a ServerAuthenticator that believes a header.
type origins struct{}

func (origins) AuthenticateServer(_ context.Context, r *http.Request, body []byte) (string, error) {
	if o := r.Header.Get("X-Test-Origin"); o != "" {
		return o + "/" + string(body), nil
	}
	return "", mxerr.Unauthorized
}

// echo answers with what the router made of the request.
func echo(names ...string) homeserver.Handler {
	return func(_ context.Context, r *homeserver.Request) (any, error) {
		out := map[string]any{}
		for _, n := range names {
			out[n] = r.Param(n)
		}
		if r.Requester() != nil {
			out["user"] = r.UserID()
		}
		return out, nil
	}
}

func router(t testing.TB, cfg homeserver.RouterConfig) *homeserver.Router {
	t.Helper()
	if cfg.Authenticator == nil {
		cfg.Authenticator = tokens{
			"user":  {UserID: "@u:x"},
			"guest": {UserID: "@g:x", IsGuest: true},
			"admin": {UserID: "@a:x", IsAdmin: true},
			"as":    {UserID: "@as:x", AppserviceID: "irc", RateLimitExempt: true},
		}
	}
	if cfg.ServerAuthenticator == nil {
		cfg.ServerAuthenticator = origins{}
	}
	rt, err := homeserver.NewRouter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

type reply struct {
	status int
	header http.Header
	body   string
}

func do(t testing.TB, h http.Handler, method, target, body string, headers ...string) reply {
	t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, rd)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.String()}
}

func (r reply) code(t testing.TB) string {
	t.Helper()
	var e struct {
		Code string `json:"errcode"`
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("not JSON: %q", r.body)
	}
	return e.Code
}

const base = "/_matrix/client/{v}"

func TestPaths(t *testing.T) {
	t.Parallel()
	ep := func(method, path string, names ...string) homeserver.Endpoint {
		e := homeserver.Endpoint{Method: method, Path: path}
		if strings.Contains(path, "{v}") {
			e.Versions = []string{"v3", "r0", "api/v1"}
		}
		h := echo(names...)
		e.Handle = func(ctx context.Context, r *homeserver.Request) (any, error) {
			out, err := h(ctx, r)
			out.(map[string]any)["route"] = path
			return out, err
		}
		return e
	}
	rt := router(t, homeserver.RouterConfig{Groups: []homeserver.Group{
		{Name: "a", Endpoints: []homeserver.Endpoint{
			ep("GET", base+"/rooms/{roomId}/state/{eventType}/{stateKey}", "roomId", "eventType", "stateKey"),
			ep("PUT", base+"/rooms/{roomId}/state/{eventType}/{stateKey}", "roomId", "eventType", "stateKey"),
			ep("GET", base+"/rooms/{roomId}/state", "roomId"),
			ep("PUT", base+"/rooms/{roomId}/send/{eventType}/{txnId}", "roomId", "eventType", "txnId"),
			ep("GET", base+"/directory/room/{roomAlias}", "roomAlias"),
		}},
		{Name: "b", Endpoints: []homeserver.Endpoint{
			// Static segments beside parameters, in both orders, several deep.
			ep("GET", base+"/pushrules/"),
			ep("GET", base+"/pushrules/global/"),
			ep("GET", base+"/pushrules/{scope}/{kind}/{ruleId}", "scope", "kind", "ruleId"),
			ep("GET", base+"/pushrules/global/override/{ruleId}", "ruleId"),
			ep("GET", "/_matrix/federation/v1/query/{queryType}", "queryType"),
			ep("GET", "/_matrix/federation/v1/query/directory"),
			ep("GET", "/_matrix/federation/v1/query/profile"),
			// One position, two names.
			ep("GET", base+"/keys/{a}/x", "a"),
			ep("POST", base+"/keys/{b}/y", "b"),
			ep("POST", base+"/keys/{c}/x", "c"),
			// The catch-all yields to routes.
			ep("GET", "/_matrix/media/{rest...}", "rest"),
			ep("GET", "/_matrix/media/v3/config"),
		}},
	}})
	for _, tc := range []struct {
		method, path string
		want         map[string]any
	}{
		{"PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", map[string]any{"roomId": "!r:x", "eventType": "m.room.message", "txnId": "1"}},
		{"PUT", "/_matrix/client/api/v1/rooms/!r:x/send/m.room.message/1", map[string]any{"roomId": "!r:x", "eventType": "m.room.message", "txnId": "1"}},
		{"PUT", "/_matrix/client/r0/rooms/%21r%3Ax/send/a%2Fb/%25", map[string]any{"roomId": "!r:x", "eventType": "a/b", "txnId": "%"}},
		{"PUT", "/_matrix/client/r0/rooms/!r:x/send/a/%252F", map[string]any{"roomId": "!r:x", "eventType": "a", "txnId": "%2F"}},
		{"PUT", "/_matrix/client/r0/rooms/!r:x/send/a/b+c%20d", map[string]any{"roomId": "!r:x", "eventType": "a", "txnId": "b+c d"}},
		{"GET", "/_matrix/client/v3/rooms/!r:x/state", map[string]any{"roomId": "!r:x"}},
		{"GET", "/_matrix/client/v3/rooms/!r:x/state/m.room.name", map[string]any{"roomId": "!r:x", "eventType": "m.room.name", "stateKey": ""}},
		{"GET", "/_matrix/client/v3/rooms/!r:x/state/m.room.name/", map[string]any{"roomId": "!r:x", "eventType": "m.room.name", "stateKey": ""}},
		{"PUT", "/_matrix/client/v3/rooms/!r:x/state/m.room.name/a%2Fb%3F", map[string]any{"roomId": "!r:x", "eventType": "m.room.name", "stateKey": "a/b?"}},
		{"GET", "/_matrix/client/v3/rooms/!r:x/state/m.room.member/@u:x", map[string]any{"roomId": "!r:x", "eventType": "m.room.member", "stateKey": "@u:x"}},
		{"GET", "/_matrix/client/v3/directory/room/%23a%2Fb%3Ax", map[string]any{"roomAlias": "#a/b:x"}},
		{"GET", "/_matrix/client/v3/directory/room/%23%F0%9F%90%88:x", map[string]any{"roomAlias": "#🐈:x"}},
		{"GET", "/_matrix/client/v3/pushrules/", map[string]any{}},
		{"GET", "/_matrix/client/v3/pushrules/global/", map[string]any{}},
		{"GET", "/_matrix/client/v3/pushrules/global/override/.m.rule", map[string]any{"ruleId": ".m.rule"}},
		{"GET", "/_matrix/client/v3/pushrules/global/room/.m.rule", map[string]any{"scope": "global", "kind": "room", "ruleId": ".m.rule"}},
		{"GET", "/_matrix/client/v3/pushrules/device/override/.m.rule", map[string]any{"scope": "device", "kind": "override", "ruleId": ".m.rule"}},
		{"GET", "/_matrix/federation/v1/query/directory", map[string]any{}},
		{"GET", "/_matrix/federation/v1/query/other", map[string]any{"queryType": "other"}},
		{"GET", "/_matrix/client/v3/keys/1/x", map[string]any{"a": "1"}},
		{"POST", "/_matrix/client/v3/keys/2/y", map[string]any{"b": "2"}},
		{"POST", "/_matrix/client/v3/keys/3/x", map[string]any{"c": "3"}},
		{"GET", "/_matrix/media/v3/config", map[string]any{}},
		{"GET", "/_matrix/media/v3/download/x/y%2Fz", map[string]any{"rest": "v3/download/x/y/z"}},
	} {
		got := do(t, rt, tc.method, tc.path, "")
		var m map[string]any
		if got.status != 200 || json.Unmarshal([]byte(got.body), &m) != nil {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, got.status, got.body)
			continue
		}
		delete(m, "route")
		if diff := cmp.Diff(tc.want, m); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tc.method, tc.path, diff)
		}
	}
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/_matrix/client/v3/nope", 404, ""},
		{"GET", "/_matrix/client/v9/rooms/!r:x/state", 404, ""},
		{"GET", "/_matrix/client/v3/rooms/!r:x/state/a/b/c", 404, ""},
		{"GET", "/_matrix/client/v3/rooms/!r:x/state/m.room.name//", 404, ""},
		{"GET", "/_matrix/client/v3/ROOMS/!r:x/state", 404, ""},
		{"GET", "/_matrix/client/v3/rooms/!r:x/State/", 404, ""},
		{"GET", "/_matrix/client/v3/pushrules", 404, ""},
		{"DELETE", "/_matrix/client/v3/rooms/!r:x/state/a/b", 405, "GET, PUT"},
		{"HEAD", "/_matrix/client/v3/rooms/!r:x/state", 405, "GET"},
		{"POST", "/_matrix/federation/v1/query/directory", 405, "GET, GET"},
		{"DELETE", "/_matrix/client/v3/keys/1/x", 405, "GET, POST"},
	} {
		got := do(t, rt, tc.method, tc.path, "")
		if got.status != tc.status || got.code(t) != "M_UNRECOGNIZED" {
			t.Errorf("%s %s: got %d %s, want %d M_UNRECOGNIZED", tc.method, tc.path, got.status, got.body, tc.status)
		}
		if got.header.Get("Access-Control-Allow-Origin") != "*" || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: headers %v", tc.method, tc.path, got.header)
		}
		if tc.allow != "" && got.header.Get("Allow") != tc.allow {
			t.Errorf("%s %s: Allow = %q, want %q", tc.method, tc.path, got.header.Get("Allow"), tc.allow)
		}
	}
	for _, path := range []string{"/", "/_matrix/client/v3/sync", "/nope/%2F"} {
		got := do(t, rt, "OPTIONS", path, "")
		if got.status != 204 || got.body != "" || got.header.Get("Access-Control-Allow-Headers") == "" || !strings.Contains(got.header.Get("Access-Control-Allow-Methods"), "PUT") {
			t.Errorf("OPTIONS %s: %+v", path, got)
		}
	}
	for _, path := range []string{"/_matrix/client/v3/directory/room/%FF", "/_matrix/client/v3/directory/room/%00", "/_matrix/client/v3/pushrules/?a=%FF", "/_matrix/client/v3/pushrules/?a=%00"} {
		if got := do(t, rt, "GET", path, ""); got.status != 400 || got.code(t) != "M_INVALID_PARAM" {
			t.Errorf("GET %s: %d %s", path, got.status, got.body)
		}
	}
}

func TestNewRouterRefuses(t *testing.T) {
	t.Parallel()
	h := echo()
	group := func(eps ...homeserver.Endpoint) []homeserver.Group {
		return []homeserver.Group{{Name: "g", Endpoints: eps}}
	}
	for _, tc := range []struct {
		name   string
		groups []homeserver.Group
		want   string
	}{
		{"same route", group(homeserver.Endpoint{Method: "GET", Path: "/a", Handle: h}, homeserver.Endpoint{Method: "GET", Path: "/a", Handle: h}), "duplicate route GET /a"},
		{"same but for names", group(homeserver.Endpoint{Method: "GET", Path: "/a/{x}", Handle: h}, homeserver.Endpoint{Method: "GET", Path: "/a/{y}", Handle: h}), "duplicate route GET /a/{y}"},
		{"same in one version", group(
			homeserver.Endpoint{Method: "GET", Path: "/{v}/a", Versions: []string{"v1", "v3"}, Handle: h},
			homeserver.Endpoint{Method: "GET", Path: "/v3/a", Handle: h}), "duplicate route GET /v3/a"},
		{"empty state key form", group(
			homeserver.Endpoint{Method: "GET", Path: "/s/{t}/{stateKey}", Handle: h},
			homeserver.Endpoint{Method: "GET", Path: "/s/{t}", Handle: h}), "duplicate route GET /s/{t}"},
		{"group names", []homeserver.Group{{Name: "g"}, {Name: "g"}}, `group "g" is there twice`},
		{"no name", []homeserver.Group{{}}, "has no Name"},
		{"no versions", group(homeserver.Endpoint{Method: "GET", Path: "/{v}/a", Handle: h}), "Versions is empty"},
		{"no v", group(homeserver.Endpoint{Method: "GET", Path: "/a", Versions: []string{"v3"}, Handle: h}), "Path has no {v}"},
		{"method", group(homeserver.Endpoint{Method: "get", Path: "/a", Handle: h}), "Method must be"},
		{"no handler", group(homeserver.Endpoint{Method: "GET", Path: "/a"}), "one of Handle and Raw"},
		{"half a parameter", group(homeserver.Endpoint{Method: "GET", Path: "/a/x{b}", Handle: h}), "neither a parameter nor plain"},
		{"rest in the middle", group(homeserver.Endpoint{Method: "GET", Path: "/{a...}/b", Handle: h}), "must come last"},
		{"name twice", group(homeserver.Endpoint{Method: "GET", Path: "/{a}/{a}", Handle: h}), "there twice"},
		{"unknown limit", group(homeserver.Endpoint{Method: "GET", Path: "/a", Limit: "rc_what", Handle: h}), `unknown rate limit "rc_what"`},
		{"needs", group(homeserver.Endpoint{Method: "GET", Path: "/a", Auth: homeserver.AuthUser, Handle: h}), "needs an Authenticator"},
		{"needs server", group(homeserver.Endpoint{Method: "GET", Path: "/a", Auth: homeserver.AuthServer, Handle: h}), "needs a ServerAuthenticator"},
	} {
		_, err := homeserver.NewRouter(homeserver.RouterConfig{Groups: tc.groups})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q in it", tc.name, err, tc.want)
		}
	}
}

func TestAuth(t *testing.T) {
	t.Parallel()
	var eps []homeserver.Endpoint
	for a := homeserver.AuthNone; a <= homeserver.AuthAdmin; a++ {
		eps = append(eps, homeserver.Endpoint{Method: "PUT", Path: "/" + a.String(), Auth: a, Handle: func(_ context.Context, r *homeserver.Request) (any, error) {
			body, err := r.RawBody()
			return map[string]string{"user": r.UserID(), "origin": r.Origin(), "body": string(body)}, err
		}})
	}
	rt := router(t, homeserver.RouterConfig{Groups: []homeserver.Group{{Name: "g", Endpoints: eps}}})
	for _, tc := range []struct {
		auth, token string
		status      int
		code, user  string
	}{
		{"none", "", 200, "", ""},
		{"none", "bad", 200, "", ""},
		{"optional", "", 200, "", ""},
		{"optional", "user", 200, "", "@u:x"},
		{"optional", "bad", 401, "M_UNKNOWN_TOKEN", ""},
		{"user", "", 401, "M_MISSING_TOKEN", ""},
		{"user", "bad", 401, "M_UNKNOWN_TOKEN", ""},
		{"user", "user", 200, "", "@u:x"},
		{"user", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN", ""},
		{"guest", "guest", 200, "", "@g:x"},
		{"guest", "user", 200, "", "@u:x"},
		{"appservice", "user", 403, "M_FORBIDDEN", ""},
		{"appservice", "as", 200, "", "@as:x"},
		{"admin", "user", 403, "M_FORBIDDEN", ""},
		{"admin", "admin", 200, "", "@a:x"},
		{"server", "user", 401, "M_UNAUTHORIZED", ""},
	} {
		for _, inQuery := range []bool{false, true} {
			var headers []string
			target := "/" + tc.auth
			if tc.token != "" && inQuery {
				target += "?x=1&access_token=" + tc.token
			} else if tc.token != "" {
				headers = []string{"Authorization", "bearer " + tc.token}
			}
			got := do(t, rt, "PUT", target, "{}", headers...)
			if got.status != tc.status {
				t.Errorf("%s with %q: %d %s, want %d", tc.auth, tc.token, got.status, got.body, tc.status)
				continue
			}
			if tc.code != "" && got.code(t) != tc.code {
				t.Errorf("%s with %q: %s, want %s", tc.auth, tc.token, got.body, tc.code)
			}
			if tc.status == 200 && !strings.Contains(got.body, `"user":"`+tc.user+`"`) {
				t.Errorf("%s with %q: %s, want user %q", tc.auth, tc.token, got.body, tc.user)
			}
		}
	}
	got := do(t, rt, "PUT", "/server", `{"a":1}`, "X-Test-Origin", "remote")
	if got.status != 200 || !strings.Contains(got.body, `"origin":"remote/{\"a\":1}"`) || !strings.Contains(got.body, `"body":"{\"a\":1}"`) {
		t.Errorf("server: the signature check and the handler should both see the body: %d %s", got.status, got.body)
	}
	if got := do(t, rt, "PUT", "/user", "", "Authorization", "Basic user"); got.code(t) != "M_MISSING_TOKEN" {
		t.Errorf("another scheme: %s", got.body)
	}
}

func TestResults(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	errWrite := errors.New("disk on fire")
	handlers := map[string]homeserver.Handler{
		"/nil":    func(context.Context, *homeserver.Request) (any, error) { return nil, nil },
		"/raw":    func(context.Context, *homeserver.Request) (any, error) { return json.RawMessage(`{"a":"<&>"}`), nil },
		"/struct": func(context.Context, *homeserver.Request) (any, error) { return map[string]string{"a": "<&>"}, nil },
		"/response": func(context.Context, *homeserver.Request) (any, error) {
			return &homeserver.Response{Status: 201, ContentType: "text/plain", Body: []byte("hi"), Header: http.Header{"X-A": {"b"}}}, nil
		},
		"/json": func(context.Context, *homeserver.Request) (any, error) {
			return &homeserver.Response{Status: 401, JSON: map[string]int{"n": 1}}, nil
		},
		"/empty":    func(context.Context, *homeserver.Request) (any, error) { return &homeserver.Response{Status: 204}, nil },
		"/redirect": func(context.Context, *homeserver.Request) (any, error) { return homeserver.Redirect("https://x/"), nil },
		"/stream": func(context.Context, *homeserver.Request) (any, error) {
			return &homeserver.Response{Write: func(w io.Writer) error {
				for i := range 3 {
					fmt.Fprint(w, i)
				}
				return nil
			}}, nil
		},
		"/streamfail": func(context.Context, *homeserver.Request) (any, error) {
			return &homeserver.Response{Write: func(io.Writer) error { return mxerr.NotFound }}, nil
		},
		"/mx": func(context.Context, *homeserver.Request) (any, error) {
			return nil, fmt.Errorf("look up: %w", mxerr.NotFound.WithMessage("No such room").WithField("x", 1))
		},
		"/bug": func(context.Context, *homeserver.Request) (any, error) { return nil, errWrite },
		"/deadline": func(context.Context, *homeserver.Request) (any, error) {
			return nil, fmt.Errorf("call: %w", context.DeadlineExceeded)
		},
		"/panic":    func(context.Context, *homeserver.Request) (any, error) { panic("secret of the panic") },
		"/noencode": func(context.Context, *homeserver.Request) (any, error) { return map[string]any{"f": func() {}}, nil },
		"/limited": func(context.Context, *homeserver.Request) (any, error) {
			return nil, mxerr.LimitExceeded.WithField("retry_after_ms", json.RawMessage("1500"))
		},
	}
	var eps []homeserver.Endpoint
	for path, h := range handlers {
		eps = append(eps, homeserver.Endpoint{Method: "GET", Path: path, Handle: h})
	}
	rt := router(t, homeserver.RouterConfig{Groups: []homeserver.Group{{Name: "g", Endpoints: eps}}, Log: zerolog.New(&logged).Level(zerolog.WarnLevel)})
	for _, tc := range []struct {
		path   string
		status int
		body   string
		header map[string]string
	}{
		{"/nil", 200, "{}", map[string]string{"Content-Type": "application/json", "Content-Length": "2"}},
		{"/raw", 200, `{"a":"<&>"}`, nil},
		{"/struct", 200, `{"a":"<&>"}`, nil},
		{"/response", 201, "hi", map[string]string{"Content-Type": "text/plain", "X-A": "b"}},
		{"/json", 401, `{"n":1}`, nil},
		{"/empty", 204, "", nil},
		{"/redirect", 302, "", map[string]string{"Location": "https://x/"}},
		{"/stream", 200, "012", map[string]string{"Content-Type": "application/json"}},
		{"/streamfail", 404, `{"errcode":"M_NOT_FOUND","error":"Not found"}`, nil},
		{"/mx", 404, `{"errcode":"M_NOT_FOUND","error":"No such room","x":1}`, nil},
		{"/deadline", 504, `{"errcode":"M_UNKNOWN","error":"The server took too long to answer"}`, nil},
		{"/limited", 429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1500}`, map[string]string{"Retry-After": "2"}},
	} {
		got := do(t, rt, "GET", tc.path, "")
		if got.status != tc.status || got.body != tc.body {
			t.Errorf("%s: got %d %q, want %d %q", tc.path, got.status, got.body, tc.status, tc.body)
		}
		for k, v := range tc.header {
			if got.header.Get(k) != v {
				t.Errorf("%s: %s = %q, want %q", tc.path, k, got.header.Get(k), v)
			}
		}
	}
	for _, path := range []string{"/bug", "/panic", "/noencode"} {
		logged.Reset()
		got := do(t, rt, "GET", path, "")
		var body map[string]string
		if err := json.Unmarshal([]byte(got.body), &body); err != nil {
			t.Fatalf("%s: %q", path, got.body)
		}
		id := body["request_id"]
		want := map[string]string{"errcode": "M_UNKNOWN", "error": "Internal server error", "request_id": got.header.Get("X-Request-Id")}
		if got.status != 500 || cmp.Diff(want, body) != "" || id == "" {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
		if !strings.Contains(logged.String(), `"request_id":"`+id+`"`) || !strings.Contains(logged.String(), `"level":"error"`) {
			t.Errorf("%s: the log does not repeat the request id: %s", path, logged.String())
		}
	}
}

func TestClientGoneIsNoError(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	rt := router(t, homeserver.RouterConfig{
		Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{{Method: "GET", Path: "/a", Handle: func(ctx context.Context, _ *homeserver.Request) (any, error) {
			return nil, fmt.Errorf("wait: %w", ctx.Err())
		}}}}},
		Log: zerolog.New(&logged),
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/a", nil))
	if w.Body.Len() != 0 {
		t.Errorf("body %q for a client that is gone", w.Body)
	}
	if s := logged.String(); strings.Contains(s, `"level":"error"`) || !strings.Contains(s, `"level":"debug"`) || !strings.Contains(s, `"status":499`) {
		t.Errorf("log: %s", s)
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	type in struct {
		A string `json:"a"`
		N struct {
			I int `json:"i"`
		} `json:"n"`
	}
	decode := func(optional bool) homeserver.Handler {
		return func(_ context.Context, r *homeserver.Request) (any, error) {
			var v in
			dec := r.Decode
			if optional {
				dec = r.DecodeOptional
			}
			return v, dec(&v)
		}
	}
	rt := router(t, homeserver.RouterConfig{Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{
		{Method: "POST", Path: "/must", MaxBody: 64, Handle: decode(false)},
		{Method: "POST", Path: "/may", Handle: decode(true)},
	}}}})
	for _, tc := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"/must", `{"a":"b"}`, 200, ""},
		{"/must", ` {"a":"b","unknown":[1]} `, 200, ""},
		{"/must", ``, 400, "M_NOT_JSON"},
		{"/must", `{`, 400, "M_NOT_JSON"},
		{"/must", `{"a":"b"}{`, 400, "M_NOT_JSON"},
		{"/must", `nope`, 400, "M_NOT_JSON"},
		{"/must", "{\"a\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"/must", `[]`, 400, "M_BAD_JSON"},
		{"/must", `"a"`, 400, "M_BAD_JSON"},
		{"/must", `null`, 400, "M_BAD_JSON"},
		{"/must", `{"a":1}`, 400, "M_BAD_JSON"},
		{"/must", `{"n":{"i":"x"}}`, 400, "M_BAD_JSON"},
		{"/must", `{"n":{"i":1.5}}`, 400, "M_BAD_JSON"},
		{"/must", `{"a":"` + strings.Repeat("x", 100) + `"}`, 413, "M_TOO_LARGE"},
		{"/may", ``, 200, ""},
		{"/may", `[]`, 400, "M_BAD_JSON"},
	} {
		got := do(t, rt, "POST", tc.path, tc.body)
		if got.status != tc.status || tc.code != "" && got.code(t) != tc.code {
			t.Errorf("%s %q: got %d %s, want %d %s", tc.path, tc.body, got.status, got.body, tc.status, tc.code)
		}
	}
	// A body of unknown length is bounded too.
	r := httptest.NewRequest("POST", "/must", io.MultiReader(strings.NewReader(`{"a":"`), strings.NewReader(strings.Repeat("x", 100)), strings.NewReader(`"}`)))
	r.ContentLength = -1
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, r)
	if w.Code != 413 {
		t.Errorf("chunked: %d %s", w.Code, w.Body)
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	rt := router(t, homeserver.RouterConfig{Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{{Method: "GET", Path: "/q", Handle: func(_ context.Context, r *homeserver.Request) (any, error) {
		n, err := r.QueryInt("n", 7)
		if err != nil {
			return nil, err
		}
		b, err := r.QueryBool("b", true)
		return map[string]any{"n": n, "b": b, "s": r.Query("s"), "all": r.QueryAll("s"), "has": r.HasQuery("s")}, err
	}}}}}})
	for query, want := range map[string]string{
		"":                     `{"all":null,"b":true,"has":false,"n":7,"s":""}`,
		"?n=5&b=false&s=a&s=b": `{"all":["a","b"],"b":false,"has":true,"n":5,"s":"a"}`,
		"?s=%F0%9F%90%88+a%26": `{"all":["🐈 a&"],"b":true,"has":true,"n":7,"s":"🐈 a&"}`,
		"?s":                   `{"all":[""],"b":true,"has":true,"n":7,"s":""}`,
	} {
		if got := do(t, rt, "GET", "/q"+query, ""); got.body != want {
			t.Errorf("%s: %s, want %s", query, got.body, want)
		}
	}
	for _, query := range []string{"?n=x", "?n=-1", "?b=1"} {
		if got := do(t, rt, "GET", "/q"+query, ""); got.status != 400 || got.code(t) != "M_INVALID_PARAM" {
			t.Errorf("%s: %d %s", query, got.status, got.body)
		}
	}
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	rt := router(t, homeserver.RouterConfig{
		Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{
			{Method: "PUT", Path: "/send", Auth: homeserver.AuthUser, Limit: "rc_message", Handle: echo()},
			{Method: "POST", Path: "/login", Limit: "rc_login", Handle: echo()},
		}}},
		Limits:     ratelimit.New(ratelimit.Config{Limits: map[string]config.Rate{"rc_message": {PerSecond: 0.001, BurstCount: 2}, "rc_login": {PerSecond: 0.001, BurstCount: 1}}}),
		Registerer: reg,
	})
	send := func(token string) reply { return do(t, rt, "PUT", "/send", "", "Authorization", "Bearer "+token) }
	for range 2 {
		if got := send("user"); got.status != 200 {
			t.Fatalf("within the burst: %d %s", got.status, got.body)
		}
	}
	got := send("user")
	if got.status != 429 || got.code(t) != "M_LIMIT_EXCEEDED" || got.header.Get("Retry-After") == "" || !strings.Contains(got.body, "retry_after_ms") {
		t.Errorf("above the burst: %d %s %v", got.status, got.body, got.header)
	}
	if got := send("admin"); got.status != 200 {
		t.Errorf("another user shares the bucket: %s", got.body)
	}
	for range 5 {
		if got := send("as"); got.status != 200 {
			t.Errorf("an exempt application service is limited: %s", got.body)
		}
	}
	if got := do(t, rt, "POST", "/login", ""); got.status != 200 {
		t.Errorf("login: %s", got.body)
	}
	if got := do(t, rt, "POST", "/login", ""); got.status != 429 {
		t.Errorf("second login from one address: %d", got.status)
	}
	want := `
# HELP weft_http_requests_limited_total Requests refused by a rate limit, by its class.
# TYPE weft_http_requests_limited_total counter
weft_http_requests_limited_total{limit="rc_login"} 1
weft_http_requests_limited_total{limit="rc_message"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weft_http_requests_limited_total"); err != nil {
		t.Error(err)
	}
}

func TestAccessLogAndMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var logged bytes.Buffer
	rt := router(t, homeserver.RouterConfig{
		Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{
			{Method: "GET", Path: "/_matrix/{v}/rooms/{roomId}", Versions: []string{"v1", "v3"}, Auth: homeserver.AuthUser, Handle: echo()},
		}}},
		Registerer: reg,
		Log:        zerolog.New(&logged).Level(zerolog.InfoLevel),
	})
	do(t, rt, "GET", "/_matrix/v1/rooms/!a:b?access_token=user&since=s1", "")
	do(t, rt, "GET", "/_matrix/v3/rooms/!c:d", "", "Authorization", "Bearer user")
	do(t, rt, "GET", "/_matrix/v3/rooms/!c:d", "")
	do(t, rt, "BREW", "/coffee", "")
	want := `
# HELP weft_http_requests_total Requests answered, by method, route template and status.
# TYPE weft_http_requests_total counter
weft_http_requests_total{method="GET",route="/_matrix/{v}/rooms/{roomId}",status="200"} 2
weft_http_requests_total{method="GET",route="/_matrix/{v}/rooms/{roomId}",status="401"} 1
weft_http_requests_total{method="other",route="none",status="404"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weft_http_requests_total"); err != nil {
		t.Error(err)
	}
	lines := strings.Split(strings.TrimSpace(logged.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines logged, want one a request:\n%s", len(lines), logged.String())
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]any{"level": "info", "method": "GET", "path": "/_matrix/v1/rooms/!a:b", "endpoint": "/_matrix/{v}/rooms/{roomId}", "status": 200.0, "user_id": "@u:x", "client_ip": "192.0.2.1"} {
		if line[k] != v {
			t.Errorf("log %s = %v, want %v", k, line[k], v)
		}
	}
	if strings.Contains(logged.String(), "access_token") || strings.Contains(logged.String(), "since") {
		t.Errorf("the query is logged: %s", logged.String())
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	got := homeserver.Routes(homeserver.Group{
		Name: "typing", Affinity: homeserver.ByRoom, Stream: "typing",
		Endpoints: []homeserver.Endpoint{
			{Method: "PUT", Path: base + "/rooms/{roomId}/typing/{userId}", Versions: []string{"v3", "r0"}, Auth: homeserver.AuthUser},
			{Method: "GET", Path: "/_matrix/federation/v1/x", Affinity: homeserver.ByOrigin, Stream: "events", Auth: homeserver.AuthServer},
		},
	})
	want := []homeserver.Route{
		{Group: "typing", Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/typing/{userId}", Affinity: homeserver.ByRoom, Stream: "typing", Auth: homeserver.AuthUser, Resource: "client"},
		{Group: "typing", Method: "PUT", Path: "/_matrix/client/r0/rooms/{roomId}/typing/{userId}", Affinity: homeserver.ByRoom, Stream: "typing", Auth: homeserver.AuthUser, Resource: "client"},
		{Group: "typing", Method: "GET", Path: "/_matrix/federation/v1/x", Affinity: homeserver.ByOrigin, Stream: "events", Auth: homeserver.AuthServer, Resource: "client"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzPath checks that any path gives the value url.PathUnescape gives, or a Matrix error.
func FuzzPath(f *testing.F) {
	rt, err := homeserver.NewRouter(homeserver.RouterConfig{Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{
		{Method: "GET", Path: "/a/{x}/b", Handle: func(_ context.Context, r *homeserver.Request) (any, error) {
			return &homeserver.Response{Body: []byte(r.Param("x"))}, nil
		}},
		{Method: "GET", Path: "/a/c/{stateKey}", Handle: echo()},
	}}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"x", "%2F", "%252F", "a%20b", "!r:x", "%FF", "%00", "", "c", "a?b", "a#b", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, seg string) {
		u, err := url.ParseRequestURI("/a/" + seg + "/b")
		if err != nil || strings.ContainsAny(seg, "/?#") || seg == "c" { // /a/c/b is the other route's
			return
		}
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, &http.Request{Method: "GET", URL: u, Header: http.Header{}})
		switch w.Code {
		case 200:
			if want, err := url.PathUnescape(seg); err != nil || w.Body.String() != want {
				t.Errorf("%q: got %q, want %q", seg, w.Body, want)
			}
		case 400, 404:
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%q: %d %q", seg, w.Code, w.Body)
			}
		default:
			t.Errorf("%q: %d %s", seg, w.Code, w.Body)
		}
	})
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkNoop is what the router itself costs a request: route, token, metrics, access log, response.
func BenchmarkNoop(b *testing.B) {
	for _, logs := range []bool{false, true} {
		b.Run(fmt.Sprintf("log=%t", logs), func(b *testing.B) {
			log := zerolog.Nop()
			if logs {
				log = zerolog.New(io.Discard).Level(zerolog.InfoLevel)
			}
			rt := router(b, homeserver.RouterConfig{
				Groups: []homeserver.Group{{Name: "g", Endpoints: []homeserver.Endpoint{{
					Method: "PUT", Path: base + "/rooms/{roomId}/send/{eventType}/{txnId}", Versions: []string{"v3", "r0"}, Auth: homeserver.AuthUser, Limit: "rc_message",
					Handle: func(_ context.Context, r *homeserver.Request) (any, error) {
						_ = r.Param("roomId")
						return nil, nil
					},
				}}}},
				Limits:     ratelimit.New(ratelimit.Config{Limits: map[string]config.Rate{"rc_message": {PerSecond: 1e9, BurstCount: 1e6}}}),
				Registerer: prometheus.NewRegistry(),
				Log:        log,
			})
			r := httptest.NewRequest("PUT", "/_matrix/client/v3/rooms/!abcdefgh:example.org/send/m.room.message/123", nil)
			r.Header.Set("Authorization", "Bearer user")
			w := &discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				rt.ServeHTTP(w, r)
			}
		})
	}
}
