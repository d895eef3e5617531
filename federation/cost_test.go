package federation_test

import (
	"fmt"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
)

// A transaction of 50 events costs as many round trips to the database as one of 10: to look it up, to stage it, to fetch
// what is staged, to see what of it is there already, to commit, and to clear it away.
func TestTransactionCostsFixedRoundTrips(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	roomID, _ := k.public("12")
	other, bob, there := k.joined(roomID)
	send := func(n int) {
		es := make([]*event.Event, n)
		for i := range es {
			es[i] = there.say(bob, fmt.Sprint(i))
		}
		other.send(es...)
		k.drained()
	}
	send(50) // takes numbers ahead
	// The least of several: a busy machine commits what it has in several transactions, and claims are renewed meanwhile.
	cost := map[int]int64{}
	for range 5 {
		for _, n := range []int{10, 50} {
			before := k.DB.Counts()
			send(n)
			trips := k.DB.Counts().Sub(before).RoundTrips
			if least, ok := cost[n]; !ok || trips < least {
				cost[n] = trips
			}
		}
	}
	t.Logf("round trips: %v", cost)
	if cost[50] > cost[10]+4 || cost[50] > 20 {
		t.Errorf("10 events cost %d round trips, 50 cost %d", cost[10], cost[50])
	}
}
