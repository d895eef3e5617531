package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/federation/federationtest"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/homeservertest"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// side is one process of a server with a user at it.
type side struct {
	t *testing.T
	*federationtest.Server
	core *homeserver.Core
	who  *requester.Requester
}

func at(t *testing.T, s *federationtest.Server, process, localpart string) *side {
	return &side{t, s, s.Core(process), &requester.Requester{UserID: "@" + localpart + ":" + s.Name, RateLimitExempt: true}}
}

func (s *side) create(version, preset string, more ...room.InitialState) string {
	s.t.Helper()
	id, err := s.core.Rooms.Create(s.t.Context(), s.who, room.CreateRequest{RoomVersion: version, Preset: preset, InitialState: more})
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func (s *side) say(roomID, body string) string {
	s.t.Helper()
	res, err := s.core.Writer.Send(s.t.Context(), roomID, writer.Draft{
		Type: "m.room.message", Sender: s.who.UserID, Content: json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return res[0].EventID
}

// members returns who is in a room, once that is known.
func (s *side) members(roomID string) map[string]room.JoinedMember {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	members, err := s.core.Rooms.JoinedMembers(ctx, s.who, roomID)
	if err != nil {
		s.t.Fatal(err)
	}
	return members
}

func (s *side) join(roomID string, via ...string) error {
	_, err := s.core.Rooms.Join(s.t.Context(), s.who, roomID, room.JoinRequest{Via: via})
	return err
}

func (s *side) membership(roomID, userID string) storage.Membership {
	s.t.Helper()
	r, err := s.core.Store.Room(s.t.Context(), roomID)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := s.core.Store.Membership(s.t.Context(), r.NID, userID)
	if err != nil {
		s.t.Fatal(err)
	}
	if m == nil {
		return 0
	}
	return m.Membership
}

// bodies returns what was said in a room, the last first.
func (s *side) bodies(roomID string) (said []string) {
	s.t.Helper()
	from := ""
	for range 20 {
		page, err := s.core.Rooms.Messages(s.t.Context(), s.who, roomID, room.MessagesRequest{From: from, Backwards: true, Limit: 50})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range gjson.ParseBytes(page.Chunk).Array() {
			if b := e.Get("content.body").Str; b != "" {
				said = append(said, b)
			}
		}
		if from = page.End; from == "" {
			break
		}
	}
	return said
}

func (s *side) sync(filter string) gjson.Result {
	s.t.Helper()
	res, err := s.core.Sync.Sync(s.t.Context(), sync.Request{Requester: s.who, Filter: filter})
	if err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	if err := res.Write(&b); err != nil {
		s.t.Fatal(err)
	}
	return gjson.Parse(b.String())
}

// A room can be joined, read back to its start, left and joined again, whatever its version and whichever process does it.
func TestJoin(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	a := n.Start(t, federationtest.Config{})
	b := n.Start(t, federationtest.Config{Workers: []homeservertest.Worker{{Name: "persister", Streams: []string{"events"}}}})
	dead := n.Fake(t)
	dead.Cut()
	for i, v := range event.Versions() {
		process := b.Names()[i%len(b.Names())]
		t.Run(v.ID+" on "+process, func(t *testing.T) {
			t.Parallel()
			alice, bob := at(t, a, config.MainName, "alice"), at(t, b, process, "bob"+v.ID)
			roomID := alice.create(v.ID, "public_chat")
			var want []string
			for i := range 30 {
				alice.say(roomID, fmt.Sprint("message ", i))
				want = append(want, fmt.Sprint("message ", i))
			}
			slices.Reverse(want)
			if err := bob.join(roomID, dead.Name, a.Name); err != nil {
				t.Fatal(err)
			}
			if m := alice.membership(roomID, bob.who.UserID); m != storage.MembershipJoin {
				t.Errorf("alice's server sees bob as %v", m)
			}
			bob.members(roomID)
			if got := bob.bodies(roomID); !slices.Equal(got, want) {
				t.Errorf("bob reads %q", got)
			}
			if !bob.sync(lazy).Get("rooms.join." + gjson.Escape(roomID)).Exists() {
				t.Error("the room is not in bob's /sync")
			}
			if err := bob.core.Rooms.Leave(t.Context(), bob.who, roomID, ""); err != nil {
				t.Fatal(err)
			}
			last := alice.say(roomID, "while bob was away")
			if err := bob.join(roomID, a.Name); err != nil {
				t.Fatal(err)
			}
			bob.members(roomID)
			if got := bob.bodies(roomID); len(got) == 0 || got[0] != "while bob was away" {
				t.Errorf("bob reads %q after coming back", got)
			}
			if _, err := bob.core.Rooms.Event(t.Context(), bob.who, roomID, last); err != nil {
				t.Errorf("the last message: %v", err)
			}
		})
	}
}

func TestJoinErrors(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	a := n.Start(t, federationtest.Config{})
	b := n.Start(t, federationtest.Config{})
	alice, bob := at(t, a, config.MainName, "alice"), at(t, b, config.MainName, "bob")
	answer := func(status int, body any) *federationtest.Fake {
		f := n.Fake(t)
		f.Answer(t, "GET /_matrix/federation/v1/make_join/{room}/{user}", status, body)
		return f
	}
	private, public := alice.create("11", "private_chat"), alice.create("11", "public_chat")
	template := map[string]any{
		"type": "m.room.member", "room_id": public, "sender": bob.who.UserID, "state_key": bob.who.UserID, "depth": 3,
		"content": map[string]string{"membership": "join"}, "prev_events": []string{"$x"}, "auth_events": []string{"$y"},
	}
	with := func(key string, value any) map[string]any {
		out := map[string]any{}
		for k, v := range template {
			out[k] = v
		}
		out[key] = value
		return map[string]any{"room_version": "11", "event": out}
	}
	notFound := map[string]string{"errcode": "M_NOT_FOUND"}
	for _, c := range []struct {
		name, room string
		via        []string
		want       error
	}{
		{"not invited", private, []string{a.Name}, mxerr.Forbidden},
		{"nobody knows the room", "!x:" + a.Name, []string{a.Name}, mxerr.NotFound},
		{"unknown version", public, []string{answer(200, map[string]any{"room_version": "none", "event": template}).Name}, mxerr.UnsupportedRoomVersion},
		{"version of the other server", public, []string{answer(400, map[string]string{"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "room_version": "99"}).Name}, mxerr.IncompatibleRoomVersion},
		{"somebody else", public, []string{answer(200, with("sender", "@x:"+a.Name)).Name}, mxerr.NotFound},
		{"another type", public, []string{answer(200, with("type", "m.room.power_levels")).Name}, mxerr.NotFound},
		{"another membership", public, []string{answer(200, with("content", map[string]string{"membership": "ban"})).Name}, mxerr.NotFound},
		{"no list", public, []string{answer(200, with("prev_events", "x")).Name}, mxerr.NotFound},
		{"unable to authorise", public, []string{answer(400, map[string]string{"errcode": "M_UNABLE_TO_AUTHORISE_JOIN"}).Name, answer(404, notFound).Name}, mxerr.UnableToAuthoriseJoin},
		{"bad gateway", public, []string{answer(502, "x").Name}, mxerr.NotFound},
		{"the request is not liked", public, []string{answer(400, map[string]string{"errcode": "M_MISSING_PARAM"}).Name}, mxerr.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			bob := *bob
			bob.t = t
			if err := bob.join(c.room, c.via...); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	// A server that does not help is no reason to give up.
	if err := bob.join(public, answer(404, notFound).Name, answer(400, map[string]string{"errcode": "M_UNABLE_TO_GRANT_JOIN"}).Name, a.Name); err != nil {
		t.Error(err)
	}
}

func TestInvitesAndKnocks(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	a := n.Start(t, federationtest.Config{})
	b := n.Start(t, federationtest.Config{})
	for _, v := range []string{"1", "3", "10", "12"} {
		t.Run(v, func(t *testing.T) {
			alice, bob := at(t, a, config.MainName, "alice"), at(t, b, config.MainName, "bob"+v)
			invite := func() string {
				t.Helper()
				roomID := alice.create(v, "private_chat", room.InitialState{Type: "m.room.name", Content: json.RawMessage(`{"name":"Here"}`)})
				if err := alice.core.Rooms.Invite(t.Context(), alice.who, roomID, bob.who.UserID, "come"); err != nil {
					t.Fatal(err)
				}
				for _, s := range []*side{alice, bob} {
					if m := s.membership(roomID, bob.who.UserID); m != storage.MembershipInvite {
						t.Fatalf("%s sees %v", s.Name, m)
					}
				}
				return roomID
			}
			accepted := invite()
			if got := bob.sync("").Get("rooms.invite." + gjson.Escape(accepted) + ".invite_state.events.#(type==m.room.name).content.name").Str; got != "Here" {
				t.Errorf("the invite tells the name %q", got)
			}
			if err := alice.core.Rooms.Invite(t.Context(), alice.who, accepted, bob.who.UserID, "come"); err != nil {
				t.Errorf("the same invite again: %v", err)
			}
			if err := bob.join(accepted); err != nil {
				t.Fatal(err)
			}
			declined := invite()
			if err := bob.core.Rooms.Leave(t.Context(), bob.who, declined, ""); err != nil {
				t.Fatal(err)
			}
			for _, s := range []*side{alice, bob} {
				if m := s.membership(declined, bob.who.UserID); m != storage.MembershipLeave {
					t.Errorf("after declining %s sees %v", s.Name, m)
				}
			}
			// Nobody has to stay invited by a server that is gone.
			lonely := invite()
			a.Cut()
			err := bob.core.Rooms.Leave(t.Context(), bob.who, lonely, "")
			a.Mend(t)
			if err != nil {
				t.Fatal(err)
			}
			if m := bob.membership(lonely, bob.who.UserID); m != storage.MembershipLeave {
				t.Errorf("after declining alone bob's server sees %v", m)
			}
			bob.core.Store.Forget()
			if version, _ := event.LookupVersion(v); !version.Knock {
				return
			}
			open := alice.create(v, "private_chat",
				room.InitialState{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)},
				room.InitialState{Type: "m.room.name", Content: json.RawMessage(`{"name":"Door"}`)})
			if _, err := bob.core.Rooms.Knock(t.Context(), bob.who, open, []string{a.Name}, nil); err != nil {
				t.Fatal(err)
			}
			if got := bob.sync("").Get("rooms.knock." + gjson.Escape(open) + ".knock_state.events.#(type==m.room.name).content.name").Str; got != "Door" {
				t.Errorf("the knock tells the name %q", got)
			}
			if err := bob.core.Rooms.Leave(t.Context(), bob.who, open, ""); err != nil {
				t.Fatal(err)
			}
			if m := alice.membership(open, bob.who.UserID); m != storage.MembershipLeave {
				t.Errorf("after withdrawing the knock alice's server sees %v", m)
			}
		})
	}
}

const lazy = `{"room":{"state":{"lazy_load_members":true}}}`

// A room is there at once, and its members when they have been fetched.
func TestPartialState(t *testing.T) {
	t.Parallel()
	n := federationtest.New(t)
	a := n.Start(t, federationtest.Config{})
	b := n.Start(t, federationtest.Config{Workers: []homeservertest.Worker{{Name: "worker1"}}})
	alice := at(t, a, config.MainName, "alice")
	roomID := alice.create("11", "public_chat")
	const users = 40
	for i := range users {
		if err := at(t, a, config.MainName, fmt.Sprint("user", i)).join(roomID); err != nil {
			t.Fatal(err)
		}
	}
	// A server that knows the room and tells nothing of its state for now.
	bob := at(t, b, "worker1", "bob")
	a.Via(config.MainName)
	if err := bob.join(roomID, a.Name); err != nil {
		t.Fatal(err)
	}
	if !bob.sync(lazy).Get("rooms.join." + gjson.Escape(roomID)).Exists() {
		t.Error("the room is not in a /sync that loads members lazily")
	}
	sent := bob.say(roomID, "before the members are known")
	if members := bob.members(roomID); len(members) != users+2 {
		t.Fatalf("%d members", len(members))
	}
	r, err := bob.core.Store.Room(t.Context(), roomID)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := storage.GetPartialRoom(t.Context(), bob.core.DB, r.NID); err != nil || p != nil {
		t.Errorf("partial room %+v, %v", p, err)
	}
	var completed int
	if err := bob.core.DB.QueryRow(t.Context(), `SELECT count(*) FROM un_partial_stated_rooms`).Scan(&completed); err != nil || completed != 1 {
		t.Errorf("%d rooms were completed, %v: the room was not entered without its members", completed, err)
	}
	stats, err := bob.core.Store.Stats(t.Context(), []storage.RoomNID{r.NID})
	if err != nil || stats[0].Joined != users+2 || stats[0].LocalJoined != 1 {
		t.Errorf("statistics %+v, %v", stats[0], err)
	}
	// The states of the events since the join are whole.
	e, err := bob.core.Store.Event(t.Context(), sent)
	if err != nil {
		t.Fatal(err)
	}
	state, err := bob.core.Store.State(t.Context(), e.StateRoot, nil)
	if err != nil {
		t.Fatal(err)
	}
	there := at(t, a, config.MainName, "alice")
	ar, err := there.core.Store.Room(t.Context(), roomID)
	if err != nil {
		t.Fatal(err)
	}
	want, err := there.core.Store.CurrentState(t.Context(), ar.NID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ids(state), ids(want); !slices.Equal(got, want) {
		t.Errorf("state of %d events, want %d", len(got), len(want))
	}
	if got := bob.sync("").Get("rooms.join." + gjson.Escape(roomID) + ".state.events.#(type==m.room.member)#").Array(); len(got) < users {
		t.Errorf("%d members in /sync", len(got))
	}
}

func ids[E interface{ ID() string }](events []E) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.ID()
	}
	slices.Sort(out)
	return out
}
