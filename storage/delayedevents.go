package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// DelayedEvent is an event that a user has asked to be sent later. Times are in milliseconds since the Unix epoch.
type DelayedEvent struct {
	DelayID string  `db:"delay_id"`
	UserNID UserNID `db:"user_nid"`
	// UserID is set by the functions that read.
	UserID   string `db:"user_id"`
	DeviceID string `db:"device_id"`
	// TxnID is that of the request that scheduled it, or nil.
	TxnID  *string `db:"txn_id"`
	RoomID string  `db:"room_id"`
	Type   string  `db:"type"`
	// StateKey is nil for message events.
	StateKey *string `db:"state_key"`
	Content  []byte  `db:"content"`
	// OriginServerTS is the time of the event, nil for that of its sending.
	OriginServerTS *int64 `db:"origin_server_ts"`
	// Delay is in milliseconds and counts from RunningSince; SendTS is their sum.
	Delay        int64 `db:"delay"`
	RunningSince int64 `db:"running_since"`
	SendTS       int64 `db:"send_ts"`
	// Attempts is how often sending has failed for reasons that may pass.
	Attempts int `db:"attempts"`
	// FinalisedTS is when the event was sent (EventID), cancelled, or refused (Error, a JSON object); nil until then.
	FinalisedTS *int64  `db:"finalised_ts"`
	EventID     *string `db:"event_id"`
	Error       []byte  `db:"error"`
}

const delayedColumns = `d.delay_id, d.user_nid, n.user_id, d.device_id, d.txn_id, d.room_id, d.type, d.state_key, d.content,
    d.origin_server_ts, d.delay, d.running_since, d.send_ts, d.attempts, d.finalised_ts, d.event_id, d.error`

// ErrTooManyDelayed is returned for a user who has as many events scheduled as allowed.
var ErrTooManyDelayed = errors.New("too many delayed events")

// By delayed_events_user; one round trip, in which the user's schedulings come one after the other.
const (
	lockDelayedUserSQL = `SELECT FROM users WHERE user_nid = $1 FOR NO KEY UPDATE`
	insertDelayedSQL   = `
INSERT INTO delayed_events (delay_id, user_nid, device_id, txn_id, room_id, type, state_key, content, origin_server_ts, delay,
    running_since, send_ts)
SELECT $1::text, $2::bigint, $3::text, $4::text, $5::text, $6::text, $7::text, $8::bytea, $9::bigint, $10::bigint, $11::bigint,
    $11::bigint + $10::bigint
WHERE (SELECT count(*) FROM delayed_events WHERE user_nid = $2 AND finalised_ts IS NULL) < $12
ON CONFLICT DO NOTHING
RETURNING delay_id`
	findDelayedTxnSQL = `
SELECT delay_id FROM delayed_events WHERE user_nid = $1 AND device_id = $2 AND room_id = $3 AND txn_id = $4`
)

// InsertDelayedEvent schedules an event and returns its delay id: that of an earlier one where the device used the
// transaction id before. It returns ErrTooManyDelayed where the user has limit events scheduled.
func InsertDelayedEvent(ctx context.Context, tx *Tx, e DelayedEvent, limit int) (string, error) {
	id, found := "", ""
	b := &pgx.Batch{}
	b.Queue(lockDelayedUserSQL, e.UserNID)
	b.Queue(insertDelayedSQL, e.DelayID, e.UserNID, e.DeviceID, e.TxnID, e.RoomID, e.Type, e.StateKey, e.Content,
		e.OriginServerTS, e.Delay, e.RunningSince, limit).QueryRow(scanOptional(&id))
	b.Queue(findDelayedTxnSQL, e.UserNID, e.DeviceID, e.RoomID, e.TxnID).QueryRow(scanOptional(&found))
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return "", fmt.Errorf("schedule event: %w", TranslateError(err))
	}
	switch {
	case id != "":
		return id, nil
	case found != "":
		return found, nil
	}
	return "", ErrTooManyDelayed
}

// scanOptional reads one column of a row that may not be there.
func scanOptional(dst any) func(pgx.Row) error {
	return func(row pgx.Row) error {
		if err := row.Scan(dst); !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return nil
	}
}

// FindDelayedTxn returns the delay id of the event a device scheduled with a transaction id, or "".
func FindDelayedTxn(ctx context.Context, q Querier, user UserNID, deviceID, roomID, txnID string) (string, error) {
	id := ""
	if err := scanOptional(&id)(q.QueryRow(ctx, findDelayedTxnSQL, user, deviceID, roomID, txnID)); err != nil {
		return "", fmt.Errorf("find scheduled event: %w", TranslateError(err))
	}
	return id, nil
}

// NextDelayedTS returns when the next of the events of a user is to be sent, 0 if there is none.
func NextDelayedTS(ctx context.Context, q Querier, user UserNID) (int64, error) {
	var ts *int64
	err := q.QueryRow(ctx, `SELECT min(send_ts) FROM delayed_events WHERE user_nid = $1 AND finalised_ts IS NULL`, user).Scan(&ts)
	if err != nil {
		return 0, fmt.Errorf("find next scheduled event: %w", TranslateError(err))
	}
	if ts == nil {
		return 0, nil
	}
	return *ts, nil
}

// GetDelayedEvent returns an event by its delay id, or ErrNotFound.
func GetDelayedEvent(ctx context.Context, q Querier, delayID string) (*DelayedEvent, error) {
	rows, err := q.Query(ctx, `SELECT `+delayedColumns+` FROM delayed_events d JOIN user_ids n USING (user_nid) WHERE d.delay_id = $1`, delayID)
	if err != nil {
		return nil, fmt.Errorf("get scheduled event: %w", TranslateError(err))
	}
	e, err := pgx.CollectOneRow(rows, pgx.RowToStructByName[DelayedEvent])
	if err != nil {
		return nil, fmt.Errorf("get scheduled event: %w", TranslateError(err))
	}
	return &e, nil
}

// By delayed_events_user; $6 rows.
const listDelayedSQL = `
SELECT ` + delayedColumns + ` FROM delayed_events d JOIN user_ids n USING (user_nid)
WHERE d.user_nid = $1 AND (d.finalised_ts IS NOT NULL) = $2::boolean AND ($3::text = '' OR d.room_id = $3)
AND (d.send_ts, d.delay_id) > ($4::bigint, $5::text)
ORDER BY d.send_ts, d.delay_id LIMIT $6`

// ListDelayedEvents returns events of a user in the order of their sending, scheduled or finalised ones, of one room
// where roomID is not "", after that of the given time and delay id.
func ListDelayedEvents(ctx context.Context, q Querier, user UserNID, finalised bool, roomID string, afterTS int64, afterID string, limit int) ([]DelayedEvent, error) {
	return collect[DelayedEvent](ctx, q, listDelayedSQL, user, finalised, roomID, afterTS, afterID, limit)
}

// By delayed_events_due; $3 rows at most. Those that another process is at are passed over.
const claimDelayedSQL = `
WITH due AS (
    SELECT delay_id FROM delayed_events
    WHERE finalised_ts IS NULL AND send_ts <= $1 AND retry_ts <= $1 AND claimed_until_ts <= $1 ORDER BY send_ts LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE delayed_events d SET claimed_until_ts = $2
FROM due, user_ids n WHERE d.delay_id = due.delay_id AND n.user_nid = d.user_nid
RETURNING ` + delayedColumns

// ClaimDelayedEvents takes events that are due at nowTS, and that nobody is at, for the caller until untilTS.
func ClaimDelayedEvents(ctx context.Context, q Querier, nowTS, untilTS int64, limit int) ([]DelayedEvent, error) {
	return collect[DelayedEvent](ctx, q, claimDelayedSQL, nowTS, untilTS, limit)
}

// By delayed_events_due; one row.
const nextDelayedSQL = `
SELECT min(greatest(send_ts, retry_ts, claimed_until_ts)) FROM (
    SELECT send_ts, retry_ts, claimed_until_ts FROM delayed_events WHERE finalised_ts IS NULL ORDER BY send_ts LIMIT 100
) d`

// NextDelayedEvent returns when the next event is due that nobody is at, 0 if there is none.
func NextDelayedEvent(ctx context.Context, q Querier) (int64, error) {
	var ts *int64
	if err := q.QueryRow(ctx, nextDelayedSQL).Scan(&ts); err != nil {
		return 0, fmt.Errorf("find next scheduled event: %w", TranslateError(err))
	}
	if ts == nil {
		return 0, nil
	}
	return *ts, nil
}

// RestartDelayedEvent has the delay of a scheduled event begin anew at nowTS. It reports whether the event was still
// scheduled and not being sent.
func RestartDelayedEvent(ctx context.Context, q Querier, delayID string, nowTS int64) (bool, error) {
	tag, err := q.Exec(ctx, `
UPDATE delayed_events SET running_since = $2, send_ts = $2 + delay, attempts = 0, retry_ts = 0
WHERE delay_id = $1 AND finalised_ts IS NULL AND claimed_until_ts <= $2`, delayID, nowTS)
	if err != nil {
		return false, fmt.Errorf("restart scheduled event: %w", TranslateError(err))
	}
	return tag.RowsAffected() > 0, nil
}

// ClaimDelayedEvent takes one scheduled event for the caller until untilTS, due or not, and reports whether it could: it
// was still scheduled, and nobody was at it.
func ClaimDelayedEvent(ctx context.Context, q Querier, delayID string, nowTS, untilTS int64) (bool, error) {
	tag, err := q.Exec(ctx, `
UPDATE delayed_events SET claimed_until_ts = $3 WHERE delay_id = $1 AND finalised_ts IS NULL AND claimed_until_ts <= $2`,
		delayID, nowTS, untilTS)
	if err != nil {
		return false, fmt.Errorf("claim scheduled event: %w", TranslateError(err))
	}
	return tag.RowsAffected() > 0, nil
}

// ReleaseDelayedEvent gives a claimed event back after a failed attempt: it is due again at nextTS.
func ReleaseDelayedEvent(ctx context.Context, q Querier, delayID string, nextTS int64) error {
	_, err := q.Exec(ctx, `
UPDATE delayed_events SET claimed_until_ts = 0, retry_ts = $2, attempts = attempts + 1 WHERE delay_id = $1 AND finalised_ts IS NULL`, delayID, nextTS)
	if err != nil {
		return fmt.Errorf("release scheduled event: %w", TranslateError(err))
	}
	return nil
}

// FinaliseDelayedEvent ends a scheduled event: it was sent as eventID, refused with an error, or cancelled where both are
// nil. It reports whether the event was still scheduled.
func FinaliseDelayedEvent(ctx context.Context, q Querier, delayID string, nowTS int64, eventID *string, refused []byte) (bool, error) {
	tag, err := q.Exec(ctx, `
UPDATE delayed_events SET finalised_ts = $2, event_id = $3, error = $4 WHERE delay_id = $1 AND finalised_ts IS NULL`,
		delayID, nowTS, eventID, refused)
	if err != nil {
		return false, fmt.Errorf("finalise scheduled event: %w", TranslateError(err))
	}
	return tag.RowsAffected() > 0, nil
}

// CancelDelayedEvent ends a scheduled event that nobody is sending at nowTS. It reports whether there was one.
func CancelDelayedEvent(ctx context.Context, q Querier, delayID string, nowTS int64) (bool, error) {
	tag, err := q.Exec(ctx, `
UPDATE delayed_events SET finalised_ts = $2 WHERE delay_id = $1 AND finalised_ts IS NULL AND claimed_until_ts <= $2`, delayID, nowTS)
	if err != nil {
		return false, fmt.Errorf("cancel scheduled event: %w", TranslateError(err))
	}
	return tag.RowsAffected() > 0, nil
}

// PruneDelayedEvents deletes events that were finalised before a time.
func PruneDelayedEvents(ctx context.Context, q Querier, beforeTS int64) error {
	if _, err := q.Exec(ctx, `DELETE FROM delayed_events WHERE finalised_ts < $1`, beforeTS); err != nil {
		return fmt.Errorf("prune scheduled events: %w", TranslateError(err))
	}
	return nil
}
