package sync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage/storagetest"
)

// slide is a connection of sliding sync of a test.
type slide struct {
	user, device string
	pos          string
	req          sync.SlidingRequest
}

// list makes the request have one list of all rooms in a range.
func (c *slide) list(from, to, limit int, required sync.RequiredState) *slide {
	c.req.Lists = map[string]sync.SlidingList{"all": {
		RoomConfig: sync.RoomConfig{TimelineLimit: limit, RequiredState: required}, Ranges: [][2]int{{from, to}},
	}}
	return c
}

func (p *proc) trySlide(c *slide) (gjson.Result, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req := c.req
	if c.device == "" {
		c.device = "DEVICE"
	}
	req.Requester, req.Pos = &requester.Requester{UserID: user(c.user), DeviceID: c.device}, c.pos
	resp, err := p.sync.Sliding(ctx, req)
	if err != nil {
		return gjson.Result{}, err
	}
	var b bytes.Buffer
	if err := resp.Write(&b); err != nil {
		return gjson.Result{}, err
	}
	if !json.Valid(b.Bytes()) {
		return gjson.Result{}, fmt.Errorf("response is not JSON: %s", b.Bytes())
	}
	return gjson.ParseBytes(b.Bytes()), nil
}

// slide sends a request and has the connection go on from the response.
func (p *proc) slide(c *slide) gjson.Result {
	p.t.Helper()
	res, err := p.trySlide(c)
	if err != nil {
		p.t.Fatalf("sliding sync: %v", err)
	}
	c.pos = res.Get("pos").Str
	return res
}

func slid(res gjson.Result, room string) gjson.Result { return res.Get("rooms." + gjson.Escape(room)) }

func ids(res gjson.Result) []string {
	out := []string{}
	for id := range res.Get("rooms").Map() {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func texts(room gjson.Result) []string {
	out := []string{}
	for _, e := range room.Get("timeline").Array() {
		if e.Get("type").Str == "m.room.message" {
			out = append(out, e.Get("content.body").Str)
		}
	}
	return out
}

func ptr[T any](v T) *T { return &v }

func required(pairs ...[2]string) sync.RequiredState {
	var out sync.RequiredState
	for _, p := range pairs {
		out.Include = append(out.Include, sync.StateElement{Type: &p[0], StateKey: &p[1]})
	}
	return out
}

func wantIDs(t *testing.T, what string, res gjson.Result, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := ids(res); !slices.Equal(got, want) {
		t.Errorf("%s has the rooms %v, want %v", what, got, want)
	}
}

func TestSlidingList(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	a := p.room("alice", "shared", stateDraft(user("alice"), "m.room.name", "", `{"name":"A"}`))
	b := p.room("alice", "shared")
	c := p.room("alice", "shared")
	p.say(a, "alice", "one")
	p.say(a, "alice", "two")

	conn := (&slide{user: "alice"}).list(0, 1, 1, required([2]string{"m.room.create", ""}))
	res := p.slide(conn)
	wantIDs(t, "the first page", res, a, c)
	if n := res.Get("lists.all.count").Int(); n != 3 {
		t.Errorf("the list has %d rooms, want 3", n)
	}
	room := slid(res, a)
	if !room.Get("initial").Bool() || room.Get("name").Str != "A" || room.Get("membership").Str != "join" || !room.Get("limited").Bool() ||
		room.Get("joined_count").Int() != 1 || room.Get("num_live").Int() != 0 || room.Get("lists.0").Str != "all" {
		t.Errorf("room is %s", room.Raw)
	}
	if got := texts(room); !slices.Equal(got, []string{"two"}) {
		t.Errorf("timeline is %v, want the last event", got)
	}
	if st := room.Get("required_state").Array(); len(st) != 1 || st[0].Get("type").Str != "m.room.create" {
		t.Errorf("required_state is %s", room.Get("required_state").Raw)
	}
	if !slid(res, c).Get("heroes").Exists() && slid(res, c).Get("name").Exists() {
		t.Errorf("room without a name: %s", slid(res, c).Raw)
	}

	wantIDs(t, "a second request", p.slide(conn))

	p.say(b, "alice", "three")
	res = p.slide(conn)
	wantIDs(t, "after a message elsewhere", res, b)
	if !slid(res, b).Get("initial").Bool() || slid(res, b).Get("num_live").Int() != 1 {
		t.Errorf("a room that comes into range: %s", slid(res, b).Raw)
	}
	p.say(a, "alice", "four")
	res = p.slide(conn)
	wantIDs(t, "after a message", res, a)
	room = slid(res, a)
	if room.Get("initial").Bool() || room.Get("required_state").Exists() || room.Get("num_live").Int() != 1 || !slices.Equal(texts(room), []string{"four"}) {
		t.Errorf("a change of a room: %s", room.Raw)
	}
	// c is out of range now and changes; when it is asked for, it is sent from nothing.
	p.say(b, "alice", "five")
	p.say(c, "alice", "six")
	p.say(b, "alice", "seven")
	p.say(a, "alice", "eight")
	wantIDs(t, "after more messages", p.slide(conn), a, b)
	res = p.slide(conn.list(0, 9, 1, required([2]string{"m.room.create", ""})))
	wantIDs(t, "a longer range", res, c)
	if !slid(res, c).Get("initial").Bool() {
		t.Errorf("a room with changes that were not sent: %s", slid(res, c).Raw)
	}
}

// A response that is lost is made again, and a position that has been left behind ends.
func TestSlidingPositions(t *testing.T) {
	t.Parallel()
	procs := newCluster(t, options{readers: map[string]bool{"worker": true}}, replication.MainInstance, "worker")
	p, other := procs[0], procs[1]
	a := p.room("alice", "shared")
	conn := (&slide{user: "alice"}).list(0, 0, 1, sync.RequiredState{})
	first := p.slide(conn)
	wantIDs(t, "the first response", first, a)
	b := p.room("alice", "shared")
	// The answers to the same position, on two processes.
	lost := *conn
	wantIDs(t, "the lost response", p.slide(&lost), b)
	wantIDs(t, "the same request again", other.slide(conn), b)
	// Now the client has shown to have its answer: the lost one and the first are no more.
	wantIDs(t, "the next, with a room the client has", p.slide(conn.list(0, 5, 1, sync.RequiredState{})))
	wantIDs(t, "the next but one", other.slide(conn))
	for name, pos := range map[string]string{
		"lost": lost.pos, "made up": "c1.99.s1_5", "of /sync": p.ask(ask{user: "alice"}).Get("next_batch").Str, "no token": "x",
	} {
		old := slide{user: "alice", pos: pos, req: conn.req}
		if _, err := other.trySlide(&old); !errors.Is(err, mxerr.UnknownPos) {
			t.Errorf("%s position: %v, want M_UNKNOWN_POS", name, err)
		}
	}
	for name, c := range map[string]slide{
		"user": {user: "bob", pos: conn.pos}, "device": {user: "alice", device: "OTHER", pos: conn.pos},
	} {
		if _, err := p.trySlide(&c); !errors.Is(err, mxerr.UnknownPos) {
			t.Errorf("position of another %s: %v, want M_UNKNOWN_POS", name, err)
		}
	}
	// A new connection of the same name takes the place of the old one.
	old := *conn
	conn.pos = ""
	wantIDs(t, "a new connection", other.slide(conn), a, b)
	if _, err := other.trySlide(&old); !errors.Is(err, mxerr.UnknownPos) {
		t.Errorf("position of the replaced connection: %v, want M_UNKNOWN_POS", err)
	}
}

func TestSlidingWait(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	conn := (&slide{user: "alice"}).list(0, 9, 5, sync.RequiredState{})
	p.slide(conn)
	conn.req.Timeout = 15 * time.Second
	got := make(chan gjson.Result)
	go func() {
		res, err := p.trySlide(conn)
		if err != nil {
			t.Error(err)
		}
		got <- res
	}()
	p.say(room, "alice", "hello")
	if res := <-got; !slices.Equal(texts(slid(res, room)), []string{"hello"}) {
		t.Errorf("the waiting request is answered with %s", res.Raw)
	}
}

func TestSlidingTimelineGrows(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared")
	for i := range 5 {
		p.say(room, "alice", fmt.Sprint(i))
	}
	conn := (&slide{user: "alice"}).list(0, 9, 1, sync.RequiredState{})
	p.slide(conn)
	conn.req.Subscriptions = map[string]sync.RoomConfig{room: {TimelineLimit: 3}}
	res := slid(p.slide(conn), room)
	if !res.Get("expanded_timeline").Bool() || res.Get("initial").Bool() || !slices.Equal(texts(res), []string{"2", "3", "4"}) || res.Get("num_live").Int() != 0 {
		t.Errorf("after the limit has grown: %s", res.Raw)
	}
	wantIDs(t, "the same again", p.slide(conn))
	p.say(room, "alice", "5")
	res = slid(p.slide(conn), room)
	if res.Get("expanded_timeline").Exists() || !slices.Equal(texts(res), []string{"5"}) {
		t.Errorf("the next event: %s", res.Raw)
	}
	// The list alone would have had the same events.
	conn.req.Subscriptions = nil
	wantIDs(t, "without the subscription", p.slide(conn))
	conn.req.Subscriptions = map[string]sync.RoomConfig{"!nowhere:" + serverName: {TimelineLimit: 3}}
	wantIDs(t, "a subscription to no room", p.slide(conn))
}

func TestSlidingRequiredState(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room := p.room("alice", "shared", stateDraft(user("alice"), "m.room.topic", "", `{"topic":"T"}`))
	for _, u := range []string{"bob", "carol"} {
		p.join(room, u)
	}
	p.say(room, "bob", "hello")
	state := func(limit int, rs sync.RequiredState) []string {
		conn := (&slide{user: "alice"}).list(0, 9, limit, rs)
		return slices.Sorted(maps.Keys(pieces(gjson.Parse(`{"events":` + slid(p.slide(conn), room).Get("required_state").Raw + `}`))))
	}
	member := func(names ...string) (out []string) {
		for _, n := range names {
			out = append(out, "m.room.member|"+user(n))
		}
		return out
	}
	rest := []string{"m.room.create|", "m.room.history_visibility|", "m.room.join_rules|", "m.room.power_levels|", "m.room.topic|"}
	for name, tc := range map[string]struct {
		limit int
		rs    sync.RequiredState
		want  []string
	}{
		"nothing":          {1, sync.RequiredState{}, nil},
		"pieces":           {1, required([2]string{"m.room.topic", ""}, [2]string{"m.room.member", user("carol")}), append(member("carol"), "m.room.topic|")},
		"all of a type":    {1, sync.RequiredState{Include: []sync.StateElement{{Type: ptr("m.room.member")}}}, member("alice", "bob", "carol")},
		"everything":       {1, sync.RequiredState{Include: []sync.StateElement{{}}}, append(slices.Clone(rest), member("alice", "bob", "carol")...)},
		"lazy":             {1, sync.RequiredState{LazyMembers: true}, member("bob")},
		"lazy with others": {1, sync.RequiredState{Include: []sync.StateElement{{}}, LazyMembers: true}, append(slices.Clone(rest), member("bob")...)},
		"lazy targets":     {2, sync.RequiredState{LazyMembers: true}, member("bob", "carol")},
		"all but one": {
			1,
			sync.RequiredState{Include: []sync.StateElement{{StateKey: ptr("")}}, Exclude: []sync.StateElement{{Type: ptr("m.room.topic")}}},
			rest[:4],
		},
	} {
		slices.Sort(tc.want)
		if got := state(tc.limit, tc.rs); !slices.Equal(got, tc.want) {
			t.Errorf("%s: required_state has %v, want %v", name, got, tc.want)
		}
	}

	conn := (&slide{user: "alice"}).list(0, 9, 1, required([2]string{"m.room.topic", ""}))
	p.slide(conn)
	p.send(room, stateDraft(user("alice"), "m.room.topic", "", `{"topic":"U"}`), stateDraft(user("alice"), "m.room.name", "", `{"name":"N"}`), message("alice", "x"))
	res := slid(p.slide(conn), room)
	if st := res.Get("required_state").Array(); len(st) != 1 || st[0].Get("content.topic").Str != "U" || res.Get("name").Str != "N" || !res.Get("limited").Bool() {
		t.Errorf("after changes: %s", res.Raw)
	}
	p.send(room, stateDraft(user("alice"), "m.room.name", "", `{}`))
	if res := slid(p.slide(conn), room); res.Get("name").Raw != "null" {
		t.Errorf("after the name was taken away: %s", res.Raw)
	}
	res = slid(p.slide(conn.list(0, 9, 1, required([2]string{"m.room.topic", ""}, [2]string{"m.room.create", ""}))), room)
	if st := res.Get("required_state").Array(); len(st) != 2 {
		t.Errorf("when more is required: %s", res.Raw)
	}
}

func TestSlidingMemberships(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	invited, kicked, leftRoom := p.room("alice", "shared"), p.room("alice", "shared"), p.room("alice", "shared")
	p.member(invited, "alice", "bob", "invite")
	p.join(kicked, "bob")
	p.join(leftRoom, "bob")
	conn := (&slide{user: "bob"}).list(0, 9, 2, sync.RequiredState{})
	res := p.slide(conn)
	wantIDs(t, "the first response", res, invited, kicked, leftRoom)
	in := slid(res, invited)
	if in.Get("membership").Str != "invite" || !in.Get("stripped_state").IsArray() || in.Get("timeline").Exists() || in.Get("joined_count").Exists() {
		t.Errorf("the invite is %s", in.Raw)
	}
	p.join(invited, "bob")
	p.say(kicked, "alice", "goodbye")
	p.member(kicked, "alice", "bob", "leave")
	p.say(kicked, "alice", "secret")
	p.leave(leftRoom, "bob")
	lost := *conn
	for _, c := range []*slide{&lost, conn} {
		res = p.slide(c)
		wantIDs(t, "after changes of membership", res, invited, kicked, leftRoom)
		if r := slid(res, invited); r.Get("membership").Str != "join" || !r.Get("initial").Bool() || r.Get("joined_count").Int() != 2 {
			t.Errorf("the accepted invite is %s", r.Raw)
		}
		if r := slid(res, kicked); r.Get("membership").Str != "leave" || !slices.Equal(texts(r), []string{"goodbye"}) {
			t.Errorf("the room bob was kicked from is %s", r.Raw)
		}
		if r := slid(res, leftRoom); r.Get("membership").Str != "leave" {
			t.Errorf("the room bob left is %s", r.Raw)
		}
		if n := res.Get("lists.all.count").Int(); n != 3 {
			t.Errorf("the list has %d rooms", n)
		}
	}
	res = p.slide(conn)
	wantIDs(t, "the next response", res)
	if n := res.Get("lists.all.count").Int(); n != 2 {
		t.Errorf("the list has %d rooms, want those bob is in or was kicked from", n)
	}
	res = p.slide((&slide{user: "bob", device: "NEW"}).list(0, 9, 2, sync.RequiredState{}))
	wantIDs(t, "a new connection", res, invited, kicked)
	if r := slid(res, kicked); !slices.Equal(texts(r), []string{"goodbye"}) {
		t.Errorf("the room bob was kicked from is %s", r.Raw)
	}
}

func TestSlidingFilters(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	plain := p.room("alice", "shared")
	direct := p.room("alice", "shared")
	secret := p.room("alice", "shared", stateDraft(user("alice"), "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`))
	space := p.room("alice", "shared", stateDraft(user("alice"), "m.space.child", plain, `{"via":["weft.test"]}`), stateDraft(user("alice"), "m.space.child", direct, `{}`))
	invite := p.room("bob", "shared")
	p.member(invite, "bob", "alice", "invite")
	ctx := context.Background()
	must(t, p.account.Put(ctx, user("alice"), "", "m.direct", json.RawMessage(fmt.Sprintf(`{%q:[%q]}`, user("bob"), direct))))
	must(t, p.account.Put(ctx, user("alice"), secret, "m.tag", json.RawMessage(`{"tags":{"m.favourite":{}}}`)))
	for name, tc := range map[string]struct {
		f    sync.SlidingFilters
		want []string
	}{
		"none":           {sync.SlidingFilters{}, []string{plain, direct, secret, space, invite}},
		"direct":         {sync.SlidingFilters{IsDM: ptr(true)}, []string{direct}},
		"not direct":     {sync.SlidingFilters{IsDM: ptr(false)}, []string{plain, secret, space, invite}},
		"encrypted":      {sync.SlidingFilters{IsEncrypted: ptr(true)}, []string{secret}},
		"invited":        {sync.SlidingFilters{IsInvited: ptr(true)}, []string{invite}},
		"not invited":    {sync.SlidingFilters{IsInvited: ptr(false), IsDM: ptr(false)}, []string{plain, secret, space}},
		"child":          {sync.SlidingFilters{Spaces: []string{space}}, []string{plain}},
		"no such space":  {sync.SlidingFilters{Spaces: []string{"!x:y"}}, nil},
		"tag":            {sync.SlidingFilters{Tags: []string{"m.favourite"}}, []string{secret}},
		"not tag":        {sync.SlidingFilters{NotTags: []string{"m.favourite"}, IsInvited: ptr(false)}, []string{plain, direct, space}},
		"no type":        {sync.SlidingFilters{RoomTypes: []*string{nil}}, []string{plain, direct, secret, space, invite}},
		"another type":   {sync.SlidingFilters{RoomTypes: []*string{ptr("m.space")}}, nil},
		"not of no type": {sync.SlidingFilters{NotRoomTypes: []*string{nil}}, nil},
	} {
		conn := &slide{user: "alice", device: name}
		conn.req.Lists = map[string]sync.SlidingList{"l": {RoomConfig: sync.RoomConfig{TimelineLimit: 1}, Filters: tc.f}}
		res := p.slide(conn)
		wantIDs(t, name, res, tc.want...)
		if n := res.Get("lists.l.count").Int(); int(n) != len(tc.want) {
			t.Errorf("%s: count is %d, want %d", name, n, len(tc.want))
		}
		for id := range res.Get("rooms").Map() {
			if got := slid(res, id).Get("is_dm").Bool(); got != (id == direct) {
				t.Errorf("%s: is_dm of %s is %v", name, id, got)
			}
		}
	}
}

func TestSlidingExtensions(t *testing.T) {
	t.Parallel()
	p := newProc(t)
	room, other := p.room("alice", "shared"), p.room("alice", "shared")
	p.join(room, "bob")
	old := p.say(room, "bob", "old")
	last := p.say(room, "bob", "last")
	ctx := context.Background()
	bob := &requester.Requester{UserID: user("bob")}
	must(t, p.account.Put(ctx, user("alice"), "", "a.b", json.RawMessage(`{"x":1}`)))
	must(t, p.account.Put(ctx, user("alice"), room, "a.room", json.RawMessage(`{"x":2}`)))
	must(t, p.account.Put(ctx, user("alice"), other, "a.other", json.RawMessage(`{}`)))
	p.read(room, "bob", receipts.Read, old, nil)
	conn := (&slide{user: "alice"}).list(0, 0, 1, sync.RequiredState{})
	conn.req.AccountData, conn.req.Receipts, conn.req.Typing = &sync.SlidingExtension{}, &sync.SlidingExtension{}, &sync.SlidingExtension{}
	res := p.slide(conn)
	wantIDs(t, "the first response", res, room)
	ext := res.Get("extensions")
	if ext.Get(`account_data.global.#(type=="a.b").content.x`).Int() != 1 || ext.Get("account_data.rooms."+gjson.Escape(room)+".0.content.x").Int() != 2 ||
		ext.Get("account_data.rooms."+gjson.Escape(other)).Exists() {
		t.Errorf("account data: %s", ext.Raw)
	}
	if ext.Get("receipts.rooms." + gjson.Escape(room)).Exists() {
		t.Errorf("a receipt for an event that is not shown: %s", ext.Raw)
	}
	if res := p.slide(conn); res.Get("extensions.account_data.global.#").Int() != 0 {
		t.Errorf("nothing new, and yet %s", res.Raw)
	}
	p.read(room, "bob", receipts.Read, last, nil)
	must(t, p.typing.Set(ctx, bob, room, true, time.Minute))
	must(t, p.account.Put(ctx, user("alice"), room, "a.room", json.RawMessage(`{"x":3}`)))
	res = p.slide(conn)
	wantIDs(t, "a response with extensions alone", res)
	ext = res.Get("extensions")
	if !ext.Get("receipts.rooms." + gjson.Escape(room) + ".content." + gjson.Escape(last) + ".m\\.read." + gjson.Escape(user("bob"))).Exists() {
		t.Errorf("receipts: %s", ext.Raw)
	}
	if ext.Get("typing.rooms."+gjson.Escape(room)+".content.user_ids.0").Str != user("bob") || ext.Get("account_data.rooms."+gjson.Escape(room)+".0.content.x").Int() != 3 {
		t.Errorf("extensions: %s", ext.Raw)
	}
	conn.req.Typing = &sync.SlidingExtension{Lists: []string{}}
	must(t, p.typing.Set(ctx, bob, room, false, 0))
	if ext := p.slide(conn).Get("extensions.typing.rooms"); len(ext.Map()) != 0 {
		t.Errorf("an extension for no list: %s", ext.Raw)
	}
}

// TestSlidingStatements holds how many statements a page costs, whatever the number of rooms.
func TestSlidingStatements(t *testing.T) {
	t.Parallel()
	p := newProc(t, func(c *sync.Config) { c.OnlyWriter = true })
	count := func(c *slide) int64 {
		t.Helper()
		return storagetest.Count(t, p.db, func() { p.slide(c) }).Statements
	}
	var costs [2][3]int64
	made := 0
	var last string
	for i, rooms := range []int{5, 40} {
		for ; made < rooms; made++ {
			last = p.room("alice", "shared")
		}
		conn := (&slide{user: "alice", device: fmt.Sprint(i)}).list(0, 19, 5, sync.RequiredState{Include: []sync.StateElement{{}}, LazyMembers: true})
		conn.req.AccountData, conn.req.Receipts, conn.req.Typing = &sync.SlidingExtension{}, &sync.SlidingExtension{}, &sync.SlidingExtension{}
		costs[i][0] = count(conn)
		costs[i][1] = count(conn)
		p.say(last, "alice", "news")
		costs[i][2] = count(conn)
	}
	t.Logf("statements with 5 and 40 rooms: first page %d and %d, nothing new %d and %d, one event %d and %d",
		costs[0][0], costs[1][0], costs[0][1], costs[1][1], costs[0][2], costs[1][2])
	if costs[1][0] > costs[0][0] || costs[1][0] > 20 {
		t.Errorf("the first page takes %d statements of 5 rooms, %d of 40, want at most 20 for both", costs[0][0], costs[1][0])
	}
	for k, what := range map[int]string{1: "nothing new", 2: "one event"} {
		if costs[0][k] > 2 || costs[1][k] > 2 {
			t.Errorf("a response with %s takes %d and %d statements, want 2 at most", what, costs[0][k], costs[1][k])
		}
	}
}
