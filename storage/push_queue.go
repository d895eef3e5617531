package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// queueRange bounds the event numbers that one call of QueuePushes goes through.
const queueRange = 10000

const lockPushQueuedSQL = `SELECT event_nid FROM push_queued WHERE one FOR UPDATE`

// livePusher is the condition on a pusher p that sends.
const livePusher = `NOT p.deleted AND p.kind = 'http'
    AND (p.device_id = '' OR EXISTS (SELECT FROM devices d WHERE d.user_nid = p.user_nid AND d.device_id = p.device_id))`

// By the primary keys: the counts in the range; for those of groups the room's members of this server who have pushers, and
// the group of each of these. The planner is kept by the materialized steps from looking at the event, and for the group,
// once a member, and by the lateral limit from scanning all events. Jobs that are there are locked, so that one that ends
// beside it sees what was queued.
const queuePushesSQL = `
WITH counted AS MATERIALIZED (
    SELECT c.room_nid, c.event_nid, c.subject, e.sender_nid
    FROM push_counts c
    CROSS JOIN LATERAL (SELECT sender_nid FROM events WHERE events.event_nid = c.event_nid LIMIT 1) e
    WHERE c.event_nid > $1 AND c.event_nid <= $2 AND c.subject < 0 AND c.effect <> 0
), members AS MATERIALIZED (
    SELECT c.*, m.user_nid, p.pusher_nid
    FROM counted c
    JOIN memberships m ON m.room_nid = c.room_nid AND m.is_local AND m.membership = 2
    JOIN pushers p ON p.user_nid = m.user_nid
    WHERE m.joined_nid < c.event_nid AND m.user_nid <> c.sender_nid AND ` + livePusher + `
), found AS (
    SELECT p.pusher_nid, c.event_nid, c.subject
    FROM push_counts c JOIN pushers p ON p.user_nid = c.subject
    WHERE c.event_nid > $1 AND c.event_nid <= $2 AND c.subject > 0 AND c.effect <> 0 AND ` + livePusher + `
    UNION ALL
    SELECT m.pusher_nid, m.event_nid, m.subject
    FROM members m
    WHERE NOT EXISTS (SELECT FROM push_counts o WHERE o.event_nid = m.event_nid AND o.subject = m.user_nid)
    AND m.subject = coalesce((
        SELECT g.subject FROM push_groups g
        WHERE g.user_nid = m.user_nid AND g.room_nid = m.room_nid AND g.event_nid <= m.event_nid
        ORDER BY g.event_nid DESC LIMIT 1
    ), -1)
), queued AS (
    INSERT INTO push_queue (pusher_nid, event_nid, subject) SELECT pusher_nid, event_nid, subject FROM found
    ON CONFLICT DO NOTHING
    RETURNING pusher_nid
)
INSERT INTO push_jobs (pusher_nid) SELECT DISTINCT pusher_nid FROM queued ORDER BY 1
ON CONFLICT (pusher_nid) DO UPDATE SET claim = push_jobs.claim`

const setPushQueuedSQL = `UPDATE push_queued SET event_nid = $1`

// QueuePushes queues what users were notified of for their pushers, from where the last call anywhere ended up to an event,
// below which all are committed, or a part of that. It returns how far that is and for how many pushers something was
// queued. Calls in several processes wait for each other, and none queues twice.
func QueuePushes(ctx context.Context, db *DB, upTo EventNID) (reached EventNID, pushers int64, err error) {
	err = InTx(ctx, db, TxOptions{}, func(ctx context.Context, tx *Tx) error {
		pushers = 0
		if err := tx.QueryRow(ctx, lockPushQueuedSQL).Scan(&reached); err != nil {
			return err
		}
		if reached >= upTo {
			return nil
		}
		to := min(upTo, reached+queueRange)
		tag, err := tx.Exec(ctx, queuePushesSQL, reached, to)
		if err != nil {
			return err
		}
		pushers, reached = tag.RowsAffected(), to
		_, err = tx.Exec(ctx, setPushQueuedSQL, to)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("queue pushes: %w", err)
	}
	return reached, pushers, nil
}

// By the index of pushers on their users; a row a pusher.
const queueBadgesSQL = `
WITH queued AS (
    INSERT INTO push_queue (pusher_nid, event_nid, subject)
    SELECT p.pusher_nid, 0, 0 FROM pushers p JOIN user_ids u USING (user_nid) WHERE u.user_id = ANY ($1) AND ` + livePusher + `
    ON CONFLICT DO NOTHING
    RETURNING pusher_nid
)
INSERT INTO push_jobs (pusher_nid) SELECT pusher_nid FROM queued ORDER BY 1
ON CONFLICT (pusher_nid) DO UPDATE SET claim = push_jobs.claim`

// QueueBadges has the pushers of users send how much is unread by now. It returns for how many.
func QueueBadges(ctx context.Context, q Querier, userIDs []string) (int64, error) {
	tag, err := q.Exec(ctx, queueBadgesSQL, userIDs)
	if err != nil {
		return 0, fmt.Errorf("queue badges: %w", TranslateError(err))
	}
	return tag.RowsAffected(), nil
}

// PushClaim is the right to send for a pusher for a while.
type PushClaim struct {
	PusherNID int64 `db:"pusher_nid"`
	Claim     int64 `db:"claim"`
	// Failures counts the attempts since the gateway last answered.
	Failures int `db:"failures"`
}

// By the index on when jobs are due.
const claimPushersSQL = `
WITH due AS (
    SELECT pusher_nid FROM push_jobs WHERE greatest(claimed_until, next_try) <= now()
    ORDER BY greatest(claimed_until, next_try) LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE push_jobs j SET claim = j.claim + 1, claimed_until = now() + $2 FROM due
WHERE j.pusher_nid = due.pusher_nid
RETURNING j.pusher_nid, j.claim, j.failures`

// ClaimPushers claims pushers that have something to send, at most limit, for the given time.
func ClaimPushers(ctx context.Context, q Querier, limit int, hold time.Duration) ([]PushClaim, error) {
	rows, err := q.Query(ctx, claimPushersSQL, limit, hold)
	if err != nil {
		return nil, fmt.Errorf("claim pushers: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[PushClaim])
	if err != nil {
		return nil, fmt.Errorf("claim pushers: %w", TranslateError(err))
	}
	return out, nil
}

const nextPushSQL = `SELECT extract(epoch FROM greatest(claimed_until, next_try) - now())::float8 FROM push_jobs ORDER BY greatest(claimed_until, next_try) LIMIT 1`

// NextPush returns how long it is until a pusher is due, [ErrNotFound] where none will be.
func NextPush(ctx context.Context, q Querier) (time.Duration, error) {
	var seconds float64
	if err := q.QueryRow(ctx, nextPushSQL).Scan(&seconds); err != nil {
		return 0, fmt.Errorf("find next push: %w", TranslateError(err))
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// QueuedPush is something a pusher is to send.
type QueuedPush struct {
	// EventNID is 0 for how much is unread by itself.
	EventNID EventNID `db:"event_nid"`
	// Actions is a JSON array, "" for that of a plain notification.
	Actions string `db:"actions"`
	// Redacted is set for an event that is redacted by now.
	Redacted bool `db:"redacted"`
}

const claimedPusherSQL = `
SELECT p.user_nid, u.user_id, p.app_id, p.pushkey, p.set_ts, p.data
FROM pushers p JOIN user_ids u USING (user_nid) WHERE p.pusher_nid = $1 AND ` + livePusher

const queuedPushesSQL = `
SELECT q.event_nid, coalesce(c.actions, '') AS actions, coalesce(c.redacted, q.event_nid <> 0) AS redacted
FROM push_queue q LEFT JOIN push_counts c USING (event_nid, subject)
WHERE q.pusher_nid = $1 ORDER BY q.event_nid LIMIT $2`

// QueuedPushes returns a pusher and what it is to send, in order, at most limit. The pusher is [ErrNotFound] once it, or
// the session that made it, is gone. UserID is set along with the rest of the pusher.
func QueuedPushes(ctx context.Context, q Querier, pusher int64, limit int) (p Pusher, userID string, queued []QueuedPush, err error) {
	err = q.QueryRow(ctx, claimedPusherSQL, pusher).Scan(&p.UserNID, &userID, &p.AppID, &p.Pushkey, &p.SetTS, (*[]byte)(&p.Data))
	if err != nil {
		return p, "", nil, fmt.Errorf("get claimed pusher: %w", TranslateError(err))
	}
	rows, err := q.Query(ctx, queuedPushesSQL, pusher, limit)
	if err != nil {
		return p, "", nil, fmt.Errorf("get queued pushes: %w", TranslateError(err))
	}
	if queued, err = pgx.CollectRows(rows, pgx.RowToStructByName[QueuedPush]); err != nil {
		return p, "", nil, fmt.Errorf("get queued pushes: %w", TranslateError(err))
	}
	return p, userID, queued, nil
}

// By primary keys; one row each.
const (
	extendPushClaimSQL = `UPDATE push_jobs SET claimed_until = now() + $3, failing_since = NULL, failures = 0 WHERE pusher_nid = $1 AND claim = $2`
	deletePushSQL      = `DELETE FROM push_queue WHERE pusher_nid = $1 AND event_nid = $3 AND EXISTS (SELECT FROM push_jobs WHERE pusher_nid = $1 AND claim = $2)`
)

// PushSentOff takes something that was sent out of the queue and extends the claim. It reports whether the claim still
// holds; where it does not, another process sends for the pusher.
func PushSentOff(ctx context.Context, db *DB, c PushClaim, event EventNID, hold time.Duration) (bool, error) {
	b := &pgx.Batch{}
	b.Queue(extendPushClaimSQL, c.PusherNID, c.Claim, hold)
	b.Queue(deletePushSQL, c.PusherNID, c.Claim, event)
	r := db.SendBatch(ctx, b)
	tag, err := r.Exec()
	if err = errors.Join(err, r.Close()); err != nil {
		return false, fmt.Errorf("take a push out of the queue: %w", TranslateError(err))
	}
	return tag.RowsAffected() > 0, nil
}

const failPushSQL = `
UPDATE push_jobs SET claimed_until = '-infinity', next_try = now() + $3, failures = failures + 1, failing_since = coalesce(failing_since, now())
WHERE pusher_nid = $1 AND claim = $2
RETURNING failing_since < now() - $4::interval`

const forgetPushesSQL = `DELETE FROM push_queue WHERE pusher_nid = $1`

// PushFailed gives a claim up until the next try. What is queued of a pusher that has failed for longer than patience is
// given up too.
func PushFailed(ctx context.Context, q Querier, c PushClaim, retryIn, patience time.Duration) (gaveUp bool, err error) {
	err = q.QueryRow(ctx, failPushSQL, c.PusherNID, c.Claim, retryIn, patience).Scan(&gaveUp)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil // Another process has it.
	}
	if err == nil && gaveUp {
		_, err = q.Exec(ctx, forgetPushesSQL, c.PusherNID)
	}
	if err != nil {
		return false, fmt.Errorf("put off a push: %w", TranslateError(err))
	}
	return gaveUp, nil
}

// The job is locked first: a statement after that sees what was queued beside it.
const (
	lockPushJobSQL    = `SELECT FROM push_jobs WHERE pusher_nid = $1 FOR UPDATE`
	dropPushesSQL     = `DELETE FROM push_queue WHERE pusher_nid = $1 AND $3 AND EXISTS (SELECT FROM push_jobs WHERE pusher_nid = $1 AND claim = $2)`
	endPushJobSQL     = `DELETE FROM push_jobs WHERE pusher_nid = $1 AND claim = $2 AND NOT EXISTS (SELECT FROM push_queue WHERE pusher_nid = $1)`
	releasePushJobSQL = `UPDATE push_jobs SET claimed_until = '-infinity', next_try = now() WHERE pusher_nid = $1 AND claim = $2`
)

// ReleasePusher gives a claim back, for good where nothing is queued any more. With drop, what is queued is dropped.
func ReleasePusher(ctx context.Context, db *DB, c PushClaim, drop bool) error {
	b := &pgx.Batch{}
	b.Queue(lockPushJobSQL, c.PusherNID)
	b.Queue(dropPushesSQL, c.PusherNID, c.Claim, drop)
	b.Queue(endPushJobSQL, c.PusherNID, c.Claim)
	b.Queue(releasePushJobSQL, c.PusherNID, c.Claim)
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("release pusher: %w", TranslateError(err))
	}
	return nil
}

// CountEmailPushers returns how many pushers wait for e-mail.
func CountEmailPushers(ctx context.Context, q Querier) (n int64, err error) {
	if err := q.QueryRow(ctx, countEmailPushersSQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("count e-mail pushers: %w", TranslateError(err))
	}
	return n, nil
}

const countEmailPushersSQL = `SELECT count(*) FROM pushers WHERE kind = 'email' AND NOT deleted`
