package store

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/storage"
)

// Config holds what a Store needs.
type Config struct {
	// DB is the database. Required.
	DB storage.Querier
	// ServerName is the name of this server; users on it are local. Required.
	ServerName string
	// EventCacheBytes bounds the memory of the cached events. Defaults to 64 MiB.
	EventCacheBytes uint64
	// NodeCacheBytes bounds the cached nodes of state trees. Defaults to 32 MiB.
	NodeCacheBytes uint64
	// InternEntries bounds the cached numbers of users and of state keys, each. Defaults to 200,000.
	InternEntries int
	// RoomEntries bounds the rooms of which something is cached. Defaults to 20,000.
	RoomEntries int
	// MemberEntries bounds the cached places of single users in single rooms. Defaults to 100,000.
	MemberEntries int
}

func (c Config) withDefaults() Config {
	if c.EventCacheBytes == 0 {
		c.EventCacheBytes = 64 << 20
	}
	if c.NodeCacheBytes == 0 {
		c.NodeCacheBytes = 32 << 20
	}
	if c.InternEntries == 0 {
		c.InternEntries = 200_000
	}
	if c.RoomEntries == 0 {
		c.RoomEntries = 20_000
	}
	if c.MemberEntries == 0 {
		c.MemberEntries = 100_000
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.DB == nil {
		errs = append(errs, errors.New("DB is required"))
	}
	if c.ServerName == "" {
		errs = append(errs, errors.New("ServerName is required"))
	}
	if c.InternEntries < 0 || c.RoomEntries < 0 || c.MemberEntries < 0 {
		errs = append(errs, errors.New("InternEntries, RoomEntries and MemberEntries must not be negative"))
	}
	return errors.Join(errs...)
}

type memberKey struct {
	room storage.RoomNID
	user storage.UserNID
}

// Store answers questions about rooms and events.
type Store struct {
	db     storage.Querier
	server string
	nodes  *storage.StateNodes
	// writers names the writers of the events stream.
	writers *storage.Writers

	// What never changes. Events change in one way, by redaction: see load.
	events    memo.Cache[storage.EventNID, *Event]
	eventNIDs memo.Cache[string, storage.EventNID]
	rooms     memo.Cache[storage.RoomNID, *Room]
	roomIDs   memo.Cache[string, *Room]
	userNIDs  memo.Cache[string, storage.UserNID]
	userIDs   memo.Cache[storage.UserNID, string]
	keyNIDs   memo.Cache[event.Tuple, storage.StateKeyNID]
	tuples    memo.Cache[storage.StateKeyNID, event.Tuple]

	// What changes, kept while following.
	following   atomic.Bool
	epochs      epochs
	redactEpoch atomic.Uint64
	heads       memo.Cache[storage.RoomNID, *Head]
	stats       memo.Cache[storage.RoomNID, *storage.RoomStats]
	members     memo.Cache[memberKey, *Member]
	localJoined memo.Cache[storage.RoomNID, []storage.UserNID]
	servers     memo.Cache[storage.RoomNID, *roomServers]
	audiences   memo.Cache[storage.RoomNID, Audience]
	partial     memo.Cache[storage.RoomNID, bool]
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("new store: %w", err)
	}
	return &Store{
		db: cfg.DB, server: cfg.ServerName, writers: storage.NewWriters(),
		nodes: storage.NewStateNodes(storage.StateNodesConfig{DB: cfg.DB, CacheBytes: cfg.NodeCacheBytes}),
		events: memo.NewWeighted(cfg.EventCacheBytes, func(_ storage.EventNID, e *Event) uint32 {
			return uint32(e.memory())
		}),
		// An id with its number takes about 150 bytes, a small event about 1,000.
		eventNIDs:   memo.New[string, storage.EventNID](int(cfg.EventCacheBytes / 1000)),
		rooms:       memo.New[storage.RoomNID, *Room](cfg.RoomEntries),
		roomIDs:     memo.New[string, *Room](cfg.RoomEntries),
		userNIDs:    memo.New[string, storage.UserNID](cfg.InternEntries),
		userIDs:     memo.New[storage.UserNID, string](cfg.InternEntries),
		keyNIDs:     memo.New[event.Tuple, storage.StateKeyNID](cfg.InternEntries),
		tuples:      memo.New[storage.StateKeyNID, event.Tuple](cfg.InternEntries),
		heads:       memo.New[storage.RoomNID, *Head](cfg.RoomEntries),
		stats:       memo.New[storage.RoomNID, *storage.RoomStats](cfg.RoomEntries),
		members:     memo.New[memberKey, *Member](cfg.MemberEntries),
		localJoined: memo.New[storage.RoomNID, []storage.UserNID](cfg.RoomEntries),
		servers:     memo.New[storage.RoomNID, *roomServers](cfg.RoomEntries),
		audiences:   memo.NewWeighted(maxAudience, func(_ storage.RoomNID, a Audience) uint32 { return uint32(len(a) + 1) }),
		partial:     memo.New[storage.RoomNID, bool](cfg.RoomEntries),
	}, nil
}

// ServerName is the name of this server.
func (s *Store) ServerName() string { return s.server }

// IsLocal reports whether a user is on this server.
func (s *Store) IsLocal(userID string) bool { return event.ServerName(userID) == s.server }

// Nodes reads the nodes of state trees through the store's cache.
func (s *Store) Nodes() *storage.StateNodes { return s.nodes }

// Following says that from now on every row of the events stream goes to Apply, so that what changes may be cached.
func (s *Store) Following() {
	s.Forget()
	s.following.Store(true)
}

// Forget drops everything that can change, after a gap in the events stream that could not be filled.
func (s *Store) Forget() {
	for i := range s.epochs {
		s.epochs[i].Add(1)
	}
	s.redactEpoch.Add(1)
	s.events.InvalidateAll()
	s.heads.InvalidateAll()
	s.stats.InvalidateAll()
	s.members.InvalidateAll()
	s.localJoined.InvalidateAll()
	s.servers.InvalidateAll()
	s.audiences.InvalidateAll()
	s.partial.InvalidateAll()
}

// ForgetRoom drops everything of a room that can change, and its events with the states before them, once these were
// replaced by whole ones.
func (s *Store) ForgetRoom(room storage.RoomNID) {
	s.epochs.of(room).Add(1)
	s.redactEpoch.Add(1)
	for e := range s.events.Values() {
		if e.RoomNID == room {
			s.events.Invalidate(e.NID)
		}
	}
	s.heads.Invalidate(room)
	s.partial.Invalidate(room)
	s.stats.Invalidate(room)
	s.localJoined.Invalidate(room)
	s.servers.Invalidate(room)
	s.audiences.Invalidate(room)
	for k := range s.members.Keys() {
		if k.room == room {
			s.members.Invalidate(k)
		}
	}
}

// Apply takes a row of the events stream, from any writer, and drops what it outdates. Subscribe it before any handler
// that reads through the store. Applying a row again does no harm.
func (s *Store) Apply(row *streams.EventRow) {
	room := storage.RoomNID(row.RoomNID)
	s.epochs.of(room).Add(1)
	s.heads.Invalidate(room)
	s.applyAudience(row)
	if row.Redacts != "" {
		s.dropRedacted(row.Redacts)
	}
	if row.Type == event.TypeMember && row.Membership == event.MembershipJoin && row.StateKey != nil && s.IsLocal(*row.StateKey) {
		s.partial.Invalidate(room) // the server may have entered by it
	}
	if row.StateReset {
		s.stats.Invalidate(room)
		s.localJoined.Invalidate(room)
		s.servers.Invalidate(room)
		for k := range s.members.Keys() {
			if k.room == room {
				s.members.Invalidate(k)
			}
		}
		return
	}
	if row.Type == event.TypeMember && Flags(row.Flags)&Outlier != 0 {
		s.members.Invalidate(memberKey{room, storage.UserNID(row.TargetNID)})
		return
	}
	if row.StateKey == nil || !row.Current {
		return
	}
	s.stats.Invalidate(room)
	if row.Type == event.TypeMember {
		s.members.Invalidate(memberKey{room, storage.UserNID(row.TargetNID)})
		s.moveServer(room, row, event.ServerName(*row.StateKey))
		if s.IsLocal(*row.StateKey) {
			s.localJoined.Invalidate(room)
		}
	}
}

func (s *Store) dropRedacted(eventID string) {
	s.redactEpoch.Add(1)
	if nid, ok := s.eventNIDs.GetIfPresent(eventID); ok {
		s.events.Invalidate(nid)
		return
	}
	for e := range s.events.Values() {
		if e.ID() == eventID {
			s.events.Invalidate(e.NID)
		}
	}
}

// Put takes events that were just written, and are not redacted, into the cache.
func (s *Store) Put(events ...*Event) {
	if !s.following.Load() {
		return
	}
	for _, e := range events {
		s.events.Set(e.NID, e)
		s.eventNIDs.Set(e.ID(), e.NID)
	}
}
