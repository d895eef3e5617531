package federation_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/event"
)

// A process that dies with staged events of a room leaves them to another, which writes them once and in their order.
func TestStagedEventsOfADeadProcess(t *testing.T) {
	t.Parallel()
	k := newKit(t, func(c *federation.InboundConfig) { c.ClaimTTL = 500 * time.Millisecond })
	roomID, alice := k.public("12")
	other, bob, there := k.joined(roomID)
	k.drained()
	// From here on nobody works on what this process stages and has claimed, as if it had been killed.
	k.stop()
	var want []string
	for n := range 3 {
		es := make([]*event.Event, 20)
		for i := range es {
			want = append(want, fmt.Sprint(n*20+i))
			es[i] = there.say(bob, want[len(want)-1])
		}
		other.send(es...)
	}
	if got := k.messages(alice, roomID); len(got) != 0 {
		t.Fatalf("%d events are written without anybody to do it", len(got))
	}
	k.beside("worker2")
	k.drained()
	if got := k.messages(alice, roomID); !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
}

// Two processes that both take transactions for a room write it in the order in which each server sent.
func TestTwoProcessesTakeForOneRoom(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, alice := k.public("12")
	first := k.router
	second := k.beside("worker2")
	names := []string{"one.test", "two.test"}
	views, users := map[string]*view{}, map[string]string{}
	for _, name := range names {
		r := k.remote(name)
		users[name] = r.user("u")
		views[name] = r.join(roomID, users[name])
	}
	for i := range 20 {
		for n, name := range names {
			k.router = first
			if (i+n)%2 == 1 {
				k.router = second
			}
			v := views[name]
			v.r.send(v.say(users[name], fmt.Sprint(name, " ", i)))
		}
	}
	k.drained()
	got := k.messages(alice, roomID)
	for _, name := range names {
		var of []string
		for _, m := range got {
			if m[:len(name)] == name {
				of = append(of, m)
			}
		}
		for i := range 20 {
			if len(of) != 20 || of[i] != fmt.Sprint(name, " ", i) {
				t.Fatalf("messages of %s: %q", name, of)
			}
		}
	}
}
