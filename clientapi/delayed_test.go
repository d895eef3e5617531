package clientapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

const delayedEvents = "/unstable/org.matrix.msc4140/delayed_events"

func newDelayed(t testing.TB) *people {
	t.Helper()
	return newPeople(t, func(cfg *homeservertest.ClusterConfig) {
		cfg.Configure = func(cfg *config.Config) { cfg.MaxEventDelayDuration = 24 * time.Hour }
	})
}

func TestDelayedEvents(t *testing.T) {
	t.Parallel()
	p := newDelayed(t)
	alice, bob := p.register("alice"), p.register("bob")
	room := p.room(alice, bob)
	send := "/v3/rooms/" + url.PathEscape(room) + "/send/m.room.message/"
	state := "/v3/rooms/" + url.PathEscape(room) + "/state/m.room.topic?org.matrix.msc4140.delay="
	ids := func(process, token, query string) []string {
		t.Helper()
		out := []string{}
		for _, e := range p.must(process, token, "GET", delayedEvents+query, nil).Get("delayed_events").Array() {
			out = append(out, e.Get("delay_id").Str)
		}
		return out
	}
	act := func(process, id, action string) int {
		t.Helper()
		code, _ := p.do(process, "", "POST", delayedEvents+"/"+id+"/"+action, `{}`)
		return code
	}
	for i, process := range processes {
		other := processes[1-i]
		// Scheduled here, again without saying what under the same transaction id, sent by either process.
		since := p.sync(process, bob, "").Get("next_batch").Str
		ownSince := p.sync(process, alice, "").Get("next_batch").Str
		id := p.must(process, alice, "PUT", send+process+"?org.matrix.msc4140.delay=300", `{"body":"later `+process+`"}`).Get("delay_id").Str
		if again := p.must(other, alice, "PUT", send+process+"?org.matrix.msc4140.delay=300", nil).Get("delay_id").Str; again != id || id == "" {
			t.Errorf("%s: delay ids %q and %q", process, id, again)
		}
		if got := ids(process, bob, ""); len(got) != 0 {
			t.Errorf("%s: another user sees %v", process, got)
		}
		find := func(found *gjson.Result) func(gjson.Result) bool {
			return func(r gjson.Result) bool {
				for _, e := range r.Get("rooms.join." + gjson.Escape(room) + ".timeline.events").Array() {
					if e.Get("content.body").Str == "later "+process {
						*found = e
						return true
					}
				}
				return false
			}
		}
		var e gjson.Result
		p.syncUntil(other, bob, since, "", find(&e))
		if e.Get("unsigned.transaction_id").Exists() || strings.Contains(e.Raw, "delay_id") {
			t.Errorf("%s: others see the delay id: %s", process, e.Raw)
		}
		p.syncUntil(other, alice, ownSince, "", find(&e))
		if e.Get(`unsigned.org\.matrix\.msc4140\.delay_id`).Str != id {
			t.Errorf("%s: the sender does not see the delay id: %s", process, e.Raw)
		}
		if got := p.must(other, alice, "GET", "/v3/rooms/"+url.PathEscape(room)+"/event/"+url.PathEscape(e.Get("event_id").Str), nil); got.Get(`unsigned.org\.matrix\.msc4140\.delay_id`).Str != id {
			t.Errorf("%s: the event by itself lacks the delay id: %s", process, got.Raw)
		}
		for code := 0; code != http.StatusOK; code = act(process, id, "send") {
			// The event is there a moment before it is known to have been sent.
		}
		if got := p.must(other, alice, "GET", delayedEvents+"/"+id, nil); got.Get("event_id").Str != e.Get("event_id").Str || !got.Get("origin_server_ts").Exists() {
			t.Errorf("%s: what became of it: %s", process, got.Raw)
		}
		for action, want := range map[string]int{"send": 200, "cancel": 409, "restart": 409} {
			if code := act(other, id, action); code != want {
				t.Errorf("%s: %s after sending: %d, want %d", process, action, code, want)
			}
		}
		// A state event, by its delay id alone restarted and sent.
		id = p.must(process, alice, "PUT", state+"3600000", `{"topic":"`+process+`"}`).Get("delay_id").Str
		before := p.must(process, alice, "GET", delayedEvents+"/"+id, nil)
		if before.Get("state_key").Str != "" || !before.Get("state_key").Exists() || before.Get("delay").Int() != 3600000 ||
			before.Get("content.topic").Str != process || before.Get("type").Str != "m.room.topic" || before.Get("room_id").Str != room {
			t.Errorf("%s: details %s", process, before.Raw)
		}
		if code := act(other, id, "restart"); code != http.StatusOK {
			t.Errorf("%s: restart: %d", process, code)
		}
		if got := p.must(process, alice, "GET", delayedEvents+"/"+id, nil); got.Get("running_since").Int() < before.Get("running_since").Int() {
			t.Errorf("%s: restarted: %s", process, got.Raw)
		}
		if code, got := p.do(process, bob, "GET", delayedEvents+"/"+id, nil); code != http.StatusNotFound {
			t.Errorf("%s: another user gets it: %d %s", process, code, got.Raw)
		}
		if code := act(other, id, "send"); code != http.StatusOK {
			t.Errorf("%s: send: %d", process, code)
		}
		if got := p.must(process, alice, "GET", "/v3/rooms/"+url.PathEscape(room)+"/state/m.room.topic", nil); got.Get("topic").Str != process {
			t.Errorf("%s: topic %s", process, got.Raw)
		}
		// One that is cancelled, by the form with the action in the body.
		id = p.must(process, alice, "PUT", state+"3600000", `{"topic":"never"}`).Get("delay_id").Str
		for range 2 {
			if code, got := p.do(other, "", "POST", delayedEvents+"/"+id, `{"action":"cancel"}`); code != http.StatusOK {
				t.Errorf("%s: cancel: %d %s", process, code, got.Raw)
			}
		}
		for _, action := range []string{"send", "restart"} {
			if code := act(process, id, action); code != http.StatusConflict {
				t.Errorf("%s: %s after cancelling: %d", process, action, code)
			}
		}
		// One that the room refuses once its time has come.
		id = p.must(process, bob, "PUT", state+"1", `{"topic":"mine"}`).Get("delay_id").Str
		for deadline := time.Now().Add(20 * time.Second); ; {
			got := p.must(other, bob, "GET", delayedEvents+"/"+id, nil)
			if got.Get("error.errcode").Str == "M_FORBIDDEN" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: a refused event: %s", process, got.Raw)
			}
		}
		// On request the error is the answer, and the event stays.
		id = p.must(process, bob, "PUT", state+"3600000", `{"topic":"mine"}`).Get("delay_id").Str
		if code := act(other, id, "send"); code != http.StatusForbidden {
			t.Errorf("%s: send what is refused: %d", process, code)
		}
		if got := ids(other, bob, "?room_id="+url.QueryEscape(room)); len(got) != 1 || got[0] != id {
			t.Errorf("%s: scheduled %v, want %s", process, got, id)
		}
		if got := ids(other, bob, "?status=finalised"); len(got) != 2*i+1 {
			t.Errorf("%s: finalised %v", process, got)
		}
		if code := act(other, id, "cancel"); code != http.StatusOK {
			t.Errorf("%s: cancel: %d", process, code)
		}
	}
}

func TestDelayedEventErrors(t *testing.T) {
	t.Parallel()
	p := newDelayed(t)
	alice := p.register("alice")
	room := url.PathEscape(p.room(alice))
	send := "/v3/rooms/" + room + "/send/m.room.message/t?org.matrix.msc4140.delay="
	for _, process := range processes {
		for _, c := range []struct {
			token, method, path, body string
			status                    int
			code                      string
		}{
			{"", "PUT", send + "10", `{}`, 401, "M_MISSING_TOKEN"},
			{alice, "PUT", send + "0", `{}`, 400, "M_INVALID_PARAM"},
			{alice, "PUT", send, `{}`, 400, "M_INVALID_PARAM"},
			{alice, "PUT", send + "-1", `{}`, 400, "M_INVALID_PARAM"},
			{alice, "PUT", send + "soon", `{}`, 400, "M_INVALID_PARAM"},
			{alice, "PUT", send + "86400001", `{}`, 400, "M_UNKNOWN"},
			{alice, "PUT", send + "9223372036854775807", `{}`, 400, "M_UNKNOWN"},
			{alice, "PUT", send + "1000", ``, 400, "M_NOT_JSON"},
			{alice, "PUT", send + "1000", `[]`, 400, "M_BAD_JSON"},
			{alice, "PUT", send + "1000", `{"x":"` + strings.Repeat("x", 70_000) + `"}`, 413, "M_TOO_LARGE"},
			{alice, "PUT", "/v3/rooms/nonsense/send/m.room.message/t?org.matrix.msc4140.delay=10", `{}`, 400, "M_INVALID_PARAM"},
			{alice, "PUT", "/v3/rooms/" + room + "/send/" + strings.Repeat("x", 300) + "/t?org.matrix.msc4140.delay=10", `{}`, 413, "M_TOO_LARGE"},
			{"", "GET", delayedEvents, "", 401, "M_MISSING_TOKEN"},
			{alice, "GET", delayedEvents + "?from=made_up", "", 400, "M_INVALID_PARAM"},
			{alice, "GET", delayedEvents + "?status=odd", "", 400, "M_INVALID_PARAM"},
			{alice, "GET", delayedEvents + "/nosuch", "", 404, "M_NOT_FOUND"},
			{"", "POST", delayedEvents + "/abc", `{}`, 400, "M_MISSING_PARAM"},
			{"", "POST", delayedEvents + "/abc", `{"action":5}`, 400, "M_BAD_JSON"},
			{"", "POST", delayedEvents + "/abc", `{"action":"oops"}`, 400, "M_INVALID_PARAM"},
			{"", "POST", delayedEvents + "/abc/oops", `{}`, 404, "M_UNRECOGNIZED"},
			{"", "POST", delayedEvents + "/abc/send", `{}`, 404, "M_NOT_FOUND"},
			{"", "POST", delayedEvents + "/abc/cancel", ``, 404, "M_NOT_FOUND"},
			{"", "POST", delayedEvents + "/abc%2Fdef/restart", `{}`, 404, "M_NOT_FOUND"},
		} {
			if code, got := p.do(process, c.token, c.method, c.path, c.body); code != c.status || got.Get("errcode").Str != c.code {
				t.Errorf("%s: %s %.80s %.40s: %d %s, want %d %s", process, c.method, c.path, c.body, code, got.Raw, c.status, c.code)
			}
		}
		_, got := p.do(process, alice, "PUT", send+"86400001", `{}`)
		if got.Get(`org\.matrix\.msc4140\.errcode`).Str != "M_MAX_DELAY_EXCEEDED" || got.Get(`org\.matrix\.msc4140\.max_delay`).Int() != 86400000 {
			t.Errorf("%s: above the maximum: %s", process, got.Raw)
		}
	}
	if got := p.must("master", alice, "GET", delayedEvents, nil).Get("delayed_events.#").Int(); got != 0 {
		t.Errorf("%d events were scheduled by bad requests", got)
	}
	// Nobody has more than so many.
	code := 0
	for i := 0; i <= 100 && code != http.StatusTooManyRequests; i++ {
		code, _ = p.do(processes[i%2], alice, "POST", "/v3/rooms/"+room+"/send/m.room.message?org.matrix.msc4140.delay=3600000", `{}`)
	}
	if got := p.must("master", alice, "GET", delayedEvents, nil).Get("delayed_events.#").Int(); code != http.StatusTooManyRequests || got != 100 {
		t.Errorf("%d events are scheduled, and the next got %d", got, code)
	}
}

func TestDelayedEventsSwitchedOff(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice := p.register("alice")
	if code, got := p.do("master", alice, "PUT", "/v3/rooms/"+url.PathEscape(p.room(alice))+"/send/x/t?org.matrix.msc4140.delay=1", `{}`); code != http.StatusForbidden {
		t.Errorf("%d %s", code, got.Raw)
	}
}
