package storage

import (
	"context"
	"errors"
)

// ErrNotMigrated says that the database's schema is older than this program
// needs: wait for the main process or `weftctl migrate` to migrate it.
var ErrNotMigrated = errors.New("database schema is not migrated yet")

// SchemaTooNewError says that the database was migrated by a later release that
// this program can no longer work with.
type SchemaTooNewError struct {
	// Version is the database's schema version.
	Version int64
	// OldestCompatible is the oldest version a program may know.
	OldestCompatible int64
	// Known is the version this program knows.
	Known int64
}

func (e *SchemaTooNewError) Error() string { return "" }

// Migrate brings the schema up to date.
func Migrate(ctx context.Context, db *DB) error { return errors.ErrUnsupported }

// CheckSchema tells whether the schema suits this program: nil,
// [ErrNotMigrated], or [*SchemaTooNewError].
func CheckSchema(ctx context.Context, db *DB) error { return errors.ErrUnsupported }
