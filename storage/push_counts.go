package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PushSubject is what notifications are counted for: a user, as a positive number, or all users whose push rules come to
// the same in a room, as a negative one. 0 is nobody.
type PushSubject int64

// PushDefault is the group of the users who have changed nothing about their push rules.
const PushDefault PushSubject = -1

// Effects of an event on a subject, which add up.
const (
	PushNotifies   = 1
	PushHighlights = 2
)

// PushCount says what one event does for one subject.
type PushCount struct {
	RoomNID  RoomNID
	EventNID EventNID
	Subject  PushSubject
	// Thread is the event id of the thread's root, "" for the main timeline.
	Thread string
	// Notify and Highlight are added to the subject's totals: 1 or 0 for a group; for a user the difference to the group's.
	Notify, Highlight int16
	// Effect is PushNotifies and PushHighlights, or 0.
	Effect int16
	// Actions is a JSON array, "" for that of a plain notification and for none.
	Actions string
}

// PushGroup says that a user's notifications in a room are counted with a group's from an event on.
type PushGroup struct {
	RoomNID  RoomNID
	EventNID EventNID
	UserNID  UserNID
	Subject  PushSubject
}

// PushSent says that a user of this server has sent an event to a thread of a room.
type PushSent struct {
	RoomNID  RoomNID
	EventNID EventNID
	UserNID  UserNID
	Thread   string
}

// By the primary key of push_totals, a row each. Transactions that write to one room wait for each other at its head, so
// the totals are those of the transaction before.
const (
	insertPushCountsSQL          = pushCountsFrom + wonJoin + pushCountsInto
	insertOutOfBandPushCountsSQL = pushCountsFrom + `JOIN events e ON e.event_nid = n.event_nid` + pushCountsInto
)

const pushCountsFrom = `
WITH n AS MATERIALIZED (
    SELECT n.*, t.notify AS notify_before, t.highlight AS highlight_before
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::smallint[], $7::smallint[], $8::smallint[], $9::text[])
        AS n(won, room_nid, event_nid, subject, thread, notify_by, highlight_by, effect, actions)
    `

const pushCountsInto = `
    LEFT JOIN push_totals t ON t.room_nid = n.room_nid AND t.subject = n.subject AND t.thread = n.thread
), summed AS (
    SELECT n.*, coalesce(notify_before, 0) + sum(notify_by) OVER w AS notify, coalesce(highlight_before, 0) + sum(highlight_by) OVER w AS highlight
    FROM n WINDOW w AS (PARTITION BY room_nid, subject, thread ORDER BY event_nid)
), counts AS (
    INSERT INTO push_counts (event_nid, subject, room_nid, thread, notify, highlight, notify_by, highlight_by, effect, actions)
    SELECT event_nid, subject, room_nid, thread, notify, highlight, notify_by, highlight_by, effect, nullif(actions, '') FROM summed
)
INSERT INTO push_totals (room_nid, subject, thread, event_nid, notify, highlight)
SELECT DISTINCT ON (room_nid, subject, thread) room_nid, subject, thread, event_nid, notify, highlight
FROM summed ORDER BY room_nid, subject, thread, event_nid DESC
ON CONFLICT (room_nid, subject, thread) DO UPDATE SET event_nid = excluded.event_nid, notify = excluded.notify, highlight = excluded.highlight`

const insertPushGroupsSQL = `
INSERT INTO push_groups (user_nid, room_nid, event_nid, subject)
SELECT n.user_nid, n.room_nid, n.event_nid, n.subject
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS n(won, room_nid, event_nid, user_nid, subject)
` + wonJoin

const upsertPushSentSQL = `
INSERT INTO push_sent (user_nid, room_nid, thread, event_nid)
SELECT n.user_nid, n.room_nid, n.thread, max(n.event_nid)
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) AS n(won, room_nid, event_nid, user_nid, thread)
` + wonJoin + `
GROUP BY 1, 2, 3
ON CONFLICT (user_nid, room_nid, thread) DO UPDATE SET event_nid = excluded.event_nid WHERE push_sent.event_nid < excluded.event_nid`

// By the unique index on event ids and the primary key of push_counts; a row a subject.
const redactPushCountsSQL = `
UPDATE push_counts c SET redacted = true
FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS n(won, room_nid, redacts)
` + wonJoin + ` JOIN events e ON e.event_id = n.redacts AND e.room_nid = n.room_nid
WHERE c.event_nid = e.event_nid AND NOT c.redacted`

func (eb *EventBatch) queuePush(b *pgx.Batch, marks map[RoomNID]int64) {
	if len(eb.PushCounts) > 0 {
		queuePushCounts(b, insertPushCountsSQL, eb.PushCounts, marks)
	}
	if n := len(eb.PushGroups); n > 0 {
		won, room, nid, user, subject := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
		for i, g := range eb.PushGroups {
			won[i], room[i], nid[i], user[i], subject[i] = marks[g.RoomNID], int64(g.RoomNID), int64(g.EventNID), int64(g.UserNID), int64(g.Subject)
		}
		b.Queue(insertPushGroupsSQL, won, room, nid, user, subject)
	}
	if n := len(eb.PushSent); n > 0 {
		won, room, nid, user, thread := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]string, n)
		for i, s := range eb.PushSent {
			won[i], room[i], nid[i], user[i], thread[i] = marks[s.RoomNID], int64(s.RoomNID), int64(s.EventNID), int64(s.UserNID), s.Thread
		}
		b.Queue(upsertPushSentSQL, won, room, nid, user, thread)
	}
	var won, room []int64
	var redacts []string
	for _, r := range eb.Redactions {
		if r.Allowed {
			won, room, redacts = append(won, marks[r.RoomNID]), append(room, int64(r.RoomNID)), append(redacts, r.Redacts)
		}
	}
	if len(won) > 0 {
		b.Queue(redactPushCountsSQL, won, room, redacts)
	}
}

func queuePushCounts(b *pgx.Batch, sql string, counts []PushCount, marks map[RoomNID]int64) {
	n := len(counts)
	won, room, nid, subject := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	thread, actions := make([]string, n), make([]string, n)
	notify, highlight, effect := make([]int16, n), make([]int16, n), make([]int16, n)
	for i := range counts {
		c := &counts[i]
		won[i], room[i], nid[i], subject[i] = marks[c.RoomNID], int64(c.RoomNID), int64(c.EventNID), int64(c.Subject)
		thread[i], actions[i], notify[i], highlight[i], effect[i] = c.Thread, c.Actions, c.Notify, c.Highlight, c.Effect
	}
	b.Queue(sql, won, room, nid, subject, thread, notify, highlight, effect, actions)
}

// PushMember is a user of this server who is joined to a room, as push rules see them.
type PushMember struct {
	UserNID UserNID
	UserID  string
	// DisplayName is the name in the room, "" if none.
	DisplayName string
	// Rules is what the user has changed about their push rules, nil if nothing.
	Rules []byte
	// Subject is the group that the user's notifications in the room are counted with by now.
	Subject PushSubject
}

const pushMemberColumns = `u.user_nid, u.user_id, coalesce(m.display_name, ''), p.rules, coalesce(g.subject, -1)
FROM user_ids u
LEFT JOIN memberships m ON m.room_nid = $1 AND m.user_nid = u.user_nid
LEFT JOIN push_rules p ON p.user_nid = u.user_nid
LEFT JOIN (SELECT DISTINCT ON (user_nid) user_nid, subject FROM push_groups WHERE room_nid = $1 ORDER BY user_nid, event_nid DESC) g
    ON g.user_nid = u.user_nid`

// By the partial index on the local members of a room, and primary keys: a row a member. Of push_groups all of the room's,
// which are as many as people have changed their rules.
const pushMembersSQL = `
SELECT ` + pushMemberColumns + `
WHERE u.user_nid IN (SELECT user_nid FROM memberships WHERE room_nid = $1 AND is_local AND membership = 2)`

const pushMembersOfSQL = `SELECT ` + pushMemberColumns + ` WHERE u.user_nid = ANY ($2)`

// PushMembers returns the users of this server who are joined to a room.
func PushMembers(ctx context.Context, q Querier, room RoomNID) ([]PushMember, error) {
	rows, err := q.Query(ctx, pushMembersSQL, room)
	return collectPushMembers(rows, err)
}

// PushMembersOf returns users as they would be as members of a room.
func PushMembersOf(ctx context.Context, q Querier, room RoomNID, users []UserNID) ([]PushMember, error) {
	rows, err := q.Query(ctx, pushMembersOfSQL, room, int64s(users))
	return collectPushMembers(rows, err)
}

func collectPushMembers(rows pgx.Rows, err error) ([]PushMember, error) {
	if err != nil {
		return nil, fmt.Errorf("get push members: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m PushMember, err error) {
		err = row.Scan(&m.UserNID, &m.UserID, &m.DisplayName, &m.Rules, &m.Subject)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("get push members: %w", TranslateError(err))
	}
	return out, nil
}
