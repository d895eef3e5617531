// Package embedded runs a private PostgreSQL server.
package embedded

import (
	"context"
	"errors"

	"github.com/rs/zerolog"
)

// Config says where and how.
type Config struct {
	// Dir is the directory that holds the server's data, log and (where the
	// path is short enough) socket. Made when missing. Required.
	Dir string
	// BinDir holds initdb and postgres. Defaults to where they are found: PATH,
	// pg_config, /usr/lib/postgresql.
	BinDir string
	// Settings are added to, and override, the configuration.
	Settings map[string]string
	// Log is told when the server starts and stops.
	Log zerolog.Logger
}

// Server is a running PostgreSQL.
type Server struct{}

// Start starts the server, making its data directory the first time, and
// returns when it answers.
func Start(ctx context.Context, cfg Config) (*Server, error) { return nil, errors.ErrUnsupported }

// ConnString returns the connection string of the server's database "weft".
func (s *Server) ConnString() string { return "" }

// Stop stops the server and waits for it.
func (s *Server) Stop(ctx context.Context) error { return nil }

// Done is closed when the server has ended, asked to or not.
func (s *Server) Done() <-chan struct{} { return nil }
