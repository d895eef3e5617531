package sync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/homeserver/writer"
)

func (p *proc) read(roomID, who, receiptType, eventID string, thread *string) {
	p.t.Helper()
	err := p.receipts.Set(context.Background(), &requester.Requester{UserID: user(who)}, roomID, receipts.Marker{Type: receiptType, EventID: eventID, ThreadID: thread})
	must(p.t, err)
}

// receiptsOf are the receipts of a room in a response as "event type user thread".
func receiptsOf(res gjson.Result, roomID string) []string {
	out := []string{}
	for _, e := range joined(res, roomID).Get("ephemeral.events").Array() {
		if e.Get("type").Str != "m.receipt" {
			continue
		}
		e.Get("content").ForEach(func(ev, types gjson.Result) bool {
			types.ForEach(func(typ, users gjson.Result) bool {
				users.ForEach(func(u, data gjson.Result) bool {
					out = append(out, strings.Join([]string{ev.Str, typ.Str, u.Str, data.Get("thread_id").Str}, " "))
					return true
				})
				return true
			})
			return true
		})
	}
	slices.Sort(out)
	return out
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.join(room, "bob")
	id := p.say(room, "alice", "one")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str
	main := "main"
	p.read(room, "bob", receipts.Read, id, &main)
	p.read(room, "bob", receipts.Read, id, nil)
	p.read(room, "bob", receipts.ReadPrivate, id, nil)

	public := id + " m.read " + user("bob") + " "
	private := id + " m.read.private " + user("bob") + " "
	for _, since := range []string{"", since} {
		if got := receiptsOf(p.ask(ask{user: "alice", since: since}), room); !slices.Equal(got, []string{public}) {
			t.Errorf("since %q alice sees %q, want the unthreaded public receipt", since, got)
		}
		if got := receiptsOf(p.ask(ask{user: "bob", since: since}), room); !slices.Equal(got, []string{public, private}) {
			t.Errorf("since %q bob sees %q, want both", since, got)
		}
	}
	next := p.ask(ask{user: "alice", since: since}).Get("next_batch").Str
	if res := p.ask(ask{user: "alice", since: next}); res.Get("rooms").Exists() {
		t.Errorf("receipts come twice: %s", res.Raw)
	}
	if res := p.ask(ask{user: "alice", filter: `{"room":{"ephemeral":{"types":[]}}}`}); len(receiptsOf(res, room)) > 0 {
		t.Errorf("the filter lets receipts pass: %s", res.Raw)
	}
}

func TestTyping(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.join(room, "bob")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str
	typers := func(res gjson.Result) string {
		return joined(res, room).Get(`ephemeral.events.#(type=="m.typing").content.user_ids`).Raw
	}
	set := func(on bool) {
		t.Helper()
		must(t, p.typing.Set(context.Background(), &requester.Requester{UserID: user("bob")}, room, on, time.Minute))
	}
	set(true)
	res := p.ask(ask{user: "alice", since: since, timeout: 10 * time.Second})
	if got, want := typers(res), `["`+user("bob")+`"]`; got != want {
		t.Errorf("typing are %s, want %s: %s", got, want, res.Raw)
	}
	if got := typers(p.ask(ask{user: "alice"})); got == "" {
		t.Error("initial sync does not say who types")
	}
	set(false)
	res = p.ask(ask{user: "alice", since: res.Get("next_batch").Str, timeout: 10 * time.Second})
	if got := typers(res); got != "[]" {
		t.Errorf("typing are %s, want []", got)
	}
	if got := typers(p.ask(ask{user: "alice"})); got != "" {
		t.Errorf("initial sync says that %s type", got)
	}
}

func TestAccountData(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	ctx := context.Background()
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str
	must(t, p.account.Put(ctx, user("alice"), "", "a.global", json.RawMessage(`{"k":1}`)))
	must(t, p.account.Put(ctx, user("alice"), room, "a.room", json.RawMessage(`{"k":2}`)))
	must(t, p.account.SetTag(ctx, user("alice"), room, "u.work", json.RawMessage(`{"order":0.5}`)))
	for _, since := range []string{"", since} {
		res := p.ask(ask{user: "alice", since: since})
		if got := res.Get(`account_data.events.#(type=="a.global").content.k`).Int(); got != 1 {
			t.Errorf("since %q: global data: %s", since, res.Raw)
		}
		data := joined(res, room).Get("account_data")
		if data.Get(`events.#(type=="a.room").content.k`).Int() != 2 || !data.Get(`events.#(type=="m.tag").content.tags.u\.work`).Exists() {
			t.Errorf("since %q: data of the room: %s", since, res.Raw)
		}
	}
	next := p.ask(ask{user: "alice", since: since}).Get("next_batch").Str
	if res := p.ask(ask{user: "alice", since: next}); res.Get("account_data").Exists() || res.Get("rooms").Exists() {
		t.Errorf("data comes twice: %s", res.Raw)
	}
	res := p.ask(ask{user: "alice", filter: `{"account_data":{"types":["b.*"]},"room":{"account_data":{"not_types":["m.tag"]}}}`})
	if res.Get(`account_data.events.#(type=="a.global")`).Exists() || joined(res, room).Get("account_data.events.#").Int() != 1 {
		t.Errorf("filtered account data: %s", res.Raw)
	}
}

func TestIgnoredUsers(t *testing.T) {
	t.Parallel()
	for _, tail := range []int{0, 1} {
		t.Run(fmt.Sprintf("tail of %d", tail), func(t *testing.T) {
			t.Parallel()
			p := newProc(t, tailBytes(tail))
			room := p.room("alice", "shared")
			p.join(room, "bob")
			p.say(room, "bob", "old noise")
			since := p.ask(ask{user: "alice"}).Get("next_batch").Str
			must(t, p.account.Put(context.Background(), user("alice"), "", "m.ignored_user_list", json.RawMessage(fmt.Sprintf(`{"ignored_users":{%q:{}}}`, user("bob")))))
			since = p.ask(ask{user: "alice", since: since, timeout: 10 * time.Second}).Get("next_batch").Str
			p.say(room, "bob", "noise")
			p.send(room, stateDraft(user("bob"), "m.room.topic", "", `{"topic":"by bob"}`))
			p.say(room, "alice", "signal")
			bobs := p.room("bob", "shared")
			p.member(bobs, "bob", "alice", "invite")
			for _, since := range []string{"", since} {
				res := p.ask(ask{user: "alice", since: since})
				tl := joined(res, room).Get("timeline")
				if got := bodies(tl); !slices.Equal(got, []string{"signal"}) {
					t.Errorf("since %q: messages %v", since, got)
				}
				if !tl.Get(`events.#(type=="m.room.topic")`).Exists() {
					t.Errorf("since %q: state of an ignored user is missing", since)
				}
				if res.Get("rooms.invite").Exists() {
					t.Errorf("since %q: an ignored user's invite is shown", since)
				}
			}
		})
	}
}

func TestLazyMembers(t *testing.T) {
	t.Parallel()
	for _, tail := range []int{0, 1} {
		t.Run(fmt.Sprintf("tail of %d", tail), func(t *testing.T) {
			t.Parallel()
			p := newProc(t, tailBytes(tail))
			room := p.room("alice", "shared", stateDraft(user("alice"), "m.room.name", "", `{"name":"Tea"}`))
			for _, u := range []string{"bob", "carol", "dave"} {
				p.join(room, u)
			}
			for range 3 {
				p.say(room, "alice", "filler")
			}
			p.say(room, "bob", "hello")
			lazy := `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}`
			redundant := `{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true},"timeline":{"limit":2}}}`
			members := func(r gjson.Result) []string {
				out := []string{}
				for _, e := range r.Get("state.events").Array() {
					if e.Get("type").Str == "m.room.member" {
						out = append(out, strings.TrimSuffix(e.Get("state_key").Str[1:], ":"+serverName))
					}
				}
				slices.Sort(out)
				return out
			}
			res := p.ask(ask{user: "dave", filter: lazy})
			if got := members(joined(res, room)); !slices.Equal(got, []string{"alice", "bob", "dave"}) {
				t.Errorf("initial sync has the members %v, want the senders and the user", got)
			}
			if !pieces(joined(res, room).Get("state"))["m.room.name|"].Exists() {
				t.Error("state without members is missing")
			}
			since := res.Get("next_batch").Str
			p.say(room, "bob", "again")
			p.say(room, "carol", "hello")
			res = p.ask(ask{user: "dave", filter: lazy, since: since})
			if got := members(joined(res, room)); !slices.Equal(got, []string{"carol"}) {
				t.Errorf("incremental sync has the members %v, want the one not sent before: %s", got, res.Raw)
			}
			// The response was lost: the device asks again, and has nobody whom only that response showed.
			if got := members(joined(p.ask(ask{user: "dave", filter: lazy, since: since}), room)); !slices.Equal(got, []string{"carol"}) {
				t.Errorf("asked again, the members are %v, want those the lost response had", got)
			}
			if got := members(joined(p.ask(ask{user: "dave", filter: redundant, since: since}), room)); !slices.Equal(got, []string{"bob", "carol"}) {
				t.Errorf("with redundant members: %v", got)
			}
			since = res.Get("next_batch").Str
			p.leave(room, "carol")
			for range 3 {
				p.say(room, "bob", "filler")
			}
			res = p.ask(ask{user: "dave", filter: lazy, since: since})
			if got := members(joined(res, room)); !slices.Equal(got, []string{"carol"}) {
				t.Errorf("over a gap: %v, want who changed in it", got)
			}
			if n := joined(res, room).Get(`summary.m\.joined_member_count`).Int(); n != 3 {
				t.Errorf("summary after somebody left: %s", joined(res, room).Get("summary").Raw)
			}
		})
	}
}

// A member who came in the timeline is in the state after it, in every initial sync of the device.
func TestLazyMembersAfter(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.join(room, "bob")
	for i := range 2 {
		res := joined(p.ask(ask{user: "alice", filter: `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":20}}}`, after: true}), room)
		state := pieces(res.Get("state_after"))
		for _, u := range []string{"alice", "bob"} {
			if !state["m.room.member|"+user(u)].Exists() {
				t.Errorf("sync %d: the state after the timeline lacks %s", i, u)
			}
		}
	}
}

func TestHeroes(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	for i := range 6 {
		p.join(room, fmt.Sprint("user", i))
	}
	p.member(room, "alice", "guest", "invite")
	for range 12 {
		p.say(room, "alice", "filler")
	}
	res := p.ask(ask{user: "user0", filter: `{"room":{"state":{"lazy_load_members":true}}}`})
	s := joined(res, room).Get("summary")
	want := fmt.Sprintf(`[%q,%q,%q,%q,%q]`, user("alice"), user("user1"), user("user2"), user("user3"), user("user4"))
	if got := s.Get(`m\.heroes`).Raw; got != want || s.Get(`m\.invited_member_count`).Int() != 1 || s.Get(`m\.joined_member_count`).Int() != 7 {
		t.Errorf("summary %s, want heroes %s", s.Raw, want)
	}
	state := pieces(joined(res, room).Get("state"))
	for _, u := range []string{"alice", "user1", "user4"} {
		if !state["m.room.member|"+user(u)].Exists() {
			t.Errorf("the member event of hero %s is missing", u)
		}
	}
}

// extension answers for everything another part of the server may add.
type extension struct{}

func (extension) Syncing(context.Context, string, string, string) func() { return func() {} }

func (extension) Presence(_ context.Context, _ string, _ sync.Range, p sync.People) ([]json.RawMessage, error) {
	var out []json.RawMessage
	for _, u := range p.Joined {
		out = append(out, json.RawMessage(fmt.Sprintf(`{"type":"m.presence","sender":%q,"content":{}}`, u)))
	}
	return out, nil
}

func (extension) Changes(_ context.Context, _ string, _ sync.Range, p sync.People) (changed, left []string, err error) {
	return p.Joined, p.Left, nil
}

func (extension) Keys(context.Context, string, string) (sync.DeviceKeys, error) {
	return sync.DeviceKeys{OneTimeKeys: map[string]int64{"signed_curve25519": 7}}, nil
}

func (extension) Unread(_ context.Context, _ string, rooms []string) (map[string]sync.RoomCounts, error) {
	out := map[string]sync.RoomCounts{}
	for _, r := range rooms {
		out[r] = sync.RoomCounts{Total: sync.Counts{Notification: 3, Highlight: 1}, Main: sync.Counts{Notification: 1}, Threads: map[string]sync.Counts{"$root": {Notification: 2, Highlight: 1}}}
	}
	return out, nil
}

func TestExtensions(t *testing.T) {
	t.Parallel()
	p := newProc(t, func(c *sync.Config) { c.Presence, c.Devices, c.Unread = extension{}, extension{}, extension{} })
	room := p.room("alice", "shared")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str
	p.join(room, "bob")
	res := p.ask(ask{user: "alice", since: since})
	if res.Get("device_lists.changed.0").Str != user("bob") || res.Get("presence.events.0.sender").Str != user("bob") {
		t.Errorf("somebody came: %s", res.Raw)
	}
	if res.Get("device_one_time_keys_count.signed_curve25519").Int() != 7 || !res.Get("device_unused_fallback_key_types").IsArray() {
		t.Errorf("keys: %s", res.Raw)
	}
	r := joined(res, room)
	if r.Get("unread_notifications.notification_count").Int() != 3 || r.Get("unread_thread_notifications").Exists() {
		t.Errorf("counts: %s", r.Raw)
	}
	r = joined(p.ask(ask{user: "alice", since: since, filter: `{"room":{"timeline":{"unread_thread_notifications":true}}}`}), room)
	if r.Get("unread_notifications.notification_count").Int() != 1 || r.Get(`unread_thread_notifications.\$root.highlight_count`).Int() != 1 {
		t.Errorf("counts by thread: %s", r.Raw)
	}
	since = res.Get("next_batch").Str
	p.leave(room, "bob")
	if res = p.ask(ask{user: "alice", since: since}); res.Get("device_lists.left.0").Str != user("bob") {
		t.Errorf("somebody went: %s", res.Raw)
	}
	if res = p.ask(ask{user: "carol", since: since}); res.Get("rooms").Exists() {
		t.Errorf("a stranger sees %s", res.Raw)
	}
	t0 := res.Get("next_batch").Str
	p.join(room, "carol")
	if res = p.ask(ask{user: "carol", since: t0}); res.Get("device_lists.changed.0").Str != user("alice") {
		t.Errorf("who joins does not learn of those who are there: %s", res.Raw)
	}
}

// Relations are bundled with the events of a timeline that does not go on from what the client has.
func TestBundledRelations(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.join(room, "bob")
	relate := func(from, relType, to string) writer.Draft {
		return writer.Draft{Type: "m.room.message", Sender: user(from), Content: json.RawMessage(fmt.Sprintf(
			`{"body":"x","msgtype":"m.text","m.new_content":{"body":"y"},"m.relates_to":{"rel_type":%q,"event_id":%q}}`, relType, to))}
	}
	root := p.say(room, "alice", "root")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str
	reply := p.send(room, relate("bob", "m.thread", root))[0].EventID
	p.send(room, relate("alice", "m.replace", root))
	relations := func(section gjson.Result) gjson.Result {
		return section.Get(`timeline.events.#(event_id=="` + root + `").unsigned.m\.relations`)
	}
	limited := `{"room":{"timeline":{"limit":3}}}`
	got := relations(joined(p.ask(ask{user: "alice", filter: limited}), room))
	if th := got.Get(`m\.thread`); th.Get("count").Int() != 1 || th.Get("latest_event.event_id").Str != reply || !th.Get("current_user_participated").Bool() {
		t.Errorf("relations of the root of a thread: %s", got.Raw)
	}
	if got.Get(`m\.replace.event_id`).Str == "" {
		t.Errorf("the edit is missing: %s", got.Raw)
	}
	p.say(room, "bob", "last")
	res := joined(p.ask(ask{user: "alice", since: since, filter: limited}), room)
	if res.Get("timeline.limited").Bool() || strings.Contains(res.Raw, "m.relations") {
		t.Errorf("a timeline without a gap has relations bundled: %s", res.Raw)
	}
}
