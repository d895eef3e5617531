// Package typing keeps who is typing where: the typing stream, which lives in the memory of its one writer.
//
// The writer (main process, or the instance stream_writers names) decides who is typing; any other process hands
// requests on to it. A row of the stream is all of a room's typing people, and replaces what was known. Every process
// that follows the stream keeps the rooms in memory, for /sync.
//
// Tokens count from the writer's start in milliseconds since the epoch, so that a writer that has restarted, or another
// that has taken over, is ahead of any token that was given out before. What a restarted writer did not know of any more
// is nobody typing, and followers are told so.
//
// Spec: client-server API, "Typing Notifications" (v1.19).
package typing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

const (
	// DefaultTimeout is how long somebody is typing who does not say.
	DefaultTimeout = 30 * time.Second
	// MaxTimeout bounds what a client may say.
	MaxTimeout = 2 * time.Minute
)

// Rooms knows who is in a room. *store.Store does.
type Rooms interface {
	Room(ctx context.Context, roomID string) (*store.Room, error)
	Membership(ctx context.Context, room storage.RoomNID, userID string) (*store.Member, error)
}

// Config holds what a Service needs.
type Config struct {
	// Rooms says who is in a room. Required.
	Rooms Rooms
	// Client follows the stream, and publishes it where this process writes it. It must not run yet. Required.
	Client *replication.Client
	// Writers says which process writes the stream. Required.
	Writers *replication.Writers
	// RPC reaches it. Required.
	RPC *rpc.Node
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Service is typing notifications in one process. It is safe for concurrent use.
type Service struct {
	cfg      Config
	log      zerolog.Logger
	follower *replication.Follower[streams.TypingRow]
	writer   *writer // nil unless this process writes the stream

	mu    sync.RWMutex
	rooms map[string]Room
}

// Room is who is typing in a room.
type Room struct {
	// UserIDs are sorted; empty means nobody. They are shared and must not be changed.
	UserIDs []string
	// Writer and Token are the place of the last change in the stream, for positions to be compared with.
	Writer string
	Token  int64
}

// stream is the stream's name.
const stream = "typing"

var (
	setMethod = rpc.Method[setRequest, struct{}]{
		Name: "set_typing", Args: func(r setRequest) []string { return []string{r.RoomID} }, Repeatable: true,
	}
	updatesMethod = rpc.Method[updatesRequest, updatesReply]{Name: "typing_updates", Repeatable: true}
)

type setRequest struct {
	RoomID string `json:"room_id"`
	UserID string `json:"user_id"`
	// TimeoutMS is 0 for somebody who has stopped.
	TimeoutMS int64 `json:"timeout_ms"`
}

type updatesRequest struct {
	After int64 `json:"after"`
}

type updatesReply struct {
	// Whole says that After was before the writer's time, so that rooms that are not in Rows have nobody typing.
	Whole bool                                 `json:"whole"`
	Rows  []replication.Row[streams.TypingRow] `json:"rows"`
	Token int64                                `json:"token"`
}

// New makes the service, has cfg.Client follow the stream (and publish it where this process is its writer), and
// registers its methods with cfg.RPC. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.Rooms == nil || cfg.Client == nil || cfg.Writers == nil || cfg.RPC == nil {
		return nil, errors.New("typing: Config.Rooms, Client, Writers and RPC are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg, log: cfg.Log.With().Str("component", "typing").Logger(), rooms: make(map[string]Room)}
	var err error
	s.follower, err = replication.Follow(cfg.Client, streams.Typing(), replication.FollowConfig[streams.TypingRow]{
		Source: s.source,
		OnGap:  s.onGap,
	})
	if err != nil {
		return nil, fmt.Errorf("typing: %w", err)
	}
	s.follower.Handle(s.onUpdate)
	if cfg.Writers.Writes(stream) {
		if s.writer, err = newWriter(cfg.Client, cfg.Now); err != nil {
			return nil, fmt.Errorf("typing: %w", err)
		}
		mxrpc.Register(cfg.RPC, setMethod, func(_ context.Context, r setRequest) (struct{}, error) {
			return struct{}{}, s.writer.set(r.RoomID, r.UserID, time.Duration(r.TimeoutMS)*time.Millisecond)
		})
		mxrpc.Register(cfg.RPC, updatesMethod, func(_ context.Context, r updatesRequest) (updatesReply, error) {
			return s.writer.updates(r.After), nil
		})
	}
	return s, nil
}

// Run has people stop typing when their time is up, until ctx is done. In a process that does not write the stream it
// only waits.
func (s *Service) Run(ctx context.Context) error {
	if s.writer == nil {
		<-ctx.Done()
		return nil
	}
	return s.writer.run(ctx)
}

// Set notes that the requester is typing in a room, for the given time at most, or has stopped. A timeout of 0 means
// DefaultTimeout. It is M_FORBIDDEN for somebody who is not joined to the room.
func (s *Service) Set(ctx context.Context, who *requester.Requester, roomID string, typing bool, timeout time.Duration) error {
	if err := s.checkJoined(ctx, roomID, who.UserID); err != nil {
		return err
	}
	if who.ShadowBanned {
		return nil
	}
	switch {
	case !typing:
		timeout = 0
	case timeout <= 0:
		timeout = DefaultTimeout
	default:
		timeout = min(timeout, MaxTimeout)
	}
	return s.Put(ctx, roomID, who.UserID, timeout)
}

// Put is Set without its checks, for users of other servers, whose servers answer for them. A timeout of 0 means that the
// user has stopped.
func (s *Service) Put(ctx context.Context, roomID, userID string, timeout time.Duration) error {
	if s.writer != nil {
		return s.writer.set(roomID, userID, timeout)
	}
	_, err := mxrpc.Call(ctx, s.cfg.RPC, s.cfg.Writers.Owner(stream, roomID), setMethod,
		setRequest{RoomID: roomID, UserID: userID, TimeoutMS: timeout.Milliseconds()})
	return err
}

// Room returns who is typing in a room, as far as this process has heard. A room in which nobody has typed for some
// minutes has a zero token.
func (s *Service) Room(roomID string) Room {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rooms[roomID]
}

// Position is how far this process has followed the stream.
func (s *Service) Position() replication.Position { return s.follower.Position() }

// Handle has fn called with each update of the stream, after Room shows it.
func (s *Service) Handle(fn func(ctx context.Context, u replication.Update[streams.TypingRow])) {
	s.follower.Handle(fn)
}

func (s *Service) checkJoined(ctx context.Context, roomID, userID string) error {
	forbidden := mxerr.Forbidden.WithMessage("User " + userID + " not in room " + roomID)
	room, err := s.cfg.Rooms.Room(ctx, roomID)
	if errors.Is(err, storage.ErrNotFound) {
		return forbidden
	}
	if err != nil {
		return err
	}
	m, err := s.cfg.Rooms.Membership(ctx, room.NID, userID)
	if err != nil {
		return err
	}
	if m == nil || m.Membership != storage.MembershipJoin {
		return forbidden
	}
	return nil
}

// keepEmpty is how long a room in which nobody is typing is remembered, so that a client that syncs now and then hears
// that it is so.
const keepEmpty = 10 * time.Minute

func (s *Service) onUpdate(_ context.Context, u replication.Update[streams.TypingRow]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range u.Rows {
		s.rooms[row.Value.RoomID] = Room{UserIDs: row.Value.UserIDs, Writer: u.Writer, Token: row.Token}
	}
	s.prune()
}

// prune forgets rooms that have been empty for long. Tokens are near the time of the change.
func (s *Service) prune() {
	if len(s.rooms) < 1000 {
		return
	}
	before := s.cfg.Now().Add(-keepEmpty).UnixMilli()
	for id, r := range s.rooms {
		if len(r.UserIDs) == 0 && r.Token < before {
			delete(s.rooms, id)
		}
	}
}

// source asks the writer who is typing where that changed.
func (s *Service) source(ctx context.Context, writer string, after, upTo int64, _ int) ([]replication.Row[streams.TypingRow], int64, error) {
	var reply updatesReply
	if s.writer != nil && writer == s.cfg.Client.Instance() {
		reply = s.writer.updates(after)
	} else {
		var err error
		if reply, err = mxrpc.Call(ctx, s.cfg.RPC, writer, updatesMethod, updatesRequest{After: after}); err != nil {
			return nil, 0, err
		}
	}
	// The writer may have gone on since it announced upTo; rows above that will come by themselves, and again.
	reached := max(upTo, reply.Token)
	rows := reply.Rows
	if reply.Whole {
		rows = append(s.others(rows, upTo), rows...)
	}
	return rows, min(reached, upTo), nil
}

// others returns rows that say that nobody is typing in the rooms this process believes otherwise of and that are not in
// rows.
func (s *Service) others(rows []replication.Row[streams.TypingRow], token int64) []replication.Row[streams.TypingRow] {
	in := make(map[string]bool, len(rows))
	for _, r := range rows {
		in[r.Value.RoomID] = true
		token = min(token, r.Token)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []replication.Row[streams.TypingRow]
	for id, r := range s.rooms {
		if len(r.UserIDs) > 0 && !in[id] {
			out = append(out, replication.Row[streams.TypingRow]{Token: token, Value: streams.TypingRow{RoomID: id, UserIDs: []string{}}})
		}
	}
	return out
}

func (s *Service) onGap(context.Context, string, int64, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.rooms)
}
