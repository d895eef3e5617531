package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CacheInvalidation is a row of the caches stream.
type CacheInvalidation struct {
	StreamID  int64     `db:"stream_id"`
	WriterNID WriterNID `db:"writer_nid"`
	// CacheFunc is the name of the cache.
	CacheFunc string `db:"cache_func"`
	// Keys are the entries that no longer hold, nil for the whole cache.
	Keys []string `db:"keys"`
	// TS is when, in milliseconds since the epoch.
	TS int64 `db:"ts"`
}

const insertCacheInvalidationsSQL = `
INSERT INTO cache_invalidations (stream_id, writer_nid, cache_func, keys, ts) VALUES ($1, $2, $3, $4, $5)`

// InsertCacheInvalidations stores rows, in one round trip.
func InsertCacheInvalidations(ctx context.Context, q Querier, rows []CacheInvalidation) error {
	b := &pgx.Batch{}
	for _, r := range rows {
		b.Queue(insertCacheInvalidationsSQL, r.StreamID, r.WriterNID, r.CacheFunc, r.Keys, r.TS)
	}
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("insert cache invalidations: %w", TranslateError(err))
	}
	return nil
}

// By the index on (writer_nid, stream_id); about $4 rows. WITH TIES keeps rows with one id together.
const getCacheInvalidationsSQL = `
SELECT c.stream_id, c.writer_nid, c.cache_func, c.keys, c.ts
FROM cache_invalidations c JOIN writers w USING (writer_nid)
WHERE w.name = $1 AND c.stream_id > $2 AND c.stream_id <= $3
ORDER BY c.stream_id
FETCH FIRST $4 ROWS WITH TIES`

const getCacheInvalidationsPrunedSQL = `SELECT up_to FROM cache_invalidations_pruned`

// GetCacheInvalidations returns the rows that the named writer wrote with after < stream_id <= upTo, in order, about
// limit of them: rows with one stream_id are never divided. pruned says that rows in that range may have been deleted.
func GetCacheInvalidations(ctx context.Context, q Querier, writer string, after, upTo int64, limit int) (found []CacheInvalidation, pruned bool, err error) {
	b := &pgx.Batch{}
	// The rows first: what is deleted after they were read does not matter.
	b.Queue(getCacheInvalidationsSQL, writer, after, upTo, limit).Query(func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByName[CacheInvalidation])
		return err
	})
	b.Queue(getCacheInvalidationsPrunedSQL).QueryRow(func(row pgx.Row) error {
		var prunedUpTo int64
		err := row.Scan(&prunedUpTo)
		pruned = after < prunedUpTo
		return err
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, false, fmt.Errorf("get cache invalidations: %w", TranslateError(err))
	}
	return found, pruned, nil
}

// By the index on ts.
const pruneCacheInvalidationsSQL = `
WITH gone AS (DELETE FROM cache_invalidations WHERE ts < $1 RETURNING stream_id),
     mark AS (UPDATE cache_invalidations_pruned SET up_to = greatest(up_to, (SELECT max(stream_id) FROM gone)) WHERE EXISTS (SELECT FROM gone))
SELECT count(*) FROM gone`

// PruneCacheInvalidations deletes rows older than beforeTS, remembers up to where, and returns their number.
func PruneCacheInvalidations(ctx context.Context, q Querier, beforeTS int64) (int64, error) {
	var n int64
	if err := q.QueryRow(ctx, pruneCacheInvalidationsSQL, beforeTS).Scan(&n); err != nil {
		return 0, fmt.Errorf("prune cache invalidations: %w", TranslateError(err))
	}
	return n, nil
}
