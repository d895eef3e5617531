package sync_test

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

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/homeserver/writer"
)

func TestInitialSync(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared", stateDraft(user("alice"), "m.room.name", "", `{"name":"Tea"}`))
	p.say(room, "alice", "one")
	p.say(room, "alice", "two")

	res := p.ask(ask{user: "alice"})
	r := joined(res, room)
	if got := bodies(r.Get("timeline")); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("timeline has %v, want one, two: %s", got, res.Raw)
	}
	if r.Get("timeline.limited").Bool() {
		t.Error("a timeline with everything is limited")
	}
	if got := r.Get("state.events.#").Int(); got != 0 {
		t.Errorf("state has %d events although the timeline begins with the room: %s", got, r.Get("state").Raw)
	}
	if n := r.Get(`summary.m\.joined_member_count`).Int(); n != 1 {
		t.Errorf("%d people are joined, want 1: %s", n, r.Get("summary").Raw)
	}
	if r.Get(`summary.m\.heroes`).Exists() {
		t.Error("a room with a name has heroes")
	}
	if !r.Get("unread_notifications.notification_count").Exists() || r.Get("unread_thread_notifications").Exists() {
		t.Errorf("unread counts: %s", r.Raw)
	}
	for _, e := range r.Get("timeline.events").Array() {
		if e.Get("room_id").Exists() || e.Get("event_id").Str == "" || !e.Get("unsigned.age").Exists() {
			t.Errorf("event in a timeline: %s", e.Raw)
		}
	}
	if res := p.ask(ask{user: "bob"}); res.Get("rooms").Exists() {
		t.Errorf("somebody in no room gets %s", res.Raw)
	}
}

func TestLimitedTimeline(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.send(room, stateDraft(user("alice"), "m.room.topic", "", `{"topic":"first"}`))
	for i := range 4 {
		p.say(room, "alice", fmt.Sprint(i))
	}
	p.send(room, stateDraft(user("alice"), "m.room.topic", "", `{"topic":"second"}`))
	p.say(room, "alice", "4")

	limit := `{"room":{"timeline":{"limit":3}}}`
	r := joined(p.ask(ask{user: "alice", filter: limit}), room)
	if got := bodies(r.Get("timeline")); !slices.Equal(got, []string{"3", "4"}) || !r.Get("timeline.limited").Bool() {
		t.Errorf("timeline: %s", r.Get("timeline").Raw)
	}
	if r.Get("timeline.prev_batch").Str == "" {
		t.Error("a limited timeline has no prev_batch")
	}
	state := pieces(r.Get("state"))
	if got := state["m.room.topic|"].Get("content.topic").Str; got != "first" {
		t.Errorf("the topic before the timeline is %q, want first", got)
	}
	if len(state) != 6 {
		t.Errorf("state has %d pieces, want 6: %s", len(state), r.Get("state").Raw)
	}
	second := r.Get("timeline.events.1")
	if second.Get("unsigned.prev_content.topic").Str != "first" || second.Get("unsigned.replaces_state").Str == "" {
		t.Errorf("the second topic does not say what it replaced: %s", second.Raw)
	}
	r = joined(p.ask(ask{user: "alice", filter: limit, after: true}), room)
	state = pieces(r.Get("state_after"))
	if got := state["m.room.topic|"].Get("content.topic").Str; got != "second" || r.Get("state").Exists() {
		t.Errorf("the topic after the timeline is %q, want second: %s", got, r.Raw)
	}
}

func TestIncrementalSync(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room, other := p.room("alice", "shared"), p.room("alice", "shared")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str

	res := p.ask(ask{user: "alice", since: since})
	if res.Get("rooms").Exists() {
		t.Errorf("nothing happened, and yet: %s", res.Raw)
	}
	id := p.say(room, "alice", "one")
	res = p.ask(ask{user: "alice", since: since})
	r := joined(res, room)
	if got := r.Get("timeline.events.#.event_id").String(); got != `["`+id+`"]` || r.Get("timeline.limited").Bool() {
		t.Errorf("timeline is %s, want %s alone", r.Get("timeline").Raw, id)
	}
	if joined(res, other).Exists() {
		t.Error("a room without news is in the response")
	}
	if n := len(r.Get("state.events").Array()); n != 0 {
		t.Errorf("state has %d events although nothing is missing", n)
	}
	if again := p.ask(ask{user: "alice", since: since}); again.Get("rooms").Raw == "" || len(bodies(joined(again, room).Get("timeline"))) != 1 {
		t.Errorf("the same token gives something else: %s", again.Raw)
	}
	if next := p.ask(ask{user: "alice", since: res.Get("next_batch").Str}); next.Get("rooms").Exists() {
		t.Errorf("the event comes twice: %s", next.Raw)
	}
}

func TestGap(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name string
		tail int
	}{{"in the tail", 0}, {"outside the tail", 1}} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			p := newProc(t, tailBytes(mode.tail))
			room := p.room("alice", "shared")
			p.send(room, stateDraft(user("alice"), "m.room.topic", "", `{"topic":"old"}`), stateDraft(user("alice"), "m.room.name", "", `{"name":"old"}`))
			since := p.ask(ask{user: "alice"}).Get("next_batch").Str
			p.send(room, stateDraft(user("alice"), "m.room.topic", "", `{"topic":"gap"}`), stateDraft(user("alice"), "m.room.topic", "", `{"topic":"gap2"}`))
			for i := range 3 {
				p.say(room, "alice", fmt.Sprint(i))
			}
			p.send(room, stateDraft(user("alice"), "m.room.name", "", `{"name":"shown"}`))

			filter := `{"room":{"timeline":{"limit":2}}}`
			r := joined(p.ask(ask{user: "alice", since: since, filter: filter}), room)
			if !r.Get("timeline.limited").Bool() || len(r.Get("timeline.events").Array()) != 2 {
				t.Errorf("timeline: %s", r.Get("timeline").Raw)
			}
			state := pieces(r.Get("state"))
			if len(state) != 1 || state["m.room.topic|"].Get("content.topic").Str != "gap2" {
				t.Errorf("state over the gap: %s", r.Get("state").Raw)
			}
			r = joined(p.ask(ask{user: "alice", since: since, filter: filter, after: true}), room)
			state = pieces(r.Get("state_after"))
			if len(state) != 2 || state["m.room.topic|"].Get("content.topic").Str != "gap2" || state["m.room.name|"].Get("content.name").Str != "shown" {
				t.Errorf("state after the gap: %s", r.Get("state_after").Raw)
			}
			r = joined(p.ask(ask{user: "alice", since: since, after: true}), room)
			if state = pieces(r.Get("state_after")); len(state) != 2 || r.Get("timeline.limited").Bool() {
				t.Errorf("state after, without a gap: %s", r.Raw)
			}
			r = joined(p.ask(ask{user: "alice", since: since, filter: filter, full: true}), room)
			if state = pieces(r.Get("state")); len(state) != 7 || state["m.room.name|"].Get("content.name").Str != "old" {
				t.Errorf("full state: %s", r.Get("state").Raw)
			}
		})
	}
}

func TestMemberships(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name string
		tail int
	}{{"in the tail", 0}, {"outside the tail", 1}} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			p := newProc(t, tailBytes(mode.tail))
			room := p.room("alice", "shared", stateDraft(user("alice"), "m.room.name", "", `{"name":"Tea"}`))
			p.say(room, "alice", "before")
			t0 := p.ask(ask{user: "bob"}).Get("next_batch").Str

			p.member(room, "alice", "bob", "invite")
			res := p.ask(ask{user: "bob", since: t0})
			invite := pieces(res.Get("rooms.invite." + gjson.Escape(room) + ".invite_state"))
			for _, want := range []string{"m.room.create|", "m.room.name|", "m.room.join_rules|", "m.room.member|" + user("bob"), "m.room.member|" + user("alice")} {
				if !invite[want].Exists() {
					t.Errorf("invite_state lacks %s: %s", want, res.Raw)
				}
			}
			if invite["m.room.create|"].Get("event_id").Exists() {
				t.Error("stripped state is not stripped")
			}
			t1 := res.Get("next_batch").Str
			if again := p.ask(ask{user: "bob", since: t1}); again.Get("rooms").Exists() {
				t.Errorf("the invite comes twice: %s", again.Raw)
			}
			if initial := p.ask(ask{user: "bob"}); !initial.Get("rooms.invite." + gjson.Escape(room)).Exists() {
				t.Errorf("initial sync lacks the invite: %s", initial.Raw)
			}

			p.join(room, "bob")
			res = p.ask(ask{user: "bob", since: t1})
			r := joined(res, room)
			if !r.Get("timeline.limited").Bool() || !slices.Equal(bodies(r.Get("timeline")), []string{"before"}) {
				t.Errorf("timeline of a room just joined: %s", r.Raw)
			}
			for _, e := range r.Get("timeline.events").Array() {
				want := "leave"
				if e.Get("state_key").Str == user("bob") {
					want = e.Get("content.membership").Str
				}
				if got := e.Get("unsigned.membership").Str; got != want {
					t.Errorf("membership at %s is %q, want %q", e.Raw, got, want)
				}
			}
			if res.Get("rooms.invite").Exists() {
				t.Error("the invite is still there")
			}
			t2 := res.Get("next_batch").Str
			p.say(room, "alice", "while")
			p.leave(room, "bob")
			p.say(room, "alice", "after")
			res = p.ask(ask{user: "bob", since: t2})
			l := left(res, room)
			if got := bodies(l.Get("timeline")); !slices.Equal(got, []string{"while"}) {
				t.Errorf("timeline of a room just left has %v: %s", got, res.Raw)
			}
			events := l.Get("timeline.events").Array()
			if last := events[len(events)-1]; last.Get("content.membership").Str != "leave" || last.Get("unsigned.membership").Str != "leave" {
				t.Errorf("the last event is not how the user left: %s", last.Raw)
			}
			if joined(res, room).Exists() {
				t.Error("a room just left is still joined")
			}
			t3 := res.Get("next_batch").Str
			if again := p.ask(ask{user: "bob", since: t3}); again.Get("rooms").Exists() {
				t.Errorf("the room is left twice: %s", again.Raw)
			}

			p.join(room, "bob")
			res = p.ask(ask{user: "bob", since: t0})
			if !joined(res, room).Exists() || res.Get("rooms.leave").Exists() {
				t.Errorf("joined, left and joined again: %s", res.Raw)
			}
			if res = p.ask(ask{user: "bob", since: t3}); !slices.Contains(bodies(joined(res, room).Get("timeline")), "after") {
				t.Errorf("rejoined: %s", res.Raw)
			}
		})
	}
}

func TestInviteTurnedDown(t *testing.T) {
	t.Parallel()
	for _, tail := range []int{0, 1} {
		t.Run(fmt.Sprintf("tail of %d", tail), func(t *testing.T) {
			t.Parallel()
			p := newProc(t, tailBytes(tail))
			room := p.room("alice", "joined")
			t0 := p.ask(ask{user: "bob"}).Get("next_batch").Str
			p.member(room, "alice", "bob", "invite")
			t1 := p.ask(ask{user: "bob", since: t0}).Get("next_batch").Str
			p.say(room, "alice", "secret")
			p.leave(room, "bob")
			for _, since := range []string{t0, t1} {
				for _, full := range []bool{false, true} {
					res := p.ask(ask{user: "bob", since: since, full: full})
					l := left(res, room)
					if n := len(l.Get("timeline.events").Array()); n != 1 || l.Get("timeline.events.0.content.membership").Str != "leave" || len(l.Get("state.events").Array()) != 0 {
						t.Errorf("full_state %t: an invite turned down shows %s", full, res.Raw)
					}
				}
			}
			res := p.ask(ask{user: "bob", filter: `{"room":{"include_leave":true}}`})
			if strings.Contains(res.Raw, "secret") || !left(res, room).Exists() {
				t.Errorf("initial sync with what was left: %s", res.Raw)
			}
		})
	}
}

func TestIncludeLeave(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.join(room, "bob")
	p.say(room, "alice", "before")
	p.send(room, stateDraft(user("alice"), "a.test", "", `{"k":"before"}`))
	p.leave(room, "bob")
	p.say(room, "alice", "after")
	p.send(room, stateDraft(user("alice"), "a.test", "", `{"k":"after"}`), stateDraft(user("alice"), "a.test", "new", `{}`))

	if res := p.ask(ask{user: "bob"}); res.Get("rooms").Exists() {
		t.Errorf("left rooms come without being asked for: %s", res.Raw)
	}
	res := p.ask(ask{user: "bob", filter: `{"room":{"include_leave":true,"timeline":{"types":["m.room.message","a.test"]},"state":{"types":["a.test"]}}}`})
	l := left(res, room)
	if got := l.Get("timeline.events.#").Int(); got != 2 || len(l.Get("state.events").Array()) != 0 {
		t.Errorf("left room: %s", res.Raw)
	}
	res = p.ask(ask{user: "bob", filter: `{"room":{"include_leave":true,"timeline":{"limit":0}}}`})
	l = left(res, room)
	state := pieces(l.Get("state"))
	if state["a.test|"].Get("content.k").Str != "before" || state["m.room.member|"+user("bob")].Get("content.membership").Str != "leave" || state["a.test|new"].Exists() {
		t.Errorf("state of a left room: %s", l.Raw)
	}
	if strings.Contains(res.Raw, "after") {
		t.Errorf("what happened afterwards is shown: %s", res.Raw)
	}
}

func TestHistoryVisibility(t *testing.T) {
	t.Parallel()
	for visibility, want := range map[string][]string{
		"shared": {"early", "invited", "late"}, "invited": {"invited", "late"}, "joined": {"late"}, "world_readable": {"early", "invited", "late"},
	} {
		t.Run(visibility, func(t *testing.T) {
			t.Parallel()
			p := newProc(t)
			room := p.room("alice", visibility)
			p.say(room, "alice", "early")
			p.member(room, "alice", "bob", "invite")
			since := p.ask(ask{user: "bob"}).Get("next_batch").Str
			p.say(room, "alice", "invited")
			p.join(room, "bob")
			p.say(room, "alice", "late")
			for _, a := range []ask{{user: "bob"}, {user: "bob", since: since}} {
				r := joined(p.ask(a), room)
				if got := bodies(r.Get("timeline")); !slices.Equal(got, want) {
					t.Errorf("since %q: visible are %v, want %v", a.since, got, want)
				}
				// What is not in the timeline is in the state.
				all := pieces(r.Get("state"))
				for k, v := range pieces(r.Get("timeline")) {
					all[k] = v
				}
				for _, k := range []string{"m.room.create|", "m.room.member|" + user("alice"), "m.room.member|" + user("bob"), "m.room.history_visibility|"} {
					if !all[k].Exists() {
						t.Errorf("since %q: %s is missing: %s", a.since, k, r.Raw)
					}
				}
			}
		})
	}
}

func TestTransactionID(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.join(room, "bob")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str
	d := message("alice", "hello")
	d.DeviceID, d.TxnID = "PHONE", "txn \"1\""
	p.send(room, d)
	for _, c := range []struct {
		user, device, want string
	}{{"alice", "PHONE", d.TxnID}, {"alice", "LAPTOP", ""}, {"bob", "PHONE", ""}} {
		for _, since := range []string{"", since} {
			r := joined(p.ask(ask{user: c.user, device: c.device, since: since}), room)
			events := r.Get("timeline.events").Array()
			if got := events[len(events)-1].Get("unsigned.transaction_id").Str; got != c.want {
				t.Errorf("%s on %s since %q sees transaction id %q, want %q", c.user, c.device, since, got, c.want)
			}
		}
	}
}

func TestLongPoll(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room, other := p.room("alice", "shared"), p.room("carol", "shared")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str

	start := time.Now()
	if res := p.ask(ask{user: "alice", since: since, timeout: 50 * time.Millisecond}); res.Get("rooms").Exists() {
		t.Errorf("nothing happened: %s", res.Raw)
	}
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("waited %s, want 50 ms", took)
	}
	type answer struct {
		res []string
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		res, err := p.try(context.Background(), ask{user: "alice", since: since, timeout: time.Minute})
		answers <- answer{bodies(joined(res, room).Get("timeline")), err}
	}()
	p.sync.AwaitWaiting(t, user("alice"), 1)
	p.say(other, "carol", "not for alice")
	p.say(room, "alice", "for alice")
	a := <-answers
	if a.err != nil || !slices.Equal(a.res, []string{"for alice"}) {
		t.Errorf("long poll answered %v, %v", a.res, a.err)
	}

	stop := make(chan struct{})
	go func() {
		since := p.ask(ask{user: "alice"}).Get("next_batch").Str
		resp, err := p.sync.Sync(context.Background(), sync.Request{Requester: &requester.Requester{UserID: user("alice")}, Since: since, Timeout: time.Minute, Stop: stop})
		if err == nil && resp.NextBatch != since {
			err = fmt.Errorf("next_batch is %s, want %s", resp.NextBatch, since)
		}
		answers <- answer{nil, err}
	}()
	p.sync.AwaitWaiting(t, user("alice"), 1)
	close(stop)
	if a := <-answers; a.err != nil {
		t.Errorf("a request at the end of the process: %v", a.err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := p.try(ctx, ask{user: "alice", since: p.ask(ask{user: "alice"}).Get("next_batch").Str, timeout: time.Minute})
		answers <- answer{nil, err}
	}()
	p.sync.AwaitWaiting(t, user("alice"), 1)
	cancel()
	if a := <-answers; !errors.Is(a.err, context.Canceled) {
		t.Errorf("a request whose client went away ends with %v", a.err)
	}
	p.sync.AwaitWaiting(t, user("alice"), 0)
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	for _, c := range []struct {
		a    ask
		want *mxerr.Error
	}{
		{ask{since: "nonsense"}, mxerr.InvalidParam},
		{ask{since: "t5_6"}, mxerr.InvalidParam},
		{ask{since: "s1_5~99.1"}, mxerr.InvalidParam},
		{ask{filter: "nosuchfilter"}, mxerr.InvalidParam},
		{ask{filter: "{"}, mxerr.NotJSON},
		{ask{filter: `{"room":{"timeline":{"limit":"5"}}}`}, mxerr.BadJSON},
		{ask{filter: `{"room":{"timeline":{"limit":-1}}}`}, mxerr.BadJSON},
	} {
		c.a.user = "alice"
		if _, err := p.try(context.Background(), c.a); !errors.Is(err, c.want) {
			t.Errorf("sync %+v: %v, want %s", c.a, err, c.want.Code)
		}
	}
}

func TestStoredFilters(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	p.say(room, "alice", "one")
	p.say(room, "alice", "two")
	ctx := context.Background()
	id, err := p.sync.StoreFilter(ctx, user("alice"), []byte(`{"room":{"timeline":{"limit":1}}, "x":[1.0]}`))
	must(t, err)
	same, err := p.sync.StoreFilter(ctx, user("alice"), []byte(`{"x":[1.0],"room":{ "timeline":{"limit":1}}}`))
	if err != nil || same != id {
		t.Errorf("an equal filter gets id %q, %v, want %q", same, err, id)
	}
	raw, err := p.sync.StoredFilter(ctx, user("alice"), id)
	if err != nil || !json.Valid(raw) {
		t.Errorf("stored filter: %s, %v", raw, err)
	}
	if got := bodies(joined(p.ask(ask{user: "alice", filter: id}), room).Get("timeline")); !slices.Equal(got, []string{"two"}) {
		t.Errorf("stored filter shows %v", got)
	}
	if _, err := p.sync.StoredFilter(ctx, user("bob"), id); !errors.Is(err, mxerr.NotFound) {
		t.Errorf("somebody else's filter: %v", err)
	}
	if _, err := p.sync.StoreFilter(ctx, user("alice"), []byte(`[]`)); !errors.Is(err, mxerr.NotJSON) {
		t.Errorf("a list as a filter: %v", err)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	for _, tail := range []int{0, 1} {
		t.Run(fmt.Sprintf("tail of %d", tail), func(t *testing.T) {
			t.Parallel()
			p := newProc(t, tailBytes(tail))
			room := p.room("alice", "shared")
			p.join(room, "bob")
			since := p.ask(ask{user: "alice"}).Get("next_batch").Str
			p.say(room, "alice", "from alice")
			p.say(room, "bob", "from bob")
			p.send(room, writer.Draft{Type: "m.room.message", Sender: user("bob"), Content: json.RawMessage(`{"body":"picture","url":"mxc://a/b"}`)})
			p.send(room, writer.Draft{Type: "other_type", Sender: user("bob"), Content: json.RawMessage(`{}`)})
			for filter, want := range map[string][]string{
				`{"room":{"timeline":{"types":["m.room.*"]}}}`:                        {"from alice", "from bob", "picture"},
				`{"room":{"timeline":{"types":["other%type"]}}}`:                      {},
				`{"room":{"timeline":{"not_types":["m.*"]}}}`:                         {},
				`{"room":{"timeline":{"senders":["` + user("bob") + `"]}}}`:           {"from bob", "picture"},
				`{"room":{"timeline":{"not_senders":["` + user("bob") + `"]}}}`:       {"from alice"},
				`{"room":{"timeline":{"contains_url":true}}}`:                         {"picture"},
				`{"room":{"timeline":{"contains_url":false}}}`:                        {"from alice", "from bob"},
				`{"room":{"timeline":{"types":["m.room.message"],"limit":1}}}`:        {"picture"},
				`{"room":{"timeline":{"types":[]}}}`:                                  {},
				`{"room":{"not_rooms":["` + room + `"]}}`:                             {},
				`{"room":{"rooms":[]}}`:                                               {},
				`{"room":{"timeline":{"not_rooms":["` + room + `"]}}}`:                {},
				`{"room":{"timeline":{"senders":["@nobody:` + serverName + `"]}}}`:    {},
				`{"event_fields":["content.body","type"]}`:                            {"from alice", "from bob", "picture"},
				`{"event_format":"federation","room":{"timeline":{"types":["m.*"]}}}`: {"from alice", "from bob", "picture"},
			} {
				for _, s := range []string{"", since} {
					r := joined(p.ask(ask{user: "alice", filter: filter, since: s}), room)
					if got := bodies(r.Get("timeline")); !slices.Equal(got, want) {
						t.Errorf("filter %s since %q shows %v, want %v", filter, s, got, want)
					}
					e := r.Get("timeline.events.0")
					if strings.Contains(filter, "event_fields") && (e.Get("sender").Exists() || !e.Get("content.body").Exists() && s != "") {
						t.Errorf("filter %s leaves %s", filter, e.Raw)
					}
					if strings.Contains(filter, "federation") && !e.Get("auth_events").Exists() {
						t.Errorf("filter %s gives %s", filter, e.Raw)
					}
				}
			}
		})
	}
}

func TestRedaction(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	since := p.ask(ask{user: "alice"}).Get("next_batch").Str
	id := p.say(room, "alice", "secret")
	// Seen once, so that it is ready to be sent again.
	p.ask(ask{user: "alice", since: since})
	p.send(room, writer.Draft{Type: "m.room.redaction", Sender: user("alice"), Redacts: id, Content: json.RawMessage(`{"redacts":"` + id + `"}`)})
	for _, s := range []string{"", since} {
		res := p.ask(ask{user: "alice", since: s})
		if strings.Contains(res.Raw, "secret") {
			t.Errorf("since %q a redacted event is shown whole: %s", s, res.Raw)
		}
		events := joined(res, room).Get("timeline.events").Array()
		if e := events[len(events)-2]; e.Get("event_id").Str != id || e.Get("unsigned.redacted_because.type").Str != "m.room.redaction" {
			t.Errorf("since %q the redacted event is %s", s, e.Raw)
		}
	}
}

func TestUnknownUser(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	if _, err := p.try(context.Background(), ask{user: "guest"}); err != nil {
		t.Errorf("a user the database has never met: %v", err)
	}
}

func tailBytes(n int) func(*sync.Config) { return func(c *sync.Config) { c.TailBytes = n } }
