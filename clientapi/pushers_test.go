package clientapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// pusher is a request that sets a pusher, with some of its members replaced; a nil value takes one out.
func pusher(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	p := map[string]any{
		"kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "An app", "device_display_name": "A phone",
		"profile_tag": "tag", "lang": "en", "data": map[string]any{"url": "https://push.test/_matrix/push/v1/notify", "extra": 1},
	}
	for k, v := range changes {
		if v == nil {
			delete(p, k)
			continue
		}
		p[k] = v
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const setPusher = "/v3/pushers/set"

func (p *people) pushers(process, token string) []gjson.Result {
	p.t.Helper()
	return p.must(process, token, "GET", "/v3/pushers", nil).Get("pushers").Array()
}

// login makes another session of a user.
func (p *people) login(name, password string) string {
	p.t.Helper()
	return p.must("worker1", "", "POST", "/v3/login",
		`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"`+name+`"},"password":"`+password+`"}`).Get("access_token").Str
}

func TestPushers(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob := p.register("alice"), p.register("bob")
	null := json.RawMessage("null")
	for _, process := range processes {
		p.must(process, alice, "POST", setPusher, pusher(t, nil))
		p.must(process, alice, "POST", setPusher, pusher(t, map[string]any{"pushkey": "second", "lang": "de"}))
		p.must(process, alice, "POST", setPusher, pusher(t, map[string]any{"lang": "fr"}))
		for _, at := range processes {
			got := p.pushers(at, alice)
			if len(got) != 2 || got[0].Get("lang").Str != "fr" || got[1].Get("lang").Str != "de" || got[0].Get("data.extra").Int() != 1 ||
				got[0].Get("profile_tag").Str != "tag" || got[0].Get("kind").Str != "http" {
				t.Errorf("%s after %s: pushers are %s", at, process, got)
			}
		}
		// With append somebody else's pusher of the same app and key stays, without it goes.
		p.must(process, bob, "POST", setPusher, pusher(t, map[string]any{"append": true}))
		if a, b := len(p.pushers(process, alice)), len(p.pushers(process, bob)); a != 2 || b != 1 {
			t.Errorf("%s: after append there are %d and %d pushers", process, a, b)
		}
		p.must(process, bob, "POST", setPusher, pusher(t, map[string]any{"append": false}))
		if a, b := len(p.pushers(process, alice)), len(p.pushers(process, bob)); a != 1 || b != 1 {
			t.Errorf("%s: without append there are %d and %d pushers", process, a, b)
		}
		// A pusher is taken away by app id and key, of the own ones only, and more than once.
		for range 2 {
			p.must(process, alice, "POST", setPusher, map[string]any{"kind": null, "app_id": "app", "pushkey": "second"})
			p.must(process, alice, "POST", setPusher, map[string]any{"kind": null, "app_id": "app", "pushkey": "key"})
		}
		if a, b := len(p.pushers(process, alice)), len(p.pushers(process, bob)); a != 0 || b != 1 {
			t.Errorf("%s: after both were taken away there are %d and %d pushers", process, a, b)
		}
	}
}

// Pushers go with the session that made them.
func TestPushersOfSessions(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice := p.register("alice")
	second, third := p.login("alice", "pw"), p.login("alice", "pw")
	for token, key := range map[string]string{alice: "first", second: "second", third: "third"} {
		p.must("worker1", token, "POST", setPusher, pusher(t, map[string]any{"pushkey": key}))
	}
	p.must("worker1", second, "POST", "/v3/logout", `{}`)
	if got := p.pushers("master", alice); len(got) != 2 || got[0].Get("pushkey").Str != "first" || got[1].Get("pushkey").Str != "third" {
		t.Errorf("after a logout the pushers are %s", got)
	}
	p.must("master", alice, "POST", "/v3/account/password",
		`{"new_password":"new","auth":{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"pw"}}`)
	if got := p.pushers("worker1", alice); len(got) != 1 || got[0].Get("pushkey").Str != "first" {
		t.Errorf("after a change of the password the pushers are %s", got)
	}
}

func TestBadPushers(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice := p.register("alice")
	url := func(u string) map[string]any { return map[string]any{"data": map[string]any{"url": u}} }
	const path = "/_matrix/push/v1/notify"
	for name, tc := range map[string]struct {
		changes map[string]any
		code    string
	}{
		"no app id":        {map[string]any{"app_id": nil}, "M_MISSING_PARAM"},
		"no pushkey":       {map[string]any{"pushkey": nil}, "M_MISSING_PARAM"},
		"no kind":          {map[string]any{"kind": nil}, "M_MISSING_PARAM"},
		"no data":          {map[string]any{"data": nil}, "M_MISSING_PARAM"},
		"no lang":          {map[string]any{"lang": nil}, "M_MISSING_PARAM"},
		"no app name":      {map[string]any{"app_display_name": nil}, "M_MISSING_PARAM"},
		"no device name":   {map[string]any{"device_display_name": nil}, "M_MISSING_PARAM"},
		"empty app id":     {map[string]any{"app_id": ""}, "M_INVALID_PARAM"},
		"long app id":      {map[string]any{"app_id": strings.Repeat("a", 65)}, "M_INVALID_PARAM"},
		"empty pushkey":    {map[string]any{"pushkey": ""}, "M_INVALID_PARAM"},
		"long pushkey":     {map[string]any{"pushkey": strings.Repeat("a", 513)}, "M_INVALID_PARAM"},
		"null character":   {map[string]any{"lang": "a\x00"}, "M_INVALID_PARAM"},
		"unknown kind":     {map[string]any{"kind": "fax"}, "M_INVALID_PARAM"},
		"kind is a number": {map[string]any{"kind": 1}, "M_BAD_JSON"},
		"key is a number":  {map[string]any{"pushkey": 1}, "M_BAD_JSON"},
		"data is a list":   {map[string]any{"data": []int{1}}, "M_INVALID_PARAM"},
		"large data":       {map[string]any{"data": map[string]any{"url": "https://a" + path, "x": strings.Repeat("x", 17<<10)}}, "M_INVALID_PARAM"},
		"no url":           {map[string]any{"data": map[string]any{}}, "M_MISSING_PARAM"},
		"url is a number":  {map[string]any{"data": map[string]any{"url": 1}}, "M_MISSING_PARAM"},
		"other path":       {url("https://push.test/notify"), "M_INVALID_PARAM"},
		"no host":          {url("https://" + path), "M_INVALID_PARAM"},
		"other scheme":     {url("ftp://push.test" + path), "M_INVALID_PARAM"},
		"http":             {url("http://push.test" + path), "M_INVALID_PARAM"},
		"http, address":    {url("http://8.8.8.8" + path), "M_INVALID_PARAM"},
		"password in url":  {url("https://a:b@push.test" + path), "M_INVALID_PARAM"},
		"no url at all":    {url("::"), "M_INVALID_PARAM"},
		"email, app id":    {map[string]any{"kind": "email", "pushkey": "a@b.test"}, "M_INVALID_PARAM"},
		"email, stranger":  {map[string]any{"kind": "email", "pushkey": "a@b.test", "app_id": "m.email"}, "M_THREEPID_NOT_FOUND"},
	} {
		for _, process := range processes {
			code, got := p.do(process, alice, "POST", setPusher, pusher(t, tc.changes))
			if code < 400 || got.Get("errcode").Str != tc.code {
				t.Errorf("%s on %s: %d %s, want %s", name, process, code, got, tc.code)
			}
		}
	}
	if got := p.pushers("worker1", alice); len(got) != 0 {
		t.Errorf("bad requests made pushers %s", got)
	}
	if code, got := p.do("worker1", "", "GET", "/v3/pushers", nil); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", code, got)
	}
	for _, near := range []string{"http://localhost:1", "http://127.0.0.1:1", "http://host.docker.internal:1", "http://gateway", "http://[::1]:1", "http://10.1.2.3"} {
		p.must("worker1", alice, "POST", setPusher, pusher(t, url(near+path)))
	}
}
