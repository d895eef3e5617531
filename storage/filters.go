package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// By the unique index of user_ids and the primary key; one row.
const insertFilterSQL = `
INSERT INTO filters (user_nid, filter_id, filter)
SELECT user_nid, $2, $3 FROM user_ids WHERE user_id = $1
ON CONFLICT DO NOTHING`

// InsertFilter stores a filter of a user under an id. Where the id is taken nothing changes: ids are made from the
// filter's content, so the filter that is there is the same.
func InsertFilter(ctx context.Context, q Querier, userID, filterID string, filter []byte) error {
	if _, err := q.Exec(ctx, insertFilterSQL, userID, filterID, filter); err != nil {
		return fmt.Errorf("insert filter: %w", TranslateError(err))
	}
	return nil
}

// By the unique index of user_ids and the primary key; one row.
const getFilterSQL = `
SELECT f.filter FROM filters f JOIN user_ids u USING (user_nid) WHERE u.user_id = $1 AND f.filter_id = $2`

// GetFilter returns a stored filter of a user, or [ErrNotFound].
func GetFilter(ctx context.Context, q Querier, userID, filterID string) ([]byte, error) {
	rows, err := q.Query(ctx, getFilterSQL, userID, filterID)
	if err != nil {
		return nil, fmt.Errorf("get filter: %w", TranslateError(err))
	}
	filter, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("get filter: %w", TranslateError(err))
	}
	return filter, nil
}
