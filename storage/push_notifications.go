package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PushNotification is an event that a user was notified of.
type PushNotification struct {
	RoomNID  RoomNID
	EventNID EventNID
	Thread   string
	// Actions is a JSON array, "" for that of a plain notification.
	Actions string
}

// By the indexes of push_counts on (room_nid, subject, event_nid) for what notifies and for what highlights: as many rows a
// span as are asked for. What a group is notified of and the user by exception is not (or otherwise) has a row of the
// user's, found by the primary key; nor is anybody notified of what they have sent.
const (
	pushNotificationsSQL = pushNotificationsFrom + `c.effect <> 0` + pushNotificationsTo
	pushHighlightsSQL    = pushNotificationsFrom + `c.effect >= 2` + pushNotificationsTo
)

const pushNotificationsFrom = `
SELECT s.room_nid, c.event_nid, c.thread, coalesce(c.actions, '')
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS s(room_nid, subject, after, before)
JOIN LATERAL (
    SELECT c.event_nid, c.thread, c.actions FROM push_counts c
    WHERE c.room_nid = s.room_nid AND c.subject = s.subject AND c.event_nid > s.after AND c.event_nid < least(s.before, $6) AND NOT c.redacted AND `

const pushNotificationsTo = `
    AND (s.subject > 0 OR NOT EXISTS (SELECT FROM push_counts o WHERE o.event_nid = c.event_nid AND o.subject = $5)
        AND NOT EXISTS (SELECT FROM events e WHERE e.event_nid = c.event_nid AND e.sender_nid = $5))
    ORDER BY c.event_nid DESC LIMIT $7
) c ON true
ORDER BY c.event_nid DESC LIMIT $7`

// PushNotifications returns the last events of spans, before one, that the user of the spans was notified of, the newest
// first; only those that highlight where highlights is set.
func PushNotifications(ctx context.Context, q Querier, user UserNID, spans []PushSpan, before EventNID, highlights bool, limit int) ([]PushNotification, error) {
	n := len(spans)
	rooms, subjects, after, end := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, s := range spans {
		rooms[i], subjects[i], after[i], end[i] = int64(s.RoomNID), int64(s.Subject), int64(s.After), int64(s.Before)
	}
	sql := pushNotificationsSQL
	if highlights {
		sql = pushHighlightsSQL
	}
	rows, err := q.Query(ctx, sql, rooms, subjects, after, end, user, before, limit)
	if err != nil {
		return nil, fmt.Errorf("list notifications: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[PushNotification])
	if err != nil {
		return nil, fmt.Errorf("list notifications: %w", TranslateError(err))
	}
	return out, nil
}
