package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PushRules is what a user has changed about their push rules.
type PushRules struct {
	UserNID UserNID
	// StreamID and WriterNID are the place of the last change in the push_rules stream.
	StreamID  int64
	WriterNID WriterNID
	// Rules is JSON that means something to package homeserver/push.
	Rules json.RawMessage
}

// By the primary key; a row for each user who has changed anything.
const getPushRulesSQL = `SELECT user_nid, stream_id, writer_nid, rules FROM push_rules WHERE user_nid = ANY ($1)`

// GetPushRules returns what users have changed about their rules. Those who have changed nothing are left out.
func GetPushRules(ctx context.Context, q Querier, users []UserNID) ([]PushRules, error) {
	rows, err := q.Query(ctx, getPushRulesSQL, int64s(users))
	if err != nil {
		return nil, fmt.Errorf("get push rules: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r PushRules, err error) {
		err = row.Scan(&r.UserNID, &r.StreamID, &r.WriterNID, (*[]byte)(&r.Rules))
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("get push rules: %w", TranslateError(err))
	}
	return out, nil
}

// Of two that change a user's first rule at once, the second waits for the first to commit and is given what that wrote.
const lockPushRulesSQL = `
INSERT INTO push_rules AS p (user_nid, stream_id, writer_nid, rules) VALUES ($1, 0, 0, '{}')
ON CONFLICT (user_nid) DO UPDATE SET stream_id = p.stream_id
RETURNING rules`

// LockPushRules returns what a user has changed about their rules, "{}" if nothing, locked until the transaction ends. A
// caller that then changes nothing rolls back.
func LockPushRules(ctx context.Context, q Querier, user UserNID) (json.RawMessage, error) {
	var rules []byte
	if err := q.QueryRow(ctx, lockPushRulesSQL, user).Scan(&rules); err != nil {
		return nil, fmt.Errorf("lock push rules: %w", TranslateError(err))
	}
	return rules, nil
}

const putPushRulesSQL = `UPDATE push_rules SET stream_id = $2, writer_nid = $3, rules = $4 WHERE user_nid = $1`

// PutPushRules stores rules that were locked.
func PutPushRules(ctx context.Context, q Querier, r PushRules) error {
	if _, err := q.Exec(ctx, putPushRulesSQL, r.UserNID, r.StreamID, int16(r.WriterNID), []byte(r.Rules)); err != nil {
		return fmt.Errorf("put push rules: %w", TranslateError(err))
	}
	return nil
}

// PushRulesUpdate is a row of the push_rules stream.
type PushRulesUpdate struct {
	StreamID int64  `db:"stream_id"`
	UserID   string `db:"user_id"`
}

// By the index on (writer_nid, stream_id); about $4 rows.
const pushRulesUpdatesSQL = `
SELECT p.stream_id, u.user_id FROM push_rules p JOIN writers w USING (writer_nid) JOIN user_ids u USING (user_nid)
WHERE w.name = $1 AND p.stream_id > $2 AND p.stream_id <= $3
ORDER BY p.stream_id LIMIT $4`

// PushRulesUpdates returns the last changes of rules that the named writer wrote with after < stream_id <= upTo, in order,
// at most limit of them.
func PushRulesUpdates(ctx context.Context, q Querier, writer string, after, upTo int64, limit int) ([]PushRulesUpdate, error) {
	rows, err := q.Query(ctx, pushRulesUpdatesSQL, writer, after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("get push rule updates: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[PushRulesUpdate])
	if err != nil {
		return nil, fmt.Errorf("get push rule updates: %w", TranslateError(err))
	}
	return out, nil
}

// By the primary key of push_rules; one row.
const pushRulesPlaceSQL = `
SELECT p.stream_id, w.name FROM push_rules p JOIN writers w USING (writer_nid) WHERE p.user_nid = $1`

// PushRulesPlace returns where in the push_rules stream a user's last change stands, 0 where there is none.
func PushRulesPlace(ctx context.Context, q Querier, user UserNID) (streamID int64, writer string, err error) {
	err = q.QueryRow(ctx, pushRulesPlaceSQL, user).Scan(&streamID, &writer)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", fmt.Errorf("get place of push rules: %w", TranslateError(err))
	}
	return streamID, writer, nil
}
