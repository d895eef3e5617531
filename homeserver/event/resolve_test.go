package event

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// history is a random room whose events fork and merge.
type history struct {
	t        *rapid.T
	v        *Version
	room     *testRoom
	events   map[string]*Event
	rejected map[string]bool
	nodes    []historyNode
}

// historyNode is an event and the state after it.
type historyNode struct {
	event *Event
	state StateMap
}

var historyUsers = []string{"@alice:a", "@bob:b", "@carol:c", "@dave:d", "@erin:a"}

// drawHistory makes a room and a number of events that are allowed where they stand, each on top of one or two others.
func drawHistory(t *rapid.T, tb testing.TB, v *Version, n int) *history {
	h := &history{t: t, v: v, events: map[string]*Event{}, rejected: map[string]bool{}}
	h.room = &testRoom{t: tb, v: v, id: "!room:a", ts: 1000}
	content := map[string]any{"room_version": v.ID, "creator": "@alice:a"}
	if v.RoomIDFromCreate {
		h.room.id = ""
		if rapid.Bool().Draw(t, "two creators") {
			content["additional_creators"] = []any{"@bob:b"}
		}
	}
	create := h.add(nil, StateMap{}, "@alice:a", TypeCreate, "", content, 1000)
	h.room.id = create.event.RoomID()
	join := h.add([]historyNode{*create}, create.state, "@alice:a", TypeMember, "@alice:a", map[string]any{"membership": "join"}, 1000)
	last := join
	on := func(sender, typ, key string, content map[string]any) {
		if next := h.add([]historyNode{*last}, last.state, sender, typ, key, content, 1000); next != nil {
			last = next
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "populated") > 0 {
		// A room where most of what follows is allowed.
		users := map[string]any{"@bob:b": 100, "@carol:c": 50}
		if !v.PrivilegedCreators {
			users["@alice:a"] = 100
		} else if content["additional_creators"] != nil {
			delete(users, "@bob:b")
		}
		on("@alice:a", TypePowerLevels, "", map[string]any{"users": users})
		on("@alice:a", TypeJoinRules, "", map[string]any{"join_rule": "public"})
		for _, user := range historyUsers[1:] {
			on(user, TypeMember, user, map[string]any{"membership": "join"})
		}
	}
	for range n {
		parents := []historyNode{h.draw("parent")}
		state := parents[0].state
		if rapid.IntRange(0, 4).Draw(t, "merge") == 0 {
			parents = append(parents, h.draw("other parent"))
			if parents[1].event.ID() == parents[0].event.ID() {
				parents = parents[:1]
			} else {
				state = h.naive(tb).resolve([]StateMap{parents[0].state, parents[1].state})
			}
		}
		h.step(parents, state)
	}
	return h
}

func (h *history) naive(tb testing.TB) naive {
	return naive{t: tb, v: h.v, events: h.events, rejected: h.rejected}
}

// draw picks an event, late ones rather than early ones, so that forks go on for a while.
func (h *history) draw(label string) historyNode {
	back := rapid.IntRange(0, min(len(h.nodes)-1, 10)).Draw(h.t, label)
	return h.nodes[len(h.nodes)-1-back]
}

func (h *history) step(parents []historyNode, state StateMap) {
	t := h.t
	user := func(label string) string { return rapid.SampledFrom(historyUsers).Draw(t, label) }
	sender := user("sender")
	ts := 1000 + int64(rapid.IntRange(0, 5).Draw(t, "ts"))
	switch rapid.SampledFrom([]string{"join", "join", "member", "member", "power", "power", "rules", "topic", "topic"}).Draw(t, "what") {
	case "join":
		h.add(parents, state, sender, TypeMember, sender, map[string]any{"membership": "join", "displayname": fmt.Sprint(ts)}, ts)
	case "member":
		target := user("target")
		membership := rapid.SampledFrom([]string{"invite", "leave", "ban", "leave"}).Draw(t, "membership")
		h.add(parents, state, sender, TypeMember, target, map[string]any{"membership": membership}, ts)
	case "power":
		users := map[string]any{}
		if old := h.events[state[Tuple{Type: TypePowerLevels}]]; old != nil {
			for u, n := range old.levels().users {
				users[u] = n
			}
		} else if !h.v.PrivilegedCreators {
			users["@alice:a"] = 100
		}
		target := user("raised")
		if !h.v.PrivilegedCreators || !slices.Contains(Creators(h.nodes[0].event), target) {
			users[target] = rapid.SampledFrom([]int{0, 50, 60, 100}).Draw(t, "level")
		}
		h.add(parents, state, sender, TypePowerLevels, "", map[string]any{"users": users}, ts)
	case "rules":
		rule := rapid.SampledFrom([]string{"public", "invite"}).Draw(t, "rule")
		h.add(parents, state, sender, TypeJoinRules, "", map[string]any{"join_rule": rule}, ts)
	case "topic":
		key := rapid.SampledFrom([]string{"", "x"}).Draw(t, "key")
		h.add(parents, state, sender, "m.room.topic", key, map[string]any{"topic": fmt.Sprint(ts)}, ts)
	}
}

// add puts an event on top of others, unless it is not allowed there.
func (h *history) add(parents []historyNode, state StateMap, sender, typ, key string, content map[string]any, ts int64) *historyNode {
	h.room.state, h.room.tip, h.room.depth, h.room.ts = AuthMap{}, nil, 0, ts-1
	for k, id := range state {
		h.room.state[k] = h.events[id]
	}
	for _, p := range parents {
		h.room.tip = append(h.room.tip, p.event.ID())
		h.room.depth = max(h.room.depth, p.event.Depth())
	}
	d := h.room.draft(sender, typ, &key, content)
	d.EventID = fmt.Sprintf("$%d:a", len(h.events))
	e := h.room.build(d)
	if err := Authorise(e, h.room.state); err != nil {
		return nil
	}
	if h.events[e.ID()] == nil {
		h.events[e.ID()] = e
		after := maps.Clone(state)
		after[e.Tuple()] = e.ID()
		h.nodes = append(h.nodes, historyNode{e, after})
	}
	return &h.nodes[len(h.nodes)-1]
}

// drawSets picks the states after a few late events.
func (h *history) drawSets() []StateMap {
	n := rapid.IntRange(2, 4).Draw(h.t, "states")
	var sets []StateMap
	for range n {
		back := rapid.IntRange(0, len(h.nodes)-1).Draw(h.t, "state")
		sets = append(sets, h.nodes[len(h.nodes)-1-back].state)
	}
	return sets
}

func (h *history) source() *MapSource {
	s := NewMapSource()
	for _, e := range h.events {
		s.Add(e)
	}
	for id := range h.rejected {
		s.Reject(id)
	}
	return s
}

// describe writes a state so that a person can read it.
func (h *history) describe(s StateMap) string {
	var lines []string
	for t, id := range s {
		e := h.events[id]
		lines = append(lines, fmt.Sprintf("%s %.8s by %s at %d: %s", t, id, e.Sender(), e.OriginServerTS(), e.Content()))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestResolveMatchesSpecification(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"1", "2", "5", "9", "11", "12"} {
		t.Run("v"+id, func(t *testing.T) {
			t.Parallel()
			v := version(t, id)
			rapid.Check(t, func(rt *rapid.T) {
				h := drawHistory(rt, t, v, rapid.IntRange(5, 50).Draw(rt, "events"))
				sets := h.drawSets()
				ids := slices.Sorted(maps.Keys(h.events))
				if rapid.Bool().Draw(rt, "reject") {
					h.rejected[rapid.SampledFrom(ids).Draw(rt, "rejected")] = true
				}
				want := h.naive(t).resolve(sets)
				got, err := Resolve(context.Background(), v, sets, h.source())
				if err != nil {
					rt.Fatal(err)
				}
				if !maps.Equal(got, want) {
					rt.Fatalf("resolved to\n%s\nwant\n%s", h.describe(got), h.describe(want))
				}
				slices.Reverse(sets)
				if again, err := Resolve(context.Background(), v, sets, h.source()); err != nil || !maps.Equal(again, want) {
					rt.Fatalf("in another order resolved to\n%s\nwant\n%s\n%v", h.describe(again), h.describe(want), err)
				}
				c, unconflicted := split(sets)
				part, err := ResolveConflict(context.Background(), v, c, conflictSource{h.source(), slices.Collect(maps.Values(unconflicted))})
				if err != nil {
					rt.Fatal(err)
				}
				whole := maps.Clone(unconflicted)
				for k, id := range part {
					if _, ok := unconflicted[k]; ok {
						rt.Fatalf("%s is unconflicted, but in the result", k)
					}
					whole[k] = id
				}
				if !maps.Equal(whole, want) {
					rt.Fatalf("by difference resolved to\n%s\nwant\n%s", h.describe(whole), h.describe(want))
				}
			})
		})
	}
}

// conflictSource is a source as ResolveConflict wants it: it knows the unconflicted state.
type conflictSource struct {
	*MapSource
	unconflicted []string
}

func (s conflictSource) AuthChainDifference(ctx context.Context, sets [][]string) ([]string, error) {
	whole := make([][]string, len(sets))
	for i, set := range sets {
		whole[i] = append(slices.Clone(set), s.unconflicted...)
	}
	return s.MapSource.AuthChainDifference(ctx, whole)
}

// costSource counts what it is asked for.
type costSource struct {
	conflictSource
	calls, fetched int
}

func (s *costSource) Events(ctx context.Context, ids []string) (map[string]*Event, error) {
	s.calls++
	s.fetched += len(ids)
	return s.conflictSource.Events(ctx, ids)
}

// TestResolveCost resolves forks of the same size in rooms of different sizes: what is fetched depends on the fork.
func TestResolveCost(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"1", "2", "11", "12"} {
		t.Run("v"+id, func(t *testing.T) {
			t.Parallel()
			v := version(t, id)
			cost := func(members, changes, width int) costSource {
				f := forkRoom(t, v, members, changes, width)
				src := costSource{conflictSource: f.source}
				if _, err := ResolveConflict(context.Background(), v, f.conflict, &src); err != nil {
					t.Fatal(err)
				}
				return src
			}
			small := cost(10, 2, 3)
			if large := cost(300, 100, 3); large.fetched != small.fetched || large.calls != small.calls {
				t.Errorf("%d events in %d calls in a small room, %d in %d in a large one", small.fetched, small.calls, large.fetched, large.calls)
			}
			if wide := cost(10, 2, 30); wide.calls != small.calls {
				t.Errorf("%d calls for a small fork, %d for a wide one", small.calls, wide.calls)
			}
		})
	}
}

// fork is a room whose state differs between two branches.
type fork struct {
	sets     []StateMap
	conflict Conflict
	source   conflictSource
}

// forkRoom makes a room with members and a number of changes to its power levels, then two branches that each change the
// power levels, kick someone, and set topics.
func forkRoom(t testing.TB, v *Version, members, changes, width int) fork {
	t.Helper()
	r := newTestRoom(t, v)
	src := NewMapSource(r.create, r.state[Tuple{TypeMember, "@alice:a"}])
	power := func(n int) *Event {
		users := map[string]any{"@mod:m": 50, "@n:n": n}
		if !v.PrivilegedCreators {
			users["@alice:a"] = 100
		}
		return r.put("@alice:a", TypePowerLevels, "", map[string]any{"users": users})
	}
	src.Add(r.put("@alice:a", TypeJoinRules, "", map[string]any{"join_rule": "public"}))
	for n := range changes {
		src.Add(power(n % 40))
	}
	src.Add(r.member("@mod:m", "@mod:m", "join"))
	for n := range members {
		user := fmt.Sprintf("@user%d:b", n)
		src.Add(r.member(user, user, "join"))
	}
	base := *r
	f := fork{source: conflictSource{MapSource: src}}
	for branch := range 2 {
		*r = base
		r.state = maps.Clone(base.state)
		src.Add(power(41+branch), r.member("@mod:m", fmt.Sprintf("@user%d:b", branch), "leave"))
		for n := range width {
			src.Add(r.put("@mod:m", "m.room.topic", fmt.Sprint(n), map[string]any{"topic": branch}))
		}
		set := StateMap{}
		for k, e := range r.state {
			set[k] = e.ID()
		}
		f.sets = append(f.sets, set)
	}
	var unconflicted StateMap
	f.conflict, unconflicted = split(f.sets)
	f.source.unconflicted = slices.Collect(maps.Values(unconflicted))
	return f
}

func TestResolveTrivial(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		a := StateMap{{"a", ""}: "$a"}
		for _, sets := range [][]StateMap{nil, {a}, {a, a}, {a, maps.Clone(a), a}} {
			got, err := Resolve(t.Context(), v, sets, NewMapSource())
			if err != nil || len(sets) > 0 && !maps.Equal(got, a) || len(sets) == 0 && len(got) != 0 {
				t.Errorf("%d states resolve to %v, %v", len(sets), got, err)
			}
			if len(sets) > 0 {
				got[Tuple{"b", ""}] = "$b"
				if len(a) != 1 {
					t.Fatal("the result is one of the states")
				}
			}
		}
		if _, err := Resolve(t.Context(), v, []StateMap{{{"a", ""}: "$a"}, {{"a", ""}: "$b"}}, NewMapSource()); err == nil {
			t.Error("missing events resolve")
		}
	})
}

// TestResolveCircle makes sure that auth events that form a circle, which ids of version 2 allow, end in a result.
func TestResolveCircle(t *testing.T) {
	t.Parallel()
	v := version(t, "2")
	r := newTestRoom(t, v)
	power := func(id string, auth ...string) *Event {
		d := r.draft("@alice:a", TypePowerLevels, ptr(""), map[string]any{"users": map[string]any{"@alice:a": 100}})
		d.EventID, d.AuthEvents = id, append([]string{r.create.ID(), r.state[Tuple{TypeMember, "@alice:a"}].ID()}, auth...)
		return r.build(d)
	}
	src := NewMapSource(r.create, r.state[Tuple{TypeMember, "@alice:a"}], power("$1:a", "$2:a"), power("$2:a", "$3:a"), power("$3:a", "$1:a"))
	base := StateMap{{TypeCreate, ""}: r.create.ID(), {TypeMember, "@alice:a"}: r.state[Tuple{TypeMember, "@alice:a"}].ID()}
	sets := []StateMap{maps.Clone(base), maps.Clone(base), maps.Clone(base)}
	for i := range sets {
		sets[i][Tuple{Type: TypePowerLevels}] = fmt.Sprintf("$%d:a", i+1)
	}
	if _, err := Resolve(t.Context(), v, sets, src); err != nil {
		t.Fatal(err)
	}
}
