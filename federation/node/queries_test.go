package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/federation/federationtest"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func clientGroups(c *homeserver.Core) []homeserver.Group {
	return []homeserver.Group{
		clientapi.Registration(c.Accounts), clientapi.Account(c.Accounts), clientapi.Profile(c.Accounts, clientapi.ProfileConfig{}),
		clientapi.Rooms(c.Rooms, c.Delayed), clientapi.RoomDirectory(c.Rooms), clientapi.UserRooms(c.Rooms), clientapi.Sync(c.Sync),
	}
}

// user is a user of a server in a test.
type user struct{ id, token string }

func register(t *testing.T, p *homeservertest.Process, name string) user {
	t.Helper()
	var out struct {
		UserID      string `json:"user_id"`
		AccessToken string `json:"access_token"`
	}
	p.Call(t, "POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": name, "password": "of " + name, "auth": map[string]string{"type": "m.login.dummy"},
	}, &out)
	return user{out.UserID, out.AccessToken}
}

// pair is two servers: the first has a worker besides main, the second has something to be asked about.
type pair struct {
	asking, asked *federationtest.Server
	network       *federationtest.Network
}

func newPair(t *testing.T, change func(cfg *config.Config)) *pair {
	t.Helper()
	n := federationtest.New(t)
	return &pair{
		network: n,
		asking:  n.Start(t, federationtest.Config{Groups: clientGroups, Workers: []homeservertest.Worker{{Name: "worker1"}}}),
		asked: n.Start(t, federationtest.Config{Groups: clientGroups, Configure: func(cfg *config.Config) {
			cfg.AllowPublicRoomsOverFederation = true
			if change != nil {
				change(cfg)
			}
		}}),
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	s := newPair(t, nil)
	there, here := s.asked.Main(), s.asking.Main()
	bob, alice := register(t, there, "bob"), register(t, here, "alice")
	name := "Bob <&> \u2603"
	there.Call(t, "PUT", "/_matrix/client/v3/profile/"+bob.id+"/displayname", bob.token, map[string]string{"displayname": name}, nil)
	create := func(body map[string]any) string {
		t.Helper()
		var out struct {
			RoomID string `json:"room_id"`
		}
		there.Call(t, "POST", "/_matrix/client/v3/createRoom", bob.token, body, &out)
		return out.RoomID
	}
	open := create(map[string]any{"preset": "public_chat", "visibility": "public", "room_alias_name": "老虎/Â", "name": "Open"})
	closed := create(map[string]any{"preset": "private_chat", "name": "Closed"})
	space := create(map[string]any{"preset": "public_chat", "name": "Space", "creation_content": map[string]string{"type": "m.space"}})
	for _, child := range []string{open, closed} {
		there.Call(t, "PUT", "/_matrix/client/v3/rooms/"+space+"/state/m.space.child/"+child, bob.token, map[string]any{"via": []string{s.asked.Name}}, nil)
	}
	alias := "#老虎/Â:" + s.asked.Name

	for _, process := range s.asking.Names() {
		p := s.asking.Process(process)
		ask := func(method, path string, body any) (int, gjson.Result) {
			t.Helper()
			status, b := p.Do(t, method, "/_matrix/client/"+path, alice.token, body)
			return status, gjson.ParseBytes(b)
		}
		if status, got := ask("GET", "v3/profile/"+bob.id, nil); status != 200 || got.Get("displayname").Str != name {
			t.Errorf("%s: profile: %d %s", process, status, got.Raw)
		}
		if status, got := ask("GET", "v3/profile/"+bob.id+"/displayname", nil); status != 200 || got.Get("displayname").Str != name {
			t.Errorf("%s: name: %d %s", process, status, got.Raw)
		}
		if status, got := ask("GET", "v3/profile/"+bob.id+"/avatar_url", nil); status != 404 || got.Get("errcode").Str != "M_NOT_FOUND" {
			t.Errorf("%s: avatar: %d %s", process, status, got.Raw)
		}
		if status, got := ask("GET", "v3/profile/@nobody:"+s.asked.Name, nil); status != 404 || got.Get("errcode").Str != "M_NOT_FOUND" {
			t.Errorf("%s: nobody: %d %s", process, status, got.Raw)
		}
		if status, got := ask("GET", "v3/directory/room/"+url.PathEscape(alias), nil); status != 200 || got.Get("room_id").Str != open || got.Get("servers.0").Str != s.asked.Name {
			t.Errorf("%s: alias: %d %s", process, status, got.Raw)
		}
		if status, got := ask("GET", "v3/directory/room/"+url.PathEscape("#none:"+s.asked.Name), nil); status != 404 || got.Get("errcode").Str != "M_NOT_FOUND" {
			t.Errorf("%s: no alias: %d %s", process, status, got.Raw)
		}
		if status, got := ask("GET", "v3/publicRooms?limit=5&server="+s.asked.Name, nil); status != 200 || got.Get("chunk.#").Int() != 1 || got.Get("chunk.0.room_id").Str != open {
			t.Errorf("%s: public rooms: %d %s", process, status, got.Raw)
		}
		search := map[string]any{"filter": map[string]any{"generic_search_term": "nothing like it"}}
		if status, got := ask("POST", "v3/publicRooms?server="+s.asked.Name, search); status != 200 || got.Get("chunk").Raw != "[]" {
			t.Errorf("%s: search: %d %s", process, status, got.Raw)
		}
		if status, got := ask("GET", "v1/rooms/"+space+"/hierarchy", nil); status != 403 {
			t.Errorf("%s: a space without a server to ask: %d %s", process, status, got.Raw)
		}
	}

	// A space of the asking server leads to that of the other.
	var own struct {
		RoomID string `json:"room_id"`
	}
	here.Call(t, "POST", "/_matrix/client/v3/createRoom", alice.token, map[string]any{"creation_content": map[string]string{"type": "m.space"}}, &own)
	here.Call(t, "PUT", "/_matrix/client/v3/rooms/"+own.RoomID+"/state/m.space.child/"+space, alice.token, map[string]any{"via": []string{s.asked.Name}}, nil)
	var page struct {
		Rooms []struct {
			RoomID string `json:"room_id"`
		}
	}
	here.Call(t, "GET", "/_matrix/client/v1/rooms/"+own.RoomID+"/hierarchy", alice.token, nil, &page)
	var ids []string
	for _, r := range page.Rooms {
		ids = append(ids, r.RoomID)
	}
	if want := fmt.Sprint([]string{own.RoomID, space, open}); fmt.Sprint(ids) != want {
		t.Errorf("hierarchy has %v, want %v", ids, want)
	}

	// Whose an OpenID token is.
	var grant struct {
		AccessToken string `json:"access_token"`
	}
	there.Call(t, "POST", "/_matrix/client/v3/user/"+bob.id+"/openid/request_token", bob.token, map[string]any{}, &grant)
	if got, err := s.asking.Node(config.MainName).Client.OpenIDUserinfo(t.Context(), s.asked.Name, grant.AccessToken); err != nil || got != bob.id {
		t.Errorf("userinfo: %q, %v", got, err)
	}
	if got, err := s.asking.Node(config.MainName).Client.OpenIDUserinfo(t.Context(), s.asked.Name, "guess"); err == nil {
		t.Errorf("userinfo of a guess: %q", got)
	}
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	s := n.Start(t, federationtest.Config{Groups: clientGroups, Configure: func(cfg *config.Config) { cfg.AllowProfileLookupOverFederation = false }})
	f := n.Fake(t)
	const base = "/_matrix/federation/v1"
	for _, test := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"GET", "/query/directory", nil, 400, "M_MISSING_PARAM"},
		{"GET", "/query/directory?room_alias=x", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/query/directory?room_alias=%23a:elsewhere", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/query/directory?room_alias=%23a:" + s.Name, nil, 404, "M_NOT_FOUND"},
		{"GET", "/query/profile?user_id=@a:" + s.Name, nil, 403, "M_FORBIDDEN"},
		{"GET", "/query/nonsense", nil, 404, "M_NOT_FOUND"},
		{"GET", "/publicRooms", nil, 403, "M_FORBIDDEN"},
		{"POST", "/publicRooms", []byte(`[]`), 400, "M_BAD_JSON"},
		{"POST", "/publicRooms", []byte(`{"filter":{"room_types":[1]}}`), 400, "M_BAD_JSON"},
		{"GET", "/publicRooms?limit=x", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/hierarchy/x", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/hierarchy/!none:" + s.Name, nil, 404, "M_NOT_FOUND"},
		{"GET", "/hierarchy/!none:" + s.Name + "?suggested_only=perhaps", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/openid/userinfo", nil, 401, "M_MISSING_TOKEN"},
		{"GET", "/openid/userinfo?access_token=guess", nil, 401, "M_UNKNOWN_TOKEN"},
	} {
		status, body := f.Do(t, s.Name, test.method, base+test.path, test.body)
		if status != test.status || gjson.GetBytes(body, "errcode").Str != test.code {
			t.Errorf("%s %s: %d %s, want %d %s", test.method, test.path, status, body, test.status, test.code)
		}
	}
	// Without a signature nothing is told.
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.Main().URL(t, homeserver.ResourceFederation)+base+"/publicRooms", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Main().Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("unsigned: %d", res.StatusCode)
	}
}

// TestOddAnswers asks a server that answers with nonsense.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	s := n.Start(t, federationtest.Config{Groups: clientGroups})
	alice := register(t, s.Main(), "alice")
	f := n.Fake(t)
	var answer atomic.Pointer[string]
	var status atomic.Int32
	respond := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write([]byte(*answer.Load()))
	}
	f.Handle("/_matrix/federation/v1/query/", respond)
	f.Handle("/_matrix/federation/v1/publicRooms", respond)
	long := `{"displayname":"` + strings.Repeat("x", 5<<20) + `"}`
	for _, test := range []struct {
		answer string
		status int
		path   string
		want   int
	}{
		{`{"displayname":1,"avatar_url":null}`, 200, "/profile/@u:{fake}", 200},
		{`{"displayname":1}`, 200, "/profile/@u:{fake}/displayname", 404},
		{`[]`, 200, "/profile/@u:{fake}", 404},
		{`nonsense`, 200, "/profile/@u:{fake}", 404},
		{long, 200, "/profile/@u:{fake}", 404},
		{`{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, 401, "/profile/@u:{fake}", 502},
		{`{"errcode":"M_FORBIDDEN","error":"no"}`, 403, "/profile/@u:{fake}", 403},
		{`{"errcode":"M_UNKNOWN","error":"broken"}`, 500, "/profile/@u:{fake}", 502},
		{`{"room_id":"nonsense","servers":[]}`, 200, "/directory/room/%23a:{fake}", 502},
		{`{"room_id":"!a:b","servers":["x/y",""]}`, 200, "/directory/room/%23a:{fake}", 200},
		{`{"room_id":5}`, 200, "/directory/room/%23a:{fake}", 404},
		{`{"chunk":[{"room_id":"nonsense"},{"room_id":"!a:b"}]}`, 200, "/publicRooms?server={fake}", 200},
		{`{}`, 200, "/publicRooms?server={fake}", 200},
		{`{"chunk":{}}`, 200, "/publicRooms?server={fake}", 404},
	} {
		answer.Store(&test.answer)
		status.Store(int32(test.status))
		path := "/_matrix/client/v3" + strings.ReplaceAll(test.path, "{fake}", f.Name)
		got, body := s.Main().Do(t, "GET", path, alice.token, nil)
		if got != test.want || gjson.GetBytes(body, "soft_logout").Exists() || strings.Contains(string(body), "nonsense") {
			t.Errorf("%s answered with %d %.60s: %d %s, want %d", test.path, test.status, test.answer, got, body, test.want)
		}
	}
}

// TestConcurrentQueriesAreOne asks for what is being asked for already.
func TestConcurrentQueriesAreOne(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	s := n.Start(t, federationtest.Config{})
	f := n.Fake(t)
	var asked atomic.Int32
	arrived, hold := make(chan struct{}, 100), make(chan struct{})
	f.Handle("GET /_matrix/federation/v1/query/profile", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		arrived <- struct{}{}
		<-hold
		_ = json.NewEncoder(w).Encode(map[string]string{"displayname": "Slow"})
	})
	client := s.Node(config.MainName).Client
	first := make(chan error, 1)
	go func() {
		_, err := client.QueryProfile(t.Context(), f.Name, "@u:"+f.Name, "")
		first <- err
	}()
	<-arrived
	// These give up while they wait for the answer to the first.
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := client.QueryProfile(ctx, f.Name, "@u:"+f.Name, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	close(hold)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if got := asked.Load(); got != 1 {
		t.Errorf("asked %d times", got)
	}
}
