package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// StagedEvent is an event of another server that waits to be written to its room.
type StagedEvent struct {
	// ID is its place in the order of arrival. Set by the functions that read.
	ID      int64
	RoomNID RoomNID
	EventID string
	// Origin is the server that sent it.
	Origin string
	// ReceivedTS is when it arrived, in milliseconds since the Unix epoch.
	ReceivedTS int64
	JSON       []byte
}

// InboundClaim is the right to write the staged events of a room to it.
type InboundClaim struct {
	RoomNID RoomNID
	// Token grows whenever the room changes hands.
	Token int64
	// Changes is how many transactions had brought events when the room was last looked at.
	Changes int64
}

// ServerTxn names a transaction of another server.
type ServerTxn struct {
	Origin, ID string
	// ReceivedTS is when it arrived, in milliseconds since the Unix epoch.
	ReceivedTS int64
	// Response is the body it is answered with.
	Response []byte
}

// By primary key; one row or none.
const selectServerTxnSQL = `SELECT response FROM federation_transactions WHERE origin = $1 AND txn_id = $2`

// By federation_inbound_origin; one row. The count stops at the limit.
const countStagedSQL = `SELECT count(*) FROM (SELECT FROM federation_inbound WHERE origin = $1 LIMIT $2) AS staged`

// By federation_inbound_room; a row for each of the rooms that has reached the limit.
const fullRoomsSQL = `
SELECT r.room_nid FROM unnest($1::bigint[]) AS r(room_nid)
WHERE (SELECT count(*) FROM (SELECT FROM federation_inbound i WHERE i.room_nid = r.room_nid LIMIT $2) AS staged) >= $2`

// InboundLookup is what is to be known before a transaction is processed.
type InboundLookup struct {
	// Response is the answer to the same transaction when it came before, nil if it is new.
	Response []byte
	// Staged is how many events of the origin wait, at most the limit asked with.
	Staged int
	// Full are the rooms in which so many events wait that more should not be taken.
	Full []RoomNID
}

// LookupServerTxn looks up what a transaction is judged by, in one round trip. originLimit and roomLimit say where
// counting stops.
func LookupServerTxn(ctx context.Context, db *DB, origin, txnID string, rooms []RoomNID, originLimit, roomLimit int) (InboundLookup, error) {
	var l InboundLookup
	b := &pgx.Batch{}
	b.Queue(selectServerTxnSQL, origin, txnID).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(&l.Response); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return nil
	})
	if len(rooms) > 0 {
		b.Queue(countStagedSQL, origin, originLimit).QueryRow(func(row pgx.Row) error { return row.Scan(&l.Staged) })
		b.Queue(fullRoomsSQL, rooms, roomLimit).Query(func(rows pgx.Rows) (err error) {
			l.Full, err = pgx.CollectRows(rows, pgx.RowTo[RoomNID])
			return err
		})
	}
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return l, fmt.Errorf("look up transaction of %s: %w", origin, TranslateError(err))
	}
	return l, nil
}

// One row an event, in the order given. An event may be staged twice: what the first time lacked may be there by the
// second.
const stageEventsSQL = `
INSERT INTO federation_inbound (room_nid, event_id, origin, received_ts, json)
SELECT n.room_nid, n.event_id, $3, $4, n.json
FROM unnest($1::bigint[], $2::text[], $5::bytea[]) WITH ORDINALITY AS n(room_nid, event_id, json, place)
ORDER BY n.place`

// By primary key; one row a room. The row is changed in any case, so that a holder who is about to give the room up
// notices.
const claimRoomsSQL = `
INSERT INTO federation_inbound_rooms AS r (room_nid, holder, token, changes, expires_ts)
SELECT room_nid, $2, 1, 1, now_ms() + $3 FROM unnest($1::bigint[]) AS n(room_nid)
ORDER BY room_nid
ON CONFLICT (room_nid) DO UPDATE
SET changes = r.changes + 1,
    holder = CASE WHEN r.expires_ts <= now_ms() THEN excluded.holder ELSE r.holder END,
    token = CASE WHEN r.expires_ts <= now_ms() THEN r.token + 1 ELSE r.token END,
    expires_ts = CASE WHEN r.expires_ts <= now_ms() THEN excluded.expires_ts ELSE r.expires_ts END
RETURNING r.room_nid, r.token, r.changes, r.holder`

const insertServerTxnSQL = `
INSERT INTO federation_transactions (origin, txn_id, received_ts, response) VALUES ($1, $2, $3, $4)
ON CONFLICT (origin, txn_id) DO NOTHING`

// StageTxn keeps a transaction's answer and those of its events that are to be written, all or nothing, in one round
// trip. It returns the claims that holder has on the events' rooms, those it had before included; rooms that are missing
// are somebody else's.
func StageTxn(ctx context.Context, db *DB, txn ServerTxn, events []StagedEvent, holder string, ttl time.Duration) ([]InboundClaim, error) {
	n := len(events)
	rooms, ids, raws := make([]int64, n), make([]string, n), make([][]byte, n)
	distinct := make([]int64, 0, n)
	seen := make(map[RoomNID]bool, n)
	for i, e := range events {
		rooms[i], ids[i], raws[i] = int64(e.RoomNID), e.EventID, e.JSON
		if !seen[e.RoomNID] {
			seen[e.RoomNID] = true
			distinct = append(distinct, int64(e.RoomNID))
		}
	}
	var claims []InboundClaim
	b := &pgx.Batch{}
	b.Queue(insertServerTxnSQL, txn.Origin, txn.ID, txn.ReceivedTS, txn.Response)
	if n > 0 {
		b.Queue(stageEventsSQL, rooms, ids, txn.Origin, txn.ReceivedTS, raws)
		b.Queue(claimRoomsSQL, distinct, holder, ttl.Milliseconds()).Query(collectClaims(&claims, holder))
	}
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("stage %d events of %s: %w", n, txn.Origin, TranslateError(err))
	}
	return claims, nil
}

// collectClaims reads the rows of claimRoomsSQL that are of holder.
func collectClaims(claims *[]InboundClaim, holder string) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			var c InboundClaim
			var h string
			if err := rows.Scan(&c.RoomNID, &c.Token, &c.Changes, &h); err != nil {
				return err
			}
			if h == holder {
				*claims = append(*claims, c)
			}
		}
		return rows.Err()
	}
}

// By primary key; as many rows as are given.
const deleteStagedSQL = `DELETE FROM federation_inbound WHERE staged_id = ANY($1::bigint[])`

// By primary key; a row for each room given up. One that has changed since, or has changed hands, is left.
const releaseRoomsSQL = `
DELETE FROM federation_inbound_rooms r
USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS n(room_nid, token, changes)
WHERE r.room_nid = n.room_nid AND r.token = n.token AND r.changes = n.changes AND r.holder = $4
RETURNING r.room_nid`

// By primary key and federation_inbound_room; up to the limit of rows for each room, one for a room without any.
const selectStagedSQL = `
SELECT r.room_nid, r.changes, i.staged_id, i.event_id, i.origin, i.received_ts, i.json
FROM unnest($1::bigint[], $2::bigint[]) AS n(room_nid, token)
JOIN federation_inbound_rooms r ON r.room_nid = n.room_nid AND r.token = n.token AND r.holder = $3
LEFT JOIN LATERAL (
    SELECT * FROM federation_inbound f WHERE f.room_nid = r.room_nid ORDER BY f.staged_id LIMIT $4
) i ON true
ORDER BY r.room_nid, i.staged_id`

// InboundWork is what a holder of rooms does in one round trip, in this order.
type InboundWork struct {
	// Done are staged events that need no further work.
	Done []int64
	// Release are rooms to give up, unless something came since Changes.
	Release []InboundClaim
	// Fetch are rooms whose events are wanted.
	Fetch []InboundClaim
	// Limit bounds the events of each room.
	Limit int
}

// InboundRoom is what waits in a room that the caller still holds.
type InboundRoom struct {
	RoomNID RoomNID
	Changes int64
	// Events are the first that wait, in the order of arrival.
	Events []StagedEvent
}

// WorkInbound does the bookkeeping of a holder. Rooms of Release that are missing from released, and rooms of Fetch that
// are missing from fetched, changed or are not the holder's any more.
func WorkInbound(ctx context.Context, db *DB, holder string, w InboundWork) (released []RoomNID, fetched []InboundRoom, err error) {
	b := &pgx.Batch{}
	if len(w.Done) > 0 {
		b.Queue(deleteStagedSQL, w.Done)
	}
	if len(w.Release) > 0 {
		rooms, tokens := claimColumns(w.Release)
		changes := make([]int64, len(w.Release))
		for i, c := range w.Release {
			changes[i] = c.Changes
		}
		b.Queue(releaseRoomsSQL, rooms, tokens, changes, holder).Query(func(rows pgx.Rows) (err error) {
			released, err = pgx.CollectRows(rows, pgx.RowTo[RoomNID])
			return err
		})
	}
	if len(w.Fetch) > 0 {
		rooms, tokens := claimColumns(w.Fetch)
		b.Queue(selectStagedSQL, rooms, tokens, holder, w.Limit).Query(func(rows pgx.Rows) (err error) {
			fetched, err = collectStaged(rows)
			return err
		})
	}
	if b.Len() == 0 {
		return nil, nil, nil
	}
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return nil, nil, fmt.Errorf("work on staged events: %w", TranslateError(err))
	}
	return released, fetched, nil
}

func claimColumns(claims []InboundClaim) (rooms, tokens []int64) {
	rooms, tokens = make([]int64, len(claims)), make([]int64, len(claims))
	for i, c := range claims {
		rooms[i], tokens[i] = int64(c.RoomNID), c.Token
	}
	return rooms, tokens
}

func collectStaged(rows pgx.Rows) ([]InboundRoom, error) {
	var out []InboundRoom
	for rows.Next() {
		var room RoomNID
		var changes int64
		var stagedID, receivedTS *int64
		var eventID, origin *string
		var raw []byte
		if err := rows.Scan(&room, &changes, &stagedID, &eventID, &origin, &receivedTS, &raw); err != nil {
			return nil, err
		}
		if len(out) == 0 || out[len(out)-1].RoomNID != room {
			out = append(out, InboundRoom{RoomNID: room, Changes: changes})
		}
		if stagedID == nil {
			continue
		}
		r := &out[len(out)-1]
		r.Events = append(r.Events, StagedEvent{
			ID: *stagedID, RoomNID: room, EventID: *eventID, Origin: *origin, ReceivedTS: *receivedTS, JSON: raw,
		})
	}
	return out, rows.Err()
}

// By primary key; as many rows as are still held.
const renewRoomsSQL = `
UPDATE federation_inbound_rooms r SET expires_ts = now_ms() + $4
FROM unnest($1::bigint[], $2::bigint[]) AS n(room_nid, token)
WHERE r.room_nid = n.room_nid AND r.token = n.token AND r.holder = $3
RETURNING r.room_nid`

// By federation_inbound_rooms_expiry; at most the limit of rows. Those that another process is just taking are skipped.
const adoptRoomsSQL = `
UPDATE federation_inbound_rooms r SET holder = $1, token = r.token + 1, expires_ts = now_ms() + $2
FROM (
    SELECT room_nid FROM federation_inbound_rooms WHERE expires_ts <= now_ms()
    ORDER BY expires_ts LIMIT $3 FOR UPDATE SKIP LOCKED
) free
WHERE r.room_nid = free.room_nid
RETURNING r.room_nid, r.token, r.changes, r.holder`

// RenewInbound extends the claims of a holder by ttl and takes over at most limit rooms that nobody holds any more, in
// one round trip. Rooms that are missing from kept have been lost.
func RenewInbound(ctx context.Context, db *DB, holder string, held []InboundClaim, ttl time.Duration, limit int) (kept []RoomNID, adopted []InboundClaim, err error) {
	b := &pgx.Batch{}
	if len(held) > 0 {
		rooms, tokens := claimColumns(held)
		b.Queue(renewRoomsSQL, rooms, tokens, holder, ttl.Milliseconds()).Query(func(rows pgx.Rows) (err error) {
			kept, err = pgx.CollectRows(rows, pgx.RowTo[RoomNID])
			return err
		})
	}
	b.Queue(adoptRoomsSQL, holder, ttl.Milliseconds(), limit).Query(collectClaims(&adopted, holder))
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		return nil, nil, fmt.Errorf("renew claims on rooms: %w", TranslateError(err))
	}
	return kept, adopted, nil
}

// By a scan of a table of rooms with work; as many rows as the holder has.
const abandonRoomsSQL = `UPDATE federation_inbound_rooms SET expires_ts = 0 WHERE holder = $1`

// AbandonInbound gives up all claims of a holder, so that any process may take the rooms over at once.
func AbandonInbound(ctx context.Context, q Querier, holder string) error {
	if _, err := q.Exec(ctx, abandonRoomsSQL, holder); err != nil {
		return fmt.Errorf("give up claims on rooms: %w", TranslateError(err))
	}
	return nil
}

// By federation_transactions_age.
const pruneServerTxnsSQL = `DELETE FROM federation_transactions WHERE received_ts < $1`

// PruneServerTxns forgets transactions that arrived before a time, in milliseconds since the Unix epoch.
func PruneServerTxns(ctx context.Context, q Querier, before int64) error {
	if _, err := q.Exec(ctx, pruneServerTxnsSQL, before); err != nil {
		return fmt.Errorf("forget old transactions: %w", TranslateError(err))
	}
	return nil
}
