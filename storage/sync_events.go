package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// SyncBounds says which events lie between two points of the events stream. Events of a writer in Writers are bounded by
// the number at the same index of Since and UpTo, those of other writers by After and Level.
type SyncBounds struct {
	// After and Level are the points that every writer has reached.
	After, Level EventNID
	// Max is the greatest of UpTo and Level.
	Max EventNID
	// Writers are the writers that are ahead at either point.
	Writers []WriterNID
	// Since and UpTo are where they stand at the points.
	Since, UpTo []EventNID
}

// args returns the arguments that boundsSQL names $1 to $6.
func (b *SyncBounds) args() []any {
	return []any{int64(b.After), int64(b.Level), int64(b.Max), int16s(b.Writers), int64s(b.Since), int64s(b.UpTo)}
}

// boundsSQL limits events e to the bounds. The first two conditions are for the index.
const boundsSQL = `e.event_nid > $1 AND e.event_nid <= $3
    AND e.event_nid > coalesce(($5::bigint[])[array_position($4::smallint[], e.writer_nid)], $1)
    AND e.event_nid <= coalesce(($6::bigint[])[array_position($4::smallint[], e.writer_nid)], $2)`

// SyncFilter says which events count, nil lists being absent.
type SyncFilter struct {
	// Types and NotTypes are patterns for LIKE.
	Types, NotTypes []string
	// Senders and NotSenders are users.
	Senders, NotSenders []UserNID
	// NotSenderOfMessages are users whose events count only where they are state.
	NotSenderOfMessages []UserNID
}

// SyncRange asks for the timeline of a room.
type SyncRange struct {
	RoomNID RoomNID
	// All has the lower bounds left out: the whole past counts.
	All bool
	// Last, if not 0, is the last event that counts.
	Last EventNID
	// Limit is how many events are wanted at most.
	Limit int
}

// SyncEvent is an event in an answer, by number.
type SyncEvent struct {
	RoomNID  RoomNID  `db:"room_nid"`
	EventNID EventNID `db:"event_nid"`
}

// By events_room_order, backwards: the range's limit of rows a room, and those between them that do not count.
const syncTimelinesSQL = `
SELECT w.room_nid, t.event_nid
FROM unnest($7::bigint[], $8::boolean[], $9::bigint[], $10::bigint[]) AS w(room_nid, whole, last, n)
CROSS JOIN LATERAL (
    SELECT e.event_nid FROM events e
    WHERE e.room_nid = w.room_nid AND e.flags = 0
        AND e.event_nid > CASE WHEN w.whole THEN -9223372036854775807 ELSE $1 END AND e.event_nid <= least(w.last, $3)
        AND (w.whole OR e.event_nid > coalesce(($5::bigint[])[array_position($4::smallint[], e.writer_nid)], $1))
        AND e.event_nid <= coalesce(($6::bigint[])[array_position($4::smallint[], e.writer_nid)], $2)
        AND ($11::text[] IS NULL OR e.type LIKE ANY ($11))
        AND ($12::text[] IS NULL OR NOT e.type LIKE ANY ($12))
        AND ($13::bigint[] IS NULL OR e.sender_nid = ANY ($13))
        AND ($14::bigint[] IS NULL OR NOT e.sender_nid = ANY ($14))
        AND ($15::bigint[] IS NULL OR e.state_key_nid IS NOT NULL OR NOT e.sender_nid = ANY ($15))
    ORDER BY e.event_nid DESC LIMIT w.n
) t
ORDER BY w.room_nid, t.event_nid`

func scanSyncEvent(row pgx.CollectableRow) (SyncEvent, error) {
	var room, nid int64 // plain types are read without reflection
	err := row.Scan(&room, &nid)
	return SyncEvent{RoomNID(room), EventNID(nid)}, err
}

func collectSyncEvents(what string, rows pgx.Rows, err error) ([]SyncEvent, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, scanSyncEvent)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, TranslateError(err))
	}
	return out, nil
}

func scanSyncState(row pgx.CollectableRow) (SyncState, error) {
	var room, key, nid int64
	err := row.Scan(&room, &key, &nid)
	return SyncState{RoomNID(room), StateKeyNID(key), EventNID(nid)}, err
}

// SyncTimelines returns the newest events of each room that count, by room and number: one statement for all rooms.
func SyncTimelines(ctx context.Context, q Querier, ranges []SyncRange, b SyncBounds, f SyncFilter) ([]SyncEvent, error) {
	n := len(ranges)
	rooms, whole, last, limits := make([]int64, n), make([]bool, n), make([]int64, n), make([]int64, n)
	for i, r := range ranges {
		rooms[i], whole[i], last[i], limits[i] = int64(r.RoomNID), r.All, int64(MaxEventNID), int64(r.Limit)
		if r.Last != 0 {
			last[i] = int64(r.Last)
		}
	}
	args := append(b.args(), rooms, whole, last, limits, f.Types, f.NotTypes, nids(f.Senders), nids(f.NotSenders), nids(f.NotSenderOfMessages))
	rows, err := q.Query(ctx, syncTimelinesSQL, args...)
	return collectSyncEvents("get timelines", rows, err)
}

// nids keeps nil apart from empty.
func nids[N ~int64](list []N) []int64 {
	if list == nil {
		return nil
	}
	return int64s(list)
}

// SyncState is a piece of a room's current state, by number.
type SyncState struct {
	RoomNID     RoomNID     `db:"room_nid"`
	StateKeyNID StateKeyNID `db:"state_key_nid"`
	EventNID    EventNID    `db:"event_nid"`
}

// By the primary key of current_state: the state of the rooms. Without members by events_plain_state, which skips them:
// the state keys that were ever set, each looked up once.
const (
	syncCurrentStateSQL = `
SELECT room_nid, state_key_nid, event_nid FROM current_state WHERE room_nid = ANY ($1::bigint[])`
	syncPlainStateSQL = `
SELECT c.room_nid, c.state_key_nid, c.event_nid
FROM (
    SELECT DISTINCT room_nid, state_key_nid FROM events
    WHERE room_nid = ANY ($1::bigint[]) AND state_key_nid IS NOT NULL AND type <> 'm.room.member'
) k
JOIN current_state c USING (room_nid, state_key_nid)`
)

// SyncCurrentState returns the current state of rooms, with or without what is said of members.
func SyncCurrentState(ctx context.Context, q Querier, rooms []RoomNID, members bool) ([]SyncState, error) {
	sql := syncPlainStateSQL
	if members {
		sql = syncCurrentStateSQL
	}
	rows, err := q.Query(ctx, sql, int64s(rooms))
	if err != nil {
		return nil, fmt.Errorf("get current state: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, scanSyncState)
	if err != nil {
		return nil, fmt.Errorf("get current state: %w", TranslateError(err))
	}
	return out, nil
}

// SyncStateChange is a piece of state of a room that changed between two points.
type SyncStateChange struct {
	RoomNID     RoomNID     `db:"room_nid"`
	StateKeyNID StateKeyNID `db:"state_key_nid"`
	// Before is the last event before the room's timeline that set it, 0 if there is none; Last the last of all.
	Before EventNID `db:"before"`
	Last   EventNID `db:"last"`
	// Current is the event of the current state, 0 if that does not have the piece.
	Current EventNID `db:"current"`
}

// By events_state: the state events of the rooms between the points.
const syncStateChangesSQL = `
SELECT c.room_nid, c.state_key_nid, coalesce(c.before, 0), c.last, coalesce(s.event_nid, 0)
FROM (
    SELECT w.room_nid, e.state_key_nid, max(e.event_nid) FILTER (WHERE e.event_nid < w.start) AS before, max(e.event_nid) AS last
    FROM unnest($7::bigint[], $8::bigint[], $9::bigint[]) AS w(room_nid, start, last)
    JOIN events e ON e.room_nid = w.room_nid AND e.event_nid <= w.last
    WHERE e.state_key_nid IS NOT NULL AND e.flags = 0 AND ` + boundsSQL + `
    GROUP BY w.room_nid, e.state_key_nid
) c
LEFT JOIN current_state s ON s.room_nid = c.room_nid AND s.state_key_nid = c.state_key_nid`

// SyncStateChanges returns the pieces of state of rooms that were set between two points, and not after the room's event
// in last; starts are the first events of the rooms' timelines.
func SyncStateChanges(ctx context.Context, q Querier, rooms []RoomNID, starts, last []EventNID, b SyncBounds) ([]SyncStateChange, error) {
	rows, err := q.Query(ctx, syncStateChangesSQL, append(b.args(), int64s(rooms), int64s(starts), int64s(last))...)
	if err != nil {
		return nil, fmt.Errorf("get changes of state: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[SyncStateChange])
	if err != nil {
		return nil, fmt.Errorf("get changes of state: %w", TranslateError(err))
	}
	return out, nil
}

// By events_member: the changes of one user's memberships.
const syncMemberChangesSQL = `
SELECT e.room_nid, e.event_nid FROM events e
WHERE e.type = 'm.room.member' AND e.state_key_nid = $7 AND e.flags & 6 = 0 AND ` + boundsSQL + `
ORDER BY e.event_nid`

// SyncMemberChanges returns the m.room.member events of one user between two points, outliers included, in order of
// number. member is the number of m.room.member and the user.
func SyncMemberChanges(ctx context.Context, q Querier, member StateKeyNID, b SyncBounds) ([]SyncEvent, error) {
	rows, err := q.Query(ctx, syncMemberChangesSQL, append(b.args(), int64(member))...)
	return collectSyncEvents("get changes of memberships", rows, err)
}

// MemberPlace is a place in a room's events before which a user's membership is asked for.
type MemberPlace struct {
	RoomNID RoomNID
	// StateKeyNID is the number of m.room.member and the user.
	StateKeyNID StateKeyNID
	// Before is the event at the place.
	Before EventNID
}

// By events_member, backwards: most of the time one row a place.
const membersBeforeSQL = `
SELECT coalesce(t.event_nid, 0)
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w(room_nid, state_key_nid, before, n)
LEFT JOIN LATERAL (
    SELECT e.event_nid FROM events e
    WHERE e.type = 'm.room.member' AND e.state_key_nid = w.state_key_nid AND e.room_nid = w.room_nid AND e.event_nid < w.before
        AND e.flags & 6 = 0
    ORDER BY e.event_nid DESC LIMIT 1
) t ON true
ORDER BY w.n`

// MembersBefore returns for each place the last m.room.member event of the user before it, outliers included, 0 where there
// is none.
func MembersBefore(ctx context.Context, q Querier, places []MemberPlace) ([]EventNID, error) {
	rooms, keys, before := make([]int64, len(places)), make([]int64, len(places)), make([]int64, len(places))
	for i, p := range places {
		rooms[i], keys[i], before[i] = int64(p.RoomNID), int64(p.StateKeyNID), int64(p.Before)
	}
	rows, err := q.Query(ctx, membersBeforeSQL, rooms, keys, before)
	if err != nil {
		return nil, fmt.Errorf("get memberships before: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[EventNID])
	if err != nil {
		return nil, fmt.Errorf("get memberships before: %w", TranslateError(err))
	}
	return out, nil
}

// By events_state: the changes of members of the rooms between the points.
const syncMemberEventsSQL = `
SELECT e.room_nid, e.event_nid FROM events e
WHERE e.room_nid = ANY ($7::bigint[]) AND e.state_key_nid IS NOT NULL AND e.flags = 0 AND e.type = 'm.room.member' AND ` + boundsSQL + `
ORDER BY e.event_nid`

// SyncMemberEvents returns the m.room.member events of rooms between two points, in order of number.
func SyncMemberEvents(ctx context.Context, q Querier, rooms []RoomNID, b SyncBounds) ([]SyncEvent, error) {
	rows, err := q.Query(ctx, syncMemberEventsSQL, append(b.args(), int64s(rooms))...)
	return collectSyncEvents("get changes of members", rows, err)
}
