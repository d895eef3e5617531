package clientapi_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
	"github.com/weft-im/weft/storage"
)

func TestServerNotices(t *testing.T) {
	t.Parallel()
	p := newPeople(t, func(cfg *homeservertest.ClusterConfig) {
		parts := cfg.Parts
		cfg.Parts = func(c *homeserver.Core) homeserver.Config {
			pc := parts(c)
			pc.Groups = append(pc.Groups, clientapi.ServerNotices(c.Notices))
			return pc
		}
		cfg.Configure = func(cfg *config.Config) {
			cfg.ServerNotices = config.ServerNotices{SystemMXIDLocalpart: "server", SystemMXIDDisplayName: "The Server", SystemMXIDAvatarURL: "mxc://test/a", RoomTopic: "News"}
		}
	})
	admin := p.register("admin")
	db := p.Core("master").DB
	a, err := storage.GetAccount(t.Context(), db, "@admin:test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), `UPDATE users SET admin = true WHERE user_nid = $1`, a.NID); err != nil {
		t.Fatal(err)
	}
	const path = "/_synapse/admin/v1/send_server_notice"
	notice := func(process, token, method, path, body string) (int, gjson.Result) {
		t.Helper()
		code, b := p.Process(process).Do(t, method, path, token, []byte(body))
		return code, gjson.ParseBytes(b)
	}
	for i, process := range processes {
		other := processes[1-i]
		name := "alice" + process
		alice := p.register(name)
		to := `{"user_id":"@` + name + `:test","content":{"msgtype":"m.text","body":"hello"}}`
		code, got := notice(process, admin, "POST", path, to)
		if code != http.StatusOK || got.Get("event_id").Str == "" {
			t.Fatalf("%s: %d %s", process, code, got.Raw)
		}
		sync := p.sync(other, alice, "")
		room := sync.Get("rooms.invite.@keys.0").Str
		escaped := url.PathEscape(room)
		if tags := p.must(other, alice, "GET", "/v3/user/@"+name+":test/rooms/"+escaped+"/tags", nil); !tags.Get(`tags.m\.server_notice`).Exists() {
			t.Errorf("%s: the room is not marked: %s", process, tags.Raw)
		}
		for _, way := range []struct{ method, path, body string }{
			{"POST", "/leave", `{}`}, {"PUT", "/state/m.room.member/@" + name + ":test", `{"membership":"leave"}`},
		} {
			if code, got := p.do(other, alice, way.method, "/v3/rooms/"+escaped+way.path, way.body); code != http.StatusForbidden || got.Get("errcode").Str != "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM" {
				t.Errorf("%s: turning the invite down by %s: %d %s", process, way.path, code, got.Raw)
			}
		}
		p.must(other, alice, "POST", "/v3/join/"+escaped, `{}`)
		state := p.must(other, alice, "GET", "/v3/rooms/"+escaped+"/state", nil).Raw
		for _, want := range []string{`"name":"Server Notices"`, `"topic":"News"`, `"displayname":"The Server"`, `"m.federate":false`} {
			if !strings.Contains(state, want) {
				t.Errorf("%s: the room lacks %s", process, want)
			}
		}
		if code, _ := p.do(other, alice, "PUT", "/v3/rooms/"+escaped+"/send/m.room.message/1", `{}`); code != http.StatusForbidden {
			t.Errorf("%s: the guest may speak: %d", process, code)
		}
		p.must(other, alice, "POST", "/v3/rooms/"+escaped+"/leave", `{}`)
		// Invited anew, to the same room, once for all retries.
		_, first := notice(process, admin, "PUT", path+"/txn", to)
		_, again := notice(other, admin, "PUT", path+"/txn", to)
		if first.Get("event_id").Str == "" || first.Raw != again.Raw {
			t.Errorf("%s: the same notice twice: %s %s", process, first.Raw, again.Raw)
		}
		if got := p.sync(process, alice, "").Get("rooms.invite.@keys.0").Str; got != room {
			t.Errorf("%s: invited to %s, want %s", process, got, room)
		}
		for _, c := range []struct {
			token, body string
			status      int
		}{
			{"", to, 401},
			{alice, to, 403},
			{admin, `{}`, 400},
			{admin, `{"user_id":5,"content":{}}`, 400},
			{admin, `{"user_id":"@nobody:test","content":{}}`, 404},
			{admin, `{"user_id":"@x:elsewhere.org","content":{}}`, 404},
			{admin, `{"user_id":"\u0000","content":{}}`, 404},
			{admin, `{"user_id":"@` + name + `:test","content":[]}`, 400},
		} {
			if code, got := notice(process, c.token, "POST", path, c.body); code != c.status {
				t.Errorf("%s: %s: %d %s, want %d", process, c.body, code, got.Raw, c.status)
			}
		}
	}
}
