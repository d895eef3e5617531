package storage

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// RoomSummary is what a room shows of itself to people outside of it.
type RoomSummary struct {
	RoomNID RoomNID
	RoomID  string
	// Version is the room version.
	Version string
	// Public says whether the room is in this server's published room directory.
	Public bool
	// Joined is the number of joined members.
	Joined int64
	// LocalJoined is how many of them are this server's: with none, what this server knows of the room may be old.
	LocalJoined int64
	// The rest is from the room's state: "" where it is not set.
	Name, Topic, AvatarURL, CanonicalAlias               string
	RoomType, JoinRule, GuestAccess, Visibility, Encrypt string
	// JoinRules is the JSON of the m.room.join_rules event where the rule is restricted or knock_restricted, else nil.
	JoinRules []byte
}

const summaryColumns = `
r.room_nid, r.room_id, r.version, r.is_public, s.joined, s.local_joined,
coalesce(s.name, ''), coalesce(s.topic, ''), coalesce(s.avatar_url, ''), coalesce(s.canonical_alias, ''),
coalesce(s.room_type, ''), coalesce(s.join_rule, ''), coalesce(s.guest_access, ''), coalesce(s.history_visibility, ''),
coalesce(s.encryption, ''),
CASE WHEN s.join_rule IN ('restricted', 'knock_restricted') THEN (
    SELECT e.json FROM state_keys k
    JOIN current_state c ON c.room_nid = r.room_nid AND c.state_key_nid = k.state_key_nid
    JOIN events e ON e.event_nid = c.event_nid
    WHERE k.type = 'm.room.join_rules' AND k.state_key = ''
) END`

// Primary keys; one row a room.
const selectSummariesSQL = `
SELECT ` + summaryColumns + `
FROM rooms r JOIN room_stats s USING (room_nid)
WHERE r.room_nid = ANY($1)`

// RoomSummaries returns the summaries of rooms, in no order. Rooms this server does not know are left out.
func RoomSummaries(ctx context.Context, q Querier, rooms []RoomNID) ([]RoomSummary, error) {
	return collect[RoomSummary](ctx, q, selectSummariesSQL, rooms)
}

// PublicRoomsQuery says which published rooms to list.
type PublicRoomsQuery struct {
	// Search, if not "", is a text that name, topic or canonical alias must hold, in any case.
	Search string
	// RoomTypes, if not nil, are the room types to list; "" stands for rooms without a type.
	RoomTypes []string
	// Appservice and Network, if not "", list the rooms of one network of an application service instead of those of no
	// network. AllNetworks lists both.
	Appservice, Network string
	AllNetworks         bool
	// FederatedOnly leaves out rooms other servers may not join.
	FederatedOnly bool
	// Limit is how many rooms to return. Required.
	Limit int
	// After and AfterJoined are the last room of the page before this one, in the order of the list.
	After       RoomNID
	AfterJoined int64
	// Backwards lists the rooms before After instead, nearest first.
	Backwards bool
}

const publicRoomsWhere = `
FROM rooms r JOIN room_stats s USING (room_nid)
WHERE s.joined > 0 AND NOT r.blocked
AND CASE
    WHEN $5 THEN r.is_public OR EXISTS (SELECT FROM appservice_rooms a WHERE a.room_nid = r.room_nid)
    WHEN $4::text <> '' THEN EXISTS (
        SELECT FROM appservice_rooms a WHERE a.room_nid = r.room_nid AND a.appservice_id = $3 AND a.network_id = $4)
    ELSE r.is_public
END
AND ($1::text = '' OR s.name ILIKE $1 OR s.topic ILIKE $1 OR s.canonical_alias ILIKE $1)
AND ($2::text[] IS NULL OR coalesce(s.room_type, '') = ANY($2))
AND (s.federate OR NOT $6::boolean)`

// rooms_public, then room_stats by key, sorted in memory: as many rows as there are published rooms.
const selectPublicRoomsSQL = `
SELECT ` + summaryColumns + publicRoomsWhere + `
AND ($8::bigint = 0 OR (-s.joined, r.room_nid) > (-$7::bigint, $8::bigint))
ORDER BY s.joined DESC, r.room_nid
LIMIT $9`

const selectPublicRoomsBackSQL = `
SELECT ` + summaryColumns + publicRoomsWhere + `
AND (-s.joined, r.room_nid) < (-$7::bigint, $8::bigint)
ORDER BY s.joined, r.room_nid DESC
LIMIT $9`

const countPublicRoomsSQL = `SELECT count(*) ` + publicRoomsWhere

// PublicRooms returns one page of the published rooms, largest first, and how many there are that match in all. One
// round trip.
func PublicRooms(ctx context.Context, q Querier, p PublicRoomsQuery) ([]RoomSummary, int64, error) {
	search := ""
	if p.Search != "" {
		search = "%" + escapeLike(p.Search) + "%"
	}
	args := []any{search, p.RoomTypes, p.Appservice, p.Network, p.AllNetworks, p.FederatedOnly}
	sql := selectPublicRoomsSQL
	if p.Backwards {
		sql = selectPublicRoomsBackSQL
	}
	var (
		rooms []RoomSummary
		total int64
		b     pgx.Batch
	)
	b.Queue(sql, append(args[:len(args):len(args)], p.AfterJoined, p.After, p.Limit)...).Query(func(rows pgx.Rows) (err error) {
		rooms, err = pgx.CollectRows(rows, pgx.RowToStructByPos[RoomSummary])
		return err
	})
	b.Queue(countPublicRoomsSQL, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&total) })
	err := q.SendBatch(ctx, &b).Close()
	return rooms, total, TranslateError(err)
}

const updatePublicSQL = `UPDATE rooms SET is_public = $2 WHERE room_nid = $1`

// SetRoomPublic puts a room into the published room directory, or takes it out.
func SetRoomPublic(ctx context.Context, q Querier, room RoomNID, public bool) error {
	_, err := q.Exec(ctx, updatePublicSQL, room, public)
	return TranslateError(err)
}

const insertAppserviceRoomSQL = `
INSERT INTO appservice_rooms (appservice_id, network_id, room_nid) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`

const deleteAppserviceRoomSQL = `
DELETE FROM appservice_rooms WHERE appservice_id = $1 AND network_id = $2 AND room_nid = $3`

// SetAppserviceRoomPublic puts a room into the list of one network of an application service, or takes it out.
func SetAppserviceRoomPublic(ctx context.Context, q Querier, appservice, network string, room RoomNID, public bool) error {
	sql := deleteAppserviceRoomSQL
	if public {
		sql = insertAppserviceRoomSQL
	}
	_, err := q.Exec(ctx, sql, appservice, network, room)
	return TranslateError(err)
}

// SpaceChild is an m.space.child event of the current state of a space.
type SpaceChild struct {
	Space RoomNID
	// Child is the state key: the room id of the child.
	Child string
	// NID is the event.
	NID EventNID
}

// state_keys by type, then current_state_pkey; as many rows as the spaces have children.
const selectSpaceChildrenSQL = `
SELECT c.room_nid, k.state_key, c.event_nid
FROM current_state c
JOIN state_keys k USING (state_key_nid)
WHERE c.room_nid = ANY($1) AND k.type = 'm.space.child'`

// SpaceChildren returns the m.space.child events of spaces, in no order, those that name no server included.
func SpaceChildren(ctx context.Context, q Querier, spaces []RoomNID) ([]SpaceChild, error) {
	return collect[SpaceChild](ctx, q, selectSpaceChildrenSQL, spaces)
}

// memberships_local, then primary keys; as many rows as the room has local members are looked at.
const selectJoinedGuestsSQL = `
SELECT i.user_id
FROM memberships m JOIN users u USING (user_nid) JOIN user_ids i USING (user_nid)
WHERE m.room_nid = $1 AND m.is_local AND m.membership = 2 AND u.is_guest
ORDER BY i.user_id`

// JoinedGuests returns the user ids of the guests of this server who are in a room.
func JoinedGuests(ctx context.Context, q Querier, room RoomNID) ([]string, error) {
	rows, err := q.Query(ctx, selectJoinedGuestsSQL, room)
	if err != nil {
		return nil, TranslateError(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return out, TranslateError(err)
}

func collect[T any](ctx context.Context, q Querier, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, TranslateError(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	return out, TranslateError(err)
}

// escapeLike makes s stand for itself in a LIKE pattern.
func escapeLike(s string) string {
	var out []byte
	for i := range len(s) {
		if s[i] == '%' || s[i] == '_' || s[i] == '\\' {
			out = append(out, '\\')
		}
		out = append(out, s[i])
	}
	return string(out)
}

// memberships_user, twice; as many rows as the user with fewer rooms is in.
const selectMutualRoomsSQL = `
SELECT r.room_id
FROM memberships a
JOIN memberships b ON b.room_nid = a.room_nid AND b.user_nid = $2 AND b.membership = 2
JOIN rooms r ON r.room_nid = a.room_nid
WHERE a.user_nid = $1 AND a.membership = 2
ORDER BY r.room_id`

// MutualRooms returns the ids of the rooms that two users are both joined to, sorted.
func MutualRooms(ctx context.Context, q Querier, a, b UserNID) ([]string, error) {
	rows, err := q.Query(ctx, selectMutualRoomsSQL, a, b)
	if err != nil {
		return nil, TranslateError(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return out, TranslateError(err)
}
