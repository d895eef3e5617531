package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The kinds of work that a change of an account leaves to do in the user's rooms.
const (
	// RoomWorkProfile sends the user's name and avatar to each room they are joined to.
	RoomWorkProfile = "profile"
	// RoomWorkLeave has the user leave each room they are joined to, invited to or knock on.
	RoomWorkLeave = "leave"
)

// RoomWork is a change of an account that has not reached all of the user's rooms.
type RoomWork struct {
	UserNID UserNID `db:"user_nid"`
	UserID  string  `db:"user_id"`
	// Kind is RoomWorkProfile or RoomWorkLeave.
	Kind string `db:"kind"`
	// RequestedTS tells this change from a later one.
	RequestedTS int64 `db:"requested_ts"`
	// AfterRoomNID is the last room that is done; rooms are taken in ascending order.
	AfterRoomNID RoomNID `db:"after_room_nid"`
}

// RequestRoomWork notes that a change of an account has to reach the user's rooms. Work of the kind that is still under
// way starts over: the rooms that are done have seen the older change.
func RequestRoomWork(ctx context.Context, q Querier, user UserNID, kind string, nowTS int64) error {
	_, err := q.Exec(ctx, `
INSERT INTO account_room_work AS w (user_nid, kind, requested_ts) VALUES ($1, $2, $3)
ON CONFLICT (user_nid, kind) DO UPDATE SET requested_ts = greatest(excluded.requested_ts, w.requested_ts + 1), after_room_nid = 0`, user, kind, nowTS)
	if err != nil {
		return fmt.Errorf("request %s work of user %d: %w", kind, user, TranslateError(err))
	}
	return nil
}

// At most one row; the table holds what is on its way and is mostly empty.
const claimRoomWorkSQL = `
UPDATE account_room_work w SET claimed_until_ts = $2
FROM user_ids n
WHERE (w.user_nid, w.kind) = (SELECT user_nid, kind FROM account_room_work WHERE claimed_until_ts <= $1
                              ORDER BY requested_ts LIMIT 1 FOR UPDATE SKIP LOCKED)
AND n.user_nid = w.user_nid
RETURNING w.user_nid, n.user_id, w.kind, w.requested_ts, w.after_room_nid`

// ClaimRoomWork takes the oldest work that nobody is at, at nowTS, for the caller until untilTS, or returns nil.
func ClaimRoomWork(ctx context.Context, q Querier, nowTS, untilTS int64) (*RoomWork, error) {
	rows, err := q.Query(ctx, claimRoomWorkSQL, nowTS, untilTS)
	if err != nil {
		return nil, fmt.Errorf("claim room work: %w", TranslateError(err))
	}
	w, err := pgx.CollectOneRow(rows, pgx.RowToStructByName[RoomWork])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim room work: %w", TranslateError(err))
	}
	return &w, nil
}

// RoomName is a room id with its number.
type RoomName struct {
	NID    RoomNID `db:"room_nid"`
	RoomID string  `db:"room_id"`
}

// By the index on (user_nid, membership) and the primary key of rooms; $4 rows.
const getRoomsAfterSQL = `
SELECT r.room_nid, r.room_id FROM memberships m JOIN rooms r USING (room_nid)
WHERE m.user_nid = $1 AND m.membership = ANY ($2::smallint[]) AND m.room_nid > $3
ORDER BY m.room_nid LIMIT $4`

// GetRoomsAfter returns the rooms with a number above after in which the user has one of the memberships, in ascending
// order, at most limit.
func GetRoomsAfter(ctx context.Context, q Querier, user UserNID, memberships []Membership, after RoomNID, limit int) ([]RoomName, error) {
	in := make([]int16, len(memberships))
	for i, m := range memberships {
		in[i] = int16(m)
	}
	rows, err := q.Query(ctx, getRoomsAfterSQL, user, in, after, limit)
	if err != nil {
		return nil, fmt.Errorf("get rooms of user %d: %w", user, TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[RoomName])
	if err != nil {
		return nil, fmt.Errorf("get rooms of user %d: %w", user, TranslateError(err))
	}
	return out, nil
}

// AdvanceRoomWork records that the rooms up to after are done and keeps the claim until untilTS. It reports false where
// the work was asked for anew meanwhile, and must be claimed again.
func AdvanceRoomWork(ctx context.Context, q Querier, w *RoomWork, after RoomNID, untilTS int64) (bool, error) {
	tag, err := q.Exec(ctx, `
UPDATE account_room_work SET after_room_nid = $4, claimed_until_ts = $5 WHERE user_nid = $1 AND kind = $2 AND requested_ts = $3`,
		w.UserNID, w.Kind, w.RequestedTS, after, untilTS)
	if err != nil {
		return false, fmt.Errorf("advance room work: %w", TranslateError(err))
	}
	return tag.RowsAffected() == 1, nil
}

// FinishRoomWork ends work that is done. Work that was asked for anew meanwhile stays, free to be claimed.
func FinishRoomWork(ctx context.Context, q Querier, w *RoomWork) error {
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM account_room_work WHERE user_nid = $1 AND kind = $2 AND requested_ts = $3`, w.UserNID, w.Kind, w.RequestedTS)
	b.Queue(`UPDATE account_room_work SET claimed_until_ts = 0 WHERE user_nid = $1 AND kind = $2`, w.UserNID, w.Kind)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("finish room work: %w", TranslateError(err))
	}
	return nil
}
