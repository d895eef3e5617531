package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/weft-im/weft/storage/statetree"
)

// ErrCollecting says that another process is collecting state garbage.
var ErrCollecting = errors.New("another process is collecting state garbage")

// StateGCConfig configures [CollectStateGarbage].
type StateGCConfig struct {
	// Grace is how long a node stays after it was last written, referred to or
	// not. It must be longer than the longest transaction that writes state, and
	// than a state may stay in use in some process's memory after its last
	// reference was deleted. Defaults to 24 hours.
	Grace time.Duration
	// BatchRows bounds the rows that one statement looks at. Defaults to 5,000.
	BatchRows int
	// Roots are the columns that refer to roots. Defaults to those of this
	// module's tables.
	Roots []StateRootColumn
	// Progress, if set, is called between statements; an error it returns ends
	// the collection. It may wait, to spare the database.
	Progress func(StateGCResult) error
}

// StateRootColumn is a column of state roots (bytea; null and empty stand for no
// state) in a table.
type StateRootColumn struct {
	Table string
	// Key is the primary key, a bigint, by which the table is read in pieces.
	Key    string
	Column string
}

// StateGCResult counts what a collection did so far.
type StateGCResult struct {
	// Roots and Reachable count nodes that are in use: those that rows refer to,
	// and all that these lead to, themselves included.
	Roots, Reachable int64
	// Seen counts nodes that were looked at in the end, Deleted those of them
	// that were deleted.
	Seen, Deleted int64
}

func (c StateGCConfig) withDefaults() StateGCConfig {
	if c.Grace == 0 {
		c.Grace = 24 * time.Hour
	}
	if c.BatchRows == 0 {
		c.BatchRows = 5000
	}
	if c.Roots == nil {
		// Heads come after events: a head that moves on while the events are
		// read moves to a state made of the nodes of the head before, which are
		// in use, and of new ones, which are spared.
		c.Roots = []StateRootColumn{
			{"events", "event_nid", "state_root"},
			{"room_heads", "room_nid", "state_root"},
			{"partial_rooms", "room_nid", "known_root"},
			{"partial_rooms", "room_nid", "full_root"},
		}
	}
	if c.Progress == nil {
		c.Progress = func(StateGCResult) error { return nil }
	}
	return c
}

// stateGCLockKey names the advisory lock of the one collection.
const stateGCLockKey = migrationLockKey + 2

// CollectStateGarbage deletes nodes of state trees that no root leads to and that
// were not written within the grace period. It works in short statements and
// transactions beside it may write: a node that a new tree uses is either used
// by a tree that is in use already, or is written again by the transaction that
// needs it, which renews its grace.
//
// It is to be run seldom: it looks at every event and every node. It starts over
// when it was interrupted. It returns [ErrCollecting] when another one runs.
func CollectStateGarbage(ctx context.Context, db *DB, cfg StateGCConfig) (StateGCResult, error) {
	cfg = cfg.withDefaults()
	c := &stateCollector{StateGCConfig: cfg}
	err := db.AcquireFunc(ctx, func(pc *pgxpool.Conn) error {
		c.conn = pc.Conn()
		return c.run(ctx)
	})
	if err != nil {
		return c.result, fmt.Errorf("collect state garbage: %w", TranslateError(err))
	}
	return c.result, nil
}

type stateCollector struct {
	StateGCConfig
	conn   *pgx.Conn
	cutoff int64
	result StateGCResult
}

func (c *stateCollector) run(ctx context.Context) (err error) {
	var locked bool
	err = c.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1), now_ms() - $2`, int64(stateGCLockKey), c.Grace.Milliseconds()).
		Scan(&locked, &c.cutoff)
	if err != nil {
		return err
	}
	if !locked {
		return ErrCollecting
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, e := c.conn.Exec(ctx, `SELECT pg_advisory_unlock($1)`, int64(stateGCLockKey))
		err = errors.Join(err, e)
	}()
	for _, step := range []func(context.Context) error{c.clear, c.markRoots, c.markReleased, c.markReachable, c.sweep, c.clear} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *stateCollector) clear(ctx context.Context) error {
	_, err := c.conn.Exec(ctx, `TRUNCATE state_node_marks`)
	return err
}

func (c *stateCollector) markRoots(ctx context.Context) error {
	for _, root := range c.Roots {
		table, key, column := pgx.Identifier{root.Table}.Sanitize(), pgx.Identifier{root.Key}.Sanitize(), pgx.Identifier{root.Column}.Sanitize()
		// By the table's primary key: up to a batch of rows.
		sql := fmt.Sprintf(`
WITH page AS MATERIALIZED (SELECT %[2]s AS k, %[3]s AS root FROM %[1]s WHERE %[2]s > $1 ORDER BY %[2]s LIMIT $2),
marked AS (
    INSERT INTO state_node_marks (hash) SELECT DISTINCT root FROM page WHERE length(root) > 0 AND root <> $3
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT (SELECT max(k) FROM page), (SELECT count(*) FROM marked)`, table, key, column)
		after := int64(-1 << 63)
		for {
			var last *int64
			var marked int64
			if err := c.conn.QueryRow(ctx, sql, after, c.BatchRows, statetree.Hash{}).Scan(&last, &marked); err != nil {
				return fmt.Errorf("mark roots of %s: %w", root.Table, err)
			}
			if last == nil {
				break
			}
			after = *last
			c.result.Roots += marked
			if err := c.Progress(c.result); err != nil {
				return err
			}
		}
	}
	c.result.Reachable = c.result.Roots
	return nil
}

func (c *stateCollector) markReleased(ctx context.Context) error {
	// By sequential scan of a table that holds a day's purges.
	_, err := c.conn.Exec(ctx, `DELETE FROM state_roots_released WHERE released_ts < $1`, c.cutoff)
	if err != nil {
		return err
	}
	tag, err := c.conn.Exec(ctx, `
INSERT INTO state_node_marks (hash) SELECT hash FROM state_roots_released ON CONFLICT DO NOTHING`)
	c.result.Reachable += tag.RowsAffected()
	return err
}

// By the index of marks to do and the primary keys: a batch of nodes and their
// up to 16 children. An encoded inner node begins with 2 and ends with its
// children's hashes, before which stand 4 to 12 bytes: see statetree.Node.Encode.
const markReachableSQL = `
WITH todo AS MATERIALIZED (SELECT hash FROM state_node_marks WHERE NOT expanded LIMIT $1),
done AS (UPDATE state_node_marks m SET expanded = true FROM todo WHERE m.hash = todo.hash),
marked AS (
    INSERT INTO state_node_marks (hash)
    SELECT DISTINCT substring(n.data FROM length(n.data) - 16 * i + 1 FOR 16)
    FROM todo JOIN state_nodes n USING (hash), generate_series(1, (length(n.data) - 4) / 16) AS i
    WHERE get_byte(n.data, 0) = 2
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM todo), (SELECT count(*) FROM marked)`

func (c *stateCollector) markReachable(ctx context.Context) error {
	for {
		var done, marked int64
		if err := c.conn.QueryRow(ctx, markReachableSQL, c.BatchRows).Scan(&done, &marked); err != nil {
			return fmt.Errorf("mark reachable nodes: %w", err)
		}
		if done == 0 {
			return nil
		}
		c.result.Reachable += marked
		if err := c.Progress(c.result); err != nil {
			return err
		}
	}
}

// By primary keys: up to a batch of nodes. A node that is written again while
// the statement runs is looked at again before it is deleted.
const sweepStateNodesSQL = `
WITH page AS MATERIALIZED (SELECT hash, written_ts FROM state_nodes WHERE hash > $1 ORDER BY hash LIMIT $2),
deleted AS (
    DELETE FROM state_nodes n USING page p
    WHERE n.hash = p.hash AND n.written_ts < $3 AND NOT EXISTS (SELECT FROM state_node_marks m WHERE m.hash = p.hash)
    RETURNING 1
)
SELECT (SELECT hash FROM page ORDER BY hash DESC LIMIT 1), (SELECT count(*) FROM page), (SELECT count(*) FROM deleted)`

func (c *stateCollector) sweep(ctx context.Context) error {
	after := []byte{}
	for {
		var last []byte
		var seen, deleted int64
		if err := c.conn.QueryRow(ctx, sweepStateNodesSQL, after, c.BatchRows, c.cutoff).Scan(&last, &seen, &deleted); err != nil {
			return fmt.Errorf("delete unreachable nodes: %w", err)
		}
		if seen == 0 {
			return nil
		}
		after = last
		c.result.Seen += seen
		c.result.Deleted += deleted
		if err := c.Progress(c.result); err != nil {
			return err
		}
	}
}

const releaseStateRootsSQL = `
INSERT INTO state_roots_released (hash, released_ts) SELECT DISTINCT hash, now_ms() FROM unnest($1::bytea[]) AS hash
ON CONFLICT (hash) DO UPDATE SET released_ts = excluded.released_ts`

// ReleaseStateRoots must be called in a transaction that deletes rows which refer
// to the roots, such as a purge of history: garbage collection spares them for
// its grace period, in case another transaction builds on one of them just now.
func ReleaseStateRoots(ctx context.Context, tx Querier, roots []statetree.Hash) error {
	if _, err := tx.Exec(ctx, releaseStateRootsSQL, roots); err != nil {
		return fmt.Errorf("release %d state roots: %w", len(roots), TranslateError(err))
	}
	return nil
}
