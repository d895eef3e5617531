package storage

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Alias is a room alias of this server.
type Alias struct {
	// Alias is the whole alias, "#localpart:server".
	Alias string
	// RoomNID and RoomID are the room it points to.
	RoomNID RoomNID
	RoomID  string
	// CreatorNID is the user who made it.
	CreatorNID UserNID
	// CreatedTS is when, in milliseconds since the Unix epoch.
	CreatedTS int64
}

// room_aliases_pkey; one row.
const selectAliasSQL = `
SELECT a.alias, a.room_nid, r.room_id, a.creator_nid, a.created_ts
FROM room_aliases a JOIN rooms r USING (room_nid)
WHERE a.alias = $1`

// AliasByName returns an alias, or ErrNotFound.
func AliasByName(ctx context.Context, q Querier, alias string) (Alias, error) {
	rows, err := q.Query(ctx, selectAliasSQL, alias)
	if err != nil {
		return Alias{}, TranslateError(err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Alias])
	return a, TranslateError(err)
}

// room_aliases_room; a handful of rows.
const selectRoomAliasesSQL = `SELECT alias FROM room_aliases WHERE room_nid = $1 ORDER BY alias`

// RoomAliases returns the aliases of a room, sorted.
func RoomAliases(ctx context.Context, q Querier, room RoomNID) ([]string, error) {
	rows, err := q.Query(ctx, selectRoomAliasesSQL, room)
	if err != nil {
		return nil, TranslateError(err)
	}
	as, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return as, TranslateError(err)
}

const insertAliasSQL = `
INSERT INTO room_aliases AS a (alias, room_nid, creator_nid, created_ts) VALUES ($1, $2, $3, $4)
ON CONFLICT (alias) DO UPDATE
SET room_nid = excluded.room_nid, creator_nid = excluded.creator_nid, created_ts = excluded.created_ts
WHERE a.room_nid = 0 AND a.created_ts < excluded.created_ts - $5`

// InsertAlias makes an alias and reports whether it was free. RoomID is not read.
func InsertAlias(ctx context.Context, q Querier, a Alias) (bool, error) {
	tag, err := q.Exec(ctx, insertAliasSQL, a.Alias, a.RoomNID, a.CreatorNID, a.CreatedTS, AliasReservationMS)
	return err == nil && tag.RowsAffected() == 1, TranslateError(err)
}

const deleteAliasSQL = `DELETE FROM room_aliases WHERE alias = $1 AND room_nid = $2`

// DeleteAlias removes an alias if it still points to the room, and reports whether it did.
func DeleteAlias(ctx context.Context, q Querier, alias string, room RoomNID) (bool, error) {
	tag, err := q.Exec(ctx, deleteAliasSQL, alias, room)
	return err == nil && tag.RowsAffected() == 1, TranslateError(err)
}

const moveAliasesSQL = `UPDATE room_aliases SET room_nid = $2 WHERE room_nid = $1 RETURNING alias`

// MoveAliases points all aliases of one room to another and returns them.
func MoveAliases(ctx context.Context, q Querier, from, to RoomNID) ([]string, error) {
	rows, err := q.Query(ctx, moveAliasesSQL, from, to)
	if err != nil {
		return nil, TranslateError(err)
	}
	as, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return as, TranslateError(err)
}

// AliasReservationMS is how long a reservation keeps others from taking an alias. It outlives any request that makes a
// room; one left by a process that died does no harm after it.
const AliasReservationMS = 60_000

// A reservation is a row that points to no room.
const reserveAliasSQL = `
INSERT INTO room_aliases AS a (alias, room_nid, creator_nid, created_ts) VALUES ($1, 0, $2, $3)
ON CONFLICT (alias) DO UPDATE SET creator_nid = excluded.creator_nid, created_ts = excluded.created_ts
WHERE a.room_nid = 0 AND a.created_ts < excluded.created_ts - $4`

// ReserveAlias takes an alias for a room that is about to be made, and reports whether it was free. Nobody sees it until
// ClaimAlias.
func ReserveAlias(ctx context.Context, q Querier, alias string, creator UserNID, now int64) (bool, error) {
	tag, err := q.Exec(ctx, reserveAliasSQL, alias, creator, now, AliasReservationMS)
	return err == nil && tag.RowsAffected() == 1, TranslateError(err)
}

const claimAliasSQL = `UPDATE room_aliases SET room_nid = $3 WHERE alias = $1 AND creator_nid = $2 AND room_nid = 0`

// ClaimAlias points a reserved alias to its room.
func ClaimAlias(ctx context.Context, q Querier, alias string, creator UserNID, room RoomNID) error {
	_, err := q.Exec(ctx, claimAliasSQL, alias, creator, room)
	return TranslateError(err)
}

const releaseAliasSQL = `DELETE FROM room_aliases WHERE alias = $1 AND creator_nid = $2 AND room_nid = 0`

// ReleaseAlias gives up a reservation.
func ReleaseAlias(ctx context.Context, q Querier, alias string, creator UserNID) error {
	_, err := q.Exec(ctx, releaseAliasSQL, alias, creator)
	return TranslateError(err)
}
