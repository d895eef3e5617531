package clientapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// What an ignored user says is not shown in any way of reading a room; what they change in it is.
func TestIgnoredUsers(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob := p.register("alice"), p.register("bob")
	id := p.room(alice, bob)
	room := url.PathEscape(id)
	said := p.must("worker1", bob, "PUT", "/v3/rooms/"+room+"/send/m.room.message/1", `{"msgtype":"m.text","body":"cabbage"}`).Get("event_id").Str
	near := p.must("worker1", alice, "PUT", "/v3/rooms/"+room+"/send/m.room.message/2", `{"msgtype":"m.text","body":"pea"}`).Get("event_id").Str
	p.must("worker1", bob, "PUT", "/v3/rooms/"+room+"/send/m.room.message/3",
		object(t, "body", "in a thread", "m.relates_to", map[string]any{"rel_type": "m.thread", "event_id": near}))
	reads := func(process string) map[string]string {
		t.Helper()
		out := map[string]string{}
		for what, path := range map[string]string{
			"messages":  "/v3/rooms/" + room + "/messages?dir=b&limit=100",
			"context":   "/v3/rooms/" + room + "/context/" + url.PathEscape(near) + "?limit=100",
			"relations": "/v1/rooms/" + room + "/relations/" + url.PathEscape(near),
		} {
			out[what] = p.must(process, alice, "GET", path, nil).Raw
		}
		out["search"] = p.must(process, alice, "POST", "/v3/search", `{"search_categories":{"room_events":{"search_term":"cabbage"}}}`).Raw
		return out
	}
	shown := func(body string) bool {
		return strings.Contains(body, `"body":"cabbage"`) || strings.Contains(body, `"body":"in a thread"`)
	}
	for _, process := range processes {
		for what, body := range reads(process) {
			if !shown(body) {
				t.Errorf("%s: %s lacks what bob said", process, what)
			}
		}
	}
	for i, process := range processes {
		list := `{"ignored_users":{"@bob:test":{}}}`
		p.must(process, alice, "PUT", "/v3/user/@alice:test/account_data/m.ignored_user_list", list)
		since := p.sync(processes[1-i], alice, "").Get("next_batch").Str // the other process has heard of it
		for _, on := range processes {
			for what, body := range reads(on) {
				if shown(body) {
					t.Errorf("set on %s: %s on %s shows what bob said", process, what, on)
				}
			}
			if code, got := p.do(on, alice, "GET", "/v3/rooms/"+room+"/event/"+url.PathEscape(said), nil); code != http.StatusNotFound {
				t.Errorf("%s: the event itself: %d %s", on, code, got.Raw)
			}
			if body := reads(on)["messages"]; !strings.Contains(body, "@bob:test") {
				t.Errorf("%s: bob's joining is not shown", on)
			}
		}
		p.must(process, alice, "PUT", "/v3/user/@alice:test/account_data/m.ignored_user_list", `{"ignored_users":{}}`)
		p.sync(processes[1-i], alice, since)
		for _, on := range processes {
			if body := reads(on)["messages"]; !shown(body) {
				t.Errorf("%s: what bob said is not back", on)
			}
		}
	}
}

// Those who are suspended read, leave, and take back what they said.
func TestSuspended(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob := p.register("alice"), p.register("bob")
	id, other := p.room(alice, bob), p.room(alice)
	room := "/v3/rooms/" + url.PathEscape(id)
	said := url.PathEscape(p.must("worker1", bob, "PUT", room+"/send/m.room.message/1", `{"body":"x"}`).Get("event_id").Str)
	hers := url.PathEscape(p.must("worker1", alice, "PUT", room+"/send/m.room.message/1", `{"body":"x"}`).Get("event_id").Str)
	if err := p.Core("master").Accounts.SetSuspended(t.Context(), "@bob:test", true); err != nil {
		t.Fatal(err)
	}
	if err := p.Core("worker1").Accounts.SetSuspended(t.Context(), "@bob:test", true); err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		for _, c := range []struct{ method, path, body string }{
			{"PUT", room + "/send/m.room.message/" + process, `{"body":"x"}`},
			{"PUT", room + "/send/m.room.message/" + process + "?org.matrix.msc4140.delay=10", `{"body":"x"}`},
			{"PUT", room + "/state/m.room.topic", `{"topic":"x"}`},
			{"PUT", room + "/state/m.room.member/@alice:test", `{"membership":"leave"}`},
			{"PUT", room + "/redact/" + hers + "/" + process, `{}`},
			{"POST", "/v3/join/" + url.PathEscape(other), `{}`},
			{"POST", "/v3/knock/" + url.PathEscape(other), `{}`},
			{"POST", room + "/invite", `{"user_id":"@carol:test"}`},
			{"POST", room + "/kick", `{"user_id":"@alice:test"}`},
			{"POST", room + "/ban", `{"user_id":"@alice:test"}`},
			{"POST", room + "/unban", `{"user_id":"@alice:test"}`},
			{"POST", room + "/upgrade", `{"new_version":"11"}`},
			{"POST", "/v3/createRoom", `{}`},
			{"PUT", "/v3/profile/@bob:test/displayname", `{"displayname":"x"}`},
		} {
			code, got := p.do(process, bob, c.method, c.path, c.body)
			switched := strings.Contains(c.path, "msc4140") && got.Get("errcode").Str == "M_FORBIDDEN" // not on in this server
			if code != http.StatusForbidden || got.Get("errcode").Str != "M_USER_SUSPENDED" && !switched {
				t.Errorf("%s: %s %s: %d %s", process, c.method, c.path, code, got.Raw)
			}
		}
		p.must(process, bob, "GET", room+"/messages?dir=b", nil)
		p.must(process, bob, "PUT", room+"/redact/"+said+"/"+process, `{}`)
	}
	p.must("worker1", bob, "POST", room+"/leave", `{}`)
}
