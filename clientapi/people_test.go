package clientapi_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// people is a cluster of main, which writes everything, and a worker, on which people register, make rooms and sync.
type people struct {
	*homeservertest.Cluster
	t    testing.TB
	sent int // counts transaction ids
}

// processes are the owner of the streams and another process: tests send each request to both.
var processes = []string{"master", "worker1"}

func newPeople(t testing.TB, change ...func(cfg *homeservertest.ClusterConfig)) *people {
	t.Helper()
	cfg := homeservertest.ClusterConfig{
		Workers: []homeservertest.Worker{{Name: "worker1"}},
		Parts: func(c *homeserver.Core) homeserver.Config {
			return c.Process([]homeserver.Group{
				clientapi.Registration(c.Accounts), clientapi.Profile(c.Accounts, clientapi.ProfileConfig{}),
				clientapi.AccountData(c.AccountData), clientapi.Rooms(c.Rooms, c.Delayed), clientapi.RoomDirectory(c.Rooms),
				clientapi.UserRooms(c.Rooms), clientapi.Receipts(c.Receipts), clientapi.Typing(c.Typing), clientapi.Sync(c.Sync),
				clientapi.Events(c.Sync, c.Rooms), clientapi.Presence(c.Presence), clientapi.PushRules(c.Push),
				clientapi.Pushers(c.Pushers), clientapi.Notifications(c.Unread), clientapi.Login(c.Accounts), clientapi.Logout(c.Accounts), clientapi.Account(c.Accounts),
				clientapi.UserDirectory(c.UserDirectory), clientapi.DelayedEvents(c.Delayed), clientapi.Search(c.Rooms), clientapi.Devices(c.Accounts),
			})
		},
	}
	for _, fn := range change {
		fn(&cfg)
	}
	return &people{Cluster: homeservertest.NewCluster(t, cfg), t: t}
}

// do sends a request to a process; path is below /_matrix/client.
func (p *people) do(process, token, method, path string, body any) (int, gjson.Result) {
	p.t.Helper()
	if s, ok := body.(string); ok {
		body = []byte(s)
	}
	code, b := p.Process(process).Do(p.t, method, "/_matrix/client"+path, token, body)
	if code == http.StatusInternalServerError {
		p.t.Errorf("%s %s on %s gave 500: %s", method, path, process, b)
	}
	return code, gjson.ParseBytes(b)
}

// must is do for what succeeds.
func (p *people) must(process, token, method, path string, body any) gjson.Result {
	p.t.Helper()
	code, got := p.do(process, token, method, path, body)
	if code != http.StatusOK {
		p.t.Fatalf("%s %s on %s: %d %s", method, path, process, code, got.Raw)
	}
	return got
}

// register makes an account and returns its access token.
func (p *people) register(name string) string {
	p.t.Helper()
	return p.must("worker1", "", "POST", "/v3/register",
		`{"auth":{"type":"m.login.dummy"},"username":"`+name+`","password":"pw"}`).Get("access_token").Str
}

// room makes a room that anybody may join, and has guests join it.
func (p *people) room(creator string, guests ...string) string {
	p.t.Helper()
	id := p.must("worker1", creator, "POST", "/v3/createRoom", `{"preset":"public_chat"}`).Get("room_id").Str
	for _, g := range guests {
		p.must("worker1", g, "POST", "/v3/join/"+url.PathEscape(id), `{}`)
	}
	return id
}

// syncUntil syncs until a response is as wanted, and returns it.
func (p *people) syncUntil(process, token, since, query string, wanted func(gjson.Result) bool) gjson.Result {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		q := url.Values{"timeout": {"2000"}}
		if since != "" {
			q.Set("since", since)
		}
		got := p.must(process, token, "GET", "/v3/sync?"+q.Encode()+query, nil)
		if wanted(got) {
			return got
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("what was waited for did not come; last: %s", got.Raw)
		}
		since = got.Get("next_batch").Str
	}
}

// sync syncs once, without waiting.
func (p *people) sync(process, token, since string) gjson.Result {
	p.t.Helper()
	path := "/v3/sync?timeout=0&set_presence=offline"
	if since != "" {
		path += "&since=" + url.QueryEscape(since)
	}
	return p.must(process, token, "GET", path, nil)
}

// object returns a JSON object.
func object(t testing.TB, keysAndValues ...any) string {
	t.Helper()
	m := map[string]any{}
	for i := 0; i < len(keysAndValues); i += 2 {
		m[keysAndValues[i].(string)] = keysAndValues[i+1]
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
