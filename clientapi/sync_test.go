package clientapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// syncAPI is /sync over HTTP on a server without rooms. The access token is the user's local part.
type syncAPI struct {
	tb testing.TB
	h  http.Handler
}

// Authenticate implements homeserver.Authenticator.
func (a *syncAPI) Authenticate(_ context.Context, token string, _ *http.Request) (*homeserver.Requester, error) {
	return &homeserver.Requester{UserID: "@" + token + ":example.org", DeviceID: "D", IsGuest: strings.HasPrefix(token, "guest")}, nil
}

func newSyncAPI(tb testing.TB) *syncAPI {
	tb.Helper()
	check := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	db := storagetest.New(tb)
	_, err := storage.InternUsers(tb.Context(), db, []string{"@alice:example.org", "@bob:example.org"})
	check(err)
	st, err := store.New(store.Config{DB: db, ServerName: "example.org"})
	check(err)
	client, err := replication.NewClient(replication.Config{ServerName: "example.org"})
	check(err)
	svc, err := sync.New(sync.Config{DB: db, Store: st, Replication: client, WriterIDs: token.NewWriters(db)})
	check(err)
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	tb.Cleanup(func() { stop(); check(<-done) })
	a := &syncAPI{tb: tb}
	a.h, err = homeserver.NewRouter(homeserver.RouterConfig{Groups: []homeserver.Group{clientapi.Sync(svc), clientapi.SlidingSync(svc)}, Authenticator: a})
	check(err)
	return a
}

// do sends a request; path is below /_matrix/client.
func (a *syncAPI) do(user, method, path, body string) (int, gjson.Result) {
	a.tb.Helper()
	r := httptest.NewRequestWithContext(a.tb.Context(), method, "/_matrix/client"+path, strings.NewReader(body))
	if user != "" {
		r.Header.Set("Authorization", "Bearer "+user)
	}
	w := httptest.NewRecorder()
	a.h.ServeHTTP(w, r)
	if !gjson.ValidBytes(w.Body.Bytes()) {
		a.tb.Errorf("%s %s: the response is not JSON: %.200s", method, path, w.Body)
	}
	return w.Code, gjson.ParseBytes(w.Body.Bytes())
}

func TestSyncOverEveryPrefix(t *testing.T) {
	t.Parallel()
	a := newSyncAPI(t)
	alice := url.PathEscape("@alice:example.org")
	for _, v := range []string{"/v3", "/r0", "/v2_alpha"} {
		code, res := a.do("alice", "POST", v+"/user/"+alice+"/filter", `{"room":{"timeline":{"limit":10}}}`)
		id := res.Get("filter_id").Str
		if code != 200 || id == "" || id[0] == '{' {
			t.Fatalf("%s: store a filter: %d %s", v, code, res)
		}
		if code, res := a.do("alice", "GET", v+"/user/"+alice+"/filter/"+id, ""); code != 200 || res.Get("room.timeline.limit").Int() != 10 {
			t.Errorf("%s: get a filter: %d %s", v, code, res)
		}
		for _, user := range []string{"alice", "guest7"} {
			q := url.Values{"timeout": {"0"}, "set_presence": {"offline"}, "full_state": {"true"}, "use_state_after": {"false"}}
			if user == "alice" {
				q.Set("filter", id)
			}
			code, res := a.do(user, "GET", v+"/sync?"+q.Encode(), "")
			next := res.Get("next_batch").Str
			if code != 200 || next == "" {
				t.Fatalf("%s: sync of %s: %d %s", v, user, code, res)
			}
			if code, res := a.do(user, "GET", v+"/sync?since="+url.QueryEscape(next)+"&filter="+url.QueryEscape(`{"room":{}}`), ""); code != 200 || res.Get("next_batch").Str != next {
				t.Errorf("%s: sync of %s since %s: %d %s", v, user, next, code, res)
			}
		}
	}
}

func TestSyncErrors(t *testing.T) {
	t.Parallel()
	a := newSyncAPI(t)
	alice, bob := "/v3/user/"+url.PathEscape("@alice:example.org")+"/filter", "/v3/user/"+url.PathEscape("@bob:example.org")+"/filter"
	for _, c := range []struct {
		user, method, path, body string
		status                   int
		code                     string
	}{
		{"", "GET", "/v3/sync", "", 401, "M_MISSING_TOKEN"},
		{"alice", "POST", "/v3/sync", "", 405, "M_UNRECOGNIZED"},
		{"alice", "GET", "/v3/sync?since=made_up", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?since=", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?since=t47429_4392820", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?since=s1_-5", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?timeout=soon", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?timeout=-1", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?full_state=yes", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?use_state_after=1", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?set_presence=asleep", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?filter=nosuch", "", 400, "M_INVALID_PARAM"},
		{"alice", "GET", "/v3/sync?filter=" + url.QueryEscape(`{"room":`), "", 400, "M_NOT_JSON"},
		{"alice", "GET", "/v3/sync?filter=" + url.QueryEscape(`{"room":[]}`), "", 400, "M_BAD_JSON"},
		{"alice", "POST", alice, `[]`, 400, ""},
		{"alice", "POST", alice, `{"presence":"not_an_object"}`, 400, "M_BAD_JSON"},
		{"alice", "POST", alice, `{"room":{"timeline":{"rooms":["not_a_room_id"]}}}`, 400, "M_BAD_JSON"},
		{"alice", "POST", alice, `{"room":{"state":{"senders":[5]}}}`, 400, "M_BAD_JSON"},
		{"alice", "POST", alice, `{"event_format":"other"}`, 400, "M_BAD_JSON"},
		{"alice", "POST", alice, "{\"x\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"alice", "POST", alice, `{"x":"` + strings.Repeat("x", 70_000) + `"}`, 413, "M_TOO_LARGE"},
		{"alice", "POST", bob, `{}`, 403, "M_FORBIDDEN"},
		{"alice", "GET", bob + "/abc", "", 403, "M_FORBIDDEN"},
		{"alice", "GET", alice + "/abc", "", 404, "M_NOT_FOUND"},
		{"alice", "GET", alice + "/%2F%00%ff", "", 400, ""},
	} {
		code, res := a.do(c.user, c.method, c.path, c.body)
		if code != c.status || c.code != "" && res.Get("errcode").Str != c.code {
			t.Errorf("%s %.80s %.60s: %d %s, want %d %s", c.method, c.path, c.body, code, res, c.status, c.code)
		}
	}
}
