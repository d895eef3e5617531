package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// LockNoticeRoom returns the room in which a user gets the server's notices, "" if there is none yet, and keeps others
// from asking for it until the transaction ends: so that only one of them makes it.
func LockNoticeRoom(ctx context.Context, tx *Tx, user UserNID) (string, error) {
	roomID := ""
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO server_notice_rooms (user_nid) VALUES ($1) ON CONFLICT DO NOTHING`, user)
	b.Queue(`SELECT room_id FROM server_notice_rooms WHERE user_nid = $1 FOR UPDATE`, user).QueryRow(func(row pgx.Row) error {
		return row.Scan(&roomID)
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return "", fmt.Errorf("lock notice room of user %d: %w", user, TranslateError(err))
	}
	return roomID, nil
}

// SetNoticeRoom notes the room in which a user gets the server's notices.
func SetNoticeRoom(ctx context.Context, tx *Tx, user UserNID, roomID string) error {
	if _, err := tx.Exec(ctx, `UPDATE server_notice_rooms SET room_id = $2 WHERE user_nid = $1`, user, roomID); err != nil {
		return fmt.Errorf("set notice room of user %d: %w", user, TranslateError(err))
	}
	return nil
}
