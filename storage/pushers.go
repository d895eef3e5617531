package storage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Pusher is a place a user has notifications sent to. A user has one for each app id and pushkey.
type Pusher struct {
	UserNID UserNID
	AppID   string
	Pushkey string
	// StreamID and WriterNID are the place of the last change in the pushers stream.
	StreamID  int64
	WriterNID WriterNID
	// DeviceID is the device whose session made the pusher, "" for sessions without one.
	DeviceID string
	// SetTS is when the user last set the pusher, in milliseconds since the epoch.
	SetTS int64
	// Kind is "http" or "email".
	Kind              string
	AppDisplayName    string
	DeviceDisplayName string
	ProfileTag        string
	Lang              string
	// Data is a JSON object.
	Data json.RawMessage
}

const putPusherSQL = `
INSERT INTO pushers (user_nid, app_id, pushkey, stream_id, writer_nid, deleted, device_id, set_ts, kind, app_display_name,
    device_display_name, profile_tag, lang, data)
VALUES ($1, $2, $3, $4, $5, false, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (user_nid, app_id, pushkey) DO UPDATE SET stream_id = excluded.stream_id, writer_nid = excluded.writer_nid,
    deleted = false, device_id = excluded.device_id, set_ts = excluded.set_ts, kind = excluded.kind, app_display_name = excluded.app_display_name,
    device_display_name = excluded.device_display_name, profile_tag = excluded.profile_tag, lang = excluded.lang,
    data = excluded.data`

// PutPusher stores a pusher in place of the user's of the same app id and pushkey.
func PutPusher(ctx context.Context, q Querier, p Pusher) error {
	_, err := q.Exec(ctx, putPusherSQL, p.UserNID, p.AppID, p.Pushkey, p.StreamID, int16(p.WriterNID), p.DeviceID, p.SetTS, p.Kind,
		p.AppDisplayName, p.DeviceDisplayName, p.ProfileTag, p.Lang, []byte(p.Data))
	if err != nil {
		return fmt.Errorf("put pusher: %w", TranslateError(err))
	}
	return nil
}

// By the index on (app_id, pushkey); as many rows as users have shared the key. What others' pushers held is not kept.
const deletePushersSQL = `
UPDATE pushers p SET deleted = true, stream_id = $5, writer_nid = $6, data = '{}'
FROM user_ids u
WHERE u.user_nid = p.user_nid AND p.app_id = $1 AND p.pushkey = $2 AND NOT p.deleted AND (p.user_nid = $3) = $4
RETURNING u.user_id`

// DeletePushers takes away the pushers of an app id and pushkey, the given user's where own is set and otherwise those of
// all other users, and returns whose they were.
func DeletePushers(ctx context.Context, q Querier, appID, pushkey string, user UserNID, own bool, streamID int64, writer WriterNID) ([]string, error) {
	rows, err := q.Query(ctx, deletePushersSQL, appID, pushkey, user, own, streamID, int16(writer))
	if err != nil {
		return nil, fmt.Errorf("delete pushers: %w", TranslateError(err))
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("delete pushers: %w", TranslateError(err))
	}
	return users, nil
}

// By the primary keys; as many rows as the user has pushers.
const getPushersSQL = `
SELECT p.user_nid, p.app_id, p.pushkey, p.stream_id, p.writer_nid, p.device_id, p.set_ts, p.kind, p.app_display_name,
    p.device_display_name, p.profile_tag, p.lang, p.data
FROM pushers p
WHERE p.user_nid = $1 AND NOT p.deleted
AND (p.device_id = '' OR EXISTS (SELECT FROM devices d WHERE d.user_nid = p.user_nid AND d.device_id = p.device_id))
ORDER BY p.app_id, p.pushkey`

// GetPushers returns the pushers of a user whose devices are still there.
func GetPushers(ctx context.Context, q Querier, user UserNID) ([]Pusher, error) {
	rows, err := q.Query(ctx, getPushersSQL, user)
	if err != nil {
		return nil, fmt.Errorf("get pushers: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Pusher, err error) {
		err = row.Scan(&p.UserNID, &p.AppID, &p.Pushkey, &p.StreamID, &p.WriterNID, &p.DeviceID, &p.SetTS, &p.Kind, &p.AppDisplayName,
			&p.DeviceDisplayName, &p.ProfileTag, &p.Lang, (*[]byte)(&p.Data))
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("get pushers: %w", TranslateError(err))
	}
	return out, nil
}

// PusherUpdate is a row of the pushers stream.
type PusherUpdate struct {
	StreamID int64  `db:"stream_id"`
	UserID   string `db:"user_id"`
	AppID    string `db:"app_id"`
	Pushkey  string `db:"pushkey"`
	Deleted  bool   `db:"deleted"`
}

// By the index on (writer_nid, stream_id); about $4 rows.
const pusherUpdatesSQL = `
SELECT p.stream_id, u.user_id, p.app_id, p.pushkey, p.deleted
FROM pushers p JOIN writers w USING (writer_nid) JOIN user_ids u USING (user_nid)
WHERE w.name = $1 AND p.stream_id > $2 AND p.stream_id <= $3
ORDER BY p.stream_id FETCH FIRST $4 ROWS WITH TIES`

// PusherUpdates returns the last changes of pushers that the named writer wrote with after < stream_id <= upTo, in order,
// about limit of them: rows with one stream_id are never divided.
func PusherUpdates(ctx context.Context, q Querier, writer string, after, upTo int64, limit int) ([]PusherUpdate, error) {
	rows, err := q.Query(ctx, pusherUpdatesSQL, writer, after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("get pusher updates: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[PusherUpdate])
	if err != nil {
		return nil, fmt.Errorf("get pusher updates: %w", TranslateError(err))
	}
	return out, nil
}
