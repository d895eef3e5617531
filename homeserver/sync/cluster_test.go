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
	"pgregory.net/rapid"

	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// TestReadYourWrites sends on one process and at once asks each: the event must be there.
func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		ps := newCluster(t, options{readers: map[string]bool{"reader": true}}, "master", "writer2", "reader")
		readYourWrites(t, ps)
	})
	t.Run("only writer", func(t *testing.T) {
		t.Parallel()
		readYourWrites(t, []*proc{newProc(t, func(c *sync.Config) { c.OnlyWriter = true })})
	})
}

func readYourWrites(t *testing.T, ps []*proc) {
	var rooms []string
	for range 3 {
		rooms = append(rooms, ps[0].room("alice", "shared"))
	}
	since := make([]string, len(ps))
	for i, p := range ps {
		since[i] = p.ask(ask{user: "alice", device: p.name}).Get("next_batch").Str
	}
	for i := range 60 {
		room, from := rooms[i%3], ps[i%len(ps)]
		id := from.say(room, "alice", fmt.Sprint(i))
		for k, p := range ps {
			res := p.ask(ask{user: "alice", device: p.name, since: since[k]})
			if got := joined(res, room).Get("timeline.events.#.event_id").String(); got != `["`+id+`"]` {
				t.Fatalf("event %d sent through %s to %s: %s sees %s", i, from.name, room, p.name, res.Raw)
			}
			since[k] = res.Get("next_batch").Str
		}
	}
	// A token of one process serves on any other, whatever it has seen.
	for i := range 20 {
		ps[0].say(rooms[i%3], "alice", "more")
		next := ps[i%len(ps)].ask(ask{user: "alice", since: since[0]}).Get("next_batch").Str
		if res := ps[(i+1)%len(ps)].ask(ask{user: "alice", since: next}); res.Get("rooms").Exists() {
			t.Fatalf("an event comes twice on another process: %s", res.Raw)
		}
		since[0] = next
	}
}

// TestWakeOnOtherProcess has a request wait on one process for what is written on another.
func TestWakeOnOtherProcess(t *testing.T) {
	t.Parallel()
	ps := newCluster(t, options{}, "master", "writer2")
	rooms := []string{ps[0].room("alice", "shared"), ps[0].room("alice", "shared"), ps[0].room("alice", "shared")}
	for i, p := range ps {
		since := p.ask(ask{user: "alice"}).Get("next_batch").Str
		for _, room := range rooms {
			got := make(chan gjson.Result, 1)
			go func() {
				res, err := p.try(context.Background(), ask{user: "alice", since: since, timeout: 20 * time.Second})
				if err != nil {
					t.Errorf("wait on %s: %v", p.name, err)
				}
				got <- res
			}()
			p.sync.AwaitWaiting(t, user("alice"), 1)
			ps[1-i].say(room, "alice", "wake")
			res := <-got
			if b := bodies(joined(res, room).Get("timeline")); !slices.Equal(b, []string{"wake"}) {
				t.Fatalf("%s is woken with %s", p.name, res.Raw)
			}
			since = res.Get("next_batch").Str
		}
	}
}

// TestRestart has tokens of a server go on after it was started anew, with nothing in memory.
func TestRestart(t *testing.T) {
	t.Parallel()
	conn := storagetest.NewConnString(t)
	var room, since, id string
	t.Run("before", func(t *testing.T) {
		p := newCluster(t, options{conn: conn}, "master")[0]
		room = p.room("alice", "shared")
		p.join(room, "bob")
		since = p.ask(ask{user: "alice"}).Get("next_batch").Str
		id = p.say(room, "bob", "hello")
		p.read(room, "bob", receipts.Read, id, nil)
		must(t, p.account.Put(context.Background(), user("alice"), "", "a.global", json.RawMessage(`{"k":1}`)))
	})
	t.Run("after", func(t *testing.T) {
		p := newCluster(t, options{conn: conn}, "master")[0]
		for range 2 { // the first request fills what the second finds
			res := p.ask(ask{user: "alice", since: since})
			if got := bodies(joined(res, room).Get("timeline")); !slices.Equal(got, []string{"hello"}) {
				t.Errorf("messages %v: %s", got, res.Raw)
			}
			if got := receiptsOf(res, room); len(got) != 1 || res.Get("account_data.events.0.content.k").Int() != 1 {
				t.Errorf("receipts %v, all %s", got, res.Raw)
			}
			if again := p.ask(ask{user: "alice", since: res.Get("next_batch").Str}); again.Get("rooms").Exists() || again.Get("account_data").Exists() {
				t.Errorf("things come twice: %s", again.Raw)
			}
		}
		p.say(room, "bob", "and more")
		if got := bodies(joined(p.ask(ask{user: "alice", since: since}), room).Get("timeline")); !slices.Equal(got, []string{"hello", "and more"}) {
			t.Errorf("over the restart: %v", got)
		}
	})
}

// TestStatementCounts holds how many statements a response costs, whatever the number of rooms.
func TestStatementCounts(t *testing.T) {
	t.Parallel()
	p := newProc(t, func(c *sync.Config) { c.OnlyWriter = true })
	count := func(a ask) int64 {
		t.Helper()
		var c storage.Counter
		if _, err := p.try(storage.WithCounter(context.Background(), &c), a); err != nil {
			t.Fatal(err)
		}
		return c.Counts().Statements
	}
	var costs [2][3]int64
	made := 0
	var last string
	for i, rooms := range []int{5, 40} {
		for ; made < rooms; made++ {
			last = p.room("alice", "shared")
			for k := range 12 {
				p.say(last, "alice", fmt.Sprint(k))
			}
		}
		costs[i][0] = count(ask{user: "alice"})
		since := p.ask(ask{user: "alice"}).Get("next_batch").Str
		costs[i][1] = count(ask{user: "alice", since: since})
		p.say(last, "alice", "news")
		costs[i][2] = count(ask{user: "alice", since: since})
	}
	t.Logf("statements with 5 and 40 rooms: initial %d and %d, nothing new %d and %d, one event %d and %d",
		costs[0][0], costs[1][0], costs[0][1], costs[1][1], costs[0][2], costs[1][2])
	if costs[1][0] > costs[0][0] || costs[1][0] > 14 {
		t.Errorf("initial sync takes %d statements with 5 rooms, %d with 40, want at most 14 for both", costs[0][0], costs[1][0])
	}
	if costs[0][1]+costs[1][1] != 0 {
		t.Errorf("a sync with nothing new takes %d and %d statements, want none", costs[0][1], costs[1][1])
	}
	if costs[0][2]+costs[1][2] != 0 {
		t.Errorf("a sync with one event takes %d and %d statements, want none", costs[0][2], costs[1][2])
	}

	// Outside the tail.
	q := newProc(t, func(c *sync.Config) { c.OnlyWriter, c.TailBytes = true, 1 })
	p = q
	made, costs = 0, [2][3]int64{}
	for i, rooms := range []int{5, 40} {
		var all []string
		for ; made < rooms; made++ {
			all = append(all, p.room("alice", "shared"))
		}
		since := p.ask(ask{user: "alice"}).Get("next_batch").Str
		for _, r := range all {
			for k := range 12 {
				p.say(r, "alice", fmt.Sprint(k))
			}
		}
		costs[i][0] = count(ask{user: "alice", since: since})
	}
	if costs[1][0] > costs[0][0] || costs[1][0] > 8 {
		t.Errorf("a gap over the tail takes %d statements with 5 rooms, %d with 40, want at most 8 for both", costs[0][0], costs[1][0])
	}
	t.Logf("outside the tail: %d and %d", costs[0][0], costs[1][0])
}

// TestIncrementalSyncsAddUp sends, changes memberships and state in several rooms through several writers, and follows
// with incremental syncs that begin at any earlier token: what they add up to must be what the rooms hold.
func TestIncrementalSyncsAddUp(t *testing.T) {
	t.Parallel()
	for _, tail := range []int{0, 20_000} {
		t.Run(fmt.Sprintf("tail of %d", tail), func(t *testing.T) {
			t.Parallel()
			ps := newCluster(t, options{sync: tailBytes(tail)}, "master", "writer2")
			var round int
			rapid.Check(t, func(rt *rapid.T) {
				round++
				addUp(rt, ps, fmt.Sprintf("u%d", round))
			})
		})
	}
}

// model is what a client knows of one room.
type model struct {
	messages []string
	state    map[string]string // by type and state key, the event id
	in       bool
}

func addUp(t *rapid.T, ps []*proc, who string) {
	pick := func(n int, what string) int { return rapid.IntRange(0, n-1).Draw(t, what) }
	rooms := make([]string, 3)
	for i := range rooms {
		rooms[i] = ps[i%len(ps)].room("owner", "shared")
	}
	const limit = `{"room":{"timeline":{"limit":4}}}`
	// Several clients follow, each at its own pace, on any process.
	type client struct {
		since string
		rooms map[string]*model
	}
	clients := []*client{{rooms: map[string]*model{}}, {rooms: map[string]*model{}}}
	follow := func(c *client) {
		p := ps[pick(len(ps), "process")]
		res := p.ask(ask{user: who, since: c.since, filter: limit})
		c.since = res.Get("next_batch").Str
		for section, in := range map[string]bool{"join": true, "leave": false} {
			res.Get("rooms." + section).ForEach(func(k, r gjson.Result) bool {
				m := c.rooms[k.Str]
				if m == nil {
					m = &model{state: map[string]string{}}
					c.rooms[k.Str] = m
				}
				if r.Get("timeline.limited").Bool() {
					m.messages = nil
				}
				m.in = in
				for _, e := range append(r.Get("state.events").Array(), r.Get("timeline.events").Array()...) {
					if key := e.Get("state_key"); key.Exists() {
						m.state[e.Get("type").Str+"|"+key.Str] = e.Get("event_id").Str
					}
				}
				for _, e := range r.Get("timeline.events").Array() {
					m.messages = append(m.messages, e.Get("event_id").Str)
				}
				return true
			})
		}
	}
	in := map[string]bool{}
	for range rapid.IntRange(1, 25).Draw(t, "steps") {
		room, p := rooms[pick(len(rooms), "room")], ps[pick(len(ps), "writer")]
		switch rapid.SampledFrom([]string{"say", "say", "say", "state", "join", "leave", "follow", "follow"}).Draw(t, "action") {
		case "say":
			p.say(room, "owner", "text")
		case "state":
			p.send(room, stateDraft(user("owner"), "a.test", fmt.Sprint(pick(3, "key")), fmt.Sprintf(`{"v":%d}`, pick(1000, "value"))))
		case "join":
			p.join(room, who)
			in[room] = true
		case "leave":
			if in[room] {
				p.leave(room, who)
				in[room] = false
			}
		case "follow":
			follow(clients[pick(len(clients), "client")])
		}
	}
	for i, c := range clients {
		follow(c)
		for _, room := range rooms {
			m := c.rooms[room]
			if m == nil {
				if in[room] {
					t.Fatalf("client %d does not know that it is in %s", i, room)
				}
				continue
			}
			if m.in != in[room] {
				t.Fatalf("client %d: in %s is %t, want %t", i, room, m.in, in[room])
			}
			if !in[room] {
				continue
			}
			full := joined(ps[0].ask(ask{user: who, device: "OTHER", after: true, filter: `{"room":{"timeline":{"limit":100}}}`}), room)
			want := map[string]string{}
			for k, e := range pieces(full.Get("state_after")) {
				want[k] = e.Get("event_id").Str
			}
			if len(want) != len(m.state) {
				t.Fatalf("client %d knows %d pieces of state of %s, want %d: %v, %v", i, len(m.state), room, len(want), m.state, want)
			}
			for k, v := range want {
				if m.state[k] != v {
					t.Fatalf("client %d: %s of %s is %s, want %s", i, k, room, m.state[k], v)
				}
			}
			var all []string
			for _, e := range full.Get("timeline.events").Array() {
				all = append(all, e.Get("event_id").Str)
			}
			// What a client has is the end of the room, without holes and in order.
			if n := len(m.messages); n > len(all) || !slices.Equal(all[len(all)-n:], m.messages) {
				t.Fatalf("client %d has %s of %s, which holds %s", i, strings.Join(m.messages, " "), room, strings.Join(all, " "))
			}
		}
	}
}
