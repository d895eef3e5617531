package clientapi_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// gateway is a push gateway that remembers what it is sent.
type gateway struct {
	*httptest.Server
	t testing.TB
	// answer says what to answer; nil accepts everything.
	answer func(n gjson.Result) (status int, body string)

	mu   sync.Mutex
	got  []gjson.Result
	news chan struct{}
}

func newGateway(t testing.TB, answer func(n gjson.Result) (int, string)) *gateway {
	t.Helper()
	g := &gateway{t: t, answer: answer, news: make(chan struct{}, 1)}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n := gjson.GetBytes(body, "notification")
		status, answer := http.StatusOK, `{"rejected":[]}`
		if g.answer != nil {
			status, answer = g.answer(n)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/_matrix/push/v1/notify" || !n.Exists() {
			t.Errorf("gateway got %s %s with %s", r.Method, r.URL, body)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
		if status != http.StatusOK {
			return
		}
		g.mu.Lock()
		g.got = append(g.got, n)
		g.mu.Unlock()
		select {
		case g.news <- struct{}{}:
		default:
		}
	}))
	t.Cleanup(g.Close)
	return g
}

// all are the notifications accepted so far, those about events first.
func (g *gateway) all() (events, badges []gjson.Result) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.got {
		if n.Get("event_id").Exists() {
			events = append(events, n)
		} else {
			badges = append(badges, n)
		}
	}
	return events, badges
}

// wait waits until what has come is as wanted.
func (g *gateway) wait(wanted func(events, badges []gjson.Result) bool) (events, badges []gjson.Result) {
	g.t.Helper()
	for deadline := time.After(30 * time.Second); ; {
		if events, badges = g.all(); wanted(events, badges) {
			return events, badges
		}
		select {
		case <-g.news:
		case <-deadline:
			g.t.Fatalf("what was waited for did not come; there are %s and %s", events, badges)
		}
	}
}

func atLeast(n int) func(events, badges []gjson.Result) bool {
	return func(events, _ []gjson.Result) bool { return len(events) >= n }
}

// on sets a pusher to the gateway.
func (g *gateway) on(p *people, token string, changes map[string]any) {
	data := map[string]any{"url": g.URL + "/_matrix/push/v1/notify", "extra": "kept"}
	if f, ok := changes["format"]; ok {
		data["format"] = f
	}
	c := map[string]any{"data": data}
	for k, v := range changes {
		if k != "format" {
			c[k] = v
		}
	}
	p.must("worker1", token, "POST", setPusher, pusher(g.t, c))
}

// nearby lets pushers reach gateways on this machine.
func nearby(cfg *homeservertest.ClusterConfig) {
	cfg.Configure = func(c *config.Config) { c.IPRangeBlacklist = nil }
}

func eventIDs(events []gjson.Result) []string {
	ids := []string{}
	for _, e := range events {
		ids = append(ids, e.Get("event_id").Str)
	}
	return ids
}

func TestPushGateway(t *testing.T) {
	t.Parallel()
	p := newPeople(t, nearby)
	alice, bob := p.register("alice"), p.register("bob")
	p.must("worker1", alice, "PUT", "/v3/profile/@alice:test/displayname", `{"displayname":"Alice A."}`)
	room := p.must("worker1", alice, "POST", "/v3/createRoom", `{"preset":"public_chat","name":"A room","room_alias_name":"room"}`).Get("room_id").Str
	g := newGateway(t, nil)
	g.on(p, bob, nil)

	// An invite, then a message that mentions, one that does not, and others that are nobody's business.
	p.must("worker1", alice, "POST", "/v3/rooms/"+url.PathEscape(room)+"/invite", `{"user_id":"@bob:test"}`)
	events, _ := g.wait(atLeast(1))
	if n := events[0]; n.Get("type").Str != "m.room.member" || !n.Get("user_is_target").Bool() || n.Get("content.membership").Str != "invite" || n.Get("prio").Str != "high" {
		t.Errorf("of the invite the gateway got %s", n)
	}
	p.must("worker1", bob, "POST", "/v3/join/"+url.PathEscape(room), `{}`)
	p.register("carl")
	p.must("worker1", p.login("carl", "pw"), "POST", "/v3/join/"+url.PathEscape(room), `{}`)
	p.say("worker1", bob, room, `{"msgtype":"m.text","body":"my own"}`)
	p.say("worker1", alice, room, `{"msgtype":"m.notice","body":"a notice"}`)
	mention := p.say("worker1", alice, room, `{"msgtype":"m.text","body":"hi","m.mentions":{"user_ids":["@bob:test"]}}`)
	plain := p.say("worker1", alice, room, `{"msgtype":"m.text","body":"hello"}`)
	events, _ = g.wait(atLeast(3))
	if ids := eventIDs(events[1:]); !slices.Equal(ids, []string{mention, plain}) {
		t.Errorf("the gateway got %v, want %s and %s", ids, mention, plain)
	}
	n := events[1]
	for path, want := range map[string]string{
		"event_id": mention, "room_id": room, "type": "m.room.message", "sender": "@alice:test", "sender_display_name": "Alice A.",
		"room_name": "A room", "room_alias": "#room:test", "prio": "high", "content.body": "hi", "counts.unread": "1",
		"devices.#": "1", "devices.0.app_id": "app", "devices.0.pushkey": "key", "devices.0.data.extra": "kept", "devices.0.data.url": "",
		"devices.0.tweaks.sound": "default", "devices.0.tweaks.highlight": "true", "user_is_target": "",
	} {
		if got := n.Get(path).String(); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if ts := n.Get("devices.0.pushkey_ts").Int(); ts < time.Now().Add(-time.Hour).Unix() || ts > time.Now().Unix() {
		t.Errorf("pushkey_ts is %d", ts)
	}
	if events[2].Get("prio").Str != "low" || events[2].Get("devices.0.tweaks").Exists() {
		t.Errorf("of a plain message the gateway got %s", events[2])
	}

	// Reading takes the badge away.
	p.must("worker1", bob, "POST", "/v3/rooms/"+url.PathEscape(room)+"/receipt/m.read/"+url.PathEscape(plain), `{}`)
	_, badges := g.wait(func(_, badges []gjson.Result) bool { return len(badges) > 0 })
	if b := badges[0]; b.Get("counts.unread").Int() != 0 || b.Get("room_id").Exists() || b.Get("devices.0.pushkey").Str != "key" {
		t.Errorf("the badge is %s", b)
	}

	// In the format event_id_only next to nothing is told.
	g.on(p, bob, map[string]any{"format": "event_id_only"})
	last := p.say("worker1", alice, room, `{"msgtype":"m.text","body":"secret"}`)
	events, _ = g.wait(atLeast(4))
	if n := events[3]; n.Get("event_id").Str != last || n.Get("room_id").Str != room || n.Get("content").Exists() || n.Get("sender").Exists() ||
		n.Get("type").Exists() || n.Get("room_name").Exists() || n.Get("devices.0.data.format").Str != "event_id_only" {
		t.Errorf("as event_id_only the gateway got %s", n)
	}
}

// A gateway that fails is tried again, and gets all in order; a pushkey that it rejects is forgotten.
func TestPushRetryAndRejection(t *testing.T) {
	t.Parallel()
	p := newPeople(t, nearby)
	alice, bob := p.register("alice"), p.register("bob")
	room := p.room(alice, bob)
	var mu sync.Mutex
	failures, attempts := 2, []string{}
	g := newGateway(t, func(n gjson.Result) (int, string) {
		mu.Lock()
		defer mu.Unlock()
		attempts = append(attempts, n.Get("event_id").Str)
		if failures > 0 {
			failures--
			if failures == 0 {
				return http.StatusOK + 4, "" // No content is no answer.
			}
			return http.StatusBadGateway, "no"
		}
		if n.Get("content.body").Str == "the end" {
			return http.StatusOK, `{"rejected":["another","key"]}`
		}
		return http.StatusOK, `{"rejected":["another"]}`
	})
	g.on(p, bob, nil)
	first := p.say("worker1", alice, room, `{"msgtype":"m.text","body":"one"}`)
	second := p.say("worker1", alice, room, `{"msgtype":"m.text","body":"two"}`)
	events, _ := g.wait(atLeast(2))
	if ids := eventIDs(events); !slices.Equal(ids, []string{first, second}) {
		t.Errorf("the gateway got %v, want %s and %s", ids, first, second)
	}
	mu.Lock()
	if !slices.Equal(attempts, []string{first, first, first, second}) {
		t.Errorf("attempts were %v, want three of %s and one of %s", attempts, first, second)
	}
	mu.Unlock()
	if got := p.pushers("worker1", bob); len(got) != 1 {
		t.Errorf("pushers are %s, though it was another key that was rejected", got)
	}
	p.say("worker1", alice, room, `{"msgtype":"m.text","body":"the end"}`)
	g.wait(atLeast(3))
	for deadline := time.Now().Add(20 * time.Second); len(p.pushers("worker1", bob)) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the pusher with the rejected key is still there")
		}
	}
}

// Two processes that run pushers send each notification once, and what one leaves when it stops the other sends.
func TestPusherInstances(t *testing.T) {
	t.Parallel()
	p := newPeople(t, func(cfg *homeservertest.ClusterConfig) {
		cfg.Workers = append(cfg.Workers, homeservertest.Worker{Name: "pusher1", App: "pusher"}, homeservertest.Worker{Name: "pusher2"})
		cfg.Configure = func(c *config.Config) {
			c.IPRangeBlacklist = nil
			c.StartPushers, c.PusherInstances = false, []string{"pusher1", "pusher2"}
		}
	})
	alice := p.register("alice")
	g := newGateway(t, nil)
	var guests []string
	for i := range 4 {
		guest := p.register(fmt.Sprintf("guest%d", i))
		g.on(p, guest, map[string]any{"pushkey": fmt.Sprint("key", i), "append": true})
		guests = append(guests, guest)
	}
	room := p.room(alice, guests...)
	var sent []string
	send := func(n int) {
		for range n {
			sent = append(sent, p.say("worker1", alice, room, `{"msgtype":"m.text","body":"hello"}`))
		}
	}
	check := func(when string) {
		t.Helper()
		events, _ := g.wait(atLeast(len(sent) * len(guests)))
		byKey := map[string][]string{}
		for _, e := range events {
			key := e.Get("devices.0.pushkey").Str
			byKey[key] = append(byKey[key], e.Get("event_id").Str)
		}
		for key, ids := range byKey {
			if !slices.Equal(ids, sent) {
				t.Errorf("%s: %s got %d notifications, want %d, each once and in order", when, key, len(ids), len(sent))
			}
		}
	}
	send(10)
	check("both run")
	if err := p.Stop("pusher1"); err != nil {
		t.Fatal(err)
	}
	send(5)
	check("one runs")
	if err := p.Stop("pusher2"); err != nil {
		t.Fatal(err)
	}
	send(5)
	p.Restart(t, "pusher1")
	check("after a time without")
}
