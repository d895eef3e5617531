package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// RoomServer says when another server was in a room.
type RoomServer struct {
	RoomNID RoomNID
	Server  string
	// From and Until are the first and the last event that is for the server. Until is MaxEventNID while it is in the room.
	From, Until EventNID
}

// In reports whether the server is in the room now.
func (s *RoomServer) In() bool { return s.Until == MaxEventNID }

// By the primary key: a row for each other server in the rooms, and a few for those that have gone.
const listRoomServersSQL = `
SELECT room_nid, server, from_nid, coalesce(until_nid, 9223372036854775807)
FROM room_servers WHERE room_nid = ANY ($1::bigint[]) ORDER BY room_nid, server, from_nid`

// ListRoomServers returns the other servers in rooms, by room and name, and those that have gone and may not have been
// sent everything.
func ListRoomServers(ctx context.Context, q Querier, rooms []RoomNID) ([]RoomServer, error) {
	rows, err := q.Query(ctx, listRoomServersSQL, int64s(rooms))
	if err != nil {
		return nil, fmt.Errorf("list servers in rooms: %w", TranslateError(err))
	}
	servers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (RoomServer, error) {
		var s RoomServer
		var room, from, until int64
		err := row.Scan(&room, &s.Server, &from, &until)
		s.RoomNID, s.From, s.Until = RoomNID(room), EventNID(from), EventNID(until)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list servers in rooms: %w", TranslateError(err))
	}
	return servers, nil
}

// By memberships_user, then by the primary key of room_servers: the servers in the user's rooms.
const serversOfUserSQL = `
SELECT DISTINCT s.server FROM memberships m JOIN room_servers s USING (room_nid)
WHERE m.user_nid = $1 AND m.membership = 2 AND s.until_nid IS NULL`

// ServersSharedWith returns the other servers that have users in the rooms a user is joined to.
func ServersSharedWith(ctx context.Context, q Querier, user UserNID) ([]string, error) {
	rows, err := q.Query(ctx, serversOfUserSQL, int64(user))
	if err != nil {
		return nil, fmt.Errorf("list servers of a user: %w", TranslateError(err))
	}
	servers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list servers of a user: %w", TranslateError(err))
	}
	return servers, nil
}
