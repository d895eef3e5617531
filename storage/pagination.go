package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// EventPoint is a place in the topological order of a room: events are ordered by depth, events of equal depth by number.
type EventPoint struct {
	Depth int64
	NID   EventNID
}

// EventPageQuery asks for events of a room in topological order, hidden ones and outliers left out.
type EventPageQuery struct {
	Room RoomNID
	// After and UpTo bound the page: After < event <= UpTo. The zero After is the start of the room.
	After, UpTo EventPoint
	// Backwards gives the last events first.
	Backwards bool
	// Limit bounds the events returned. Required.
	Limit int
	// Types and NotTypes are LIKE patterns of the event types wanted and not wanted. Nil Types are all.
	Types, NotTypes []string
	// Senders and NotSenders are the senders wanted and not wanted. Nil Senders are all.
	Senders, NotSenders []UserNID
}

const eventPageSQL = `
SELECT ` + eventColumns + `, EXISTS (SELECT FROM event_relations r WHERE r.relates_to = e.event_id)
FROM events e
WHERE e.room_nid = $1 AND e.flags & 7 = 0
AND (e.depth, e.event_nid) > ($2::bigint, $3::bigint) AND (e.depth, e.event_nid) <= ($4::bigint, $5::bigint)
AND ($6::text[] IS NULL OR e.type LIKE ANY($6)) AND NOT coalesce(e.type LIKE ANY($7), false)
AND ($8::bigint[] IS NULL OR e.sender_nid = ANY($8)) AND NOT coalesce(e.sender_nid = ANY($9), false)`

// events_room_depth; Limit rows, more are read where the filter refuses many.
const (
	selectEventPageSQL         = eventPageSQL + ` ORDER BY e.depth, e.event_nid LIMIT $10`
	selectEventPageBackwardSQL = eventPageSQL + ` ORDER BY e.depth DESC, e.event_nid DESC LIMIT $10`
)

// PagedEvent is an event of a page.
type PagedEvent struct {
	Event
	// Related says that other events relate to it.
	Related bool
}

// EventPage returns events in the order asked for.
func EventPage(ctx context.Context, q Querier, p EventPageQuery) ([]PagedEvent, error) {
	sql := selectEventPageSQL
	if p.Backwards {
		sql = selectEventPageBackwardSQL
	}
	return pagedEvents(ctx, q, sql, p.Room, p.After.Depth, p.After.NID, p.UpTo.Depth, p.UpTo.NID,
		p.Types, p.NotTypes, p.Senders, p.NotSenders, p.Limit)
}

func pagedEvents(ctx context.Context, q Querier, sql string, args ...any) ([]PagedEvent, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("get a page of events: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p PagedEvent, err error) {
		e := &p.Event
		err = row.Scan(&e.NID, &e.RoomNID, &e.SenderNID, &e.StateKeyNID, &e.Depth, &e.OriginServerTS, &e.ReceivedTS,
			&e.AuthDepth, &e.WriterNID, &e.Flags, &e.EventID, &e.StateRoot, &e.TxnDevice, &e.TxnID, &e.Outbound, &e.JSON, &e.RedactionNID,
			&p.Related)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("get a page of events: %w", TranslateError(err))
	}
	return out, nil
}

// The last twenty events in the order of the stream, of which the deepest is taken: where the graph forked, the last in
// the one order need not be the last in the other. events_room_order; one row.
const selectPointAtSQL = `
SELECT depth, event_nid FROM (
    SELECT depth, event_nid FROM events
    WHERE room_nid = $1 AND flags & 7 = 0
    AND (event_nid <= $2::bigint OR event_nid <= $3::bigint AND event_nid <= coalesce(
        ($5::bigint[])[array_position($4::smallint[], writer_nid)], $2::bigint))
    ORDER BY event_nid DESC LIMIT 20
) last
ORDER BY depth DESC, event_nid DESC LIMIT 1`

// StreamBound is a position in the events stream: how far its writers have come.
type StreamBound struct {
	// Floor is the number all writers have reached.
	Floor EventNID
	// Writers are ahead of the floor, at the numbers in At.
	Writers []WriterNID
	At      []EventNID
}

// PointAt returns the last place of a room that a position in the events stream covers, in topological order, or
// ErrNotFound where it covers nothing of the room.
func PointAt(ctx context.Context, q Querier, room RoomNID, b StreamBound) (EventPoint, error) {
	top := b.Floor
	for _, n := range b.At {
		top = max(top, n)
	}
	var p EventPoint
	err := q.QueryRow(ctx, selectPointAtSQL, room, b.Floor, top, b.Writers, b.At).Scan(&p.Depth, &p.NID)
	return p, TranslateError(err)
}

// EventAt is an event near a point in time.
type EventAt struct {
	NID EventNID
	// TS is its origin_server_ts.
	TS int64
}

// Events are numbered almost in the order of their times, so the place is found by bisection of the numbers, one index
// lookup a step, and the nearest event then among its neighbours: an index on the time would cost every event written.
// events_room_order; 40 rows.
const eventsAroundSQL = `
WITH RECURSIVE search (lo, hi, found) AS (
    SELECT min(event_nid) - 1, max(event_nid), max(event_nid) FROM events WHERE room_nid = $1
    UNION ALL
    SELECT
        CASE WHEN p.ts >= $2 THEN s.lo ELSE p.nid END,
        CASE WHEN p.ts >= $2 THEN s.lo + (s.hi - s.lo) / 2 ELSE s.hi END,
        CASE WHEN p.ts >= $2 THEN p.nid ELSE s.found END
    FROM search s, LATERAL (
        SELECT event_nid AS nid, origin_server_ts AS ts FROM events
        WHERE room_nid = $1 AND event_nid > s.lo + (s.hi - s.lo) / 2
        ORDER BY event_nid LIMIT 1
    ) p
    WHERE s.lo < s.hi
), place AS (
    SELECT found FROM search ORDER BY lo DESC, hi LIMIT 1
)
SELECT event_nid, origin_server_ts FROM (
    (SELECT event_nid, origin_server_ts, flags, depth FROM events
     WHERE room_nid = $1 AND event_nid <= (SELECT found FROM place) ORDER BY event_nid DESC LIMIT 50)
    UNION ALL
    (SELECT event_nid, origin_server_ts, flags, depth FROM events
     WHERE room_nid = $1 AND event_nid > (SELECT found FROM place) ORDER BY event_nid LIMIT 50)
) near
WHERE flags & 7 = 0 `

const (
	selectEventAfterSQL  = eventsAroundSQL + `AND origin_server_ts >= $2 ORDER BY origin_server_ts, depth, event_nid LIMIT 1`
	selectEventBeforeSQL = eventsAroundSQL + `AND origin_server_ts <= $2 ORDER BY origin_server_ts DESC, depth DESC, event_nid DESC LIMIT 1`
)

// EventNearest returns the event of a room whose time is the first at or after ts, or the last at or before it, or
// ErrNotFound. Times are in milliseconds since the Unix epoch.
func EventNearest(ctx context.Context, q Querier, room RoomNID, ts int64, forwards bool) (EventAt, error) {
	sql := selectEventBeforeSQL
	if forwards {
		sql = selectEventAfterSQL
	}
	rows, err := q.Query(ctx, sql, room, ts)
	if err != nil {
		return EventAt{}, TranslateError(err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[EventAt])
	return e, TranslateError(err)
}
