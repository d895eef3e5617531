package clientapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// hostileGroups are the groups of what is done in and about rooms.
func hostileGroups(c *homeserver.Core) []homeserver.Group {
	return []homeserver.Group{
		clientapi.Rooms(c.Rooms, c.Delayed), clientapi.RoomDirectory(c.Rooms), clientapi.UserRooms(c.Rooms), clientapi.Search(c.Rooms),
		clientapi.Receipts(c.Receipts), clientapi.Typing(c.Typing), clientapi.Sync(c.Sync), clientapi.SlidingSync(c.Sync),
		clientapi.Events(c.Sync, c.Rooms), clientapi.AccountData(c.AccountData), clientapi.UserDirectory(c.UserDirectory),
		clientapi.DelayedEvents(c.Delayed), clientapi.Presence(c.Presence), clientapi.PushRules(c.Push), clientapi.Pushers(c.Pushers),
		clientapi.Profile(c.Accounts, clientapi.ProfileConfig{}),
	}
}

// writtenSQL counts what requests write.
const writtenSQL = `SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM rooms) + (SELECT count(*) FROM room_aliases)
    + (SELECT count(*) FROM reports) + (SELECT count(*) FROM account_data) + (SELECT count(*) FROM receipts)
    + (SELECT count(*) FROM filters) + (SELECT count(*) FROM push_rules) + (SELECT count(*) FROM pushers)
    + (SELECT count(*) FROM delayed_events) + (SELECT count(*) FROM profile_fields) + (SELECT count(*) FROM memberships WHERE forgotten)`

// oddNames are put where a path names something.
func oddNames() []string {
	long := strings.Repeat("x", 300)
	return []string{
		"", "%00", "%FF", "%2F", "%2F..%2F", "x%2Fy", "!", "%23", "@", "$", "!unknown:example.org", "!a%2Fb:example.org", "!%F0%9F%A4%A8:x",
		"%23x:elsewhere.org", "@bob:example.org", "@x:elsewhere.org", "$unknown", "m.room.member", "global", long, "!" + long + ":x",
		"%F0%9F%A4%A8", "a%0Ab", "-1", "99999999999999999999", "%E2%80%AE", "'%22;--", "%ED%A0%80", "m.push_rules", "m.fully_read",
	}
}

// oddQueries are put behind a path.
func oddQueries() []string {
	return []string{
		"limit=-1", "limit=99999999999999999999", "limit=9223372036854775807&dir=b&ts=9223372036854775807", "limit=x", "dir=x",
		"from=made_up&dir=b", "from=t9223372036854775807_9223372036854775807&dir=b", "from=s1_1_1_1&to=s1&dir=f", "from=&to=&dir=b",
		"since=t1_1", "since=s9223372036854775807_9223372036854775807", "since=%FF", "since=-1", "from=t1_1", "at=t1_1", "at=%00",
		"filter=%7B", "filter=[]", "filter=%FF", "filter=-1", "filter=%7B%22limit%22%3A-1%7D&dir=b", "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A1e400%7D%7D%7D",
		"filter=%7B%22types%22%3A%5B%22%5Cu0000%22%5D%7D&dir=b", "filter=%7B%22senders%22%3A%5B%22%5Cud800%22%5D%7D&dir=b", "timeout=-1", "ts=-1&dir=f", "ts=1e9&dir=f",
		"via=%00", "server_name=%2F%2F", "server=elsewhere.org", "user_id=%FF", "org.matrix.msc4140.delay=-1", "membership=%FF", "format=%00", "set_presence=%FF",
	}
}

// oddBodies are sent where there is a body.
func oddBodies() []string {
	return []string{
		"", "null", "5", `"x"`, "[]", "[{}]", "{", "{\"a\":\"\xff\"}", `{"a":"\ud800"}`, `{"a":1e400}`, `{"a":-0.1}`, `{"a":99999999999999999999}`,
		`{"\u0000":"\u0000"}`, strings.Repeat("[", 100_000), `{"a":` + strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_001),
		`{"user_id":5,"reason":[],"room_id":{},"visibility":1,"new_version":[],"limit":"x","search_term":[],"timeout":"x","typing":5}`,
		`{"user_id":"@x:elsewhere.org","reason":"\u0000","room_id":"!x:y","visibility":"\u0000","new_version":"\u0000","typing":true,"timeout":-5}`,
		`{"displayname":"\u0000","avatar_url":5,"presence":"x","status_msg":[]}`, `{"event_id":"\u0000","m.fully_read":5,"m.read":"\u0000","thread_id":5}`,
		`{"search_categories":{"room_events":{"search_term":"\u0000","keys":["x"],"filter":{"limit":-1},"order_by":"x","groupings":{"group_by":[{"key":"x"}]}}}}`,
		`{"actions":5,"conditions":[5],"pattern":[],"enabled":"x"}`, `{"lists":{"a":{"ranges":[[5,-1]],"timeline_limit":-1}},"room_subscriptions":{"\u0000":{}}}`,
		`{"user_id":"@\u0000:example.org"}`, `{"user_id":"@x:\u0000"}`, `{"invite":["@\u0000:example.org"]}`, `{"room_alias_name":"\u0000"}`,
		`{"name":"\u0000","topic":"\u0000","room_version":"\u0000"}`, `{"initial_state":[{"type":"\u0000","state_key":"\u0000","content":{}}]}`,
		`{"creation_content":{"type":"\u0000","predecessor":5}}`, `{"power_level_content_override":{"users":5}}`, `{"preset":"\u0000"}`,
		`{"membership":"\u0000","displayname":"\u0000"}`, `{"membership":"join","join_authorised_via_users_server":"\u0000"}`,
		`{"third_party_signed":{"mxid":"\u0000","token":"\u0000","sender":5}}`, `{"id_server":"\u0000","id_access_token":"x","medium":"email","address":"\u0000"}`,
		`{"redacts":"\u0000"}`, `{"m.relates_to":{"rel_type":"\u0000","event_id":"\u0000","key":"\u0000"}}`, `{"alias":"#\u0000:example.org"}`,
		`{"room":{"timeline":{"types":["\u0000"],"rooms":["!\u0000:x"]}}}`, `{"filter":{"generic_search_term":"\u0000","room_types":["\u0000"]},"limit":-1}`,
		`{"pushkey":"\u0000","kind":"http","app_id":"x","data":{"url":"\u0000"}}`, `{"order":"x"}`, `{"order":1e400}`,
	}
}

// Whatever is put into a request, the server answers as the specification says, and not that it has a bug; and what it
// refuses it has not half done. Each endpoint is asked on the process that writes and on another.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	c := homeservertest.NewCluster(t, homeservertest.ClusterConfig{
		ServerName: "example.org",
		Workers:    []homeservertest.Worker{{Name: "worker1"}},
		Parts: func(c *homeserver.Core) homeserver.Config {
			cfg := c.Process(hostileGroups(c))
			cfg.Authenticator = tokens{}
			return cfg
		},
	})
	for _, process := range processes {
		t.Run(process, func(t *testing.T) {
			a := &roomAPI{Cluster: c, process: process, tb: t}
			for _, g := range hostileGroups(c.Core("master")) {
				for _, e := range g.Endpoints {
					hostile(t, a, e)
				}
			}
		})
	}
}

// hostile asks one endpoint for odd things, in a room of its own.
func hostile(t *testing.T, a *roomAPI, e homeserver.Endpoint) {
	t.Helper()
	id := a.must("alice", "POST", "/v3/createRoom", `{"preset":"public_chat"}`).Get("room_id").Str
	event := a.must("alice", "PUT", "/v3/rooms/"+url.PathEscape(id)+"/send/m.room.message/1", `{"body":"x"}`).Get("event_id").Str
	good := map[string]string{
		"roomId": id, "roomIdOrAlias": id, "eventId": event, "userId": "@alice:example.org", "eventType": "m.room.message", "txnId": "t",
		"relType": "m.thread", "type": "org.example.x", "stateKey": "x", "roomAlias": "#x:example.org", "receiptType": "m.read",
	}
	template := e.Path
	if len(e.Versions) > 0 {
		template = strings.Replace(template, "{v}", e.Versions[0], 1)
	}
	var names []string
	for _, part := range strings.Split(template, "/") {
		if strings.HasPrefix(part, "{") {
			names = append(names, strings.Trim(part, "{.}"))
		}
	}
	path := func(name, odd string) string {
		p := template
		for _, n := range names {
			value := url.PathEscape(good[n])
			if n == name {
				value = odd
			} else if value == "" {
				value = "x"
			}
			p = strings.NewReplacer("{"+n+"}", value, "{"+n+"...}", value).Replace(p)
		}
		return p
	}
	before := written(t, a)
	ask := func(user, path, body string) {
		t.Helper()
		code, b := a.Process(a.process).Do(t, e.Method, path, user, []byte(body))
		if code >= http.StatusInternalServerError && code != http.StatusBadGateway {
			t.Errorf("%s %.200s %.100q: %d %s", e.Method, path, body, code, b)
		}
		switch {
		case e.Method == http.MethodGet:
			return
		case code < http.StatusBadRequest:
			before = -1
			return
		}
		if before < 0 {
			before = written(t, a)
			return
		}
		if after := written(t, a); after != before {
			t.Errorf("%s %.200s %.100q was refused with %d and wrote %d rows", e.Method, path, body, code, after-before)
			before = after
		}
	}
	body := ""
	if e.Method != http.MethodGet {
		body = `{}`
	}
	for _, name := range names {
		for _, odd := range oddNames() {
			ask("alice", path(name, odd), body)
		}
	}
	for _, q := range oddQueries() {
		ask("alice", path("", "")+"?"+q, body)
	}
	if e.Method == http.MethodGet {
		return
	}
	for _, odd := range oddBodies() {
		ask("alice", path("", ""), odd)
	}
}

func written(t *testing.T, a *roomAPI) int {
	t.Helper()
	n := 0
	if err := a.Core("master").DB.QueryRow(t.Context(), writtenSQL).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
