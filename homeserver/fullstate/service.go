// Package fullstate deals with rooms that this server has entered with a part of their state.
//
// A join of a large room gives everything but the members at once, so that people can use the room; the members come after
// it. Until then the head of the room says so (store.Head.Partial), what the room's state says of members is not to be
// relied upon, and who needs to know them waits ([Service.Wait]).
//
// # How a state becomes whole
//
//  1. Whoever fetches the rest of the state before the join stores its events as outliers, and hands the state over
//     ([Service.Complete]).
//  2. The tree of that state is built and written, and noted beside the room.
//  3. Each state of the room's events since the join is what was known before the join with some changes. In one
//     transaction those changes are put on top of the whole state instead, for the events and for the head.
//  4. The tables of current state are filled, some hundred pieces in a transaction.
//  5. The members are counted, the mark is taken away, and the un_partial_stated_room stream says so.
//
// Each step begins with the lock of the room's head and leaves it a generation on, as another writer of the room would: the
// room's owner then builds what it was building on the head as it is. All steps may be repeated.
//
// Spec: server-server API, "PUT /send_join", omit_members (v1.19).
package fullstate

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// Config holds what a Service needs.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Store reads rooms and events. Required.
	Store *store.Store
	// Client follows the stream. Required.
	Client *replication.Client
	// IDs numbers the rows of the stream, in the process that writes it. Without it the process completes no rooms.
	IDs *storage.StreamIDs
	// From is a position of the stream that was read before anything is cached. Required.
	From replication.Position
	// Log is silent by default.
	Log zerolog.Logger
}

// Service knows which rooms' states are whole. It is safe for concurrent use.
type Service struct {
	cfg      Config
	store    *store.Store
	log      zerolog.Logger
	follower *replication.Follower[streams.UnPartialStatedRoomRow]
	writer   *streams.Writer[streams.UnPartialStatedRoomRow]

	mu      sync.Mutex
	waiting map[storage.RoomNID]chan struct{}
}

// New checks the configuration, and has the client follow the stream: it must not run yet. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.DB == nil || cfg.Store == nil || cfg.Client == nil {
		return nil, errors.New("fullstate: Config: DB, Store and Client are required")
	}
	s := &Service{
		cfg: cfg, store: cfg.Store, log: cfg.Log.With().Str("component", "fullstate").Logger(),
		waiting: make(map[storage.RoomNID]chan struct{}),
	}
	var err error
	s.follower, err = replication.Follow(cfg.Client, streams.UnPartialStatedRoom(), replication.FollowConfig[streams.UnPartialStatedRoomRow]{
		Source: s.source, From: cfg.From,
	})
	if err != nil {
		return nil, fmt.Errorf("follow rooms whose state is whole: %w", err)
	}
	s.follower.Handle(s.onUpdate)
	if cfg.IDs == nil {
		return s, nil
	}
	s.writer, err = streams.NewWriter(streams.WriterConfig[streams.UnPartialStatedRoomRow]{
		DB: cfg.DB, IDs: cfg.IDs, Client: cfg.Client, Stream: streams.UnPartialStatedRoom(), Source: s.source,
	})
	if err != nil {
		return nil, fmt.Errorf("publish rooms whose state is whole: %w", err)
	}
	return s, nil
}

// MaxIDSQL gives the greatest number of a row of the stream.
const MaxIDSQL = `SELECT coalesce(max(stream_id), 0) FROM un_partial_stated_rooms`

// Handle has fn called with the rows of the stream, after this process has dropped what it knew of the rooms.
func (s *Service) Handle(fn func(ctx context.Context, u replication.Update[streams.UnPartialStatedRoomRow])) {
	s.follower.Handle(fn)
}

// Completes reports whether this process is the one that completes rooms.
func (s *Service) Completes() bool { return s.writer != nil }

// source reads missed rows.
func (s *Service) source(ctx context.Context, writer string, after, upTo int64, limit int) ([]replication.Row[streams.UnPartialStatedRoomRow], int64, error) {
	found, err := storage.UnpartialRooms(ctx, s.cfg.DB, writer, after, upTo, limit)
	if err != nil {
		return nil, 0, err
	}
	if len(found) >= limit {
		upTo = found[len(found)-1].StreamID
	}
	rows := make([]replication.Row[streams.UnPartialStatedRoomRow], len(found))
	for i, f := range found {
		rows[i] = replication.Row[streams.UnPartialStatedRoomRow]{Token: f.StreamID, Value: streams.UnPartialStatedRoomRow{RoomID: f.RoomID}}
	}
	return rows, upTo, nil
}

func (s *Service) onUpdate(ctx context.Context, u replication.Update[streams.UnPartialStatedRoomRow]) {
	for _, row := range u.Rows {
		r, err := s.store.Room(ctx, row.Value.RoomID)
		if err != nil {
			s.log.Warn().Err(err).Str("room_id", row.Value.RoomID).Msg("room whose state is whole cannot be found")
			s.store.Forget()
			continue
		}
		s.whole(r.NID)
	}
}

// whole drops what is known of a room, and wakes who waits for it.
func (s *Service) whole(room storage.RoomNID) {
	s.store.ForgetRoom(room)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch := s.waiting[room]; ch != nil {
		close(ch)
		delete(s.waiting, room)
	}
}

// Wait returns when the state of a room is whole, or ctx ends.
func (s *Service) Wait(ctx context.Context, room storage.RoomNID) error {
	for {
		// Waiting begins before the look, so that nothing falls in between.
		s.mu.Lock()
		ch := s.waiting[room]
		if ch == nil {
			ch = make(chan struct{})
			s.waiting[room] = ch
		}
		s.mu.Unlock()
		partial, err := s.Partial(ctx, room)
		if err != nil || !partial {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Partial reports whether only a part of a room's state is known.
func (s *Service) Partial(ctx context.Context, room storage.RoomNID) (bool, error) {
	partial, err := s.store.Partial(ctx, []storage.RoomNID{room})
	if err != nil {
		return false, fmt.Errorf("read head of room %d: %w", room, err)
	}
	return partial[0], nil
}
