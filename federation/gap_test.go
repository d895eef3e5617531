package federation_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
)

// between answers get_missing_events as a server does that has all of the events, in their order.
func between(es []*event.Event) func(q federation.MissingEvents) []*event.Event {
	byID := map[string]*event.Event{}
	for _, e := range es {
		byID[e.ID()] = e
	}
	return func(q federation.MissingEvents) []*event.Event {
		seen := map[string]bool{}
		for _, id := range slices.Concat(q.Earliest, q.Latest) {
			seen[id] = true
		}
		var out []*event.Event
		for level := q.Latest; len(level) > 0 && len(out) < q.Limit; {
			var next []string
			for _, id := range level {
				for _, p := range byID[id].PrevEvents() {
					if e := byID[p]; !seen[p] && e != nil && len(out) < q.Limit {
						seen[p] = true
						next, out = append(next, p), append(out, e)
					}
				}
			}
			level = next
		}
		return out
	}
}

func TestSmallGapIsFilled(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, alice := k.public("12")
	other, bob, there := k.joined(roomID)
	var es []*event.Event
	var want []string
	for i := range 12 {
		es = append(es, there.say(bob, fmt.Sprint(i)))
		want = append(want, fmt.Sprint(i))
	}
	other.missing = between(es)
	other.send(es[11])
	k.stored(es[11].ID())
	if got := k.messages(alice, roomID); !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
	if n := other.requests("state_ids"); n != 0 {
		t.Errorf("the state was asked for %d times", n)
	}
}

// A gap that is wider than what is asked for is bridged by the state behind it.
func TestWideGapIsBridged(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"1", "6", "12"} {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, nil)
			roomID, alice := k.public(v)
			other, bob, there := k.joined(roomID)
			var es []*event.Event
			states := map[string][]*event.Event{}
			add := func(e *event.Event) {
				es = append(es, e)
				var state []*event.Event
				for _, s := range there.state {
					if s.ID() != e.ID() {
						state = append(state, s)
					}
				}
				states[e.ID()] = state
			}
			for i := range 25 {
				add(there.say(bob, fmt.Sprint(i)))
			}
			carol := other.user("carol")
			states2 := slices.Clone(states[es[len(es)-1].ID()])
			add(there.set(carol, event.TypeMember, carol, `{"membership":"join"}`))
			states[es[len(es)-1].ID()] = states2
			for i := range 30 {
				add(there.say(carol, fmt.Sprint("carol ", i)))
			}
			other.missing = between(es)
			other.stateIDs = func(id string) (state, chain []*event.Event) { return states[id], there.chain }
			last := es[len(es)-1]
			other.send(last)
			if e := k.stored(last.ID()); e.Flags != 0 {
				t.Errorf("flags of the last event: %d", e.Flags)
			}
			if got := k.State(alice, roomID, event.TypeMember, carol); got == "" {
				t.Error("who joined in the gap is not a member")
			}
			got := k.messages(alice, roomID)
			if len(got) < 10 || got[len(got)-1] != "carol 29" {
				t.Errorf("messages %q", got)
			}
			// The room goes on from there, here and there.
			there.say(carol, "on")
			other.send(there.ends[0])
			k.stored(there.ends[0].ID())
			k.Say(alice, roomID, "welcome back")
			room, err := k.Store.Room(t.Context(), roomID)
			if err != nil {
				t.Fatal(err)
			}
			if head, err := k.Store.Head(t.Context(), room.NID); err != nil || len(head.Extremities) != 1 {
				t.Errorf("head of the room: %+v, %v", head, err)
			}
		})
	}
}

// An event that is pushed and cannot be connected to the room is dropped: else whoever sends it could say what the state
// of the room is.
func TestUnconnectedEventIsDropped(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, alice := k.public("12")
	other, bob, there := k.joined(roomID)
	apart := there.clone()
	apart.say(bob, "missing")
	lost := apart.say(bob, "lost")
	other.stateIDs = func(string) (state, chain []*event.Event) { return nil, nil }
	fine := there.say(bob, "fine")
	other.send(lost, fine)
	k.stored(fine.ID())
	k.absent(lost.ID())
	if n := other.requests("state_ids"); n != 0 {
		t.Errorf("the state was asked for %d times", n)
	}
	if got := k.messages(alice, roomID); !slices.Equal(got, []string{"fine"}) {
		t.Errorf("messages %q", got)
	}
}

// Auth events that are missing are fetched, with theirs.
func TestMissingAuthEventsAreFetched(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{true, false} {
		t.Run(fmt.Sprint("event_auth ", whole), func(t *testing.T) {
			t.Parallel()
			k := newKit(t, nil)
			roomID, _ := k.public("10")
			other := k.remote("other.test")
			bob, carol := other.user("bob"), other.user("carol")
			there := other.join(roomID, bob)
			// Carol's join is on a branch that nobody has sent.
			hidden := there.clone()
			join := hidden.set(carol, event.TypeMember, carol, `{"membership":"join"}`)
			profile := hidden.set(carol, event.TypeMember, carol, `{"membership":"join","displayname":"C"}`)
			there.state[join.Tuple()] = profile
			msg := there.say(carol, "hi")
			if whole {
				other.auth = func(string) []*event.Event { return append([]*event.Event{profile, join}, there.chain...) }
			}
			other.send(msg)
			// Its own auth events allow it, the state before it does not.
			if e := k.stored(msg.ID()); e.Flags != store.Rejected {
				t.Errorf("flags %d, want rejected", e.Flags)
			}
			if e := k.wait(join.ID(), func(e *store.Event) bool { return e != nil }); e.Flags != store.Outlier {
				t.Errorf("flags of the auth event: %d", e.Flags)
			}
			if other.requests("event_auth") != 1 {
				t.Error("event_auth was not asked once")
			}
		})
	}
}

// An event whose auth event cannot be had is dropped.
func TestAuthEventsThatNobodyHas(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, _ := k.public("10")
	other, bob, there := k.joined(roomID)
	bad := there.build(bob, "m.room.message", nil, `{"body":"bad"}`, func(d *event.Draft) {
		d.AuthEvents = append(d.AuthEvents, "$abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ")
	})
	good := there.say(bob, "good")
	other.send(bad, good)
	k.stored(good.ID())
	k.absent(bad.ID())
}
