package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// DestinationRetry says since when another server has not answered, and when to try it again. Times are in milliseconds
// since the epoch.
type DestinationRetry struct {
	// FailureTS is when it first did not answer, 0 if it answers.
	FailureTS int64 `db:"failure_ts"`
	// RetryLastTS is when it was last tried, RetryIntervalMS how long to wait from then on.
	RetryLastTS     int64 `db:"retry_last_ts"`
	RetryIntervalMS int64 `db:"retry_interval_ms"`
}

const getDestinationRetrySQL = `SELECT coalesce(failure_ts, 0) AS failure_ts, retry_last_ts, retry_interval_ms FROM destinations WHERE destination = $1`

// GetDestinationRetry returns what is known of a server, the zero value if it answers.
func GetDestinationRetry(ctx context.Context, q Querier, destination string) (DestinationRetry, error) {
	rows, err := q.Query(ctx, getDestinationRetrySQL, destination)
	if err == nil {
		var d DestinationRetry
		if d, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[DestinationRetry]); err == nil {
			return d, nil
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return DestinationRetry{}, nil
		}
	}
	return DestinationRetry{}, fmt.Errorf("get retry of a destination: %w", TranslateError(err))
}

// A process that has been waiting longer than the others knows better. Of several that fail at once the first counts.
const putDestinationRetrySQL = `
INSERT INTO destinations AS d (destination, failure_ts, retry_last_ts, retry_interval_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (destination) DO UPDATE
SET failure_ts = coalesce(d.failure_ts, excluded.failure_ts), retry_last_ts = excluded.retry_last_ts, retry_interval_ms = excluded.retry_interval_ms
WHERE d.failure_ts IS NULL OR d.retry_last_ts + d.retry_interval_ms <= excluded.retry_last_ts
RETURNING coalesce(d.failure_ts, 0) AS failure_ts, d.retry_last_ts, d.retry_interval_ms`

// PutDestinationRetry says that a server did not answer. Where another process has found that out since, what it wrote
// stays. It returns what is known then.
func PutDestinationRetry(ctx context.Context, q Querier, destination string, d DestinationRetry) (DestinationRetry, error) {
	rows, err := q.Query(ctx, putDestinationRetrySQL, destination, d.FailureTS, d.RetryLastTS, d.RetryIntervalMS)
	if err == nil {
		var got DestinationRetry
		if got, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[DestinationRetry]); err == nil {
			return got, nil
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return GetDestinationRetry(ctx, q, destination)
		}
	}
	return DestinationRetry{}, fmt.Errorf("put retry of a destination: %w", TranslateError(err))
}

const clearDestinationRetrySQL = `
UPDATE destinations SET failure_ts = NULL, retry_last_ts = 0, retry_interval_ms = 0 WHERE destination = $1 AND failure_ts IS NOT NULL`

// ClearDestinationRetry says that a server answers, and reports whether it was thought not to.
func ClearDestinationRetry(ctx context.Context, q Querier, destination string) (bool, error) {
	tag, err := q.Exec(ctx, clearDestinationRetrySQL, destination)
	if err != nil {
		return false, fmt.Errorf("clear retry of a destination: %w", TranslateError(err))
	}
	return tag.RowsAffected() > 0, nil
}
