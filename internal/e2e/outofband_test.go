package e2e

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/homeservertest"
	"github.com/weft-im/weft/homeserver/writer"
)

// An invite to a room of another server, written by the owner of the room, is in the next /sync of every process; what
// ends it takes it away again.
func TestInviteOfAnotherServerInSync(t *testing.T) {
	t.Parallel()
	c := homeservertest.NewCluster(t, homeservertest.ClusterConfig{
		Workers: []homeservertest.Worker{{Name: "worker1"}, {Name: "persister1", App: "event_persister", Streams: []string{"events"}}},
		Parts: func(core *homeserver.Core) homeserver.Config {
			return core.Process([]homeserver.Group{clientapi.Registration(core.Accounts), clientapi.Sync(core.Sync)})
		},
	})
	var user struct {
		UserID string `json:"user_id"`
		Token  string `json:"access_token"`
	}
	c.Main().Call(t, "POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": "bob", "password": "secret", "auth": map[string]string{"type": "m.login.dummy"},
	}, &user)
	v, _ := event.LookupVersion("11")
	build := func(membership string) *event.Event {
		t.Helper()
		e, err := event.Build(v, event.Draft{
			RoomID: "!r:remote.example", Sender: "@a:remote.example", Type: event.TypeMember, StateKey: &user.UserID,
			Content: json.RawMessage(`{"membership":"` + membership + `"}`), Depth: 5,
		}, event.Signer{ServerName: "remote.example", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	since := map[string]string{}
	type roomChanges struct {
		Invite, Leave map[string]json.RawMessage
	}
	sync := func(process string) roomChanges {
		t.Helper()
		var out struct {
			NextBatch string      `json:"next_batch"`
			Rooms     roomChanges `json:"rooms"`
		}
		path := "/_matrix/client/v3/sync"
		if token := since[process]; token != "" {
			path += "?since=" + token
		}
		c.Process(process).Call(t, "GET", path, user.Token, nil, &out)
		since[process] = out.NextBatch
		return out.Rooms
	}
	for _, p := range c.Names() {
		sync(p)
	}
	stripped := []byte(`[{"type":"m.room.name","state_key":"","sender":"@a:remote.example","content":{"name":"There"}}]`)
	// By a process that does not own the room.
	if _, err := c.Core("worker1").Writer.ReceiveOutOfBand(t.Context(), writer.OutOfBand{Event: build("invite"), Stripped: stripped}); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Names() {
		if got := sync(p); got.Invite["!r:remote.example"] == nil {
			t.Errorf("%s shows no invite: %+v", p, got)
		}
	}
	if _, err := c.Core(c.Main().Name()).Writer.ReceiveOutOfBand(t.Context(), writer.OutOfBand{Event: build("leave")}); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Names() {
		if got := sync(p); len(got.Invite) != 0 || got.Leave["!r:remote.example"] == nil {
			t.Errorf("%s after the invite was taken back: %+v", p, got)
		}
	}
}
