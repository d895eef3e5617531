package storage

import (
	"context"
	"fmt"
)

// currentIdentitySQL is what tells one database from another, and one history
// of a database from another: the cluster, which a logical restore into a new
// one changes; the timeline, which a restore from a base backup and a failover
// change; the database itself, which a copy inside a cluster changes.
const currentIdentitySQL = `
    SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
           CASE WHEN pg_is_in_recovery() THEN 'recovery' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline,
           (SELECT oid FROM pg_database WHERE datname = current_database()) AS database_oid`

const sameIdentitySQL = `SELECT FROM database_identity NATURAL JOIN (` + currentIdentitySQL + `) AS cur`

const recordIdentitySQL = `
INSERT INTO database_identity (system_identifier, timeline, database_oid) ` + currentIdentitySQL + `
ON CONFLICT (only_row) DO UPDATE
SET system_identifier = excluded.system_identifier, timeline = excluded.timeline, database_oid = excluded.database_oid`

// One row a stream, each by the greatest of its few positions. A stream that
// nobody wrote yet has nothing to lose.
const restartStreamsSQL = `
SELECT start_stream_epoch(stream, max(position), 'the database was copied, restored or failed over')
FROM stream_positions GROUP BY stream HAVING max(position) > 0`

// adoptDatabase records where the database lies now and, where that is another
// place than before, starts new epochs of all streams: the data may stand at an
// earlier point than what others saw of it.
func adoptDatabase(ctx context.Context, db *DB) error {
	err := InTx(ctx, db, TxOptions{}, func(ctx context.Context, tx *Tx) error {
		// Processes that start together would each begin an epoch.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLockKey+1)); err != nil {
			return err
		}
		var same bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (`+sameIdentitySQL+`)`).Scan(&same); err != nil || same {
			return err
		}
		if _, err := tx.Exec(ctx, restartStreamsSQL); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, recordIdentitySQL)
		return err
	})
	if err != nil {
		return fmt.Errorf("record where the database lies: %w", err)
	}
	return nil
}
