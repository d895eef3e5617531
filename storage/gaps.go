package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// By event_gaps_room, one row a gap of the room, with a probe of the index on event_id and one of the primary key each.
const openGapsSQL = `
SELECT g.prev_event_id
FROM event_gaps g JOIN events e ON e.event_nid = g.event_nid
WHERE g.room_nid = $1 AND e.flags & 7 = 0 AND NOT coalesce(g.prev_event_id = ANY($2::text[]), false)
AND NOT EXISTS (SELECT FROM events p WHERE p.event_id = g.prev_event_id AND p.flags & 1 = 0)
GROUP BY g.prev_event_id ORDER BY min(e.depth), g.prev_event_id LIMIT $3`

// OpenGaps returns events that a room's events follow and that are missing, those that are followed by the earliest
// first, without those in except.
func OpenGaps(ctx context.Context, q Querier, room RoomNID, except []string, limit int) ([]string, error) {
	rows, err := q.Query(ctx, openGapsSQL, int64(room), except, limit)
	if err != nil {
		return nil, fmt.Errorf("look for gaps in room %d: %w", room, TranslateError(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for gaps in room %d: %w", room, TranslateError(err))
	}
	return ids, nil
}

// By event_gaps_room, a probe an event, with one of the index on event_id for each gap.
const gapsBehindSQL = `
SELECT DISTINCT g.prev_event_id FROM event_gaps g
WHERE g.room_nid = $1 AND g.event_nid = ANY($2::bigint[])
AND NOT EXISTS (SELECT FROM events p WHERE p.event_id = g.prev_event_id AND p.flags & 1 = 0)
ORDER BY g.prev_event_id LIMIT $3`

// GapsBehind returns events that those given follow and that are missing.
func GapsBehind(ctx context.Context, q Querier, room RoomNID, nids []EventNID, limit int) ([]string, error) {
	rows, err := q.Query(ctx, gapsBehindSQL, int64(room), int64s(nids), limit)
	if err != nil {
		return nil, fmt.Errorf("look for gaps behind %d events: %w", len(nids), TranslateError(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for gaps behind %d events: %w", len(nids), TranslateError(err))
	}
	return ids, nil
}
