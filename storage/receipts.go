package storage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Receipt says up to where a user has read a room, or one thread of it.
type Receipt struct {
	RoomNID RoomNID
	// Type is the receipt type, "m.read" or "m.read.private".
	Type    string
	UserNID UserNID
	// UserID is set by the functions that read, not looked at by those that write.
	UserID string
	// ThreadID is "" for unthreaded receipts.
	ThreadID string
	EventID  string
	// EventNID is 0 where the event is not known here.
	EventNID EventNID
	// StreamID and WriterNID are the place of the receipt in the receipts stream.
	StreamID  int64
	WriterNID WriterNID
	// Data is the object clients see under the user id.
	Data json.RawMessage
}

// A receipt whose event is not known is replaced by any; otherwise the event must be a later one. Receipts for unknown
// events replace only their like.
const putReceiptsSQL = `
INSERT INTO receipts (room_nid, receipt_type, user_nid, thread_id, event_id, event_nid, stream_id, writer_nid, data)
SELECT r.room_nid, r.receipt_type, r.user_nid, r.thread_id, r.event_id, nullif(r.event_nid, 0), r.stream_id, r.writer_nid, r.data
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::smallint[], $9::bytea[])
     AS r (room_nid, receipt_type, user_nid, thread_id, event_id, event_nid, stream_id, writer_nid, data)
ORDER BY 1, 2, 3, 4
ON CONFLICT (room_nid, receipt_type, user_nid, thread_id) DO UPDATE
SET event_id = excluded.event_id, event_nid = excluded.event_nid, stream_id = excluded.stream_id,
    writer_nid = excluded.writer_nid, data = excluded.data
WHERE receipts.event_nid IS NULL AND receipts.event_id <> excluded.event_id OR receipts.event_nid < excluded.event_nid
RETURNING stream_id`

// PutReceipts stores receipts that lie ahead of those that are there, and returns the stream ids of those it stored. No
// two of receipts may have the same room, type, user and thread, and each needs a StreamID of its own.
func PutReceipts(ctx context.Context, q Querier, receipts []Receipt) ([]int64, error) {
	n := len(receipts)
	rooms, types, users, threads, events := make([]int64, n), make([]string, n), make([]int64, n), make([]string, n), make([]string, n)
	nids, ids, writers, data := make([]int64, n), make([]int64, n), make([]int16, n), make([][]byte, n)
	for i, r := range receipts {
		rooms[i], types[i], users[i], threads[i], events[i] = int64(r.RoomNID), r.Type, int64(r.UserNID), r.ThreadID, r.EventID
		nids[i], ids[i], writers[i], data[i] = int64(r.EventNID), r.StreamID, int16(r.WriterNID), r.Data
	}
	rows, err := q.Query(ctx, putReceiptsSQL, rooms, types, users, threads, events, nids, ids, writers, data)
	if err != nil {
		return nil, fmt.Errorf("put receipts: %w", TranslateError(err))
	}
	stored, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("put receipts: %w", TranslateError(err))
	}
	return stored, nil
}

const receiptColumns = `r.room_nid, r.receipt_type, r.user_nid, u.user_id, r.thread_id, r.event_id, coalesce(r.event_nid, 0), r.stream_id, r.writer_nid, r.data`

func collectReceipts(what string, rows pgx.Rows, err error) ([]Receipt, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Receipt, err error) {
		err = row.Scan(&r.RoomNID, &r.Type, &r.UserNID, &r.UserID, &r.ThreadID, &r.EventID, &r.EventNID, &r.StreamID, &r.WriterNID, (*[]byte)(&r.Data))
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, TranslateError(err))
	}
	return out, nil
}

// By the index on (room_nid, stream_id); the receipts of the rooms in the range. Private ones are their owner's alone.
const receiptsInRoomsSQL = `
SELECT ` + receiptColumns + ` FROM receipts r JOIN user_ids u USING (user_nid)
WHERE r.room_nid = ANY ($1) AND r.stream_id > $2 AND r.stream_id <= $3
AND (r.receipt_type <> 'm.read.private' OR r.user_nid = $4)
ORDER BY r.room_nid, r.stream_id`

// ReceiptsInRooms returns the receipts in rooms with after < stream_id <= upTo that viewer may see, by room, oldest
// change first: all but other people's private ones. after 0 gives the current receipts.
func ReceiptsInRooms(ctx context.Context, q Querier, rooms []RoomNID, viewer UserNID, after, upTo int64) ([]Receipt, error) {
	rows, err := q.Query(ctx, receiptsInRoomsSQL, int64s(rooms), after, upTo, viewer)
	return collectReceipts("get receipts in rooms", rows, err)
}

// By the index on (user_nid, room_nid); the user's receipts in the rooms.
const receiptsOfUserSQL = `
SELECT ` + receiptColumns + ` FROM receipts r JOIN user_ids u USING (user_nid)
WHERE r.user_nid = $1 AND ($2::bigint[] IS NULL OR r.room_nid = ANY ($2))
ORDER BY r.room_nid, r.stream_id`

// ReceiptsOfUser returns a user's own receipts in rooms, private ones included. nil means all rooms.
func ReceiptsOfUser(ctx context.Context, q Querier, user UserNID, rooms []RoomNID) ([]Receipt, error) {
	var in []int64
	if rooms != nil {
		in = int64s(rooms)
	}
	rows, err := q.Query(ctx, receiptsOfUserSQL, user, in)
	return collectReceipts("get receipts of user", rows, err)
}

// ReceiptUpdate is a row of the receipts stream.
type ReceiptUpdate struct {
	Receipt
	RoomID string
}

// By the index on (writer_nid, stream_id); about $4 rows.
const receiptUpdatesSQL = `
SELECT ` + receiptColumns + `, n.room_id FROM receipts r JOIN writers w USING (writer_nid) JOIN user_ids u USING (user_nid) JOIN rooms n USING (room_nid)
WHERE w.name = $1 AND r.stream_id > $2 AND r.stream_id <= $3
ORDER BY r.stream_id
FETCH FIRST $4 ROWS WITH TIES`

// ReceiptUpdates returns the receipts that the named writer wrote with after < stream_id <= upTo and that hold still, in
// order, about limit of them: rows with one stream_id are never divided.
func ReceiptUpdates(ctx context.Context, q Querier, writer string, after, upTo int64, limit int) ([]ReceiptUpdate, error) {
	rows, err := q.Query(ctx, receiptUpdatesSQL, writer, after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("get receipt updates: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ReceiptUpdate, err error) {
		err = row.Scan(&r.RoomNID, &r.Type, &r.UserNID, &r.UserID, &r.ThreadID, &r.EventID, &r.EventNID, &r.StreamID, &r.WriterNID, (*[]byte)(&r.Data), &r.RoomID)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("get receipt updates: %w", TranslateError(err))
	}
	return out, nil
}
