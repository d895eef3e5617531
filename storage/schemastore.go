package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pressly/goose/v3/database"
)

// schemaStore keeps goose's record of what was run, in schema_migrations, with
// the oldest compatible version beside it.
type schemaStore struct{ migrations []migration }

var _ database.Store = (*schemaStore)(nil)

// Tablename implements [database.Store].
func (*schemaStore) Tablename() string { return "schema_migrations" }

// TableExists is an optional method of [database.Store].
func (*schemaStore) TableExists(ctx context.Context, db database.DBTxConn) (exists bool, err error) {
	err = db.QueryRowContext(ctx, `SELECT to_regclass('schema_migrations') IS NOT NULL`).Scan(&exists)
	return exists, err
}

// CreateVersionTable implements [database.Store].
func (*schemaStore) CreateVersionTable(ctx context.Context, db database.DBTxConn) error {
	_, err := db.ExecContext(ctx, `
CREATE TABLE schema_migrations (
    version           bigint PRIMARY KEY,
    name              text NOT NULL,
    oldest_compatible bigint NOT NULL,
    applied_at        timestamptz NOT NULL DEFAULT clock_timestamp()
)`)
	return err
}

// Insert implements [database.Store]. Version 0 is goose's mark of an empty
// schema.
func (s *schemaStore) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	m := migration{name: "empty"}
	for _, known := range s.migrations {
		if known.version == req.Version {
			m = known
		}
	}
	_, err := db.ExecContext(ctx, `INSERT INTO schema_migrations (version, name, oldest_compatible) VALUES ($1, $2, $3)`,
		req.Version, m.name, m.oldestCompatible)
	return err
}

// Delete implements [database.Store]. There are no down migrations; goose calls
// it for none.
func (*schemaStore) Delete(ctx context.Context, db database.DBTxConn, version int64) error {
	_, err := db.ExecContext(ctx, `DELETE FROM schema_migrations WHERE version = $1`, version)
	return err
}

// GetMigration implements [database.Store].
func (*schemaStore) GetMigration(ctx context.Context, db database.DBTxConn, version int64) (*database.GetMigrationResult, error) {
	r := database.GetMigrationResult{IsApplied: true}
	err := db.QueryRowContext(ctx, `SELECT applied_at FROM schema_migrations WHERE version = $1`, version).Scan(&r.Timestamp)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %d", database.ErrVersionNotFound, version)
	}
	return &r, err
}

// GetLatestVersion implements [database.Store].
func (*schemaStore) GetLatestVersion(ctx context.Context, db database.DBTxConn) (int64, error) {
	var version sql.NullInt64
	err := db.QueryRowContext(ctx, `SELECT max(version) FROM schema_migrations`).Scan(&version)
	if err == nil && !version.Valid {
		err = database.ErrVersionNotFound
	}
	return version.Int64, err
}

// ListMigrations implements [database.Store].
func (*schemaStore) ListMigrations(ctx context.Context, db database.DBTxConn) ([]*database.ListMigrationsResult, error) {
	rows, err := db.QueryContext(ctx, `SELECT version FROM schema_migrations ORDER BY version DESC`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var results []*database.ListMigrationsResult
	for rows.Next() {
		r := database.ListMigrationsResult{IsApplied: true}
		if err := rows.Scan(&r.Version); err != nil {
			return nil, err
		}
		results = append(results, &r)
	}
	return results, rows.Err()
}

// migrationLockKey names the advisory lock of whoever migrates: the letters
// "weft" and 1.
const migrationLockKey = 0x7765_6674_0000_0001

// migrationLock lets one process migrate at a time.
type migrationLock struct{}

// SessionLock implements goose's lock.SessionLocker. It asks again and again
// instead of waiting inside the server, because a waiting session would hold a
// snapshot and CREATE INDEX CONCURRENTLY of the process that has the lock waits
// for snapshots.
func (migrationLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	for {
		var locked bool
		if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, int64(migrationLockKey)).Scan(&locked); err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		if locked {
			break
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("lock migrations: another process migrates: %w", err)
		}
	}
	// A migration may run longer than any request; goose lets the connection sit
	// in a transaction while it works on others.
	for _, name := range timeouts() {
		if _, err := conn.ExecContext(ctx, `SELECT set_config('weft.' || $1, current_setting($1), false), set_config($1, '0', false)`, name); err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
	}
	return nil
}

// timeouts are the settings that migrations are exempt from. What they were is
// kept beside them under a name of our own.
func timeouts() []string { return []string{"statement_timeout", "idle_in_transaction_session_timeout"} }

// SessionUnlock implements goose's lock.SessionLocker.
func (migrationLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	var err error
	for _, name := range timeouts() {
		_, e := conn.ExecContext(ctx, `SELECT set_config($1, current_setting('weft.' || $1), false)`, name)
		err = errors.Join(err, e)
	}
	_, e := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, int64(migrationLockKey))
	return errors.Join(err, e)
}
