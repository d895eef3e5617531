package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Room is what never changes of a room.
type Room struct {
	NID     RoomNID `db:"room_nid"`
	ID      string  `db:"room_id"`
	Version string  `db:"version"`
}

// RoomHead is the end of a room's graph.
type RoomHead struct {
	RoomNID RoomNID `db:"room_nid"`
	// Generation counts the transactions that wrote to the room.
	Generation int64 `db:"generation"`
	// Extremities are the events that the next one follows.
	Extremities []EventNID `db:"extremities"`
	// StateRoot is the root of the current state, empty for the empty state.
	StateRoot []byte `db:"state_root"`
	// Depth is the greatest depth among the extremities.
	Depth int64 `db:"depth"`
	// LastEventNID is the greatest number of an event of the room.
	LastEventNID EventNID `db:"last_event_nid"`
	// Partial says that only a part of the room's state is known: see PartialRoom. EventBatch does not look at it.
	Partial bool `db:"partial"`
}

// RoomStats is what a room shows of itself. Strings are "" where the room does not say.
type RoomStats struct {
	RoomNID RoomNID `db:"room_nid"`
	// Joined, Invited and LocalJoined count members; LocalJoined those of this server.
	Joined      int `db:"joined"`
	Invited     int `db:"invited"`
	LocalJoined int `db:"local_joined"`
	// StateEvents counts the pieces of the current state.
	StateEvents int `db:"state_events"`
	// Federate is m.federate of m.room.create.
	Federate bool `db:"federate"`
	// Creator is the sender of m.room.create, RoomType its content.type.
	Creator  string `db:"creator"`
	RoomType string `db:"room_type"`
	// The rest is what the room's state events say.
	Name              string `db:"name"`
	Topic             string `db:"topic"`
	AvatarURL         string `db:"avatar_url"`
	CanonicalAlias    string `db:"canonical_alias"`
	JoinRule          string `db:"join_rule"`
	GuestAccess       string `db:"guest_access"`
	HistoryVisibility string `db:"history_visibility"`
	Encryption        string `db:"encryption"`
}

// By the unique index on room_id.
const lookupRoomsSQL = `SELECT room_nid, room_id, version FROM rooms WHERE room_id = ANY($1::text[])`

// LookupRooms returns rooms by room id, in no order.
func LookupRooms(ctx context.Context, q Querier, ids []string) ([]Room, error) {
	rows, err := q.Query(ctx, lookupRoomsSQL, ids)
	if err != nil {
		return nil, fmt.Errorf("look up %d rooms: %w", len(ids), TranslateError(err))
	}
	rooms, err := pgx.CollectRows(rows, pgx.RowToStructByName[Room])
	if err != nil {
		return nil, fmt.Errorf("look up %d rooms: %w", len(ids), TranslateError(err))
	}
	return rooms, nil
}

// By the primary key.
const getRoomsSQL = `SELECT room_nid, room_id, version FROM rooms WHERE room_nid = ANY($1::bigint[])`

// GetRooms returns rooms by number, in no order.
func GetRooms(ctx context.Context, q Querier, nids []RoomNID) ([]Room, error) {
	rows, err := q.Query(ctx, getRoomsSQL, int64s(nids))
	if err != nil {
		return nil, fmt.Errorf("get %d rooms: %w", len(nids), TranslateError(err))
	}
	rooms, err := pgx.CollectRows(rows, pgx.RowToStructByName[Room])
	if err != nil {
		return nil, fmt.Errorf("get %d rooms: %w", len(nids), TranslateError(err))
	}
	return rooms, nil
}

// One row from the sequence for each number.
const reserveRoomNIDsSQL = `SELECT nextval(pg_get_serial_sequence('rooms', 'room_nid')) FROM generate_series(1, $1::int)`

// ReserveRoomNIDs returns n numbers that no room has or will get.
func ReserveRoomNIDs(ctx context.Context, q Querier, n int) ([]RoomNID, error) {
	rows, err := q.Query(ctx, reserveRoomNIDsSQL, n)
	if err != nil {
		return nil, fmt.Errorf("reserve %d room numbers: %w", n, TranslateError(err))
	}
	nids, err := pgx.CollectRows(rows, pgx.RowTo[RoomNID])
	if err != nil {
		return nil, fmt.Errorf("reserve %d room numbers: %w", n, TranslateError(err))
	}
	return nids, nil
}

// By the unique index on room_id; one row.
const ensureRoomSQL = `
WITH made AS (
    INSERT INTO rooms (room_id, version, created_ts)
    SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM rooms WHERE room_id = $1)
    ON CONFLICT (room_id) DO UPDATE SET room_id = excluded.room_id
    RETURNING room_nid, room_id, version
), r AS (
    SELECT room_nid, room_id, version FROM made
    UNION ALL
    SELECT room_nid, room_id, version FROM rooms WHERE room_id = $1
    LIMIT 1
), h AS (
    INSERT INTO room_heads (room_nid, generation, extremities, state_root, depth, last_event_nid)
    SELECT room_nid, 0, '{}', '', 0, 0 FROM r WHERE $4
    ON CONFLICT DO NOTHING
)
SELECT room_nid, room_id, version FROM r`

// EnsureRoom makes a room that other servers have told of, where it is missing, and returns it. With head it also gets
// an empty head, so that events can be written to it.
func EnsureRoom(ctx context.Context, q Querier, roomID, version string, createdTS int64, head bool) (Room, error) {
	rows, err := q.Query(ctx, ensureRoomSQL, roomID, version, createdTS, head)
	if err != nil {
		return Room{}, fmt.Errorf("ensure room %s: %w", roomID, TranslateError(err))
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Room])
	if err != nil {
		return Room{}, fmt.Errorf("ensure room %s: %w", roomID, TranslateError(err))
	}
	return r, nil
}

// By the primary key.
const getRoomHeadsSQL = `
SELECT room_nid, generation, extremities, state_root, depth, last_event_nid, partial
FROM room_heads WHERE room_nid = ANY($1::bigint[])`

// GetRoomHeads returns the heads of rooms, in no order.
func GetRoomHeads(ctx context.Context, q Querier, nids []RoomNID) ([]RoomHead, error) {
	rows, err := q.Query(ctx, getRoomHeadsSQL, int64s(nids))
	if err != nil {
		return nil, fmt.Errorf("get heads of %d rooms: %w", len(nids), TranslateError(err))
	}
	heads, err := pgx.CollectRows(rows, pgx.RowToStructByName[RoomHead])
	if err != nil {
		return nil, fmt.Errorf("get heads of %d rooms: %w", len(nids), TranslateError(err))
	}
	return heads, nil
}

// By the primary key.
const getRoomStatsSQL = `
SELECT room_nid, joined, invited, local_joined, state_events, federate,
    coalesce(creator, '') AS creator, coalesce(room_type, '') AS room_type, coalesce(name, '') AS name,
    coalesce(topic, '') AS topic, coalesce(avatar_url, '') AS avatar_url, coalesce(canonical_alias, '') AS canonical_alias,
    coalesce(join_rule, '') AS join_rule, coalesce(guest_access, '') AS guest_access,
    coalesce(history_visibility, '') AS history_visibility, coalesce(encryption, '') AS encryption
FROM room_stats WHERE room_nid = ANY($1::bigint[])`

// GetRoomStats returns what rooms show of themselves, in no order.
func GetRoomStats(ctx context.Context, q Querier, nids []RoomNID) ([]RoomStats, error) {
	rows, err := q.Query(ctx, getRoomStatsSQL, int64s(nids))
	if err != nil {
		return nil, fmt.Errorf("get statistics of %d rooms: %w", len(nids), TranslateError(err))
	}
	stats, err := pgx.CollectRows(rows, pgx.RowToStructByName[RoomStats])
	if err != nil {
		return nil, fmt.Errorf("get statistics of %d rooms: %w", len(nids), TranslateError(err))
	}
	return stats, nil
}

// By current_state_pkey, with state_keys by number: as many rows as the rooms have state of those types.
const getCurrentStatesSQL = `
SELECT c.room_nid, c.state_key_nid, c.event_nid FROM current_state c JOIN state_keys k USING (state_key_nid)
WHERE c.room_nid = ANY($1::bigint[]) AND (cardinality($2::text[]) = 0 OR k.type = ANY($2::text[])) AND k.type <> ALL ($3::text[])`

// GetCurrentStates returns the current state of rooms: of the given types, all if none is given, but not of those in
// not.
func GetCurrentStates(ctx context.Context, q Querier, rooms []RoomNID, types, not []string) ([]CurrentState, error) {
	rows, err := q.Query(ctx, getCurrentStatesSQL, int64s(rooms), orNone(types), orNone(not))
	if err != nil {
		return nil, fmt.Errorf("get the current state of %d rooms: %w", len(rooms), TranslateError(err))
	}
	state, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c CurrentState, err error) {
		err = row.Scan(&c.RoomNID, &c.StateKeyNID, &c.EventNID)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("get the current state of %d rooms: %w", len(rooms), TranslateError(err))
	}
	return state, nil
}

// orNone makes an empty array of nil, which would be NULL.
func orNone(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// By current_state_pkey: one row a piece.
const getCurrentPiecesSQL = `
SELECT c.room_nid, c.state_key_nid, c.event_nid
FROM unnest($1::bigint[], $2::bigint[]) AS w(room_nid, state_key_nid)
JOIN current_state c ON c.room_nid = w.room_nid AND c.state_key_nid = w.state_key_nid`

// GetCurrentPieces returns single pieces of the current state of rooms, in no order. The EventNIDs asked with are not
// looked at.
func GetCurrentPieces(ctx context.Context, q Querier, pieces []CurrentState) ([]CurrentState, error) {
	rooms, keys := make([]int64, len(pieces)), make([]int64, len(pieces))
	for i, p := range pieces {
		rooms[i], keys[i] = int64(p.RoomNID), int64(p.StateKeyNID)
	}
	rows, err := q.Query(ctx, getCurrentPiecesSQL, rooms, keys)
	if err != nil {
		return nil, fmt.Errorf("get %d pieces of current state: %w", len(pieces), TranslateError(err))
	}
	state, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c CurrentState, err error) {
		err = row.Scan(&c.RoomNID, &c.StateKeyNID, &c.EventNID)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("get %d pieces of current state: %w", len(pieces), TranslateError(err))
	}
	return state, nil
}
