package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// OutboundCursor is how far another server has been sent what is for it.
type OutboundCursor struct {
	Destination string
	// Sent is the number up to which nothing is left to be sent.
	Sent EventNID
	// Txn is the transaction under way, nil if there is none.
	Txn *OutboundTxn
}

// OutboundTxn is a transaction that was made and may have been sent.
type OutboundTxn struct {
	ID string
	// TS is when it was made, in milliseconds since the epoch.
	TS int64
	// Events are its events, in order.
	Events []EventNID
}

// By the primary key, one row a destination. Another process may have gone further with the destination in the meantime.
// That a row is lost when the database crashes does no harm: what was sent is sent once more, and known there.
const (
	putOutboundCursorsSQL = `
INSERT INTO outbound_cursors AS c (destination, sent_nid, txn_id, txn_ts, txn_nids)
SELECT n.destination, n.sent_nid, nullif(n.txn_id, ''), nullif(n.txn_ts, 0), CASE WHEN n.txn_id <> '' THEN n.txn_nids::bigint[] END
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[]) AS n(destination, sent_nid, txn_id, txn_ts, txn_nids)
ORDER BY n.destination
ON CONFLICT (destination) DO UPDATE SET sent_nid = greatest(c.sent_nid, excluded.sent_nid), txn_id = excluded.txn_id,
    txn_ts = excluded.txn_ts, txn_nids = excluded.txn_nids`
	asynchronousCommitSQL = `SELECT set_config('synchronous_commit', 'off', true)`
)

// PutOutboundCursors notes how far destinations, each named once, have come, and the transactions that are to be sent
// next: one round trip for all.
func PutOutboundCursors(ctx context.Context, q Querier, cursors []OutboundCursor) error {
	n := len(cursors)
	destinations, sent := make([]string, n), make([]int64, n)
	ids, times, events := make([]string, n), make([]int64, n), make([]string, n)
	for i, c := range cursors {
		destinations[i], sent[i], events[i] = c.Destination, int64(c.Sent), "{}"
		if c.Txn != nil {
			ids[i], times[i], events[i] = c.Txn.ID, c.Txn.TS, arrayLiteral(c.Txn.Events)
		}
	}
	b := &pgx.Batch{}
	b.Queue(asynchronousCommitSQL)
	b.Queue(putOutboundCursorsSQL, destinations, sent, ids, times, events)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("put cursors of %d destinations: %w", n, TranslateError(err))
	}
	return nil
}

// The newest outbound event of each room, one probe of events_outbound a room, and the servers that have not been sent
// it. Of a server that has gone, whether something lies in its time there.
const pendingDestinationsSQL = `
SELECT p.server, coalesce(c.sent_nid, 0), coalesce(c.txn_id, ''), coalesce(c.txn_ts, 0), coalesce(c.txn_nids, '{}')
FROM (
    SELECT s.server
    FROM room_heads h
    CROSS JOIN LATERAL (
        SELECT e.event_nid FROM events e WHERE e.room_nid = h.room_nid AND e.outbound ORDER BY e.event_nid DESC LIMIT 1
    ) newest
    JOIN room_servers s ON s.room_nid = h.room_nid AND s.from_nid <= newest.event_nid
    LEFT JOIN outbound_cursors c ON c.destination = s.server
    WHERE newest.event_nid > coalesce(c.sent_nid, 0) AND (s.until_nid IS NULL OR EXISTS (
        SELECT FROM events e
        WHERE e.room_nid = s.room_nid AND e.outbound AND e.event_nid >= s.from_nid AND e.event_nid > coalesce(c.sent_nid, 0)
            AND e.event_nid <= s.until_nid
    ))
    UNION
    SELECT destination FROM outbound_cursors WHERE txn_id IS NOT NULL
) p
LEFT JOIN outbound_cursors c ON c.destination = p.server`

// PendingDestinations returns the destinations for which there are events that they have not been sent, or whose last
// transaction may not have arrived, in no order. It costs a probe for each room and a look at each server in one: it is
// for the start of a sender.
func PendingDestinations(ctx context.Context, q Querier) ([]OutboundCursor, error) {
	rows, err := q.Query(ctx, pendingDestinationsSQL)
	if err != nil {
		return nil, fmt.Errorf("list destinations: %w", TranslateError(err))
	}
	cursors, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c OutboundCursor, err error) {
		var txn OutboundTxn
		var sent int64
		var events []int64
		if err = row.Scan(&c.Destination, &sent, &txn.ID, &txn.TS, &events); err != nil {
			return c, err
		}
		c.Sent = EventNID(sent)
		if txn.ID != "" {
			txn.Events = make([]EventNID, len(events))
			for i, e := range events {
				txn.Events[i] = EventNID(e)
			}
			c.Txn = &txn
		}
		return c, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list destinations: %w", TranslateError(err))
	}
	return cursors, nil
}

// BacklogQuery asks what a destination has not been sent.
type BacklogQuery struct {
	Destination string
	// After is the number up to which it has been sent everything. What the database says beyond it counts too.
	After EventNID
	// UpTo bounds the events: what is still being written lies above it.
	UpTo StreamBound
	// PerRoom is the number of events of a room up to which they are all wanted. Of a room with more only the newest is.
	PerRoom int
	// Limit is the most events returned.
	Limit int
}

// By room_servers_server and events_outbound: PerRoom+1 rows at most for each room the destination is in.
const outboundBacklogSQL = `
SELECT p.event_nid
FROM (
    SELECT e.event_nid, row_number() OVER (PARTITION BY s.room_nid ORDER BY e.event_nid DESC) AS age,
        count(*) OVER (PARTITION BY s.room_nid) AS missed
    FROM room_servers s
    CROSS JOIN (SELECT greatest($2, (SELECT sent_nid FROM outbound_cursors WHERE destination = $1)) AS nid) after
    CROSS JOIN LATERAL (
        SELECT e.event_nid FROM events e
        WHERE e.room_nid = s.room_nid AND e.outbound AND e.event_nid > after.nid AND e.event_nid >= s.from_nid
            AND (s.until_nid IS NULL OR e.event_nid <= s.until_nid)
            AND (e.event_nid <= $3 OR e.event_nid <= $4 AND e.event_nid <= coalesce(
                ($6::bigint[])[array_position($5::smallint[], e.writer_nid)], $3))
        ORDER BY e.event_nid DESC LIMIT $7::bigint + 1
    ) e
    WHERE s.server = $1
) p
WHERE p.missed <= $7 OR p.age = 1
ORDER BY p.event_nid LIMIT $8`

// OutboundBacklog returns what a destination has not been sent, in order.
func OutboundBacklog(ctx context.Context, q Querier, b BacklogQuery) ([]EventNID, error) {
	top := b.UpTo.Floor
	for _, n := range b.UpTo.At {
		top = max(top, n)
	}
	rows, err := q.Query(ctx, outboundBacklogSQL, b.Destination, int64(b.After), int64(b.UpTo.Floor), int64(top),
		int16s(b.UpTo.Writers), int64s(b.UpTo.At), b.PerRoom, b.Limit)
	if err != nil {
		return nil, fmt.Errorf("get the backlog of %s: %w", b.Destination, TranslateError(err))
	}
	nids, err := pgx.CollectRows(rows, pgx.RowTo[EventNID])
	if err != nil {
		return nil, fmt.Errorf("get the backlog of %s: %w", b.Destination, TranslateError(err))
	}
	return nids, nil
}

// By the primary key; one row, and a look at the few others.
const (
	renewSenderSQL = `
INSERT INTO federation_senders (instance, expires_ts) VALUES ($1, now_ms() + $2)
ON CONFLICT (instance) DO UPDATE SET expires_ts = excluded.expires_ts`
	listSendersSQL  = `SELECT instance FROM federation_senders WHERE expires_ts > now_ms() ORDER BY instance`
	removeSenderSQL = `DELETE FROM federation_senders WHERE instance = $1 OR expires_ts <= now_ms()`
)

// RenewFederationSender says that a process sends to other servers, for as long as ttl unless it says so again, and
// returns all that do, sorted.
func RenewFederationSender(ctx context.Context, q Querier, instance string, ttl time.Duration) ([]string, error) {
	var senders []string
	b := &pgx.Batch{}
	b.Queue(renewSenderSQL, instance, ttl.Milliseconds())
	b.Queue(listSendersSQL).Query(func(rows pgx.Rows) (err error) {
		senders, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("renew federation sender: %w", TranslateError(err))
	}
	return senders, nil
}

// RemoveFederationSender says that a process sends no longer.
func RemoveFederationSender(ctx context.Context, q Querier, instance string) error {
	if _, err := q.Exec(ctx, removeSenderSQL, instance); err != nil {
		return fmt.Errorf("remove federation sender: %w", TranslateError(err))
	}
	return nil
}

// By room_servers_gone: the servers that have gone from rooms. One that is still owed a transaction keeps its rows.
const pruneRoomServersSQL = `
DELETE FROM room_servers s USING outbound_cursors c
WHERE s.until_nid < $1 AND c.destination = s.server AND c.sent_nid >= s.until_nid AND c.txn_id IS NULL`

// PruneRoomServers forgets servers that have left rooms before an event and have been sent everything.
func PruneRoomServers(ctx context.Context, q Querier, before EventNID) (int64, error) {
	tag, err := q.Exec(ctx, pruneRoomServersSQL, int64(before))
	if err != nil {
		return 0, fmt.Errorf("prune servers of rooms: %w", TranslateError(err))
	}
	return tag.RowsAffected(), nil
}
