package storage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// AccountData is data a user of this server keeps here.
type AccountData struct {
	UserNID UserNID `db:"user_nid"`
	// RoomID is "" for global data.
	RoomID string `db:"room_id"`
	Type   string `db:"type"`
	// StreamID and WriterNID are the place of the last change in the account_data stream.
	StreamID  int64     `db:"stream_id"`
	WriterNID WriterNID `db:"writer_nid"`
	// Deleted marks data that was taken away; Content is then {}.
	Deleted bool            `db:"deleted"`
	Content json.RawMessage `db:"content"`
}

const accountDataColumns = `user_nid, room_id, type, stream_id, writer_nid, deleted, content`

func collectAccountData(what string, rows pgx.Rows, err error) ([]AccountData, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d AccountData, err error) {
		err = row.Scan(&d.UserNID, &d.RoomID, &d.Type, &d.StreamID, &d.WriterNID, &d.Deleted, (*[]byte)(&d.Content))
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, TranslateError(err))
	}
	return out, nil
}

// By the primary key; one row.
const getAccountDataSQL = `SELECT ` + accountDataColumns + ` FROM account_data WHERE user_nid = $1 AND room_id = $2 AND type = $3 AND NOT deleted`

// GetAccountData returns one piece of data, or [ErrNotFound]. roomID is "" for global data.
func GetAccountData(ctx context.Context, q Querier, user UserNID, roomID, dataType string) (*AccountData, error) {
	rows, err := q.Query(ctx, getAccountDataSQL, user, roomID, dataType)
	out, err := collectAccountData("get account data", rows, err)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("get account data: %w", ErrNotFound)
	}
	return &out[0], nil
}

const lockAccountDataSQL = `
INSERT INTO account_data AS d (user_nid, room_id, type, stream_id, writer_nid, deleted, content) VALUES ($1, $2, $3, 0, 0, true, '{}')
ON CONFLICT (user_nid, room_id, type) DO UPDATE SET type = excluded.type
RETURNING ` + accountDataColumns

// LockAccountData returns one piece of data, locked until the transaction ends; where there is none it is made, deleted
// and with stream_id 0. A caller that then changes nothing rolls back.
func LockAccountData(ctx context.Context, q Querier, user UserNID, roomID, dataType string) (*AccountData, error) {
	rows, err := q.Query(ctx, lockAccountDataSQL, user, roomID, dataType)
	out, err := collectAccountData("lock account data", rows, err)
	if err != nil {
		return nil, err
	}
	return &out[0], nil
}

const putAccountDataSQL = `
INSERT INTO account_data (user_nid, room_id, type, stream_id, writer_nid, deleted, content)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::smallint[], $6::boolean[], $7::bytea[])
ON CONFLICT (user_nid, room_id, type) DO UPDATE
SET stream_id = excluded.stream_id, writer_nid = excluded.writer_nid, deleted = excluded.deleted, content = excluded.content`

// PutAccountData stores data in place of what was there. No two of data may be the same piece.
func PutAccountData(ctx context.Context, q Querier, data []AccountData) error {
	n := len(data)
	users, rooms, types, ids := make([]int64, n), make([]string, n), make([]string, n), make([]int64, n)
	writers, deleted, contents := make([]int16, n), make([]bool, n), make([][]byte, n)
	for i, d := range data {
		users[i], rooms[i], types[i], ids[i] = int64(d.UserNID), d.RoomID, d.Type, d.StreamID
		writers[i], deleted[i], contents[i] = int16(d.WriterNID), d.Deleted, d.Content
	}
	if _, err := q.Exec(ctx, putAccountDataSQL, users, rooms, types, ids, writers, deleted, contents); err != nil {
		return fmt.Errorf("put account data: %w", TranslateError(err))
	}
	return nil
}

// By the primary key; one row a piece of data.
const accountDataSnapshotSQL = `
SELECT ` + accountDataColumns + ` FROM account_data
WHERE user_nid = $1 AND NOT deleted AND ($2::text[] IS NULL OR room_id = ANY ($2))
ORDER BY room_id, type`

// AccountDataSnapshot returns the data a user keeps for rooms, by room; the room id "" stands for the global data. nil
// means everything.
func AccountDataSnapshot(ctx context.Context, q Querier, user UserNID, roomIDs []string) ([]AccountData, error) {
	rows, err := q.Query(ctx, accountDataSnapshotSQL, user, roomIDs)
	return collectAccountData("get account data of user", rows, err)
}

// By the index on (user_nid, stream_id); the rows that changed.
const accountDataChangesSQL = `
SELECT ` + accountDataColumns + ` FROM account_data
WHERE user_nid = $1 AND stream_id > $2 AND stream_id <= $3
ORDER BY stream_id`

// AccountDataChanges returns the data of a user whose last change lies in after < stream_id <= upTo, oldest change first,
// global and in rooms, deleted data included.
func AccountDataChanges(ctx context.Context, q Querier, user UserNID, after, upTo int64) ([]AccountData, error) {
	rows, err := q.Query(ctx, accountDataChangesSQL, user, after, upTo)
	return collectAccountData("get changed account data", rows, err)
}

// AccountDataUpdate is a row of the account_data stream.
type AccountDataUpdate struct {
	StreamID int64  `db:"stream_id"`
	UserID   string `db:"user_id"`
	// RoomID is "" for global data.
	RoomID string `db:"room_id"`
	Type   string `db:"type"`
}

// By the index on (writer_nid, stream_id); about $4 rows.
const accountDataUpdatesSQL = `
SELECT d.stream_id, u.user_id, d.room_id, d.type
FROM account_data d JOIN writers w USING (writer_nid) JOIN user_ids u USING (user_nid)
WHERE w.name = $1 AND d.stream_id > $2 AND d.stream_id <= $3
ORDER BY d.stream_id
FETCH FIRST $4 ROWS WITH TIES`

// AccountDataUpdates returns what the named writer last changed with after < stream_id <= upTo, in order, about limit
// rows: those with one stream_id are never divided.
func AccountDataUpdates(ctx context.Context, q Querier, writer string, after, upTo int64, limit int) ([]AccountDataUpdate, error) {
	rows, err := q.Query(ctx, accountDataUpdatesSQL, writer, after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("get account data updates: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[AccountDataUpdate])
	if err != nil {
		return nil, fmt.Errorf("get account data updates: %w", TranslateError(err))
	}
	return out, nil
}
