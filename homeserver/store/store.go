package store

import (
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/storage"
)

// Config holds what a Store needs.
type Config struct {
	// DB is the database. Required.
	DB storage.Querier
	// ServerName is the name of this server; users on it are local. Required.
	ServerName string
	// EventCacheBytes bounds the JSON of the cached events. Defaults to 64 MiB.
	EventCacheBytes int64
	// NodeCacheBytes bounds the cached nodes of state trees. Defaults to 32 MiB.
	NodeCacheBytes int64
	// InternEntries bounds the cached numbers of users and of state keys, each. Defaults to 200,000.
	InternEntries int
	// Log is silent by default.
	Log zerolog.Logger
}

// Store answers questions about rooms and events.
type Store struct{}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Store, error) { panic("not yet") }

// Following says that from now on every row of the events stream goes to Apply, so that what changes may be cached.
func (s *Store) Following() {}

// Forget drops everything that can change, after a gap in the events stream that could not be filled.
func (s *Store) Forget() {}

// Apply takes a row of the events stream, from any writer, and drops what it outdates. Subscribe it before any handler
// that reads through the store.
func (s *Store) Apply(row *streams.EventRow) {}

// Put takes events that were just written into the cache.
func (s *Store) Put(events ...*Event) {}
