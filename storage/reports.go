package storage

import "context"

// Report is what a user tells the administrators of this server about an event, a room or another user.
type Report struct {
	// ReceivedTS is when it came, in milliseconds since the Unix epoch.
	ReceivedTS int64
	// Reporter is who reports.
	Reporter UserNID
	// Room is the reported room or that of the reported event, 0 in the report of a user.
	Room RoomNID
	// Event is the reported event, 0 where a room or a user is reported.
	Event EventNID
	// User is the reported user or the sender of the reported event, 0 in the report of a room.
	User UserNID
	// Reason is what the reporter wrote, which may be nothing.
	Reason string
	// Score is -100 (most offensive) to 0 from older clients, nil otherwise.
	Score *int
}

const insertReportSQL = `
INSERT INTO reports (received_ts, reporter_nid, room_nid, event_nid, user_nid, reason, score)
VALUES ($1, $2, nullif($3::bigint, 0), nullif($4::bigint, 0), nullif($5::bigint, 0), nullif($6, ''), $7)
RETURNING report_id`

// InsertReport stores a report and returns its number.
func InsertReport(ctx context.Context, q Querier, r Report) (int64, error) {
	var n int64
	err := q.QueryRow(ctx, insertReportSQL, r.ReceivedTS, r.Reporter, r.Room, r.Event, r.User, r.Reason, r.Score).Scan(&n)
	return n, TranslateError(err)
}
