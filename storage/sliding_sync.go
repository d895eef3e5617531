package storage

import (
	"context"
	"fmt"
	"time"
)

// SlidingPosition names what a client has been sent over a connection of sliding sync.
type SlidingPosition struct {
	ConnectionNID int64 `db:"connection_nid"`
	Version       int64 `db:"version"`
}

// By the unique index; the positions of one connection. The oldest connections of the device beyond $6 go.
const openSlidingConnectionSQL = `
WITH c AS (
    INSERT INTO sliding_sync_connections (user_nid, device_id, conn_id, used_ts) VALUES ($1, $2, $3, $4)
    ON CONFLICT (user_nid, device_id, conn_id) DO UPDATE SET used_ts = excluded.used_ts
    RETURNING connection_nid
), old AS (
    DELETE FROM sliding_sync_positions p USING c WHERE p.connection_nid = c.connection_nid
), many AS (
    DELETE FROM sliding_sync_connections x USING (
        SELECT connection_nid FROM sliding_sync_connections
        WHERE user_nid = $1 AND device_id = $2 AND conn_id <> $3
        ORDER BY used_ts DESC OFFSET $6
    ) y WHERE x.connection_nid = y.connection_nid
)
INSERT INTO sliding_sync_positions (connection_nid, state) SELECT connection_nid, $5 FROM c
RETURNING connection_nid, version`

// OpenSlidingConnection begins a connection of a device, in place of the one of the same name, and returns its first
// position. Beside it the device keeps the others connections used last.
func OpenSlidingConnection(ctx context.Context, q Querier, user UserNID, deviceID, connID string, state []byte, now time.Time, others int) (SlidingPosition, error) {
	var p SlidingPosition
	err := q.QueryRow(ctx, openSlidingConnectionSQL, user, deviceID, connID, now.UnixMilli(), state, others).Scan(&p.ConnectionNID, &p.Version)
	if err != nil {
		return p, fmt.Errorf("open sliding sync connection: %w", TranslateError(err))
	}
	return p, nil
}

// By primary keys; one row.
const getSlidingPositionSQL = `
SELECT p.state FROM sliding_sync_connections c JOIN sliding_sync_positions p USING (connection_nid)
WHERE c.connection_nid = $1 AND p.version = $2 AND c.user_nid = $3 AND c.device_id = $4 AND c.conn_id = $5`

// GetSlidingPosition returns the state of a position if it is one of the device's connection of that name, or
// [ErrNotFound].
func GetSlidingPosition(ctx context.Context, q Querier, p SlidingPosition, user UserNID, deviceID, connID string) ([]byte, error) {
	var state []byte
	if err := q.QueryRow(ctx, getSlidingPositionSQL, p.ConnectionNID, p.Version, user, deviceID, connID).Scan(&state); err != nil {
		return nil, fmt.Errorf("get sliding sync position: %w", TranslateError(err))
	}
	return state, nil
}

// By the primary key.
const hasSlidingPositionSQL = `SELECT EXISTS (SELECT FROM sliding_sync_positions WHERE connection_nid = $1 AND version = $2)`

// HasSlidingPosition reports whether there is a position.
func HasSlidingPosition(ctx context.Context, q Querier, p SlidingPosition) (bool, error) {
	var ok bool
	if err := q.QueryRow(ctx, hasSlidingPositionSQL, p.ConnectionNID, p.Version).Scan(&ok); err != nil {
		return false, fmt.Errorf("look for sliding sync position: %w", TranslateError(err))
	}
	return ok, nil
}

// By primary keys; three rows.
const addSlidingPositionSQL = `
WITH c AS (
    UPDATE sliding_sync_connections SET used_ts = greatest(used_ts, $3) WHERE connection_nid = $1
    RETURNING connection_nid
), old AS (
    DELETE FROM sliding_sync_positions p USING c WHERE p.connection_nid = c.connection_nid AND p.version <> $2
)
INSERT INTO sliding_sync_positions (connection_nid, state) SELECT connection_nid, $4 FROM c
RETURNING version`

// AddSlidingPosition adds the position that follows after, the last one the client has shown to have, in place of all
// others. It is [ErrNotFound] where the connection has ended.
func AddSlidingPosition(ctx context.Context, q Querier, after SlidingPosition, state []byte, now time.Time) (SlidingPosition, error) {
	p := SlidingPosition{ConnectionNID: after.ConnectionNID}
	err := q.QueryRow(ctx, addSlidingPositionSQL, after.ConnectionNID, after.Version, now.UnixMilli(), state).Scan(&p.Version)
	if err != nil {
		return p, fmt.Errorf("add sliding sync position: %w", TranslateError(err))
	}
	return p, nil
}

const touchSlidingConnectionSQL = `UPDATE sliding_sync_connections SET used_ts = greatest(used_ts, $2) WHERE connection_nid = $1`

// TouchSlidingConnection notes that a connection is in use. It is [ErrNotFound] where the connection has ended.
func TouchSlidingConnection(ctx context.Context, q Querier, connection int64, now time.Time) error {
	tag, err := q.Exec(ctx, touchSlidingConnectionSQL, connection, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("touch sliding sync connection: %w", TranslateError(err))
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("touch sliding sync connection: %w", ErrNotFound)
	}
	return nil
}

const pruneSlidingConnectionsSQL = `DELETE FROM sliding_sync_connections WHERE used_ts < $1`

// PruneSlidingConnections ends the connections that were not used since a time.
func PruneSlidingConnections(ctx context.Context, q Querier, before time.Time) (int64, error) {
	tag, err := q.Exec(ctx, pruneSlidingConnectionsSQL, before.UnixMilli())
	if err != nil {
		return 0, fmt.Errorf("prune sliding sync connections: %w", TranslateError(err))
	}
	return tag.RowsAffected(), nil
}

// By events_room_order, backwards: one row a room.
const roomRecencySQL = `
SELECT w.room_nid, coalesce(e.event_nid, 0)
FROM unnest($1::bigint[]) AS w(room_nid)
LEFT JOIN LATERAL (
    SELECT event_nid FROM events WHERE events.room_nid = w.room_nid AND flags = 0 ORDER BY event_nid DESC LIMIT 1
) e ON true`

// RoomRecency returns the newest event of each room, 0 for a room without any.
func RoomRecency(ctx context.Context, q Querier, rooms []RoomNID) ([]SyncEvent, error) {
	rows, err := q.Query(ctx, roomRecencySQL, int64s(rooms))
	return collectSyncEvents("get recency of rooms", rows, err)
}

// By events_room_order, backwards: at most $3 rows a room.
const lastOfTypesSQL = `
SELECT w.room_nid, coalesce(max(e.event_nid) FILTER (WHERE e.type = ANY ($2::text[])), 0)
FROM unnest($1::bigint[]) AS w(room_nid)
LEFT JOIN LATERAL (
    SELECT event_nid, type FROM events WHERE events.room_nid = w.room_nid AND flags = 0 ORDER BY event_nid DESC LIMIT $3
) e ON true
GROUP BY w.room_nid`

// LastOfTypes returns the newest event of some types among the newest events of each room, 0 where none is among them.
func LastOfTypes(ctx context.Context, q Querier, rooms []RoomNID, types []string, among int) ([]SyncEvent, error) {
	rows, err := q.Query(ctx, lastOfTypesSQL, int64s(rooms), types, among)
	return collectSyncEvents("get last events of rooms", rows, err)
}

// By the primary key: what the user keeps for rooms.
const accountDataOfTypeSQL = `
SELECT ` + accountDataColumns + ` FROM account_data WHERE user_nid = $1 AND room_id <> '' AND type = $2 AND NOT deleted`

// RoomAccountDataOfType returns the data of one type that a user keeps for rooms.
func RoomAccountDataOfType(ctx context.Context, q Querier, user UserNID, dataType string) ([]AccountData, error) {
	rows, err := q.Query(ctx, accountDataOfTypeSQL, user, dataType)
	return collectAccountData("get account data of rooms", rows, err)
}
