package storage

import (
	"fmt"

	"github.com/jackc/pgx/v5"
)

// OutOfBand is an m.room.member event about a user of this server in a room that this server is not in: an invite, a
// knock, or how one of them ended. It is an outlier with a number of the events stream, and decides about the user's
// place in the room, of which no state is known.
type OutOfBand struct {
	Event NewEvent
	// Member is the place in the room that the event gives to the user.
	Member Member
	// Stripped is the stripped state that came with the event, a JSON array, or nil.
	Stripped []byte
	// Push is what the event notifies of.
	Push []PushCount
}

// One row of each table. An event that is there already writes nothing.
const insertOutOfBandSQL = `
WITH made AS (
    INSERT INTO events (event_nid, room_nid, sender_nid, state_key_nid, depth, origin_server_ts, received_ts, auth_depth,
        writer_nid, flags, event_id, type, json)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_nid, room_nid, sender_nid
), member AS (
    INSERT INTO memberships (room_nid, user_nid, membership, event_nid, sender_nid, is_local, display_name, avatar_url)
    SELECT room_nid, $14, $15, event_nid, sender_nid, true, nullif($16, ''), nullif($17, '') FROM made
    ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid,
        sender_nid = excluded.sender_nid, display_name = excluded.display_name, avatar_url = excluded.avatar_url,
        forgotten = memberships.forgotten AND excluded.membership IN (4, 5)
), stripped AS (
    INSERT INTO stripped_state (event_nid, state)
    SELECT event_nid, $18 FROM made WHERE $18::bytea IS NOT NULL
    ON CONFLICT (event_nid) DO UPDATE SET state = excluded.state
)
SELECT room_nid FROM made`

// Queue appends the statement to b. When the results are read, won is called unless the event was there already.
func (o *OutOfBand) Queue(b *pgx.Batch, won func(RoomNID)) {
	e, m := &o.Event, &o.Member
	b.Queue(insertOutOfBandSQL, int64(e.NID), int64(e.RoomNID), int64(e.SenderNID), int64(e.StateKeyNID), e.Depth, e.OriginServerTS,
		e.ReceivedTS, e.AuthDepth, int16(e.WriterNID), e.Flags, e.EventID, e.Type, e.JSON,
		int64(m.UserNID), int16(m.Membership), m.DisplayName, m.AvatarURL, o.Stripped).Query(func(rows pgx.Rows) error {
		var nid int64
		_, err := pgx.ForEachRow(rows, []any{&nid}, func() error {
			won(RoomNID(nid))
			return nil
		})
		if err != nil {
			return fmt.Errorf("insert out-of-band membership: %w", err)
		}
		return nil
	})
	if len(o.Push) > 0 {
		queuePushCounts(b, insertOutOfBandPushCountsSQL, o.Push, nil)
	}
}
