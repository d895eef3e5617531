package presence

import (
	"context"
	"slices"
	"sync"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// maxInterest is of how many users it is kept which rooms they are in.
const maxInterest = 50_000

// interest knows which rooms users are joined to: whoever shares one sees the other's presence. It follows the events
// stream.
type interest struct {
	db    storage.Querier
	rooms memo.Cache[string, []storage.RoomNID]

	mu sync.Mutex
	// loading are the users that are being read; one who joins or leaves meanwhile is not kept.
	loading map[string]int
}

func newInterest(db storage.Querier) *interest {
	return &interest{db: db, rooms: memo.New[string, []storage.RoomNID](maxInterest), loading: map[string]int{}}
}

// onEvents forgets the rooms of users who join or leave some.
func (in *interest) onEvents(_ context.Context, u replication.Update[*streams.EventRow]) {
	for _, row := range u.Rows {
		r := row.Value
		switch {
		case r.StateReset:
			// Members may have come and gone without an event of their own.
			in.forgetAll()
		case r.Type == event.TypeMember && r.StateKey != nil:
			in.mu.Lock()
			delete(in.loading, *r.StateKey)
			in.rooms.Invalidate(*r.StateKey)
			in.mu.Unlock()
		}
	}
}

func (in *interest) forgetAll() {
	in.mu.Lock()
	defer in.mu.Unlock()
	clear(in.loading)
	in.rooms.InvalidateAll()
}

// of returns the rooms of users, ascending, with one query at most.
func (in *interest) of(ctx context.Context, users []string) (map[string][]storage.RoomNID, error) {
	out := make(map[string][]storage.RoomNID, len(users))
	var missing []string
	in.mu.Lock()
	for _, u := range users {
		if rooms, ok := in.rooms.GetIfPresent(u); ok {
			out[u] = rooms
			continue
		}
		missing = append(missing, u)
		in.loading[u]++
	}
	in.mu.Unlock()
	if len(missing) == 0 {
		return out, nil
	}
	found, err := storage.JoinedRooms(ctx, in.db, missing)
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, u := range missing {
		n, same := in.loading[u]
		if n <= 1 {
			delete(in.loading, u)
		} else {
			in.loading[u] = n - 1
		}
		if err == nil && same {
			in.rooms.Set(u, found[u])
		}
		out[u] = found[u]
	}
	return out, err
}

// share reports whether two ascending lists of rooms have one in common.
func share(a, b []storage.RoomNID) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	for _, room := range a {
		i, found := slices.BinarySearch(b, room)
		if found {
			return true
		}
		b = b[i:]
	}
	return false
}
