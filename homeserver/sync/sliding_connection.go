package sync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	gosync "sync"
	"time"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

const (
	// slidingOthers is how many connections a device keeps beside the one it opens.
	slidingOthers = 19
	// slidingIdle is how long a connection is kept that nobody uses, slidingTouch how often its use is written down.
	slidingIdle  = 7 * 24 * time.Hour
	slidingTouch = time.Hour
)

// sentRoom is what a client has been sent of a room over a connection, all that happened in the room included.
type sentRoom struct {
	wanted wanted
	// limit is how many of the newest events of the room it has at least, if there are as many.
	limit int
}

func (r sentRoom) equal(o sentRoom) bool {
	return r.limit == o.limit && len(r.wanted) == len(o.wanted) && !r.wanted.beyond(o.wanted)
}

// goneRoom is a room in the list that the user is no longer in.
type goneRoom struct {
	id       string
	nid      storage.RoomNID
	eventNID storage.EventNID
	// membership is leave or ban; inside says that the user was joined before.
	membership storage.Membership
	inside     bool
	// forced says that others made the user leave: the room stays in the list. told says that the client knows.
	forced, told bool
}

// slidingState is what a client has been sent over a connection as of one position. It does not change.
type slidingState struct {
	rooms map[storage.RoomNID]sentRoom
	gone  map[storage.RoomNID]goneRoom

	mu      gosync.Mutex
	touched time.Time
}

func (s *slidingState) equal(o *slidingState) bool {
	return maps.EqualFunc(s.rooms, o.rooms, sentRoom.equal) && maps.Equal(s.gone, o.gone)
}

// storedState is the form of a slidingState in the database.
type storedState struct {
	// Wanted are the rules that Rooms name by their index.
	Wanted [][]RequiredState `json:"w,omitempty"`
	// Rooms has for each room its number, its limit and the index of its rules.
	Rooms [][3]int64   `json:"r,omitempty"`
	Gone  []storedGone `json:"g,omitempty"`
}

type storedGone struct {
	ID         string             `json:"id"`
	NID        storage.RoomNID    `json:"n"`
	EventNID   storage.EventNID   `json:"e"`
	Membership storage.Membership `json:"m"`
	Inside     bool               `json:"i,omitempty"`
	Forced     bool               `json:"f,omitempty"`
	Told       bool               `json:"t,omitempty"`
}

func (s *slidingState) encode() ([]byte, error) {
	var out storedState
	index := map[string]int64{}
	for _, nid := range slices.Sorted(maps.Keys(s.rooms)) {
		r := s.rooms[nid]
		key := ""
		for _, w := range r.wanted {
			key += w.key() + "\n"
		}
		i, ok := index[key]
		if !ok {
			i = int64(len(out.Wanted))
			index[key] = i
			out.Wanted = append(out.Wanted, r.wanted)
		}
		out.Rooms = append(out.Rooms, [3]int64{int64(nid), int64(r.limit), i})
	}
	for _, nid := range slices.Sorted(maps.Keys(s.gone)) {
		g := s.gone[nid]
		out.Gone = append(out.Gone, storedGone{g.id, g.nid, g.eventNID, g.membership, g.inside, g.forced, g.told})
	}
	return json.Marshal(out)
}

func decodeSlidingState(raw []byte) (*slidingState, error) {
	var in storedState
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, fmt.Errorf("decode position of sliding sync: %w", err)
	}
	s := &slidingState{rooms: make(map[storage.RoomNID]sentRoom, len(in.Rooms)), gone: map[storage.RoomNID]goneRoom{}}
	for _, r := range in.Rooms {
		if r[2] < 0 || r[2] >= int64(len(in.Wanted)) {
			return nil, errors.New("decode position of sliding sync: no such rules")
		}
		s.rooms[storage.RoomNID(r[0])] = sentRoom{in.Wanted[r[2]], int(r[1])}
	}
	for _, g := range in.Gone {
		s.gone[g.NID] = goneRoom{g.ID, g.NID, g.EventNID, g.Membership, g.Inside, g.Forced, g.Told}
	}
	return s, nil
}

// slidingKey names a position of a connection and whose it is.
type slidingKey struct {
	pos                      storage.SlidingPosition
	userID, deviceID, connID string
}

// slidingState returns what had been sent at a position, or M_UNKNOWN_POS.
func (s *Service) slidingState(ctx context.Context, key slidingKey) (*slidingState, error) {
	now := time.Now()
	if st, ok := s.sliding.GetIfPresent(key); ok {
		// Another process may have gone on with the connection, or replaced it.
		exists, err := storage.HasSlidingPosition(ctx, s.cfg.DB, key.pos)
		if err != nil {
			return nil, err
		}
		if !exists {
			return nil, mxerr.UnknownPos
		}
		return st, s.touchSliding(ctx, key, st, now)
	}
	user, err := s.cfg.Store.UserNID(ctx, key.userID)
	if err != nil {
		return nil, err
	}
	raw, err := storage.GetSlidingPosition(ctx, s.cfg.DB, key.pos, user, key.deviceID, key.connID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.UnknownPos
	}
	if err != nil {
		return nil, err
	}
	st, err := decodeSlidingState(raw)
	if err != nil {
		return nil, err
	}
	if err := s.touchSliding(ctx, key, st, now); err != nil {
		return nil, err
	}
	s.sliding.Set(key, st)
	return st, nil
}

// touchSliding writes down now and then that a connection is used.
func (s *Service) touchSliding(ctx context.Context, key slidingKey, st *slidingState, now time.Time) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if now.Sub(st.touched) < slidingTouch {
		return nil
	}
	err := storage.TouchSlidingConnection(ctx, s.cfg.DB, key.pos.ConnectionNID, now)
	if errors.Is(err, storage.ErrNotFound) {
		return mxerr.UnknownPos
	}
	if err == nil {
		st.touched = now
	}
	return err
}

// keepSliding stores what has been sent once a response arrives, and returns the position for it: that of before where
// nothing has changed.
func (s *Service) keepSliding(ctx context.Context, before slidingKey, was, st *slidingState) (storage.SlidingPosition, error) {
	if was != nil && was.equal(st) {
		return before.pos, nil
	}
	raw, err := st.encode()
	if err != nil {
		return storage.SlidingPosition{}, fmt.Errorf("encode position of sliding sync: %w", err)
	}
	now := time.Now()
	var pos storage.SlidingPosition
	if was == nil {
		user, err := s.cfg.Store.UserNID(ctx, before.userID)
		if err != nil {
			return pos, err
		}
		pos, err = storage.OpenSlidingConnection(ctx, s.cfg.DB, user, before.deviceID, before.connID, raw, now, slidingOthers)
		if err != nil {
			return pos, err
		}
	} else {
		pos, err = storage.AddSlidingPosition(ctx, s.cfg.DB, before.pos, raw, now)
		if errors.Is(err, storage.ErrNotFound) {
			return pos, mxerr.UnknownPos
		}
		if err != nil {
			return pos, err
		}
	}
	st.touched = now
	before.pos = pos
	s.sliding.Set(before, st)
	return pos, nil
}

// PruneSliding ends the connections of sliding sync that nobody has used for a week. It is a task to run now and then.
func (s *Service) PruneSliding(ctx context.Context) error {
	n, err := storage.PruneSlidingConnections(ctx, s.cfg.DB, time.Now().Add(-slidingIdle))
	if n > 0 {
		s.cfg.Log.Info().Int64("count", n).Msg("connections of sliding sync have expired")
	}
	return err
}
