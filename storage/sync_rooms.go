package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// SyncRoom is a room in a user's list, for /sync.
type SyncRoom struct {
	RoomNID    RoomNID    `db:"room_nid"`
	RoomID     string     `db:"room_id"`
	Membership Membership `db:"membership"`
	// EventNID is the m.room.member event that says so, WriterNID who wrote it.
	EventNID  EventNID  `db:"event_nid"`
	WriterNID WriterNID `db:"writer_nid"`
}

// By memberships_user, then the primary keys of rooms and events: one row a room. The planner is kept from scanning
// whole tables by the lateral limits.
const syncRoomsSQL = `
SELECT m.room_nid, r.room_id, m.membership, m.event_nid, e.writer_nid
FROM user_ids u
JOIN memberships m ON m.user_nid = u.user_nid AND m.is_local
CROSS JOIN LATERAL (SELECT room_id FROM rooms WHERE rooms.room_nid = m.room_nid LIMIT 1) r
CROSS JOIN LATERAL (SELECT writer_nid FROM events WHERE events.event_nid = m.event_nid LIMIT 1) e
WHERE u.user_id = $1`

// SyncRooms returns the rooms that a local user is joined or invited to or knocks at.
func SyncRooms(ctx context.Context, q Querier, userID string) ([]SyncRoom, error) {
	return querySyncRooms(ctx, q, syncRoomsSQL+` AND m.membership IN (1, 2, 3)`, userID)
}

// SyncLeftRooms returns the rooms that a local user has left or is banned from, without those they have forgotten.
func SyncLeftRooms(ctx context.Context, q Querier, userID string) ([]SyncRoom, error) {
	return querySyncRooms(ctx, q, syncRoomsSQL+` AND m.membership IN (4, 5) AND NOT m.forgotten`, userID)
}

func querySyncRooms(ctx context.Context, q Querier, sql string, args ...any) ([]SyncRoom, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("get rooms of user: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[SyncRoom])
	if err != nil {
		return nil, fmt.Errorf("get rooms of user: %w", TranslateError(err))
	}
	return out, nil
}

// SyncHero is a member whom a room without a name may be named after.
type SyncHero struct {
	RoomNID  RoomNID  `db:"room_nid"`
	UserID   string   `db:"user_id"`
	EventNID EventNID `db:"event_nid"`
}

// By memberships_order: $2 rows a room that has neither name nor alias; where at most one person is left, those who are
// gone count too, and their rooms are small.
const syncHeroesSQL = `
SELECT w.room_nid, u.user_id, m.event_nid
FROM unnest($1::bigint[]) AS w(room_nid)
JOIN room_stats s ON s.room_nid = w.room_nid AND coalesce(s.name, '') = '' AND coalesce(s.canonical_alias, '') = ''
CROSS JOIN LATERAL (
    (SELECT user_nid, event_nid FROM memberships x WHERE x.room_nid = w.room_nid AND x.membership IN (1, 2)
     ORDER BY event_nid LIMIT $2)
    UNION ALL
    (SELECT user_nid, event_nid FROM memberships x WHERE s.joined + s.invited <= 1 AND x.room_nid = w.room_nid AND x.membership IN (4, 5)
     ORDER BY event_nid LIMIT $2)
) m
JOIN user_ids u ON u.user_nid = m.user_nid`

// SyncHeroes returns the first members of each room that has neither name nor canonical alias, by the age of their
// member event: up to limit who are joined or invited, and where that is one at most up to limit of those who are gone.
func SyncHeroes(ctx context.Context, q Querier, rooms []RoomNID, limit int) ([]SyncHero, error) {
	rows, err := q.Query(ctx, syncHeroesSQL, int64s(rooms), limit)
	if err != nil {
		return nil, fmt.Errorf("get heroes: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[SyncHero])
	if err != nil {
		return nil, fmt.Errorf("get heroes: %w", TranslateError(err))
	}
	return out, nil
}

// By the primary key; as many rows as the streams have writers.
const syncPositionsSQL = `
SELECT p.stream, w.name, p.position FROM stream_positions p JOIN writers w USING (writer_nid) WHERE p.stream = ANY ($1::text[])`

// WriterPosition is how far one writer of a stream has come.
type WriterPosition struct {
	Stream   string `db:"stream"`
	Writer   string `db:"name"`
	Position int64  `db:"position"`
}

// SyncPositions returns how far the writers of the named streams have come.
func SyncPositions(ctx context.Context, q Querier, streams []string) ([]WriterPosition, error) {
	rows, err := q.Query(ctx, syncPositionsSQL, streams)
	if err != nil {
		return nil, fmt.Errorf("get stream positions: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[WriterPosition])
	if err != nil {
		return nil, fmt.Errorf("get stream positions: %w", TranslateError(err))
	}
	return out, nil
}

// By the primary key of memberships: the members of the rooms.
const syncMembersSQL = `
SELECT DISTINCT u.user_id FROM memberships m JOIN user_ids u USING (user_nid)
WHERE m.room_nid = ANY ($1::bigint[]) AND m.membership = 2`

// SyncMembers returns the users who are joined to any of the rooms.
func SyncMembers(ctx context.Context, q Querier, rooms []RoomNID) ([]string, error) {
	rows, err := q.Query(ctx, syncMembersSQL, int64s(rooms))
	if err != nil {
		return nil, fmt.Errorf("get members of rooms: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("get members of rooms: %w", TranslateError(err))
	}
	return out, nil
}

// WriterName is a writer with its number.
type WriterName struct {
	NID  WriterNID `db:"writer_nid"`
	Name string    `db:"name"`
}

// ListWriters returns all instances that ever wrote a stream.
func ListWriters(ctx context.Context, q Querier) ([]WriterName, error) {
	rows, err := q.Query(ctx, listWritersSQL)
	if err != nil {
		return nil, fmt.Errorf("list writers: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[WriterName])
	if err != nil {
		return nil, fmt.Errorf("list writers: %w", TranslateError(err))
	}
	return out, nil
}
