package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PresenceState is the number of a presence state in the database.
type PresenceState int16

// The presence states, each above those that count less when a user has several devices.
const (
	PresenceOffline     PresenceState = 0
	PresenceUnavailable PresenceState = 1
	PresenceOnline      PresenceState = 2
)

// Presence is how a user was when it was last written down. Times are milliseconds since the epoch, 0 for none.
type Presence struct {
	UserID                 string        `db:"user_id"`
	StreamID               int64         `db:"stream_id"`
	State                  PresenceState `db:"state"`
	LastActiveTS           int64         `db:"last_active_ts"`
	LastFederationUpdateTS int64         `db:"last_federation_update_ts"`
	LastUserSyncTS         int64         `db:"last_user_sync_ts"`
	StatusMsg              *string       `db:"status_msg"`
	CurrentlyActive        bool          `db:"currently_active"`
}

const presenceColumns = `n.user_id, p.stream_id, p.state, p.last_active_ts, p.last_federation_update_ts, p.last_user_sync_ts,
    p.status_msg, p.currently_active`

// By the primary key, after the unique index of user_ids; a row a user. Users without a number cannot be seen by anybody
// and are passed over.
const putPresenceSQL = `
INSERT INTO presence AS p (user_nid, stream_id, state, last_active_ts, last_federation_update_ts, last_user_sync_ts, status_msg, currently_active)
SELECT n.user_nid, r.stream_id, r.state, r.last_active_ts, r.last_federation_update_ts, r.last_user_sync_ts, r.status_msg, r.currently_active
FROM unnest($1::text[], $2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::boolean[])
     AS r (user_id, stream_id, state, last_active_ts, last_federation_update_ts, last_user_sync_ts, status_msg, currently_active)
JOIN user_ids n USING (user_id)
ORDER BY 1
ON CONFLICT (user_nid) DO UPDATE
SET stream_id = excluded.stream_id, state = excluded.state, last_active_ts = excluded.last_active_ts,
    last_federation_update_ts = excluded.last_federation_update_ts, last_user_sync_ts = excluded.last_user_sync_ts,
    status_msg = excluded.status_msg, currently_active = excluded.currently_active
WHERE p.stream_id <= excluded.stream_id`

// PutPresence writes down how users are now, in one statement. What is there from a later place of the stream stays.
func PutPresence(ctx context.Context, q Querier, rows []Presence) error {
	n := len(rows)
	users, ids, states := make([]string, n), make([]int64, n), make([]int16, n)
	active, federation, synced := make([]int64, n), make([]int64, n), make([]int64, n)
	messages, current := make([]*string, n), make([]bool, n)
	for i, r := range rows {
		users[i], ids[i], states[i], active[i], federation[i] = r.UserID, r.StreamID, int16(r.State), r.LastActiveTS, r.LastFederationUpdateTS
		synced[i], messages[i], current[i] = r.LastUserSyncTS, r.StatusMsg, r.CurrentlyActive
	}
	if _, err := q.Exec(ctx, putPresenceSQL, users, ids, states, active, federation, synced, messages, current); err != nil {
		return fmt.Errorf("put presence: %w", TranslateError(err))
	}
	return nil
}

// By the unique index of user_ids and the primary key; a row a user.
const getPresenceSQL = `SELECT ` + presenceColumns + ` FROM presence p JOIN user_ids n USING (user_nid) WHERE n.user_id = ANY ($1::text[])`

// GetPresence returns what is written down of users, in no order, without those that were never seen.
func GetPresence(ctx context.Context, q Querier, userIDs []string) ([]Presence, error) {
	rows, err := q.Query(ctx, getPresenceSQL, userIDs)
	return collectPresence(rows, err)
}

// By presence_here: the users that are not offline.
const listPresenceSQL = `SELECT ` + presenceColumns + ` FROM presence p JOIN user_ids n USING (user_nid) WHERE p.state <> 0`

// ListPresence returns the users that are not offline as far as is written down.
func ListPresence(ctx context.Context, q Querier) ([]Presence, error) {
	rows, err := q.Query(ctx, listPresenceSQL)
	return collectPresence(rows, err)
}

// By presence_stream, then the memberships of each user found; at most $3 rows.
const presenceChangesSQL = `
SELECT ` + presenceColumns + `
FROM presence p JOIN user_ids n USING (user_nid)
WHERE p.stream_id > $2 AND EXISTS (
    SELECT FROM memberships a JOIN memberships b USING (room_nid)
    WHERE a.user_nid = p.user_nid AND a.membership = 2 AND b.membership = 2
    AND b.user_nid = (SELECT user_nid FROM user_ids WHERE user_id = $1))
ORDER BY p.stream_id DESC
LIMIT $3`

// PresenceChanges returns the users who share a room with the user and whose presence was last changed behind a place of
// the stream, the newest changes first, at most limit.
func PresenceChanges(ctx context.Context, q Querier, userID string, after int64, limit int) ([]Presence, error) {
	rows, err := q.Query(ctx, presenceChangesSQL, userID, after, limit)
	return collectPresence(rows, err)
}

func collectPresence(rows pgx.Rows, err error) ([]Presence, error) {
	if err != nil {
		return nil, fmt.Errorf("get presence: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[Presence])
	if err != nil {
		return nil, fmt.Errorf("get presence: %w", TranslateError(err))
	}
	return out, nil
}

// By the unique index of user_ids and memberships_user; a row for each room of each user.
const joinedRoomsSQL = `
SELECT n.user_id, m.room_nid FROM user_ids n JOIN memberships m USING (user_nid)
WHERE n.user_id = ANY ($1::text[]) AND m.membership = 2
ORDER BY n.user_id, m.room_nid`

// JoinedRooms returns the rooms that users are joined to, ascending, by user id. Users without any are left out.
func JoinedRooms(ctx context.Context, q Querier, userIDs []string) (map[string][]RoomNID, error) {
	rows, err := q.Query(ctx, joinedRoomsSQL, userIDs)
	if err != nil {
		return nil, fmt.Errorf("get joined rooms: %w", TranslateError(err))
	}
	out := make(map[string][]RoomNID, len(userIDs))
	var user string
	var room RoomNID
	_, err = pgx.ForEachRow(rows, []any{&user, &room}, func() error {
		out[user] = append(out[user], room)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get joined rooms: %w", TranslateError(err))
	}
	return out, nil
}

// By memberships_user for the one, then for each of the others until a room is found.
const sharersSQL = `
SELECT n.user_id FROM user_ids n
WHERE n.user_id = ANY ($2::text[]) AND EXISTS (
    SELECT FROM memberships a JOIN memberships b USING (room_nid)
    WHERE a.user_nid = n.user_nid AND a.membership = 2 AND b.membership = 2
    AND b.user_nid = (SELECT user_nid FROM user_ids WHERE user_id = $1))`

// Sharers returns those of others who share a room with the user, both being joined to it.
func Sharers(ctx context.Context, q Querier, userID string, others []string) ([]string, error) {
	rows, err := q.Query(ctx, sharersSQL, userID, others)
	if err != nil {
		return nil, fmt.Errorf("look for shared rooms: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for shared rooms: %w", TranslateError(err))
	}
	return out, nil
}
