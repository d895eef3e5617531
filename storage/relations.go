package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// RelationPageQuery asks for events that relate to another, in topological order.
type RelationPageQuery struct {
	EventPageQuery
	// Parent is the event id of the other.
	Parent string
	// RelType and Type, if not "", are the rel_type and the event type wanted.
	RelType, Type string
	// Levels is how many relations there may be between an event and Parent; 0 stands for 1.
	Levels int
}

// event_relations_parent, once for each event that has relations; Limit rows.
const relationPageSQL = `
WITH RECURSIVE related (event_id, event_nid, rel_type, level) AS (
    SELECT c.event_id, r.event_nid, r.rel_type, 1
    FROM event_relations r JOIN events c USING (event_nid)
    WHERE r.relates_to = $6 AND r.room_nid = $1
    UNION
    SELECT c.event_id, r.event_nid, r.rel_type, p.level + 1
    FROM related p
    JOIN event_relations r ON r.relates_to = p.event_id AND r.room_nid = $1
    JOIN events c ON c.event_nid = r.event_nid
    WHERE p.level < $9
)
SELECT ` + eventColumns + `, EXISTS (SELECT FROM event_relations r WHERE r.relates_to = e.event_id)
FROM events e
WHERE e.event_nid IN (SELECT event_nid FROM related WHERE $7::text = '' OR rel_type = $7)
AND e.room_nid = $1 AND e.flags & 7 = 0 AND ($8::text = '' OR e.type = $8)
AND (e.depth, e.event_nid) > ($2::bigint, $3::bigint) AND (e.depth, e.event_nid) <= ($4::bigint, $5::bigint)`

const (
	selectRelationPageSQL         = relationPageSQL + ` ORDER BY e.depth, e.event_nid LIMIT $10`
	selectRelationPageBackwardSQL = relationPageSQL + ` ORDER BY e.depth DESC, e.event_nid DESC LIMIT $10`
)

// RelationPage returns events in the order asked for. Types and senders of the query are not looked at.
func RelationPage(ctx context.Context, q Querier, p RelationPageQuery) ([]PagedEvent, error) {
	sql := selectRelationPageSQL
	if p.Backwards {
		sql = selectRelationPageBackwardSQL
	}
	return pagedEvents(ctx, q, sql, p.Room, p.After.Depth, p.After.NID, p.UpTo.Depth, p.UpTo.NID,
		p.Parent, p.RelType, p.Type, max(p.Levels, 1), p.Limit)
}

// Aggregation is what is known of the events that relate to one.
type Aggregation struct {
	// NID is the event related to.
	NID EventNID
	// Edit is the latest m.replace event of its sender and type, 0 for none.
	Edit EventNID
	// Replies counts the m.thread events, of which Latest is the last; Mine says that the user asked for sent one.
	Replies int64
	Latest  EventNID
	Mine    bool
	// References are the event ids of the m.reference events, the oldest first, at most 100.
	References []string
}

const notRedacted = `c.flags = 0 AND NOT EXISTS (
    SELECT FROM redactions d WHERE d.redacts = c.event_id AND d.room_nid = c.room_nid AND d.allowed)`

// event_relations_parent; one row an event that others relate to.
const selectAggregationsSQL = `
SELECT p.event_nid, coalesce((
    SELECT c.event_nid FROM event_relations r JOIN events c USING (event_nid)
    WHERE r.relates_to = p.event_id AND r.rel_type = 'm.replace' AND r.room_nid = p.room_nid AND ` + notRedacted + `
    AND c.sender_nid = p.sender_nid AND c.type = p.type AND c.state_key_nid IS NULL AND p.state_key_nid IS NULL
    ORDER BY c.origin_server_ts DESC, c.event_id DESC LIMIT 1
), 0), t.replies, coalesce(t.latest, 0), coalesce(t.mine, false), ARRAY(
    SELECT c.event_id FROM event_relations r JOIN events c USING (event_nid)
    WHERE r.relates_to = p.event_id AND r.rel_type = 'm.reference' AND r.room_nid = p.room_nid AND ` + notRedacted + `
    AND c.sender_nid NOT IN (SELECT user_nid FROM user_ids WHERE user_id = ANY ($3::text[]))
    ORDER BY r.depth, r.event_nid LIMIT 100
)
FROM events p, LATERAL (
    SELECT count(*) AS replies, (array_agg(c.event_nid ORDER BY r.depth DESC, r.event_nid DESC))[1] AS latest,
        bool_or(c.sender_nid = $2) AS mine
    FROM event_relations r JOIN events c USING (event_nid)
    WHERE r.relates_to = p.event_id AND r.rel_type = 'm.thread' AND r.room_nid = p.room_nid AND ` + notRedacted + `
    AND c.sender_nid NOT IN (SELECT user_nid FROM user_ids WHERE user_id = ANY ($3::text[]))
) t
WHERE p.event_nid = ANY($1::bigint[]) AND EXISTS (SELECT FROM event_relations r WHERE r.relates_to = p.event_id)`

// Aggregations returns what relates to events, in no order, for a user who ignores others: what those sent is not
// counted. Events that nothing relates to are left out.
func Aggregations(ctx context.Context, q Querier, events []EventNID, user UserNID, ignored []string) ([]Aggregation, error) {
	return collect[Aggregation](ctx, q, selectAggregationsSQL, int64s(events), user, ignored)
}

// ThreadsQuery asks for the threads of a room, those with the latest replies first.
type ThreadsQuery struct {
	Room RoomNID
	// Before bounds the latest replies: they are before it.
	Before EventPoint
	// User, if not 0, wants only threads the user has begun or replied to.
	User  UserNID
	Limit int
}

// Thread is a thread: its root and its latest reply.
type Thread struct {
	Root   EventNID
	Latest EventPoint
}

// event_relations_threads; as many rows as the room has replies.
const selectThreadsSQL = `
SELECT p.event_nid, t.latest[1], t.latest[2]
FROM (
    SELECT r.relates_to, max(ARRAY[r.depth, r.event_nid]) AS latest, bool_or(c.sender_nid = $4) AS mine
    FROM event_relations r JOIN events c USING (event_nid)
    WHERE r.room_nid = $1 AND r.rel_type = 'm.thread' AND ` + notRedacted + `
    GROUP BY r.relates_to
) t
JOIN events p ON p.event_id = t.relates_to AND p.room_nid = $1 AND p.flags = 0
WHERE t.latest < ARRAY[$2::bigint, $3::bigint] AND ($4::bigint = 0 OR t.mine OR p.sender_nid = $4)
ORDER BY t.latest DESC LIMIT $5`

// Threads returns threads.
func Threads(ctx context.Context, q Querier, t ThreadsQuery) ([]Thread, error) {
	rows, err := q.Query(ctx, selectThreadsSQL, t.Room, t.Before.Depth, t.Before.NID, t.User, t.Limit)
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Thread, err error) {
		return t, row.Scan(&t.Root, &t.Latest.Depth, &t.Latest.NID)
	})
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", TranslateError(err))
	}
	return out, nil
}

// event_relations_parent; one row.
const selectAnnotatedSQL = `
SELECT EXISTS (
    SELECT FROM event_relations r JOIN events c USING (event_nid)
    WHERE r.relates_to = $2 AND r.rel_type = 'm.annotation' AND r.room_nid = $1 AND r.agg_key = $5
    AND c.sender_nid = $3 AND c.type = $4 AND ` + notRedacted + `
)`

// Annotated reports whether a user has an annotation of a type with a key on an event that is not redacted.
func Annotated(ctx context.Context, q Querier, room RoomNID, eventID string, user UserNID, typ, key string) (bool, error) {
	var found bool
	err := q.QueryRow(ctx, selectAnnotatedSQL, room, eventID, user, typ, key).Scan(&found)
	return found, TranslateError(err)
}

// event_relations_parent; one row an event.
const selectRelatedBySQL = `
SELECT p.event_nid FROM events p
WHERE p.event_nid = ANY($1::bigint[]) AND EXISTS (
    SELECT FROM event_relations r JOIN events c USING (event_nid)
    WHERE r.relates_to = p.event_id AND r.room_nid = p.room_nid AND ` + notRedacted + `
    AND ($2::bigint[] IS NULL OR c.sender_nid = ANY($2)) AND ($3::text[] IS NULL OR r.rel_type = ANY($3))
)`

// RelatedBy returns those events that an event of one of the senders, with one of the rel_types, relates to. Nil lists
// are all.
func RelatedBy(ctx context.Context, q Querier, events []EventNID, senders []UserNID, relTypes []string) ([]EventNID, error) {
	rows, err := q.Query(ctx, selectRelatedBySQL, int64s(events), senders, relTypes)
	if err != nil {
		return nil, fmt.Errorf("look up relations of %d events: %w", len(events), TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[EventNID])
	return out, TranslateError(err)
}
