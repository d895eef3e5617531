package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PushReader is a user who reads a room.
type PushReader struct {
	UserNID UserNID
	RoomNID RoomNID
}

// PushMark is a point in a room that decides what of it is unread for a user.
type PushMark struct {
	PushReader
	// Kind is what the point is.
	Kind PushMarkKind
	// Thread is what PushMarkRead is about: "" for the room as a whole, "main" for the main timeline, otherwise the event id
	// of a thread's root. PushMarkSent has "" for the main timeline.
	Thread   string
	EventNID EventNID
	// Subject is the group of PushMarkGroup.
	Subject PushSubject
}

// PushMarkKind is a kind of PushMark.
type PushMarkKind int16

// The kinds.
const (
	// PushMarkJoined is the event by which the user came to the room. Rooms without one the user is not joined to.
	PushMarkJoined PushMarkKind = iota
	// PushMarkRead is a receipt.
	PushMarkRead
	// PushMarkSent is the last event the user has sent.
	PushMarkSent
	// PushMarkGroup is an event from which on the user is counted with another group.
	PushMarkGroup
)

// By the primary keys of memberships, push_sent and push_groups, and the index of receipts by user and room: a few rows a
// reader. The planner is kept from scanning whole tables by the lateral subquery, and from going through all members of the
// room in memberships_order by the limit.
const pushMarksSQL = `
SELECT w.user_nid, w.room_nid, m.kind, m.thread, m.event_nid, m.subject
FROM unnest($1::bigint[], $2::bigint[]) AS w(user_nid, room_nid)
CROSS JOIN LATERAL (
    SELECT 0::smallint AS kind, '' AS thread, x.joined_nid AS event_nid, 0::bigint AS subject FROM (
        SELECT membership, joined_nid FROM memberships m WHERE m.room_nid = w.room_nid AND m.user_nid = w.user_nid LIMIT 1
    ) x WHERE x.membership = 2
    UNION ALL
    SELECT 1::smallint, x.thread_id, x.event_nid, 0 FROM receipts x
    WHERE x.user_nid = w.user_nid AND x.room_nid = w.room_nid AND x.event_nid IS NOT NULL AND x.receipt_type IN ('m.read', 'm.read.private')
    UNION ALL
    SELECT 2::smallint, x.thread, x.event_nid, 0 FROM push_sent x WHERE x.user_nid = w.user_nid AND x.room_nid = w.room_nid
    UNION ALL
    SELECT 3::smallint, '', x.event_nid, x.subject FROM push_groups x WHERE x.user_nid = w.user_nid AND x.room_nid = w.room_nid
) m
ORDER BY 1, 2, 3, 5`

// PushMarks returns the marks of readers, by user, room, kind and event.
func PushMarks(ctx context.Context, q Querier, readers []PushReader) ([]PushMark, error) {
	users, rooms := make([]int64, len(readers)), make([]int64, len(readers))
	for i, r := range readers {
		users[i], rooms[i] = int64(r.UserNID), int64(r.RoomNID)
	}
	rows, err := q.Query(ctx, pushMarksSQL, users, rooms)
	if err != nil {
		return nil, fmt.Errorf("get push marks: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m PushMark, err error) {
		err = row.Scan(&m.UserNID, &m.RoomNID, &m.Kind, &m.Thread, &m.EventNID, &m.Subject)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("get push marks: %w", TranslateError(err))
	}
	return out, nil
}

// PushSpan is a part of a room's events that is counted for one subject.
type PushSpan struct {
	PushReader
	Subject PushSubject
	// The events counted have After < EventNID < Before.
	After, Before EventNID
}

// PushThreadRead says up to which event a thread has been read, "" being the main timeline.
type PushThreadRead struct {
	PushReader
	Thread   string
	EventNID EventNID
}

// PushUnreadCount is what of a thread is counted.
type PushUnreadCount struct {
	PushReader
	Thread string
	// Notify and Highlight are sums over the spans. They may be negative where spans of a user stand alone.
	Notify, Highlight int64
}

// By the index of push_totals on (room_nid, subject, event_nid): the threads that were active since; for each of them one
// or two rows by the index of push_counts on (room_nid, subject, thread, event_nid), and those redacted since.
const pushUnreadSQL = `
SELECT s.user_nid, s.room_nid, t.thread,
    sum(coalesce(till.notify, 0) - coalesce(read.notify, 0) - coalesce(gone.notify, 0))::bigint,
    sum(coalesce(till.highlight, 0) - coalesce(read.highlight, 0) - coalesce(gone.highlight, 0))::bigint
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS s(user_nid, room_nid, subject, after, before)
JOIN LATERAL (
    SELECT thread FROM push_totals t WHERE t.room_nid = s.room_nid AND t.subject = s.subject AND t.event_nid > s.after
) t ON true
LEFT JOIN unnest($6::bigint[], $7::bigint[], $8::text[], $9::bigint[]) AS b(user_nid, room_nid, thread, event_nid)
    ON b.user_nid = s.user_nid AND b.room_nid = s.room_nid AND b.thread = t.thread
CROSS JOIN LATERAL (SELECT least(greatest(s.after, b.event_nid), s.before - 1) AS after) f
LEFT JOIN LATERAL (
    SELECT c.notify, c.highlight FROM push_counts c
    WHERE c.room_nid = s.room_nid AND c.subject = s.subject AND c.thread = t.thread AND c.event_nid <= f.after
    ORDER BY c.event_nid DESC LIMIT 1
) read ON true
LEFT JOIN LATERAL (
    SELECT c.notify, c.highlight FROM push_counts c
    WHERE c.room_nid = s.room_nid AND c.subject = s.subject AND c.thread = t.thread AND c.event_nid < s.before
    ORDER BY c.event_nid DESC LIMIT 1
) till ON true
LEFT JOIN LATERAL (
    SELECT sum(c.notify_by) AS notify, sum(c.highlight_by) AS highlight FROM push_counts c
    WHERE c.room_nid = s.room_nid AND c.subject = s.subject AND c.thread = t.thread AND c.redacted
    AND c.event_nid > f.after AND c.event_nid < s.before
) gone ON true
GROUP BY 1, 2, 3`

// PushUnread adds up what is counted in spans, by reader and thread, without what the readers have read of threads.
func PushUnread(ctx context.Context, q Querier, spans []PushSpan, read []PushThreadRead) ([]PushUnreadCount, error) {
	n := len(spans)
	users, rooms, subjects := make([]int64, n), make([]int64, n), make([]int64, n)
	after, before := make([]int64, n), make([]int64, n)
	for i, s := range spans {
		users[i], rooms[i], subjects[i], after[i], before[i] = int64(s.UserNID), int64(s.RoomNID), int64(s.Subject), int64(s.After), int64(s.Before)
	}
	n = len(read)
	readUsers, readRooms, threads, events := make([]int64, n), make([]int64, n), make([]string, n), make([]int64, n)
	for i, r := range read {
		readUsers[i], readRooms[i], threads[i], events[i] = int64(r.UserNID), int64(r.RoomNID), r.Thread, int64(r.EventNID)
	}
	rows, err := q.Query(ctx, pushUnreadSQL, users, rooms, subjects, after, before, readUsers, readRooms, threads, events)
	if err != nil {
		return nil, fmt.Errorf("count unread: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c PushUnreadCount, err error) {
		err = row.Scan(&c.UserNID, &c.RoomNID, &c.Thread, &c.Notify, &c.Highlight)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("count unread: %w", TranslateError(err))
	}
	return out, nil
}
