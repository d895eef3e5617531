package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Device is a device of an account of this server.
type Device struct {
	UserNID  UserNID `db:"user_nid"`
	DeviceID string  `db:"device_id"`
	// DisplayName is nil where none was given.
	DisplayName *string `db:"display_name"`
	CreatedTS   int64   `db:"created_ts"`
	// LastSeenTS, IP and UserAgent are from the last request, nil before the first. They lag behind by some minutes.
	LastSeenTS *int64  `db:"last_seen_ts"`
	IP         *string `db:"ip"`
	UserAgent  *string `db:"user_agent"`
}

const insertDeviceSQL = `
INSERT INTO devices (user_nid, device_id, display_name, created_ts) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_nid, device_id) DO NOTHING`

// InsertDevice makes a device and reports whether it is new: one that is there stays as it is.
func InsertDevice(ctx context.Context, q Querier, d Device) (made bool, err error) {
	tag, err := q.Exec(ctx, insertDeviceSQL, d.UserNID, d.DeviceID, d.DisplayName, d.CreatedTS)
	if err != nil {
		return false, fmt.Errorf("insert device: %w", TranslateError(err))
	}
	return tag.RowsAffected() == 1, nil
}

const deviceColumns = `user_nid, device_id, display_name, created_ts, last_seen_ts, ip, user_agent`

// By the primary key; as many rows as the user has devices.
const getDevicesSQL = `SELECT ` + deviceColumns + ` FROM devices WHERE user_nid = $1 ORDER BY created_ts, device_id`

// GetDevices returns the devices of a user, oldest first.
func GetDevices(ctx context.Context, q Querier, user UserNID) ([]Device, error) {
	rows, err := q.Query(ctx, getDevicesSQL, user)
	if err != nil {
		return nil, fmt.Errorf("get devices: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[Device])
	if err != nil {
		return nil, fmt.Errorf("get devices: %w", TranslateError(err))
	}
	return out, nil
}

// By the primary key; one row.
const getDeviceSQL = `SELECT ` + deviceColumns + ` FROM devices WHERE user_nid = $1 AND device_id = $2`

// GetDevice returns one device, or [ErrNotFound].
func GetDevice(ctx context.Context, q Querier, user UserNID, deviceID string) (*Device, error) {
	rows, err := q.Query(ctx, getDeviceSQL, user, deviceID)
	if err != nil {
		return nil, fmt.Errorf("get device: %w", TranslateError(err))
	}
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Device])
	if err != nil {
		return nil, fmt.Errorf("get device: %w", TranslateError(err))
	}
	return &d, nil
}

// RenameDevice gives a device another display name, or returns [ErrNotFound].
func RenameDevice(ctx context.Context, q Querier, user UserNID, deviceID string, name *string) error {
	tag, err := q.Exec(ctx, `UPDATE devices SET display_name = $3 WHERE user_nid = $1 AND device_id = $2`, user, deviceID, name)
	if err != nil {
		return fmt.Errorf("rename device: %w", TranslateError(err))
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("rename device: %w", ErrNotFound)
	}
	return nil
}

// DeviceFilter chooses devices of one user.
type DeviceFilter struct {
	// Only lists the devices; nil means all.
	Only []string
	// Except is a device to leave alone, or "".
	Except string
}

// By the primary keys and the indexes on (user_nid, device_id).
const (
	deleteDevicesSQL = `DELETE FROM devices WHERE user_nid = $1 AND ($2::text[] IS NULL OR device_id = ANY ($2)) AND device_id <> $3 RETURNING device_id`
	// Tokens without a device belong to no device list: they go only with all.
	deleteDeviceAccessTokensSQL = `
DELETE FROM access_tokens WHERE user_nid = $1
AND CASE WHEN $2::text[] IS NULL THEN device_id IS NULL OR device_id <> $3 ELSE device_id = ANY ($2) AND device_id <> $3 END
AND token_id <> $4
RETURNING token_hash`
	deleteDeviceRefreshTokensSQL = `DELETE FROM refresh_tokens WHERE user_nid = $1 AND ($2::text[] IS NULL OR device_id = ANY ($2)) AND device_id <> $3`
)

// DeleteDevices deletes devices of a user with all their tokens, and returns the devices and the hashes of the access
// tokens that are gone. Where f chooses all devices, access tokens without a device go too, except keepToken (0 for
// none).
func DeleteDevices(ctx context.Context, q Querier, user UserNID, f DeviceFilter, keepToken int64) (devices []string, tokens [][]byte, err error) {
	b := &pgx.Batch{}
	b.Queue(deleteDevicesSQL, user, f.Only, f.Except).Query(func(rows pgx.Rows) (err error) {
		devices, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	b.Queue(deleteDeviceAccessTokensSQL, user, f.Only, f.Except, keepToken).Query(func(rows pgx.Rows) (err error) {
		tokens, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
		return err
	})
	b.Queue(deleteDeviceRefreshTokensSQL, user, f.Only, f.Except)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, nil, fmt.Errorf("delete devices: %w", TranslateError(err))
	}
	return devices, tokens, nil
}

// LastSeen is a use of a device from an address.
type LastSeen struct {
	UserNID UserNID
	// DeviceID is "" for tokens without a device.
	DeviceID  string
	IP        string
	UserAgent string
	// TS is the time of the request, in milliseconds since the epoch.
	TS int64
}

const (
	upsertUserIPsSQL = `
INSERT INTO user_ips (user_nid, device_id, ip, user_agent, last_seen_ts)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[])
ON CONFLICT (user_nid, device_id, ip) DO UPDATE
SET user_agent = excluded.user_agent, last_seen_ts = excluded.last_seen_ts
WHERE user_ips.last_seen_ts < excluded.last_seen_ts`
	updateDevicesSeenSQL = `
UPDATE devices d SET last_seen_ts = s.ts, ip = s.ip, user_agent = s.user_agent
FROM (SELECT DISTINCT ON (user_nid, device_id) *
      FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS t (user_nid, device_id, ip, user_agent, ts)
      ORDER BY user_nid, device_id, ts DESC) s
WHERE d.user_nid = s.user_nid AND d.device_id = s.device_id AND coalesce(d.last_seen_ts, 0) < s.ts`
)

// PutLastSeen records uses, in one round trip. No two of seen may have the same user, device and address; they should be
// sorted by those, so that two processes cannot wait for one another.
func PutLastSeen(ctx context.Context, q Querier, seen []LastSeen) error {
	n := len(seen)
	users, devices, ips, agents, ts := make([]int64, n), make([]string, n), make([]string, n), make([]string, n), make([]int64, n)
	for i, s := range seen {
		users[i], devices[i], ips[i], agents[i], ts[i] = int64(s.UserNID), s.DeviceID, s.IP, s.UserAgent, s.TS
	}
	b := &pgx.Batch{}
	b.Queue(upsertUserIPsSQL, users, devices, ips, agents, ts)
	b.Queue(updateDevicesSeenSQL, users, devices, ips, agents, ts)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("put last seen: %w", TranslateError(err))
	}
	return nil
}

// UserIP is an address a device was used from.
type UserIP struct {
	DeviceID   string `db:"device_id"`
	IP         string `db:"ip"`
	UserAgent  string `db:"user_agent"`
	LastSeenTS int64  `db:"last_seen_ts"`
}

// GetUserIPs returns the addresses a user's devices were used from, newest first.
func GetUserIPs(ctx context.Context, q Querier, user UserNID) ([]UserIP, error) {
	// By the primary key.
	rows, err := q.Query(ctx, `SELECT device_id, ip, user_agent, last_seen_ts FROM user_ips WHERE user_nid = $1 ORDER BY last_seen_ts DESC`, user)
	if err != nil {
		return nil, fmt.Errorf("get user ips: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[UserIP])
	if err != nil {
		return nil, fmt.Errorf("get user ips: %w", TranslateError(err))
	}
	return out, nil
}

// PruneUserIPs deletes uses before a time in milliseconds since the epoch.
func PruneUserIPs(ctx context.Context, q Querier, beforeTS int64) error {
	if _, err := q.Exec(ctx, `DELETE FROM user_ips WHERE last_seen_ts < $1`, beforeTS); err != nil {
		return fmt.Errorf("prune user ips: %w", TranslateError(err))
	}
	return nil
}
