package store

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams"
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
	events    *otter.Cache[storage.EventNID, *Event]
	eventNIDs *otter.Cache[string, storage.EventNID]
	rooms     *otter.Cache[storage.RoomNID, *Room]
	roomIDs   *otter.Cache[string, *Room]
	userNIDs  *otter.Cache[string, storage.UserNID]
	userIDs   *otter.Cache[storage.UserNID, string]
	keyNIDs   *otter.Cache[event.Tuple, storage.StateKeyNID]
	tuples    *otter.Cache[storage.StateKeyNID, event.Tuple]

	// What changes, kept while following.
	following   atomic.Bool
	epochs      epochs
	redactEpoch atomic.Uint64
	heads       *otter.Cache[storage.RoomNID, *Head]
	stats       *otter.Cache[storage.RoomNID, *storage.RoomStats]
	members     *otter.Cache[memberKey, *Member]
	localJoined *otter.Cache[storage.RoomNID, []storage.UserNID]
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("new store: %w", err)
	}
	s := &Store{
		db: cfg.DB, server: cfg.ServerName, writers: storage.NewWriters(),
		nodes: storage.NewStateNodes(storage.StateNodesConfig{DB: cfg.DB, CacheBytes: cfg.NodeCacheBytes}),
	}
	var err error
	if s.events, err = otter.New(&otter.Options[storage.EventNID, *Event]{
		MaximumWeight: cfg.EventCacheBytes, Executor: inline,
		Weigher: func(_ storage.EventNID, e *Event) uint32 { return uint32(e.memory()) },
	}); err != nil {
		return nil, fmt.Errorf("new store: %w", err)
	}
	// An id with its number takes about 150 bytes, a small event about 1,000.
	if s.eventNIDs, err = newCache[string, storage.EventNID](int(cfg.EventCacheBytes/1000) + 1); err != nil {
		return nil, fmt.Errorf("new store: %w", err)
	}
	err = errors.Join(
		set(&s.rooms, cfg.RoomEntries), set(&s.roomIDs, cfg.RoomEntries),
		set(&s.userNIDs, cfg.InternEntries), set(&s.userIDs, cfg.InternEntries),
		set(&s.keyNIDs, cfg.InternEntries), set(&s.tuples, cfg.InternEntries),
		set(&s.heads, cfg.RoomEntries), set(&s.stats, cfg.RoomEntries), set(&s.localJoined, cfg.RoomEntries),
		set(&s.members, cfg.MemberEntries),
	)
	if err != nil {
		return nil, fmt.Errorf("new store: %w", err)
	}
	return s, nil
}

func set[K comparable, V any](c **otter.Cache[K, V], entries int) (err error) {
	*c, err = newCache[K, V](entries)
	return err
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
}

// Apply takes a row of the events stream, from any writer, and drops what it outdates. Subscribe it before any handler
// that reads through the store. Applying a row again does no harm.
func (s *Store) Apply(row *streams.EventRow) {
	room := storage.RoomNID(row.RoomNID)
	s.epochs.of(room).Add(1)
	s.heads.Invalidate(room)
	if row.Redacts != "" {
		s.dropRedacted(row.Redacts)
	}
	if row.StateReset {
		s.stats.Invalidate(room)
		s.localJoined.Invalidate(room)
		for k := range s.members.Keys() {
			if k.room == room {
				s.members.Invalidate(k)
			}
		}
		return
	}
	if row.StateKey == nil || !row.Current {
		return
	}
	s.stats.Invalidate(room)
	if row.Type == event.TypeMember {
		s.members.Invalidate(memberKey{room, storage.UserNID(row.TargetNID)})
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
