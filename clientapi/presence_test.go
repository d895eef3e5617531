package clientapi_test

import (
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// shows is a sync response in which a user's presence is as given.
func shows(userID, state, message string) func(gjson.Result) bool {
	return func(r gjson.Result) bool {
		for _, e := range r.Get("presence.events").Array() {
			if e.Get("sender").Str == userID && e.Get("content.presence").Str == state && (message == "" || e.Get("content.status_msg").Str == message) {
				return e.Get("type").Str == "m.presence"
			}
		}
		return false
	}
}

func TestPresence(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob, eve := p.register("alice"), p.register("bob"), p.register("eve")
	p.room(alice, bob)
	for i, process := range processes {
		other := processes[1-i]
		path := "/v3/presence/@alice:test/status"
		since := p.sync(process, bob, "").Get("next_batch").Str
		message := "I am at " + process
		p.must(process, alice, "PUT", path, object(t, "presence", "online", "status_msg", message))
		for _, v := range []string{"v3", "r0", "api/v1", "unstable"} {
			got := p.must(process, alice, "GET", "/"+v+"/presence/@alice:test/status", nil)
			if got.Get("presence").Str != "online" || got.Get("status_msg").Str != message || !got.Get("currently_active").Bool() || !got.Get("last_active_ago").Exists() {
				t.Errorf("on %s her own presence is %s", process, got)
			}
		}
		for _, where := range []string{process, other} {
			p.syncUntil(where, bob, since, "&set_presence=offline", shows("@alice:test", "online", message))
		}
		// Now that bob has heard of it, an initial sync shows it too.
		if got := p.sync(process, bob, ""); !shows("@alice:test", "online", message)(got) {
			t.Errorf("an initial sync shows %s", got.Get("presence"))
		}
		if got := p.sync(process, eve, ""); len(got.Get("presence.events").Array()) != 0 {
			t.Errorf("somebody who shares no room sees %s", got.Get("presence"))
		}
		p.must(process, alice, "PUT", path, `{"presence":"unavailable"}`)
		got := p.syncUntil(other, bob, since, "&set_presence=offline", shows("@alice:test", "unavailable", ""))
		for _, e := range got.Get("presence.events").Array() {
			if e.Get("content.status_msg").Exists() {
				t.Errorf("the message is still there: %s", e)
			}
		}
	}
}

func TestPresenceOfSyncs(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob := p.register("alice"), p.register("bob")
	p.room(alice, bob)
	since := p.sync("master", bob, "").Get("next_batch").Str
	for _, process := range processes {
		p.must(process, alice, "GET", "/v3/sync?timeout=0&set_presence=unavailable", nil)
		got := p.syncUntil("master", bob, since, "&set_presence=offline", shows("@alice:test", "unavailable", ""))
		p.must(process, alice, "GET", "/v3/sync?timeout=0", nil)
		got = p.syncUntil("worker1", bob, got.Get("next_batch").Str, "&set_presence=offline", shows("@alice:test", "online", ""))
		since = got.Get("next_batch").Str
	}
	// Somebody who joins shows up with how they are.
	carol := p.register("carol")
	p.must("master", carol, "PUT", "/v3/presence/@carol:test/status", `{"presence":"online"}`)
	since = p.sync("worker1", alice, "").Get("next_batch").Str
	p.room(carol, alice)
	p.syncUntil("worker1", alice, since, "&set_presence=offline", shows("@carol:test", "online", ""))
}

func TestPresenceErrors(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice := p.register("alice")
	p.register("bob")
	for _, c := range []struct {
		name, token, method, path, body string
		code                            int
		errcode                         string
	}{
		{"no token", "", "GET", "@alice:test", "", 401, "M_MISSING_TOKEN"},
		{"no room shared", alice, "GET", "@bob:test", "", 403, "M_FORBIDDEN"},
		{"nobody", alice, "GET", "@nobody:test", "", 403, "M_FORBIDDEN"},
		{"of another server", alice, "GET", "@x:far.example", "", 403, "M_FORBIDDEN"},
		{"no user id", alice, "GET", "alice", "", 400, "M_INVALID_PARAM"},
		{"odd UTF-8", alice, "GET", "%ff%fe", "", 400, "M_INVALID_PARAM"},
		{"somebody else", alice, "PUT", "@bob:test", `{"presence":"online"}`, 403, "M_FORBIDDEN"},
		{"no state", alice, "PUT", "@alice:test", `{"status_msg":"x"}`, 400, "M_MISSING_PARAM"},
		{"a state there is not", alice, "PUT", "@alice:test", `{"presence":"asleep"}`, 400, "M_BAD_JSON"},
		{"a number for a state", alice, "PUT", "@alice:test", `{"presence":1}`, 400, "M_BAD_JSON"},
		{"a number for a message", alice, "PUT", "@alice:test", `{"presence":"online","status_msg":1}`, 400, "M_BAD_JSON"},
		{"no object", alice, "PUT", "@alice:test", `[]`, 400, "M_BAD_JSON"},
		{"no JSON", alice, "PUT", "@alice:test", `{`, 400, "M_NOT_JSON"},
	} {
		for _, process := range processes {
			code, got := p.do(process, c.token, c.method, "/v3/presence/"+c.path+"/status", c.body)
			if code != c.code || got.Get("errcode").Str != c.errcode {
				t.Errorf("%s on %s: %d %s, want %d %s", c.name, process, code, got, c.code, c.errcode)
			}
		}
	}
	if got := p.must("master", alice, "GET", "/v3/presence/@alice:test/status", nil); got.Get("presence").Str != "offline" {
		t.Errorf("after bad requests alice is %s", got)
	}
}

func TestPresenceSwitchedOff(t *testing.T) {
	t.Parallel()
	p := newPeople(t, func(c *homeservertest.ClusterConfig) {
		c.Configure = func(cfg *config.Config) { off := false; cfg.UsePresence = &off }
	})
	alice, bob := p.register("alice"), p.register("bob")
	p.room(alice, bob)
	for _, process := range processes {
		p.must(process, alice, "PUT", "/v3/presence/@alice:test/status", `{"presence":"online"}`)
		if got := p.must(process, bob, "GET", "/v3/presence/@alice:test/status", nil); got.Get("presence").Str != "offline" {
			t.Errorf("alice is %s", got)
		}
		if code, _ := p.do(process, alice, "PUT", "/v3/presence/@alice:test/status", `{"presence":"x"}`); code != 400 {
			t.Errorf("a state there is not: %d", code)
		}
		if got := p.sync(process, bob, "").Get("presence.events").Array(); len(got) != 0 {
			t.Errorf("presence %s", got)
		}
		if s := p.Core(process).Replication.Snapshot(); len(s) == 0 {
			t.Fatal("no streams")
		} else {
			for _, st := range s {
				if st.Stream == "presence" {
					t.Errorf("%s follows presence", process)
				}
			}
		}
	}
}
