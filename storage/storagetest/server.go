package storagetest

import (
	"context"
	"errors"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/embedded"
)

// Server is a PostgreSQL server of one test, which may stop, kill and restart
// it. Its methods must not be called concurrently.
type Server struct {
	dir      string
	settings map[string]string
	server   *embedded.Server // nil while it is down
}

// NewServer starts a server with a migrated database; it is stopped and removed
// when the test ends. Settings override those of the server: {"fsync": "on"}
// for benchmarks that count the cost of durability.
func NewServer(tb testing.TB, overrides map[string]string) *Server {
	tb.Helper()
	if _, err := embedded.FindBinaries(tb.Context(), 0); errors.Is(err, embedded.ErrNoBinaries) {
		missing(tb, err)
	}
	// Shorter than the test's own directory, and open to the server's user.
	dir, err := os.MkdirTemp("", "weft-pg-")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		tb.Fatal(err)
	}
	s := &Server{dir: dir, settings: map[string]string{"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}}
	maps.Copy(s.settings, overrides)
	tb.Cleanup(func() {
		if s.server != nil {
			s.Stop(tb)
		}
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove test server: %v", err)
		}
	})
	s.Start(tb)
	db, err := storage.Open(tb.Context(), storage.Config{ConnString: s.ConnString()})
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	if err := storage.Migrate(tb.Context(), db); err != nil {
		tb.Fatal(err)
	}
	return s
}

// ConnString returns the connection string of its database, which stays the same
// over restarts.
func (s *Server) ConnString() string {
	connString, err := embedded.ConnString(s.dir)
	if err != nil {
		// The directory is absolute.
		panic(err)
	}
	return connString
}

// Start starts a server that was stopped or killed.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	ctx, cancel := s.context(tb)
	defer cancel()
	server, err := embedded.Start(ctx, embedded.Config{Dir: s.dir, Settings: s.settings})
	if err != nil {
		tb.Fatal(err)
	}
	s.server = server
}

// Stop shuts the server down as an administrator would: connections are ended,
// transactions under way are rolled back.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	ctx, cancel := s.context(tb)
	defer cancel()
	if err := s.server.Stop(ctx); err != nil {
		tb.Fatal(err)
	}
	s.server = nil
}

// Kill ends the server without warning, as a crash does.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	if err := s.server.Kill(); err != nil {
		tb.Fatal(err)
	}
	s.server = nil
}

func (*Server) context(tb testing.TB) (context.Context, context.CancelFunc) {
	// In a cleanup the test's own context has ended.
	return context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
}
