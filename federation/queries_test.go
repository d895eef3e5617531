package federation_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
)

// accounts are the accounts of a test.
type accounts struct{}

func (accounts) ProfileFields(_ context.Context, userID, field string) (map[string]any, error) {
	if userID != "@alice:"+here {
		return nil, mxerr.NotFound
	}
	if field == "avatar_url" {
		return map[string]any{"avatar_url": "mxc://a/b"}, nil
	}
	return map[string]any{"displayname": "Alice", "avatar_url": "mxc://a/b"}, nil
}

func (accounts) Devices(_ context.Context, userID string) ([]account.Device, error) {
	if userID != "@alice:"+here {
		return nil, mxerr.NotFound
	}
	name := "Phone"
	return []account.Device{{DeviceID: "DEV", DisplayName: &name}}, nil
}

func (accounts) OpenIDUser(_ context.Context, token string) (string, error) {
	if token == "good" {
		return "@alice:" + here, nil
	}
	return "", mxerr.UnknownToken
}

// queried is a kit that also answers queries.
func queried(t *testing.T, open bool) *kit {
	t.Helper()
	k := newKit(t, nil)
	var err error
	k.router, err = homeserver.NewRouter(homeserver.RouterConfig{
		Groups: []homeserver.Group{
			federation.Queries(k.inbound, federation.QueriesConfig{
				ServerName: here, Rooms: k.Rooms, Users: accounts{}, ShowPublicRooms: open, ShowProfiles: open,
			}),
			federation.Devices(k.inbound, federation.DevicesConfig{ServerName: here, Devices: accounts{}, Names: open}),
			federation.OpenID(accounts{}),
		},
		ServerAuthenticator: believing{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestQueries(t *testing.T) {
	t.Parallel()
	k := queried(t, true)
	alice := k.User("alice")
	space := k.Create(alice, room.CreateRequest{
		Preset: "public_chat", Visibility: "public", RoomAliasName: "space", CreationContent: map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)},
	})
	open := k.Create(alice, room.CreateRequest{Preset: "public_chat", Name: "Open"})
	closed := k.Create(alice, room.CreateRequest{Preset: "private_chat", Name: "Closed"})
	for _, child := range []string{open, closed, "!elsewhere:other.test"} {
		k.SetState(alice, space, "m.space.child", child, map[string]any{"via": []string{here}})
	}
	other := k.remote("other.test")
	for path, want := range map[string]string{
		"/v1/query/directory?room_alias=%23space:" + here:                   `room_id=` + space,
		"/v1/query/profile?user_id=@alice:" + here:                          `displayname=Alice`,
		"/v1/query/profile?user_id=@alice:" + here + "&field=avatar_url":    `avatar_url=mxc://a/b`,
		"/v1/publicRooms?limit=5":                                           `chunk.0.room_id=` + space,
		"/v1/hierarchy/" + esc(space):                                       `room.room_id=` + space,
		"/v1/hierarchy/" + esc(space) + "?suggested_only=false":             `children.0.room_id=` + open,
		"/v1/hierarchy/" + esc(space) + "?":                                 `inaccessible_children.0=` + closed,
		"/v1/user/devices/@alice:" + here:                                   `devices.0.device_display_name=Phone`,
		"/v1/user/devices/@nobody:" + here:                                  `user_id=@nobody:` + here,
		"/v1/openid/userinfo?access_token=good":                             `sub=@alice:` + here,
		"/v1/publicRooms?include_all_networks=true&limit=1&since=":          `total_room_count_estimate=1`,
		"/v1/query/directory?room_alias=%23space:" + here + "&ignored=true": `servers.0=` + here,
	} {
		status, raw := other.do("GET", path, nil)
		field, value, _ := strings.Cut(want, "=")
		if got := gjson.GetBytes(raw, field).String(); status != 200 || got != value {
			t.Errorf("%s: %d %s, want %s", path, status, raw, want)
		}
	}
	var found struct{ Chunk []json.RawMessage }
	other.call("POST", "/v1/publicRooms", map[string]any{"filter": map[string]any{"room_types": []any{nil}}}, &found)
	if len(found.Chunk) != 0 {
		t.Errorf("rooms that are no spaces: %s", found.Chunk)
	}
	var keys struct {
		Keys map[string]map[string]any `json:"device_keys"`
	}
	other.call("POST", "/v1/user/keys/query", map[string]any{"device_keys": map[string]any{"@alice:" + here: []string{}}}, &keys)
	if got, ok := keys.Keys["@alice:"+here]; !ok || len(got) != 0 {
		t.Errorf("keys: %v", keys)
	}
	other.call("POST", "/v1/user/keys/claim", map[string]any{"one_time_keys": map[string]any{}}, nil)
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	k := queried(t, true)
	alice := k.User("alice")
	private := k.Create(alice, room.CreateRequest{Preset: "private_chat"})
	other := k.remote("other.test")
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"GET", "/v1/query/directory", nil, 400, "M_MISSING_PARAM"},
		{"GET", "/v1/query/directory?room_alias=%23x:other.test", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/v1/query/directory?room_alias=x:" + here, nil, 400, "M_INVALID_PARAM"},
		{"GET", "/v1/query/directory?room_alias=%23none:" + here, nil, 404, "M_NOT_FOUND"},
		{"GET", "/v1/query/profile", nil, 400, "M_MISSING_PARAM"},
		{"GET", "/v1/query/profile?user_id=@a:other.test", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/v1/query/profile?user_id=a", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/v1/query/profile?user_id=@nobody:" + here, nil, 404, "M_NOT_FOUND"},
		{"GET", "/v1/query/something", nil, 404, "M_NOT_FOUND"},
		{"GET", "/v1/publicRooms?limit=x", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/v1/publicRooms?since=x", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/v1/publicRooms?include_all_networks=maybe", nil, 400, "M_INVALID_PARAM"},
		{"POST", "/v1/publicRooms", []byte(`{"limit":-1}`), 400, "M_INVALID_PARAM"},
		{"POST", "/v1/publicRooms", []byte(`{"filter":1}`), 400, "M_BAD_JSON"},
		{"POST", "/v1/publicRooms", []byte(`{"include_all_networks":true,"third_party_instance_id":"a|b"}`), 400, "M_INVALID_PARAM"},
		{"GET", "/v1/hierarchy/x", nil, 400, "M_INVALID_PARAM"},
		{"GET", "/v1/hierarchy/" + esc(private), nil, 404, "M_NOT_FOUND"},
		{"GET", "/v1/hierarchy/!none:other.test", nil, 404, "M_NOT_FOUND"},
		{"GET", "/v1/user/devices/@a:other.test", nil, 400, "M_INVALID_PARAM"},
		{"POST", "/v1/user/keys/query", []byte(`{}`), 400, "M_MISSING_PARAM"},
		{"POST", "/v1/user/keys/query", []byte(`{"device_keys":{"@a:other.test":[]}}`), 400, "M_INVALID_PARAM"},
		{"POST", "/v1/user/keys/query", []byte(`{"device_keys":[]}`), 400, "M_BAD_JSON"},
		{"POST", "/v1/user/keys/claim", []byte(`{}`), 400, "M_MISSING_PARAM"},
		{"POST", "/v1/user/keys/claim", []byte(`not`), 400, "M_NOT_JSON"},
		{"GET", "/v1/openid/userinfo", nil, 401, "M_MISSING_TOKEN"},
		{"GET", "/v1/openid/userinfo?access_token=bad", nil, 401, "M_UNKNOWN_TOKEN"},
	} {
		other.refuse(c.method, c.path, c.body, c.status, c.code)
	}
}

// What the configuration closes stays closed, and who does not sign gets nothing.
func TestClosedQueries(t *testing.T) {
	t.Parallel()
	k := queried(t, false)
	other := k.remote("other.test")
	other.refuse("GET", "/v1/publicRooms", nil, 403, "M_FORBIDDEN")
	other.refuse("GET", "/v1/query/profile?user_id=@alice:"+here, nil, 403, "M_FORBIDDEN")
	if _, raw := other.do("GET", "/v1/user/devices/@alice:"+here, nil); gjson.GetBytes(raw, "devices.0.device_display_name").Exists() {
		t.Errorf("the name of a device is shown: %s", raw)
	}
	w := httptest.NewRecorder()
	k.router.ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/federation/v1/publicRooms", nil))
	if w.Code != 401 {
		t.Errorf("without a signature: %d", w.Code)
	}
}
