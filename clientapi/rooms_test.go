package clientapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/homeservertest"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// roomAPI is one of two processes of a server that serve the room endpoints: main, which writes everything, or a worker.
// The access token is the user's local part; that of a guest starts with "guest".
type roomAPI struct {
	*homeservertest.Cluster
	process string
	tb      testing.TB
}

// tokens lets everybody in under the name that the token is.
type tokens struct{}

// Authenticate implements homeserver.Authenticator.
func (tokens) Authenticate(_ context.Context, token string, _ *http.Request) (*homeserver.Requester, error) {
	if token == "nobody" {
		return nil, mxerr.UnknownToken
	}
	u := &homeserver.Requester{
		UserID: "@" + token + ":example.org", DeviceID: "DEVICE", IsGuest: strings.HasPrefix(token, "guest"), RateLimitExempt: true,
	}
	if token == "bridge" {
		u.AppserviceID = "bridge"
	}
	return u, nil
}

// newRoomAPI starts a server; requests go to the process that is named.
func newRoomAPI(tb testing.TB, process string) *roomAPI {
	tb.Helper()
	c := homeservertest.NewCluster(tb, homeservertest.ClusterConfig{
		ServerName: "example.org",
		Workers:    []homeservertest.Worker{{Name: "worker1"}},
		Parts: func(c *homeserver.Core) homeserver.Config {
			cfg := c.Process([]homeserver.Group{
				clientapi.Rooms(c.Rooms, c.Delayed), clientapi.RoomDirectory(c.Rooms), clientapi.UserRooms(c.Rooms), clientapi.Search(c.Rooms),
			})
			cfg.Authenticator = tokens{}
			return cfg
		},
	})
	return &roomAPI{Cluster: c, process: process, tb: tb}
}

// do sends a request; path is below /_matrix/client.
func (a *roomAPI) do(user, method, path, body string) (int, gjson.Result) {
	a.tb.Helper()
	code, b := a.Process(a.process).Do(a.tb, method, "/_matrix/client"+path, user, []byte(body))
	if !gjson.ValidBytes(b) {
		a.tb.Errorf("%s %s: the response is not JSON: %.200s", method, path, b)
	}
	return code, gjson.ParseBytes(b)
}

func (a *roomAPI) must(user, method, path, body string) gjson.Result {
	a.tb.Helper()
	code, res := a.do(user, method, path, body)
	if code != 200 {
		a.tb.Fatalf("%s %s: %d %s", method, path, code, res)
	}
	return res
}

func (a *roomAPI) events() (n int) {
	a.tb.Helper()
	if err := a.Core("master").DB.QueryRow(a.tb.Context(), `SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM room_aliases) + (SELECT count(*) FROM reports)`).Scan(&n); err != nil {
		a.tb.Fatal(err)
	}
	return n
}

func TestConversationOverEveryPrefix(t *testing.T) {
	t.Parallel()
	for _, process := range processes {
		t.Run(process, func(t *testing.T) {
			t.Parallel()
			conversationOverEveryPrefix(t, newRoomAPI(t, process))
		})
	}
}

func conversationOverEveryPrefix(t *testing.T, a *roomAPI) {
	t.Helper()
	for _, v := range []string{"/v3", "/r0", "/api/v1", "/unstable"} {
		id := a.must("alice", "POST", v+"/createRoom", `{"preset":"public_chat","room_alias_name":"a`+strings.ReplaceAll(v, "/", "-")+`","name":"N"}`).Get("room_id").Str
		rp := v + "/rooms/" + url.PathEscape(id)
		alias := url.PathEscape("#a" + strings.ReplaceAll(v, "/", "-") + ":example.org")
		if got := a.must("", "GET", v+"/directory/room/"+alias, "").Get("room_id").Str; got != id {
			t.Errorf("%s: alias of %q, want %q", v, got, id)
		}
		if got := a.must("bob", "POST", v+"/join/"+alias, "").Get("room_id").Str; got != id {
			t.Errorf("%s: joined %q, want %q", v, got, id)
		}
		ev := a.must("bob", "PUT", rp+"/send/m.room.message/t1", `{"body":"hi","msgtype":"m.text"}`).Get("event_id").Str
		if again := a.must("bob", "PUT", rp+"/send/m.room.message/t1", `{"body":"hi","msgtype":"m.text"}`).Get("event_id").Str; again != ev {
			t.Errorf("%s: repeated send gave %q, want %q", v, again, ev)
		}
		a.must("bob", "POST", rp+"/send/m.room.message", `{"body":"no transaction"}`)
		for _, key := range []string{"", "/", "/k%2Fey"} {
			a.must("alice", "PUT", rp+"/state/org.example.x"+key, `{"key":"`+key+`"}`)
			if got := a.must("bob", "GET", rp+"/state/org.example.x"+key, ""); got.Get("key").Str != key && key != "" {
				t.Errorf("%s: state %q is %s", v, key, got)
			}
		}
		if got := a.must("bob", "GET", rp+"/state/m.room.name?format=event", ""); got.Get("content.name").Str != "N" || got.Get("sender").Str != "@alice:example.org" {
			t.Errorf("%s: state event %s", v, got)
		}
		if got := a.must("bob", "GET", rp+"/event/"+url.PathEscape(ev), ""); got.Get("content.body").Str != "hi" || got.Get("unsigned.transaction_id").Str != "t1" {
			t.Errorf("%s: event %s", v, got)
		}
		if n := len(a.must("bob", "GET", rp+"/state", "").Array()); n < 8 {
			t.Errorf("%s: %d state events", v, n)
		}
		if n := len(a.must("bob", "GET", rp+"/members", "").Get("chunk").Array()); n != 2 {
			t.Errorf("%s: %d members", v, n)
		}
		if n := len(a.must("bob", "GET", rp+"/joined_members", "").Get("joined").Map()); n != 2 {
			t.Errorf("%s: %d joined members", v, n)
		}
		page := a.must("bob", "GET", rp+"/messages?dir=b&limit=3", "")
		if len(page.Get("chunk").Array()) != 3 || page.Get("end").Str == "" {
			t.Errorf("%s: page %s", v, page)
		}
		if got := a.must("bob", "GET", rp+"/context/"+url.PathEscape(ev)+"?limit=2", ""); got.Get("event.event_id").Str != ev {
			t.Errorf("%s: context %s", v, got)
		}
		a.must("bob", "GET", rp+"/initialSync", "")
		a.must("bob", "GET", v+"/initialSync?limit=1", "")
		a.must("bob", "GET", rp+"/aliases", "")
		a.must("bob", "PUT", rp+"/redact/"+url.PathEscape(ev)+"/t2", `{"reason":"typo"}`)
		a.must("alice", "PUT", v+"/directory/list/room/"+url.PathEscape(id), `{"visibility":"public"}`)
		if got := a.must("", "GET", v+"/directory/list/room/"+url.PathEscape(id), "").Get("visibility").Str; got != "public" {
			t.Errorf("%s: visibility %q", v, got)
		}
		if got := a.must("", "GET", v+"/publicRooms?limit=1", ""); got.Get("chunk.0.num_joined_members").Int() != 2 {
			t.Errorf("%s: public rooms %s", v, got)
		}
		a.must("bob", "POST", v+"/publicRooms", `{"filter":{"generic_search_term":"n"}}`)
		if n := len(a.must("bob", "GET", v+"/joined_rooms", "").Get("joined_rooms").Array()); n == 0 {
			t.Errorf("%s: no joined rooms", v)
		}
		a.must("alice", "POST", rp+"/kick", `{"user_id":"@bob:example.org"}`)
		a.must("alice", "POST", rp+"/ban", `{"user_id":"@bob:example.org"}`)
		a.must("alice", "POST", rp+"/unban", `{"user_id":"@bob:example.org"}`)
		a.must("alice", "POST", rp+"/invite", `{"user_id":"@bob:example.org","reason":"sorry"}`)
		a.must("bob", "POST", rp+"/join", `{}`)
		a.must("bob", "POST", rp+"/report", `{"reason":""}`)
		a.must("bob", "POST", rp+"/leave", ``)
		a.must("bob", "POST", rp+"/forget", ``)
		if got := a.must("alice", "POST", rp+"/upgrade", `{"new_version":"12"}`).Get("replacement_room").Str; got == "" {
			t.Errorf("%s: no replacement room", v)
		}
	}
	id := a.must("alice", "POST", "/v3/createRoom", `{"preset":"public_chat"}`).Get("room_id").Str
	a.must("alice", "GET", "/v1/rooms/"+id+"/hierarchy", "")
	root := a.must("alice", "PUT", "/v3/rooms/"+id+"/send/m.room.message/r", `{"body":"root of all"}`).Get("event_id").Str
	a.must("alice", "PUT", "/v3/rooms/"+id+"/send/m.room.message/t", `{"body":"reply","m.relates_to":{"rel_type":"m.thread","event_id":"`+root+`"}}`)
	for _, path := range []string{"", "/m.thread", "/m.thread/m.room.message"} {
		for _, v := range []string{"v1", "unstable"} {
			if n := len(a.must("alice", "GET", "/"+v+"/rooms/"+id+"/relations/"+root+path, "").Get("chunk").Array()); n != 1 {
				t.Errorf("%d relations by %s%s", n, v, path)
			}
		}
	}
	if got := a.must("alice", "GET", "/v1/rooms/"+id+"/threads", ""); got.Get("chunk.0.event_id").Str != root {
		t.Errorf("threads %s", got)
	}
	if got := a.must("alice", "POST", "/v3/search", `{"search_categories":{"room_events":{"search_term":"root"}}}`); got.Get("search_categories.room_events.count").Int() != 1 {
		t.Errorf("search %s", got)
	}
	a.must("alice", "GET", "/v1/rooms/"+id+"/timestamp_to_event?ts=0&dir=f", "")
	a.must("", "GET", "/v1/room_summary/"+id, "")
	a.must("alice", "GET", "/unstable/im.nheko.summary/summary/"+id, "")
	a.must("alice", "GET", "/unstable/im.nheko.summary/rooms/"+id+"/summary", "")
	a.must("alice", "GET", "/v1/mutual_rooms?user_id=@bob:example.org", "")
	a.must("alice", "POST", "/v3/users/@bob:example.org/report", `{"reason":"x"}`)
	a.must("bridge", "PUT", "/v3/directory/list/appservice/net/"+id, `{"visibility":"public"}`)
	a.must("guest1", "GET", "/v3/rooms/"+a.must("alice", "POST", "/v3/createRoom", `{"initial_state":[{"type":"m.room.history_visibility","content":{"history_visibility":"world_readable"}}]}`).Get("room_id").Str+"/messages?dir=f", "")
}

// Every documented error, and nothing written by what is refused.
func TestRoomErrors(t *testing.T) {
	t.Parallel()
	for _, process := range processes {
		t.Run(process, func(t *testing.T) {
			t.Parallel()
			roomErrors(t, newRoomAPI(t, process))
		})
	}
}

func roomErrors(t *testing.T, a *roomAPI) {
	t.Helper()
	id := a.must("alice", "POST", "/v3/createRoom", `{"preset":"public_chat","room_alias_name":"here","room_version":"11"}`).Get("room_id").Str
	private := a.must("alice", "POST", "/v3/createRoom", `{"preset":"private_chat"}`).Get("room_id").Str
	a.must("bob", "POST", "/v3/rooms/"+id+"/join", "")
	ev := a.must("alice", "PUT", "/v3/rooms/"+id+"/send/m.room.message/1", `{"body":"x"}`).Get("event_id").Str
	hidden := a.must("alice", "PUT", "/v3/rooms/"+private+"/send/m.room.message/1", `{"body":"x"}`).Get("event_id").Str
	const unknown = "!unknown:example.org"
	long := strings.Repeat("x", 256)
	big := `{"body":"` + strings.Repeat("x", 70_000) + `"}`
	huge := `{"body":"` + strings.Repeat("x", 5<<20) + `"}`
	before := a.events()

	type tc struct {
		user, method, path, body string
		status                   int
		code                     string
	}
	cases := []tc{
		// Authentication.
		{"", "GET", "/v3/rooms/" + id + "/state", "", 401, "M_MISSING_TOKEN"},
		{"nobody", "GET", "/v3/rooms/" + id + "/state", "", 401, "M_UNKNOWN_TOKEN"},
		{"guest1", "POST", "/v3/createRoom", `{}`, 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"guest1", "POST", "/v3/rooms/" + id + "/join", `{}`, 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"guest1", "POST", "/v3/rooms/" + id + "/kick", `{}`, 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"", "POST", "/v3/publicRooms", `{}`, 401, "M_MISSING_TOKEN"},
		{"bob", "PUT", "/v3/directory/list/appservice/net/" + id, `{"visibility":"public"}`, 403, ""},

		// Creating rooms.
		{"alice", "POST", "/v3/createRoom", ``, 400, "M_NOT_JSON"},
		{"alice", "POST", "/v3/createRoom", `{`, 400, "M_NOT_JSON"},
		{"alice", "POST", "/v3/createRoom", `[]`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/createRoom", "{\"name\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"alice", "POST", "/v3/createRoom", `{"room_version":1}`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/createRoom", `{"room_version":"nope"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"alice", "POST", "/v3/createRoom", `{"invite":"@bob:example.org"}`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/createRoom", `{"invite":["bob"]}`, 400, "M_INVALID_PARAM"},
		{"alice", "POST", "/v3/createRoom", `{"room_alias_name":"here"}`, 400, "M_ROOM_IN_USE"},
		{"alice", "POST", "/v3/createRoom", `{"initial_state":{"a":1}}`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/createRoom", `{"initial_state":[{"type":"m.x","content":"x"}]}`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/createRoom", `{"creation_content":[]}`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/createRoom", `{"preset":"x"}`, 400, "M_INVALID_PARAM"},
		{"alice", "POST", "/v3/createRoom", `{"name":"` + strings.Repeat("x", 70_000) + `"}`, 413, "M_TOO_LARGE"},
		{"alice", "POST", "/v3/createRoom", huge, 413, "M_TOO_LARGE"},

		// Sending.
		{"alice", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", ``, 400, "M_NOT_JSON"},
		{"alice", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", `{"a":}`, 400, "M_NOT_JSON"},
		{"alice", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", `{"a":NaN}`, 400, "M_NOT_JSON"},
		{"alice", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", `"x"`, 400, "M_BAD_JSON"},
		{"alice", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", `{"a":1.1}`, 400, "M_BAD_JSON"},
		{"alice", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", `{"a":-9007199254740992}`, 400, "M_BAD_JSON"},
		{"alice", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", big, 413, "M_TOO_LARGE"},
		{"alice", "PUT", "/v3/rooms/" + id + "/send/" + long + "/2", `{}`, 413, "M_TOO_LARGE"},
		{"alice", "PUT", "/v3/rooms/" + unknown + "/send/m.room.message/2", `{}`, 403, "M_FORBIDDEN"},
		{"alice", "PUT", "/v3/rooms/room/send/m.room.message/2", `{}`, 400, "M_INVALID_PARAM"},
		{"eve", "PUT", "/v3/rooms/" + id + "/send/m.room.message/2", `{}`, 403, "M_FORBIDDEN"},
		{"bob", "PUT", "/v3/rooms/" + id + "/state/m.room.name", `{"name":"x"}`, 403, "M_FORBIDDEN"},
		{"bob", "PUT", "/v3/rooms/" + id + "/state/m.x/@alice:example.org", `{}`, 403, "M_FORBIDDEN"},
		{"alice", "PUT", "/v3/rooms/" + id + "/state/m.room.create", `{}`, 400, "M_INVALID_PARAM"},
		{"alice", "PUT", "/v3/rooms/" + id + "/state/m.room.canonical_alias", `{"alias":"#x:elsewhere.org"}`, 400, "M_BAD_ALIAS"},
		{"alice", "PUT", "/v3/rooms/" + id + "/state/m.x", big, 413, "M_TOO_LARGE"},
		{"alice", "PUT", "/v3/rooms/" + id + "/state/m.x/" + long, `{}`, 413, "M_TOO_LARGE"},
		{"bob", "PUT", "/v3/rooms/" + id + "/redact/" + ev + "/2", `{}`, 403, "M_FORBIDDEN"},
		{"alice", "PUT", "/v3/rooms/" + id + "/redact/$unknown/2", `{}`, 404, "M_NOT_FOUND"},
		{"alice", "PUT", "/v3/rooms/" + id + "/redact/x/2", `{}`, 400, "M_INVALID_PARAM"},
		{"alice", "PUT", "/v3/rooms/" + id + "/redact/" + ev + "/2", `{"reason":7}`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/rooms/" + id + "/upgrade", `{}`, 400, "M_MISSING_PARAM"},
		{"alice", "POST", "/v3/rooms/" + id + "/upgrade", `{"new_version":"x"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"bob", "POST", "/v3/rooms/" + id + "/upgrade", `{"new_version":"12"}`, 403, "M_FORBIDDEN"},

		// Membership.
		{"eve", "POST", "/v3/rooms/" + private + "/join", ``, 403, "M_FORBIDDEN"},
		{"eve", "POST", "/v3/rooms/%23here:example.org/join", ``, 400, "M_INVALID_PARAM"},
		{"eve", "POST", "/v3/rooms/" + id + "/join", `{"reason":7}`, 400, "M_BAD_JSON"},
		{"eve", "POST", "/v3/rooms/" + id + "/join", `{"third_party_signed":"x"}`, 400, "M_BAD_JSON"},
		{"eve", "POST", "/v3/rooms/" + id + "/join", `{"third_party_signed":{"mxid":"@eve:example.org","token":"t","sender":"@a:b","signatures":{}}}`, 403, "M_FORBIDDEN"},
		{"eve", "POST", "/v3/join/" + unknown, ``, 404, "M_NOT_FOUND"},
		{"eve", "POST", "/v3/join/nonsense", ``, 400, "M_INVALID_PARAM"},
		{"eve", "POST", "/v3/join/%23x:elsewhere.org?server_name=elsewhere.org", ``, 404, "M_NOT_FOUND"},
		{"eve", "POST", "/v3/knock/" + id, ``, 403, "M_FORBIDDEN"},
		{"eve", "POST", "/v3/knock/" + unknown + "?via=elsewhere.org", ``, 404, "M_NOT_FOUND"},
		{"eve", "POST", "/v3/rooms/" + id + "/leave", ``, 403, "M_FORBIDDEN"},
		{"eve", "POST", "/v3/rooms/" + unknown + "/leave", ``, 404, "M_NOT_FOUND"},
		{"bob", "POST", "/v3/rooms/" + id + "/forget", `{}`, 400, "M_UNKNOWN"},
		{"bob", "POST", "/v3/rooms/" + id + "/invite", `{"user_id":"@new:example.org"}`, 403, "M_FORBIDDEN"},
		{"alice", "POST", "/v3/rooms/" + id + "/invite", `{"user_id":"@bob:example.org"}`, 403, "M_FORBIDDEN"},
		{"alice", "POST", "/v3/rooms/" + id + "/invite", `{"user_id":"bob"}`, 400, "M_INVALID_PARAM"},
		{"alice", "POST", "/v3/rooms/" + id + "/invite", `{}`, 400, "M_MISSING_PARAM"},
		{"alice", "POST", "/v3/rooms/" + id + "/invite", `{"medium":"email","address":"a@b.c"}`, 400, "M_MISSING_PARAM"},
		{"alice", "POST", "/v3/rooms/" + id + "/invite", `{"medium":"email","address":"a@b.c","id_server":"x","id_access_token":"y"}`, 400, "M_SERVER_NOT_TRUSTED"},
		{"alice", "POST", "/v3/rooms/" + id + "/kick", `{"user_id":"@eve:example.org"}`, 403, "M_FORBIDDEN"},
		{"alice", "POST", "/v3/rooms/" + id + "/kick", `{}`, 400, "M_MISSING_PARAM"},
		{"alice", "POST", "/v3/rooms/" + id + "/kick", `{"user_id":7}`, 400, "M_BAD_JSON"},
		{"alice", "POST", "/v3/rooms/" + id + "/unban", `{"user_id":"@bob:example.org"}`, 403, "M_BAD_STATE"},
		{"bob", "POST", "/v3/rooms/" + id + "/ban", `{"user_id":"@alice:example.org"}`, 403, "M_FORBIDDEN"},
		{"eve", "POST", "/v3/rooms/" + id + "/ban", `{"user_id":"@bob:example.org"}`, 403, "M_FORBIDDEN"},

		// Reading.
		{"eve", "GET", "/v3/rooms/" + id + "/state", "", 403, "M_FORBIDDEN"},
		{"eve", "GET", "/v3/rooms/" + unknown + "/state", "", 403, "M_FORBIDDEN"},
		{"eve", "GET", "/v3/rooms/x/state", "", 400, "M_INVALID_PARAM"},
		{"eve", "GET", "/v3/rooms/" + id + "/state/m.room.name", "", 403, "M_FORBIDDEN"},
		{"bob", "GET", "/v3/rooms/" + id + "/state/m.room.name", "", 404, "M_NOT_FOUND"},
		{"bob", "GET", "/v3/rooms/" + id + "/state/m.room.create?format=xml", "", 400, "M_INVALID_PARAM"},
		{"eve", "GET", "/v3/rooms/" + id + "/members", "", 403, "M_FORBIDDEN"},
		{"bob", "GET", "/v3/rooms/" + id + "/members?at=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/members?membership=x", "", 400, "M_INVALID_PARAM"},
		{"eve", "GET", "/v3/rooms/" + id + "/joined_members", "", 403, "M_FORBIDDEN"},
		{"eve", "GET", "/v3/rooms/" + id + "/event/" + ev, "", 404, "M_NOT_FOUND"},
		{"bob", "GET", "/v3/rooms/" + id + "/event/" + hidden, "", 404, "M_NOT_FOUND"},
		{"bob", "GET", "/v3/rooms/" + id + "/event/x", "", 404, "M_NOT_FOUND"},
		{"bob", "GET", "/v3/events/" + hidden, "", 404, "M_NOT_FOUND"},
		{"bob", "GET", "/v3/rooms/" + id + "/context/$unknown", "", 404, "M_NOT_FOUND"},
		{"bob", "GET", "/v3/rooms/" + id + "/context/" + ev + "?limit=-1", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/context/" + ev + "?limit=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/context/" + ev + "?filter=x", "", 400, "M_NOT_JSON"},
		{"eve", "GET", "/v3/rooms/" + unknown + "/messages?dir=b", "", 403, "M_FORBIDDEN"},
		{"eve", "GET", "/v3/rooms/" + id + "/messages", "", 403, "M_FORBIDDEN"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages", "", 400, "M_MISSING_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=b&limit=-5", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=b&limit=99999999999999999999", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=b&from=made-up", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=b&to=h1_50_false", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=b&filter=" + url.QueryEscape(`{"types":7}`), "", 400, "M_BAD_JSON"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=b&filter=" + url.QueryEscape(`{"limit":-1}`), "", 400, "M_BAD_JSON"},
		{"bob", "GET", "/v3/rooms/" + id + "/messages?dir=b&filter=%7B", "", 400, "M_NOT_JSON"},
		{"eve", "GET", "/v3/rooms/" + id + "/initialSync", "", 403, "M_FORBIDDEN"},
		{"bob", "GET", "/v1/rooms/" + id + "/timestamp_to_event?dir=f", "", 400, "M_MISSING_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/timestamp_to_event?ts=x&dir=f", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/timestamp_to_event?ts=0&dir=b", "", 404, "M_NOT_FOUND"},
		{"eve", "GET", "/v1/rooms/" + id + "/timestamp_to_event?ts=0&dir=f", "", 403, "M_FORBIDDEN"},
		{"eve", "GET", "/v1/rooms/" + private + "/hierarchy", "", 403, "M_FORBIDDEN"},
		{"bob", "GET", "/v1/rooms/" + id + "/hierarchy?max_depth=-1", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/hierarchy?suggested_only=maybe", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/hierarchy?from=t1_1", "", 400, "M_INVALID_PARAM"},
		{"", "GET", "/v1/room_summary/" + private, "", 404, "M_NOT_FOUND"},
		{"", "GET", "/v1/room_summary/x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/mutual_rooms", "", 400, "M_MISSING_PARAM"},
		{"bob", "GET", "/v1/mutual_rooms?user_id=@bob:example.org", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/mutual_rooms?user_id=@alice:example.org&from=!", "", 400, "M_INVALID_PARAM"},

		{"bob", "GET", "/v1/rooms/" + id + "/relations/$unknown", "", 404, "M_NOT_FOUND"},
		{"eve", "GET", "/v1/rooms/" + id + "/relations/" + ev, "", 404, "M_NOT_FOUND"},
		{"bob", "GET", "/v1/rooms/" + id + "/relations/" + ev + "?dir=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/relations/" + ev + "?recurse=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/relations/" + ev + "/m.thread/m.x?from=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/threads?include=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/threads?from=x", "", 400, "M_INVALID_PARAM"},
		{"bob", "GET", "/v1/rooms/" + id + "/threads?limit=-1", "", 400, "M_INVALID_PARAM"},
		{"eve", "GET", "/v1/rooms/" + id + "/threads", "", 403, "M_FORBIDDEN"},
		{"bob", "POST", "/v3/search", `{}`, 400, "M_MISSING_PARAM"},
		{"bob", "POST", "/v3/search", `{"search_categories":[]}`, 400, "M_BAD_JSON"},
		{"bob", "POST", "/v3/search", `{"search_categories":{"room_events":{}}}`, 400, "M_MISSING_PARAM"},
		{"bob", "POST", "/v3/search?next_batch=x", `{"search_categories":{"room_events":{"search_term":"x"}}}`, 400, "M_INVALID_PARAM"},

		// Aliases and the directory.
		{"bob", "PUT", "/v3/directory/room/x", `{"room_id":"` + id + `"}`, 400, "M_INVALID_PARAM"},
		{"bob", "PUT", "/v3/directory/room/%23x:elsewhere.org", `{"room_id":"` + id + `"}`, 400, "M_INVALID_PARAM"},
		{"bob", "PUT", "/v3/directory/room/%23here:example.org", `{"room_id":"` + id + `"}`, 409, "M_UNKNOWN"},
		{"bob", "PUT", "/v3/directory/room/%23y:example.org", `{}`, 400, "M_MISSING_PARAM"},
		{"bob", "PUT", "/v3/directory/room/%23y:example.org", `{"room_id":7}`, 400, "M_BAD_JSON"},
		{"bob", "PUT", "/v3/directory/room/%23y:example.org", `{"room_id":"` + unknown + `"}`, 404, "M_NOT_FOUND"},
		{"eve", "PUT", "/v3/directory/room/%23y:example.org", `{"room_id":"` + id + `"}`, 403, "M_FORBIDDEN"},
		{"bob", "DELETE", "/v3/directory/room/%23here:example.org", "", 403, "M_FORBIDDEN"},
		{"bob", "DELETE", "/v3/directory/room/%23unknown:example.org", "", 404, "M_NOT_FOUND"},
		{"", "GET", "/v3/directory/room/%23unknown:example.org", "", 404, "M_NOT_FOUND"},
		{"", "GET", "/v3/directory/room/unknown", "", 400, "M_INVALID_PARAM"},
		{"eve", "GET", "/v3/rooms/" + id + "/aliases", "", 403, "M_FORBIDDEN"},
		{"", "GET", "/v3/directory/list/room/" + unknown, "", 404, "M_NOT_FOUND"},
		{"bob", "PUT", "/v3/directory/list/room/" + id, `{"visibility":"public"}`, 403, "M_FORBIDDEN"},
		{"alice", "PUT", "/v3/directory/list/room/" + id, `{"visibility":"x"}`, 400, "M_INVALID_PARAM"},
		{"", "GET", "/v3/publicRooms?limit=-1", "", 400, "M_INVALID_PARAM"},
		{"", "GET", "/v3/publicRooms?since=made-up", "", 400, "M_INVALID_PARAM"},
		{"", "GET", "/v3/publicRooms?server=elsewhere.org", "", 404, "M_NOT_FOUND"},
		{"bob", "POST", "/v3/publicRooms", `{"limit":-1}`, 400, "M_INVALID_PARAM"},
		{"bob", "POST", "/v3/publicRooms", `{"filter":[]}`, 400, "M_BAD_JSON"},
		{"bob", "POST", "/v3/publicRooms", `{"include_all_networks":true,"third_party_instance_id":"a|b"}`, 400, "M_INVALID_PARAM"},

		// Reports.
		{"bob", "POST", "/v3/rooms/" + id + "/report/$unknown", `{}`, 404, "M_NOT_FOUND"},
		{"eve", "POST", "/v3/rooms/" + id + "/report/" + ev, `{}`, 404, "M_NOT_FOUND"},
		{"bob", "POST", "/v3/rooms/" + id + "/report/" + ev, `{"score":1000}`, 400, "M_INVALID_PARAM"},
		{"bob", "POST", "/v3/rooms/" + id + "/report/" + ev, `{"reason":{}}`, 400, "M_BAD_JSON"},
		{"bob", "POST", "/v3/rooms/" + unknown + "/report", `{}`, 404, "M_NOT_FOUND"},
		{"bob", "POST", "/v3/users/bob/report", `{}`, 400, "M_INVALID_PARAM"},

		// Ways and methods there are none of.
		{"bob", "GET", "/v3/rooms/" + id + "/nonsense", "", 404, "M_UNRECOGNIZED"},
		{"bob", "PUT", "/v3/rooms/" + id + "/join", "", 405, "M_UNRECOGNIZED"},
	}
	// Whatever is put where an id belongs, the answer is an error of the client's.
	for _, odd := range []string{"%00", "%ff", "!", "!%2F", "%2F", "..", url.PathEscape("!" + long + ":x"), "!a%0Ab:x", "%F0%9F%A4%A8"} {
		for _, path := range []string{
			"GET /v3/rooms/%s/state", "GET /v3/rooms/%s/messages?dir=b", "POST /v3/rooms/%s/join", "PUT /v3/rooms/%s/send/m.x/1",
			"GET /v3/rooms/%s/members", "POST /v3/join/%s", "GET /v1/room_summary/%s", "GET /v3/directory/room/%s",
			"GET /v3/rooms/" + id + "/event/%s", "GET /v3/rooms/" + id + "/context/%s", "GET /v3/events/%s",
			"GET /v3/rooms/" + id + "/messages?dir=b&from=%s", "POST /v3/rooms/%s/forget", "POST /v3/knock/%s",
		} {
			method, p, _ := strings.Cut(path, " ")
			cases = append(cases, tc{"alice", method, fmt.Sprintf(p, odd), "{}", 0, ""})
		}
	}
	for _, c := range cases {
		code, res := a.do(c.user, c.method, c.path, c.body)
		switch {
		case c.status == 0 && (code < 400 || code >= 500):
			t.Errorf("%s %s: %d %s, want an error of the client's", c.method, c.path, code, res)
		case c.status != 0 && (code != c.status || c.code != "" && res.Get("errcode").Str != c.code):
			t.Errorf("%s %.120s %.100s as %q: %d %.300s, want %d %s", c.method, c.path, c.body, c.user, code, res, c.status, c.code)
		}
	}
	if after := a.events(); after != before {
		t.Errorf("refused requests wrote %d rows", after-before)
	}
}
