package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Membership is the number of a membership in the database.
type Membership int16

// The memberships; 0 is none.
const (
	MembershipInvite Membership = 1
	MembershipJoin   Membership = 2
	MembershipKnock  Membership = 3
	MembershipLeave  Membership = 4
	MembershipBan    Membership = 5
)

// MembershipOf returns the number of a membership's name, 0 if there is none of that name.
func MembershipOf(name string) Membership {
	switch name {
	case "invite":
		return MembershipInvite
	case "join":
		return MembershipJoin
	case "knock":
		return MembershipKnock
	case "leave":
		return MembershipLeave
	case "ban":
		return MembershipBan
	}
	return 0
}

// String returns the name, "" for none.
func (m Membership) String() string {
	switch m {
	case MembershipInvite:
		return "invite"
	case MembershipJoin:
		return "join"
	case MembershipKnock:
		return "knock"
	case MembershipLeave:
		return "leave"
	case MembershipBan:
		return "ban"
	}
	return ""
}

// Member is a user's place in a room.
type Member struct {
	RoomNID     RoomNID    `db:"room_nid"`
	UserNID     UserNID    `db:"user_nid"`
	Membership  Membership `db:"membership"`
	EventNID    EventNID   `db:"event_nid"`
	SenderNID   UserNID    `db:"sender_nid"`
	IsLocal     bool       `db:"is_local"`
	Forgotten   bool       `db:"forgotten"`
	DisplayName string     `db:"display_name"`
	AvatarURL   string     `db:"avatar_url"`
	// JoinedNID is only written: the event in the stream by which a stay in the room begins, 0 where none does.
	JoinedNID EventNID `db:"-"`
}

const memberColumns = `room_nid, user_nid, membership, event_nid, sender_nid, is_local, forgotten,
    coalesce(display_name, '') AS display_name, coalesce(avatar_url, '') AS avatar_url`

// By the primary key: one row a user at most.
const getMembersSQL = `SELECT ` + memberColumns + `
FROM memberships WHERE room_nid = $1 AND user_nid = ANY($2::bigint[])`

// GetMembers returns the places of users in a room, in no order.
func GetMembers(ctx context.Context, q Querier, room RoomNID, users []UserNID) ([]Member, error) {
	return collectMembers(ctx, q, getMembersSQL, int64(room), int64s(users))
}

// By the primary key: as many rows as the room has members of that kind.
const listMembersSQL = `SELECT ` + memberColumns + `
FROM memberships WHERE room_nid = $1 AND (cardinality($2::smallint[]) = 0 OR membership = ANY($2::smallint[]))`

// ListMembers returns the members of a room whose membership is one of those given, all if none is given, in no order.
func ListMembers(ctx context.Context, q Querier, room RoomNID, memberships ...Membership) ([]Member, error) {
	return collectMembers(ctx, q, listMembersSQL, int64(room), int16s(memberships))
}

// By memberships_user: as many rows as the user has rooms.
const listUserRoomsSQL = `SELECT ` + memberColumns + `
FROM memberships WHERE user_nid = $1 AND (cardinality($2::smallint[]) = 0 OR membership = ANY($2::smallint[]))`

// ListUserRooms returns a user's places in rooms whose membership is one of those given, all if none is given.
func ListUserRooms(ctx context.Context, q Querier, user UserNID, memberships ...Membership) ([]Member, error) {
	return collectMembers(ctx, q, listUserRoomsSQL, int64(user), int16s(memberships))
}

func collectMembers(ctx context.Context, q Querier, sql string, args ...any) ([]Member, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("get members: %w", TranslateError(err))
	}
	members, err := pgx.CollectRows(rows, pgx.RowToStructByName[Member])
	if err != nil {
		return nil, fmt.Errorf("get members: %w", TranslateError(err))
	}
	return members, nil
}

// By memberships_local: as many rows as the room has joined users of this server.
const listLocalJoinedSQL = `
SELECT user_nid FROM memberships WHERE room_nid = $1 AND is_local AND membership = 2 ORDER BY user_nid`

// ListLocalJoined returns the joined users of this server in a room, ascending.
func ListLocalJoined(ctx context.Context, q Querier, room RoomNID) ([]UserNID, error) {
	rows, err := q.Query(ctx, listLocalJoinedSQL, int64(room))
	if err != nil {
		return nil, fmt.Errorf("list local members of room %d: %w", room, TranslateError(err))
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[UserNID])
	if err != nil {
		return nil, fmt.Errorf("list local members of room %d: %w", room, TranslateError(err))
	}
	return users, nil
}

// By the primary key: one row. Who is in the room, or invited, cannot have forgotten it.
const setForgottenSQL = `
UPDATE memberships SET forgotten = $3
WHERE room_nid = $1 AND user_nid = $2 AND (NOT $3 OR membership IN (4, 5))`

// SetForgotten marks a room as forgotten by a user who has left it or was banned from it, or takes the mark away. It
// reports whether there was such a place to mark.
func SetForgotten(ctx context.Context, q Querier, room RoomNID, user UserNID, forgotten bool) (bool, error) {
	tag, err := q.Exec(ctx, setForgottenSQL, int64(room), int64(user), forgotten)
	if err != nil {
		return false, fmt.Errorf("set room %d forgotten: %w", room, TranslateError(err))
	}
	return tag.RowsAffected() > 0, nil
}

// By the primary key.
const getStrippedSQL = `SELECT event_nid, state FROM stripped_state WHERE event_nid = ANY($1::bigint[])`

// GetStripped returns the stripped state that belongs to member events: JSON arrays by the event's number.
func GetStripped(ctx context.Context, q Querier, events []EventNID) (map[EventNID][]byte, error) {
	rows, err := q.Query(ctx, getStrippedSQL, int64s(events))
	if err != nil {
		return nil, fmt.Errorf("get stripped state: %w", TranslateError(err))
	}
	out := make(map[EventNID][]byte)
	var nid EventNID
	var state []byte
	_, err = pgx.ForEachRow(rows, []any{&nid, &state}, func() error {
		out[nid] = append([]byte(nil), state...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get stripped state: %w", TranslateError(err))
	}
	return out, nil
}

func int16s[N ~int16](ns []N) []int16 {
	out := make([]int16, len(ns))
	for i, n := range ns {
		out[i] = int16(n)
	}
	return out
}

// By the primary key: as many rows as the room has members are read, one a server returned.
const listServersSQL = `
SELECT substr(u.user_id, position(':' IN u.user_id) + 1) AS server
FROM memberships m JOIN user_ids u ON u.user_nid = m.user_nid
WHERE m.room_nid = $1 AND m.membership = 2
GROUP BY server ORDER BY count(*) DESC, server`

// ListServers returns the servers with joined users in a room, those with the most first.
func ListServers(ctx context.Context, q Querier, room RoomNID) ([]string, error) {
	rows, err := q.Query(ctx, listServersSQL, int64(room))
	if err != nil {
		return nil, fmt.Errorf("list servers of room %d: %w", room, TranslateError(err))
	}
	servers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list servers of room %d: %w", room, TranslateError(err))
	}
	return servers, nil
}

// By the primary key: as many rows as the room has members are read, those of one server returned.
const listServerUsersSQL = `
SELECT u.user_id FROM memberships m JOIN user_ids u ON u.user_nid = m.user_nid
WHERE m.room_nid = $1 AND right(u.user_id, length($2) + 1) = ':' || $2
ORDER BY m.membership = 2 DESC, m.event_nid LIMIT $3`

// ListServerUsers returns users of a server who have, or had, a place in a room, those who are joined first and of these
// those who have been longest.
func ListServerUsers(ctx context.Context, q Querier, room RoomNID, server string, limit int) ([]string, error) {
	rows, err := q.Query(ctx, listServerUsersSQL, int64(room), server, limit)
	if err != nil {
		return nil, fmt.Errorf("list users of a server in room %d: %w", room, TranslateError(err))
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list users of a server in room %d: %w", room, TranslateError(err))
	}
	return users, nil
}

// By the primary key: the members of a room up to the first that is invited and of the server.
const hasInvitedSQL = `
SELECT EXISTS (
    SELECT FROM memberships m JOIN user_ids u ON u.user_nid = m.user_nid
    WHERE m.room_nid = $1 AND m.membership IN (1, 3) AND right(u.user_id, length($2) + 1) = ':' || $2
)`

// HasInvited reports whether a user of a server is invited to a room, or has knocked.
func HasInvited(ctx context.Context, q Querier, room RoomNID, server string) (bool, error) {
	var found bool
	if err := q.QueryRow(ctx, hasInvitedSQL, int64(room), server).Scan(&found); err != nil {
		return false, fmt.Errorf("look for invites in room %d: %w", room, TranslateError(err))
	}
	return found, nil
}
