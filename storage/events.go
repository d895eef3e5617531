package storage

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
)

// Event is a row of events as it is read: with the id of the room, the names of state key and sender left to the JSON,
// and the redaction that applies to it.
type Event struct {
	NID            EventNID
	RoomNID        RoomNID
	SenderNID      UserNID
	StateKeyNID    StateKeyNID // 0 if it is no state event
	Depth          int64
	OriginServerTS int64
	ReceivedTS     int64
	AuthDepth      int32
	WriterNID      WriterNID
	// Flags are 1 outlier, 2 rejected, 4 soft-failed.
	Flags   int16
	EventID string
	// StateRoot is the root of the state before the event; empty for outliers and for the empty state.
	StateRoot []byte
	// TxnDevice and TxnID are "" where there are none.
	TxnDevice, TxnID string
	// Outbound is set for an event that this server tells the others of the room.
	Outbound bool
	JSON     []byte
	// RedactionNID is the first redaction that applies to the event, 0 if there is none.
	RedactionNID EventNID
}

// The events a query yields are aliased e. The redaction is one probe of redactions_pkey an event.
const eventColumns = `e.event_nid, e.room_nid, e.sender_nid, coalesce(e.state_key_nid, 0), e.depth, e.origin_server_ts,
    e.received_ts, e.auth_depth, e.writer_nid, e.flags, e.event_id, e.state_root, coalesce(e.txn_device, ''),
    coalesce(e.txn_id, ''), coalesce(e.outbound, false), e.json,
    coalesce((SELECT r.redaction_nid FROM redactions r
        WHERE r.redacts = e.event_id AND r.room_nid = e.room_nid AND r.allowed ORDER BY r.redaction_nid LIMIT 1), 0)`

func scanEvent(row pgx.CollectableRow) (Event, error) {
	var e Event
	// Plain types: pgx reads named ones through reflection, which over a large answer is what costs most.
	var nid, room, sender, key, redaction int64
	var writer int16
	err := row.Scan(&nid, &room, &sender, &key, &e.Depth, &e.OriginServerTS, &e.ReceivedTS,
		&e.AuthDepth, &writer, &e.Flags, &e.EventID, &e.StateRoot, &e.TxnDevice, &e.TxnID, &e.Outbound, &e.JSON, &redaction)
	e.NID, e.RoomNID, e.SenderNID, e.StateKeyNID = EventNID(nid), RoomNID(room), UserNID(sender), StateKeyNID(key)
	e.WriterNID, e.RedactionNID = WriterNID(writer), EventNID(redaction)
	return e, err
}

func queryEvents(ctx context.Context, q Querier, sql string, args ...any) ([]Event, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("get events: %w", TranslateError(err))
	}
	events, err := pgx.CollectRows(rows, scanEvent)
	if err != nil {
		return nil, fmt.Errorf("get events: %w", TranslateError(err))
	}
	return events, nil
}

// By the primary key.
const getEventsSQL = `SELECT ` + eventColumns + ` FROM events e WHERE e.event_nid = ANY($1::bigint[])`

// GetEvents returns events by number, in no order.
func GetEvents(ctx context.Context, q Querier, nids []EventNID) ([]Event, error) {
	return queryEvents(ctx, q, getEventsSQL, int64s(nids))
}

// By the unique index on event_id.
const lookupEventsSQL = `SELECT ` + eventColumns + ` FROM events e WHERE e.event_id = ANY($1::text[])`

// LookupEvents returns events by event id, in no order.
func LookupEvents(ctx context.Context, q Querier, ids []string) ([]Event, error) {
	return queryEvents(ctx, q, lookupEventsSQL, ids)
}

// Txn names the request of a device.
type Txn struct {
	RoomNID   RoomNID
	SenderNID UserNID
	Device    string
	ID        string
}

// By events_txn: one row a transaction at most. The planner is kept from anything but a probe for each by the lateral
// limit.
const lookupTxnsSQL = `
SELECT e.event_nid, e.room_nid, e.sender_nid, e.txn_device, e.txn_id, e.event_id, e.writer_nid
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS t(room_nid, sender_nid, txn_device, txn_id)
CROSS JOIN LATERAL (
    SELECT * FROM events e
    WHERE e.room_nid = t.room_nid AND e.sender_nid = t.sender_nid AND e.txn_device = t.txn_device AND e.txn_id = t.txn_id
    LIMIT 1
) e`

// SentEvent is an event that a request has written.
type SentEvent struct {
	Txn
	EventNID  EventNID
	EventID   string
	WriterNID WriterNID
}

// LookupTxns returns the events that requests have written, in no order.
func LookupTxns(ctx context.Context, q Querier, txns []Txn) ([]SentEvent, error) {
	rows, err := q.Query(ctx, lookupTxnsSQL, txnArgs(txns)...)
	if err != nil {
		return nil, fmt.Errorf("look up %d transaction ids: %w", len(txns), TranslateError(err))
	}
	sent, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s SentEvent, err error) {
		err = row.Scan(&s.EventNID, &s.RoomNID, &s.SenderNID, &s.Device, &s.Txn.ID, &s.EventID, &s.WriterNID)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("look up %d transaction ids: %w", len(txns), TranslateError(err))
	}
	return sent, nil
}

func txnArgs(txns []Txn) []any {
	rooms, senders := make([]int64, len(txns)), make([]int64, len(txns))
	devices, ids := make([]string, len(txns)), make([]string, len(txns))
	for i, t := range txns {
		rooms[i], senders[i], devices[i], ids[i] = int64(t.RoomNID), int64(t.SenderNID), t.Device, t.ID
	}
	return []any{rooms, senders, devices, ids}
}

// TimelineQuery asks for events of a room by number: After < nid <= UpTo. Outliers, rejected and soft-failed events are
// left out.
type TimelineQuery struct {
	Room        RoomNID
	After, UpTo EventNID
	// Backwards gives the greatest numbers first.
	Backwards bool
	// Limit bounds the events returned.
	Limit int
}

// By events_room_order: Limit rows and those left out between them.
const (
	timelineForwardsSQL = `SELECT ` + eventColumns + ` FROM events e
WHERE e.room_nid = $1 AND e.event_nid > $2 AND e.event_nid <= $3 AND e.flags = 0 ORDER BY e.event_nid LIMIT $4`
	timelineBackwardsSQL = `SELECT ` + eventColumns + ` FROM events e
WHERE e.room_nid = $1 AND e.event_nid > $2 AND e.event_nid <= $3 AND e.flags = 0 ORDER BY e.event_nid DESC LIMIT $4`
)

// Timeline returns events of a room in the order asked for.
func Timeline(ctx context.Context, q Querier, t TimelineQuery) ([]Event, error) {
	sql := timelineForwardsSQL
	if t.Backwards {
		sql = timelineBackwardsSQL
	}
	return queryEvents(ctx, q, sql, int64(t.Room), int64(t.After), int64(t.UpTo), t.Limit)
}

// By events_room_order: limit rows a room.
const recentEventsSQL = `
SELECT ` + eventColumns + `
FROM unnest($1::bigint[]) AS w(room_nid)
CROSS JOIN LATERAL (
    SELECT * FROM events e
    WHERE e.room_nid = w.room_nid AND e.event_nid > $2 AND e.event_nid <= $3 AND e.flags = 0
    ORDER BY e.event_nid DESC LIMIT $4
) e`

// RecentEvents returns for each room the newest events with after < nid <= upTo, at most limit each, in no order.
func RecentEvents(ctx context.Context, q Querier, rooms []RoomNID, after, upTo EventNID, limit int) ([]Event, error) {
	return queryEvents(ctx, q, recentEventsSQL, int64s(rooms), int64(after), int64(upTo), limit)
}

// By the primary key, over the numbers of all writers in the range: those of the others are read and left out.
const writerEventsSQL = `SELECT ` + eventColumns + ` FROM events e
WHERE e.event_nid > $1 AND e.event_nid <= $2 AND e.writer_nid = $3 ORDER BY e.event_nid LIMIT $4`

// WriterEvents returns the events of one writer with after < nid <= upTo in order of number, at most limit.
func WriterEvents(ctx context.Context, q Querier, writer WriterNID, after, upTo EventNID, limit int) ([]Event, error) {
	return queryEvents(ctx, q, writerEventsSQL, int64(after), int64(upTo), int16(writer), limit)
}

// AuthEdge says that a state event names another in its auth_events.
type AuthEdge struct {
	EventNID EventNID `db:"event_nid"`
	AuthNID  EventNID `db:"auth_nid"`
	// AuthDepth is that of the event named.
	AuthDepth int32 `db:"auth_depth"`
}

// By the primary key of event_auth: each event of the part of the auth chains that is asked for, once.
const authChainSQL = `
WITH RECURSIVE chain(event_nid) AS (
    SELECT unnest($1::bigint[])
    UNION
    SELECT a.auth_nid FROM chain c JOIN event_auth a ON a.event_nid = c.event_nid WHERE a.auth_depth > $2
)
SELECT a.event_nid, a.auth_nid, a.auth_depth FROM chain c JOIN event_auth a ON a.event_nid = c.event_nid`

// AuthChain returns the edges that leave the given events and those events of their auth chains whose auth depth is
// above floor.
func AuthChain(ctx context.Context, q Querier, from []EventNID, floor int32) ([]AuthEdge, error) {
	rows, err := q.Query(ctx, authChainSQL, int64s(from), floor)
	if err != nil {
		return nil, fmt.Errorf("get auth chains of %d events: %w", len(from), TranslateError(err))
	}
	edges, err := pgx.CollectRows(rows, pgx.RowToStructByPos[AuthEdge])
	if err != nil {
		return nil, fmt.Errorf("get auth chains of %d events: %w", len(from), TranslateError(err))
	}
	return edges, nil
}

// Authorised is an event that names another in its auth_events.
type Authorised struct {
	AuthNID     EventNID    `db:"auth_nid"`
	EventNID    EventNID    `db:"event_nid"`
	StateKeyNID StateKeyNID `db:"state_key_nid"`
	Rejected    bool        `db:"rejected"`
}

// By event_auth_reverse: limit rows an event at most, the newest first.
const authorisedBySQL = `
SELECT w.auth_nid, a.event_nid, e.state_key_nid, e.flags & 2 <> 0
FROM unnest($1::bigint[], $2::bigint[]) AS w(auth_nid, below)
CROSS JOIN LATERAL (
    SELECT a.event_nid FROM event_auth a
    WHERE a.auth_nid = w.auth_nid AND a.event_nid < w.below ORDER BY a.event_nid DESC LIMIT $3
) a
JOIN events e ON e.event_nid = a.event_nid`

// AuthorisedBy returns events that name those given in their auth_events: of each a page of at most
// limit, those below the number given for it, greatest first.
func AuthorisedBy(ctx context.Context, q Querier, nids, below []EventNID, limit int) ([]Authorised, error) {
	rows, err := q.Query(ctx, authorisedBySQL, int64s(nids), int64s(below), limit)
	if err != nil {
		return nil, fmt.Errorf("get events authorised by %d events: %w", len(nids), TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Authorised])
	if err != nil {
		return nil, fmt.Errorf("get events authorised by %d events: %w", len(nids), TranslateError(err))
	}
	return out, nil
}

// By the primary key of event_gaps.
const eventsAfterGapsSQL = `SELECT DISTINCT prev_event_id FROM event_gaps WHERE prev_event_id = ANY($1::text[])`

// AfterGaps returns those of the event ids that some event was accepted after while they were missing.
func AfterGaps(ctx context.Context, q Querier, eventIDs []string) ([]string, error) {
	rows, err := q.Query(ctx, eventsAfterGapsSQL, eventIDs)
	if err != nil {
		return nil, fmt.Errorf("look for events after gaps: %w", TranslateError(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for events after gaps: %w", TranslateError(err))
	}
	return ids, nil
}

// By the primary key of redactions: the redactions of the events that may not be applied yet.
const pendingRedactionsSQL = `
SELECT redacts, redaction_nid FROM redactions WHERE redacts = ANY($1::text[]) AND room_nid = $2 AND NOT allowed`

// PendingRedaction is a redaction that arrived before what it redacts.
type PendingRedaction struct {
	Redacts      string   `db:"redacts"`
	RedactionNID EventNID `db:"redaction_nid"`
}

// PendingRedactions returns the redactions of events that are not known to be allowed.
func PendingRedactions(ctx context.Context, q Querier, room RoomNID, eventIDs []string) ([]PendingRedaction, error) {
	rows, err := q.Query(ctx, pendingRedactionsSQL, eventIDs, int64(room))
	if err != nil {
		return nil, fmt.Errorf("get pending redactions: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[PendingRedaction])
	if err != nil {
		return nil, fmt.Errorf("get pending redactions: %w", TranslateError(err))
	}
	return out, nil
}

// MaxEventNID is the number above those of all events.
const MaxEventNID EventNID = math.MaxInt64

// By the primary key.
const existingEventsSQL = `SELECT event_nid FROM events WHERE event_nid = ANY($1::bigint[])`

// ExistingEvents returns those of the numbers that events have.
func ExistingEvents(ctx context.Context, q Querier, nids []EventNID) ([]EventNID, error) {
	rows, err := q.Query(ctx, existingEventsSQL, int64s(nids))
	if err != nil {
		return nil, fmt.Errorf("look for %d events: %w", len(nids), TranslateError(err))
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[EventNID])
	if err != nil {
		return nil, fmt.Errorf("look for %d events: %w", len(nids), TranslateError(err))
	}
	return found, nil
}

// By redactions_by_event: one row a redaction.
const appliedRedactionsSQL = `SELECT redaction_nid, redacts FROM redactions WHERE redaction_nid = ANY($1::bigint[]) AND allowed`

// AppliedRedactions returns what those of the redactions redact that are to be applied.
func AppliedRedactions(ctx context.Context, q Querier, nids []EventNID) (map[EventNID]string, error) {
	rows, err := q.Query(ctx, appliedRedactionsSQL, int64s(nids))
	if err != nil {
		return nil, fmt.Errorf("get redactions: %w", TranslateError(err))
	}
	out := make(map[EventNID]string)
	var nid EventNID
	var redacts string
	_, err = pgx.ForEachRow(rows, []any{&nid, &redacts}, func() error {
		out[nid] = redacts
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get redactions: %w", TranslateError(err))
	}
	return out, nil
}
