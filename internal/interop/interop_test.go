package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/federation/federationtest"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// site is a homeserver as its users see it.
type site struct {
	name, url string
	dendrite  bool
	// cut makes it unreachable for the other server, mend reachable again.
	cut, mend func()
}

// person is a user of a site.
type person struct {
	t         *testing.T
	site      *site
	id, token string
	txn       int
}

func (s *site) register(t *testing.T, name string) *person {
	t.Helper()
	p := &person{t: t, site: s}
	out := p.must("POST", "v3/register", map[string]any{"username": name, "password": "secret of " + name, "auth": map[string]string{"type": "m.login.dummy"}})
	p.id, p.token = out.Get("user_id").Str, out.Get("access_token").Str
	return p
}

// do sends a request, whose path is below /_matrix/client/.
func (p *person) do(method, path string, body any) (int, gjson.Result) {
	p.t.Helper()
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.site.url+"/_matrix/client/"+path, rd)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, gjson.ParseBytes(b)
}

// must is do for what must succeed.
func (p *person) must(method, path string, body any) gjson.Result {
	p.t.Helper()
	status, out := p.do(method, path, body)
	if status != http.StatusOK {
		p.t.Fatalf("%s: %s %s: %d %s", p.id, method, path, status, out.Raw)
	}
	return out
}

func (p *person) create(body map[string]any) string {
	p.t.Helper()
	return p.must("POST", "v3/createRoom", body).Get("room_id").Str
}

func room(id, rest string) string { return "v3/rooms/" + url.PathEscape(id) + rest }

func (p *person) send(roomID, text string) string {
	p.t.Helper()
	p.txn++
	return p.must("PUT", room(roomID, fmt.Sprintf("/send/m.room.message/t%d", p.txn)), map[string]string{"msgtype": "m.text", "body": text}).Get("event_id").Str
}

func (p *person) join(roomIDOrAlias string, via ...string) {
	p.t.Helper()
	q := url.Values{"via": via, "server_name": via}
	p.must("POST", "v3/join/"+url.PathEscape(roomIDOrAlias)+"?"+q.Encode(), map[string]any{})
}

// texts returns the messages of a room, newest first, as far as the server tells them in pages.
func (p *person) texts(roomID string) []string {
	p.t.Helper()
	var out []string
	from := ""
	for range 50 {
		status, page := p.do("GET", room(roomID, "/messages?dir=b&limit=100"+from), nil)
		if status != http.StatusOK {
			return out
		}
		for _, e := range page.Get("chunk").Array() {
			if e.Get("type").Str == "m.room.message" && e.Get("content.body").Exists() {
				out = append(out, e.Get("content.body").Str)
			}
		}
		end := page.Get("end").Str
		if end == "" || len(page.Get("chunk").Array()) == 0 {
			return out
		}
		from = "&from=" + url.QueryEscape(end)
	}
	return out
}

// sees waits until the person sees a message.
func (p *person) sees(roomID, text string) {
	p.t.Helper()
	until(p.t, p.id+" sees "+text, func() bool { return slices.Contains(p.texts(roomID), text) })
}

// sees waits until the person sees somebody's membership.
func (p *person) seesMember(roomID, userID, membership string) {
	p.t.Helper()
	until(p.t, p.id+" sees "+userID+" as "+membership, func() bool {
		status, got := p.do("GET", room(roomID, "/state/m.room.member/"+url.PathEscape(userID)), nil)
		return status == http.StatusOK && got.Get("membership").Str == membership
	})
}

// invited waits until the person has an invite.
func (p *person) invited(roomID string) {
	p.t.Helper()
	until(p.t, p.id+" is invited", func() bool {
		return p.must("GET", "v3/sync?timeout=0", nil).Get("rooms.invite." + gjson.Escape(roomID)).Exists()
	})
}

// allClientGroups are the groups that the users of these tests need.
func allClientGroups(c *homeserver.Core) []homeserver.Group {
	return []homeserver.Group{
		clientapi.Registration(c.Accounts), clientapi.Account(c.Accounts), clientapi.Profile(c.Accounts, clientapi.ProfileConfig{}),
		clientapi.Rooms(c.Rooms, c.Delayed), clientapi.RoomDirectory(c.Rooms), clientapi.UserRooms(c.Rooms), clientapi.Sync(c.Sync),
	}
}

// TestDendrite has Weft and Dendrite share rooms, each as the host of the other's users.
func TestDendrite(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	d := startDendrite(t, n)
	w := n.Start(t, federationtest.Config{
		Groups: allClientGroups, Workers: []homeservertest.Worker{{Name: "worker1"}},
		Configure: func(cfg *config.Config) {
			cfg.AllowPublicRoomsOverFederation = true
			cfg.Federation.DestinationMinRetryInterval = time.Second
			cfg.Federation.DestinationMaxRetryInterval = 2 * time.Second
		},
	})
	weft := &site{name: w.Name, url: w.Main().URL(t, homeserver.ResourceClient), cut: w.Cut, mend: func() { w.Mend(t) }}
	// Dendrite answers 500 where an alias is not there, looks for what a redaction redacts where it was before version 11,
	// and sends stripped state with invites to rooms of version 12, which is not to be believed.
	other := &site{name: d.name, dendrite: true, url: d.url, cut: func() { d.stop(t) }, mend: func() { d.start(t) }}
	for _, way := range []struct {
		name        string
		host, guest *site
	}{{"Weft is the host", weft, other}, {"Dendrite is the host", other, weft}} {
		t.Run(way.name, func(t *testing.T) {
			alice, bob := way.host.register(t, "alice"+way.guest.name[10:]), way.guest.register(t, "bob"+way.host.name[10:])
			for _, version := range []string{"10", "11", "12"} {
				t.Run("version "+version, func(t *testing.T) { conversation(t, version, alice.in(t), bob.in(t)) })
			}
			t.Run("queries", func(t *testing.T) { queries(t, alice.in(t), bob.in(t)) })
			t.Run("restricted", func(t *testing.T) { restricted(t, alice.in(t), bob.in(t)) })
			t.Run("history", func(t *testing.T) { history(t, alice.in(t), bob.in(t)) })
			t.Run("outage", func(t *testing.T) { outage(t, alice.in(t), bob.in(t)) })
		})
	}
}

// in is the person in a sub-test.
func (p *person) in(t *testing.T) *person {
	q := *p
	q.t = t
	return &q
}

// conversation is all that two people on two servers do in a room.
func conversation(t *testing.T, version string, alice, bob *person) {
	alias := "room" + version
	roomID := alice.create(map[string]any{"preset": "public_chat", "room_alias_name": alias, "room_version": version})
	bob.join("#" + alias + ":" + alice.site.name)
	alice.seesMember(roomID, bob.id, "join")
	bob.seesMember(roomID, alice.id, "join")

	first := alice.send(roomID, "hello from the host")
	bob.sees(roomID, "hello from the host")
	second := bob.send(roomID, "hello from the guest")
	alice.sees(roomID, "hello from the guest")

	// Each takes back what they said.
	for _, redaction := range []struct {
		by, seen *person
		event    string
	}{{alice, bob, first}, {bob, alice, second}} {
		if redaction.seen.site.dendrite && version != "10" {
			continue
		}
		redaction.by.must("PUT", room(roomID, "/redact/"+url.PathEscape(redaction.event)+"/r"+version), map[string]any{})
		until(t, redaction.seen.id+" sees the redaction", func() bool {
			status, e := redaction.seen.do("GET", room(roomID, "/event/"+url.PathEscape(redaction.event)), nil)
			return status == http.StatusOK && !e.Get("content.body").Exists()
		})
	}

	// Leave and come back.
	bob.must("POST", room(roomID, "/leave"), map[string]any{})
	alice.seesMember(roomID, bob.id, "leave")
	alice.send(roomID, "while bob was away")
	bob.join(roomID, alice.site.name)
	alice.seesMember(roomID, bob.id, "join")
	alice.send(roomID, "welcome back")
	bob.sees(roomID, "welcome back")
	bob.send(roomID, "it is good to be back")
	alice.sees(roomID, "it is good to be back")

	// Kicked, invited again, banned, and let in again.
	alice.must("POST", room(roomID, "/kick"), map[string]string{"user_id": bob.id, "reason": "try"})
	until(t, "bob is out", func() bool {
		return !slices.Contains(rooms(bob), roomID)
	})
	invites := !alice.site.dendrite || version != "12"
	if invites {
		alice.must("POST", room(roomID, "/invite"), map[string]string{"user_id": bob.id})
		bob.invited(roomID)
		bob.join(roomID)
	} else {
		bob.join(roomID, alice.site.name)
	}
	alice.seesMember(roomID, bob.id, "join")
	alice.must("POST", room(roomID, "/ban"), map[string]string{"user_id": bob.id})
	until(t, "bob is out", func() bool { return !slices.Contains(rooms(bob), roomID) })
	if status, out := bob.do("POST", "v3/join/"+url.PathEscape(roomID)+"?via="+alice.site.name+"&server_name="+alice.site.name, map[string]any{}); status != http.StatusForbidden {
		t.Errorf("a banned user joins: %d %s", status, out.Raw)
	}
	alice.must("POST", room(roomID, "/unban"), map[string]string{"user_id": bob.id})
	bob.join(roomID, alice.site.name)
	bob.send(roomID, "the end")
	alice.sees(roomID, "the end")

	if !invites {
		return
	}
	// An invite to a private room, rejected, and another, accepted.
	private := alice.create(map[string]any{"preset": "private_chat", "room_version": version, "invite": []string{bob.id}})
	bob.invited(private)
	bob.must("POST", room(private, "/leave"), map[string]any{})
	alice.seesMember(private, bob.id, "leave")
	alice.must("POST", room(private, "/invite"), map[string]string{"user_id": bob.id})
	bob.invited(private)
	bob.join(private)
	alice.seesMember(private, bob.id, "join")
	bob.send(private, "among ourselves")
	alice.sees(private, "among ourselves")
}

func rooms(p *person) (ids []string) {
	for _, r := range p.must("GET", "v3/joined_rooms", nil).Get("joined_rooms").Array() {
		ids = append(ids, r.Str)
	}
	return ids
}

// queries asks the other server for profiles, aliases and rooms.
func queries(t *testing.T, alice, bob *person) {
	name := "Älice <&>"
	alice.must("PUT", "v3/profile/"+alice.id+"/displayname", map[string]string{"displayname": name})
	if got := bob.must("GET", "v3/profile/"+alice.id, nil).Get("displayname").Str; got != name {
		t.Errorf("bob sees alice as %q", got)
	}
	if status, _ := bob.do("GET", "v3/profile/@nobody:"+alice.site.name, nil); status != http.StatusNotFound {
		t.Errorf("nobody's profile: %d", status)
	}
	roomID := alice.create(map[string]any{"preset": "public_chat", "visibility": "public", "room_alias_name": "listed", "name": "Listed"})
	alias := url.PathEscape("#listed:" + alice.site.name)
	if got := bob.must("GET", "v3/directory/room/"+alias, nil).Get("room_id").Str; got != roomID {
		t.Errorf("bob finds %s", got)
	}
	if status, _ := bob.do("GET", "v3/directory/room/"+url.PathEscape("#none:"+alice.site.name), nil); status != http.StatusNotFound && !bob.site.dendrite {
		t.Errorf("no alias: %d", status)
	}
	until(t, "the room is listed", func() bool {
		return bob.must("GET", "v3/publicRooms?server="+alice.site.name, nil).Get(`chunk.#(room_id=="`+roomID+`").name`).Str == "Listed"
	})
}

// restricted has the guest join a room that members of another may join.
func restricted(t *testing.T, alice, bob *person) {
	lobby := alice.create(map[string]any{"preset": "public_chat", "room_version": "10"})
	inner := alice.create(map[string]any{"preset": "private_chat", "room_version": "10", "initial_state": []map[string]any{{
		"type": "m.room.join_rules", "state_key": "",
		"content": map[string]any{"join_rule": "restricted", "allow": []map[string]string{{"type": "m.room_membership", "room_id": lobby}}},
	}}})
	if status, out := bob.do("POST", "v3/join/"+url.PathEscape(inner)+"?via="+alice.site.name+"&server_name="+alice.site.name, map[string]any{}); status != http.StatusForbidden {
		t.Errorf("who is not in the lobby joins: %d %s", status, out.Raw)
	}
	bob.join(lobby, alice.site.name)
	alice.seesMember(lobby, bob.id, "join")
	bob.join(inner, alice.site.name)
	alice.seesMember(inner, bob.id, "join")
	bob.send(inner, "inside")
	alice.sees(inner, "inside")
}

// history has the guest read what was said before anybody of their server was in the room.
func history(t *testing.T, alice, bob *person) {
	const messages = 500
	roomID := alice.create(map[string]any{"preset": "public_chat", "room_version": "10"})
	for i := range messages {
		alice.send(roomID, fmt.Sprintf("message %d", i))
	}
	bob.join(roomID, alice.site.name)
	var got []string
	until(t, "bob reads the history", func() bool {
		got = bob.texts(roomID)
		return len(got) >= messages
	})
	for i := range messages {
		if want := fmt.Sprintf("message %d", messages-1-i); got[i] != want {
			t.Fatalf("the %dth message from the end is %q", i, got[i])
		}
	}
	if len(got) != messages {
		t.Errorf("bob sees %d messages", len(got))
	}
}

// outage cuts off either server for a while; both catch up.
func outage(t *testing.T, alice, bob *person) {
	roomID := alice.create(map[string]any{"preset": "public_chat", "room_version": "10"})
	bob.join(roomID, alice.site.name)
	alice.seesMember(roomID, bob.id, "join")
	for _, way := range []struct{ up, down *person }{{alice, bob}, {bob, alice}} {
		way.up.send(roomID, "before "+way.down.id)
		way.down.sees(roomID, "before "+way.down.id)
		way.down.site.cut()
		for i := range 5 {
			way.up.send(roomID, fmt.Sprintf("without %s %d", way.down.id, i))
		}
		way.down.site.mend()
		// Whoever was away says something, so that the other side knows.
		way.down.send(roomID, "here again: "+way.down.id)
		way.up.sees(roomID, "here again: "+way.down.id)
		for i := range 5 {
			way.down.sees(roomID, fmt.Sprintf("without %s %d", way.down.id, i))
		}
	}
}
