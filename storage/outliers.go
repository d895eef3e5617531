package storage

import (
	"context"
	"fmt"
)

// One row an event; the edges are written with the events they leave.
const insertOutliersSQL = `
WITH made AS (
    INSERT INTO events (event_nid, room_nid, sender_nid, state_key_nid, depth, origin_server_ts, received_ts, auth_depth,
        writer_nid, flags, event_id, type, json)
    SELECT n.event_nid, $2, n.sender_nid, nullif(n.state_key_nid, 0), n.depth, n.origin_server_ts, n.received_ts, n.auth_depth,
        $3, n.flags, n.event_id, n.type, n.json
    FROM unnest($1::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::integer[], $10::smallint[],
        $11::text[], $12::text[], $13::bytea[])
        AS n(event_nid, sender_nid, state_key_nid, depth, origin_server_ts, received_ts, auth_depth, flags, event_id, type, json)
    ORDER BY n.event_id
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_nid
), edges AS (
    INSERT INTO event_auth (event_nid, auth_nid, auth_depth)
    SELECT a.event_nid, a.auth_nid, a.auth_depth FROM unnest($14::bigint[], $15::bigint[], $16::integer[]) AS a(event_nid, auth_nid, auth_depth)
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM made`

// InsertOutliers writes events of one room without a place in it, with the edges to their auth_events, and returns how
// many were written: fewer than given if another transaction wrote some first. Then the caller must roll back, as edges
// may name numbers that came to nothing.
func InsertOutliers(ctx context.Context, q Querier, room RoomNID, writer WriterNID, events []NewEvent, edges []AuthEdge) (int, error) {
	n := len(events)
	nid, sender, key := make([]int64, n), make([]int64, n), make([]int64, n)
	depth, ots, rts := make([]int64, n), make([]int64, n), make([]int64, n)
	authDepth, flags := make([]int32, n), make([]int16, n)
	id, typ, json := make([]string, n), make([]string, n), make([][]byte, n)
	for i := range events {
		e := &events[i]
		nid[i], sender[i], key[i] = int64(e.NID), int64(e.SenderNID), int64(e.StateKeyNID)
		depth[i], ots[i], rts[i] = e.Depth, e.OriginServerTS, e.ReceivedTS
		authDepth[i], flags[i] = e.AuthDepth, e.Flags
		id[i], typ[i], json[i] = e.EventID, e.Type, e.JSON
	}
	from, to, toDepth := make([]int64, len(edges)), make([]int64, len(edges)), make([]int32, len(edges))
	for i, a := range edges {
		from[i], to[i], toDepth[i] = int64(a.EventNID), int64(a.AuthNID), a.AuthDepth
	}
	var made int
	err := q.QueryRow(ctx, insertOutliersSQL, nid, int64(room), int16(writer), sender, key, depth, ots, rts, authDepth, flags,
		id, typ, json, from, to, toDepth).Scan(&made)
	if err != nil {
		return 0, fmt.Errorf("insert %d outliers: %w", n, TranslateError(err))
	}
	return made, nil
}
