package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage/statetree"
)

// PartialRoom is a room that this server has entered with a part of its state.
type PartialRoom struct {
	RoomNID RoomNID `db:"room_nid"`
	// JoinNID is the join by which it was entered, KnownRoot the part of the state before it that was known then.
	JoinNID   EventNID       `db:"join_nid"`
	KnownRoot statetree.Hash `db:"known_root"`
	// FullRoot is the whole of that state, zero until it was fetched.
	FullRoot statetree.Hash `db:"full_root"`
	// Switched says that the states of the room's events are whole.
	Switched bool `db:"switched"`
	// Via is the server that helped with the join, Servers are those that it said were in the room.
	Via     string   `db:"via"`
	Servers []string `db:"servers"`
}

// By the primary key; one row.
const upsertPartialRoomSQL = `
WITH row AS (
    INSERT INTO partial_rooms (room_nid, join_nid, known_root, via, servers)
    SELECT h.room_nid, $3, $4, $5, $6 FROM room_heads h WHERE h.room_nid = $1 AND h.last_event_nid = $2
    ON CONFLICT (room_nid) DO UPDATE SET join_nid = excluded.join_nid, known_root = excluded.known_root, full_root = '',
        switched = false, via = excluded.via, servers = excluded.servers
    RETURNING room_nid
)
UPDATE room_heads h SET partial = true FROM row WHERE h.room_nid = row.room_nid`

// By the primary key; one row.
const deletePartialRoomSQL = `
WITH row AS (
    DELETE FROM partial_rooms p USING room_heads h
    WHERE p.room_nid = $1 AND h.room_nid = $1 AND h.last_event_nid = $2 RETURNING p.room_nid
)
UPDATE room_heads h SET partial = false FROM row WHERE h.room_nid = row.room_nid`

func (eb *EventBatch) queuePartial(b *pgx.Batch, marks map[RoomNID]int64) {
	for _, p := range eb.Partial {
		b.Queue(upsertPartialRoomSQL, int64(p.RoomNID), marks[p.RoomNID], int64(p.JoinNID), p.KnownRoot[:], p.Via, orNone(p.Servers))
	}
	for _, room := range eb.Whole {
		b.Queue(deletePartialRoomSQL, int64(room), marks[room])
	}
}

const partialRoomColumns = `room_nid, join_nid, known_root, full_root, switched, via, servers`

const listPartialRoomsSQL = `SELECT ` + partialRoomColumns + ` FROM partial_rooms ORDER BY room_nid`

// ListPartialRooms returns the rooms of whose state a part is missing.
func ListPartialRooms(ctx context.Context, q Querier) ([]PartialRoom, error) {
	rows, err := q.Query(ctx, listPartialRoomsSQL)
	if err != nil {
		return nil, fmt.Errorf("list partial rooms: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[PartialRoom])
	if err != nil {
		return nil, fmt.Errorf("list partial rooms: %w", TranslateError(err))
	}
	return out, nil
}

// By the primary key.
const getPartialRoomSQL = `SELECT ` + partialRoomColumns + ` FROM partial_rooms WHERE room_nid = $1`

// GetPartialRoom returns one such room, nil if the state of the room is whole.
func GetPartialRoom(ctx context.Context, q Querier, room RoomNID) (*PartialRoom, error) {
	rows, err := q.Query(ctx, getPartialRoomSQL, int64(room))
	if err != nil {
		return nil, fmt.Errorf("get partial room %d: %w", room, TranslateError(err))
	}
	out, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[PartialRoom])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get partial room %d: %w", room, TranslateError(err))
	}
	return out, nil
}

// SetFullRoot notes that the whole state before the join of a partial room was fetched. It changes nothing if the room
// was entered anew in the meantime.
func SetFullRoot(ctx context.Context, q Querier, p *PartialRoom, root statetree.Hash) error {
	_, err := q.Exec(ctx, `UPDATE partial_rooms SET full_root = $3 WHERE room_nid = $1 AND join_nid = $2`, int64(p.RoomNID), int64(p.JoinNID), root[:])
	if err != nil {
		return fmt.Errorf("set the full state of room %d: %w", p.RoomNID, TranslateError(err))
	}
	return nil
}

// By the unique index on event_id: one row an event.
const stateRowsSQL = `
SELECT event_id, event_nid, room_nid, coalesce(state_key_nid, 0) AS state_key_nid, flags
FROM events WHERE event_id = ANY($1::text[])`

// StateRow is what a state says of one of its events.
type StateRow struct {
	EventID     string      `db:"event_id"`
	NID         EventNID    `db:"event_nid"`
	RoomNID     RoomNID     `db:"room_nid"`
	StateKeyNID StateKeyNID `db:"state_key_nid"`
	Flags       int16       `db:"flags"`
}

// StateRows returns the events of those ids that are stored, without their content.
func StateRows(ctx context.Context, q Querier, eventIDs []string) ([]StateRow, error) {
	rows, err := q.Query(ctx, stateRowsSQL, eventIDs)
	if err != nil {
		return nil, fmt.Errorf("look up %d events: %w", len(eventIDs), TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[StateRow])
	if err != nil {
		return nil, fmt.Errorf("look up %d events: %w", len(eventIDs), TranslateError(err))
	}
	return out, nil
}

// By events_room_order: the events since the join are read, each root returned once.
const rootsSinceSQL = `
SELECT DISTINCT state_root FROM events WHERE room_nid = $1 AND event_nid >= $2 AND flags & 1 = 0 AND length(state_root) > 0`

// RootsSince returns the states of a room's events from one on.
func RootsSince(ctx context.Context, q Querier, room RoomNID, from EventNID) ([]statetree.Hash, error) {
	rows, err := q.Query(ctx, rootsSinceSQL, int64(room), int64(from))
	if err != nil {
		return nil, fmt.Errorf("list states of room %d: %w", room, TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[statetree.Hash])
	if err != nil {
		return nil, fmt.Errorf("list states of room %d: %w", room, TranslateError(err))
	}
	return out, nil
}

// By the primary key: the row is locked, so that nobody writes to the room.
const lockHeadSQL = `
SELECT room_nid, generation, extremities, state_root, depth, last_event_nid, partial
FROM room_heads WHERE room_nid = $1 FOR UPDATE`

// LockHead returns the head of a room, which nobody changes before the transaction ends. The error is ErrNotFound if there
// is none.
func LockHead(ctx context.Context, tx Querier, room RoomNID) (RoomHead, error) {
	rows, err := tx.Query(ctx, lockHeadSQL, int64(room))
	if err != nil {
		return RoomHead{}, fmt.Errorf("lock head of room %d: %w", room, TranslateError(err))
	}
	h, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[RoomHead])
	if err != nil {
		return RoomHead{}, fmt.Errorf("lock head of room %d: %w", room, TranslateError(err))
	}
	return h, nil
}

// By events_room_order: the events since the join are looked at.
const switchRootsSQL = `
UPDATE events e SET state_root = m.new_root FROM unnest($3::bytea[], $4::bytea[]) AS m(old_root, new_root)
WHERE e.room_nid = $1 AND e.event_nid >= $2 AND e.state_root = m.old_root`

// By primary keys; one row each.
const switchHeadSQL = `
WITH room AS (UPDATE partial_rooms SET switched = true WHERE room_nid = $1)
UPDATE room_heads SET state_root = $2, generation = generation + 1 WHERE room_nid = $1`

// SwitchRoots puts other states in place of those of a room's events since the join, and of its head, which must be locked.
func SwitchRoots(ctx context.Context, tx Querier, p *PartialRoom, from, to []statetree.Hash, head statetree.Hash) error {
	b := &pgx.Batch{}
	b.Queue(switchRootsSQL, int64(p.RoomNID), int64(p.JoinNID), from, to)
	b.Queue(switchHeadSQL, int64(p.RoomNID), head[:])
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("switch states of room %d: %w", p.RoomNID, TranslateError(err))
	}
	return nil
}

// WriteCurrent writes pieces of the current state of a room and places in it, while its head is locked.
func WriteCurrent(ctx context.Context, tx Querier, head RoomHead, state []CurrentState, members []Member) error {
	eb := &EventBatch{State: state, Members: members}
	marks := map[RoomNID]int64{head.RoomNID: int64(head.LastEventNID)}
	b := &pgx.Batch{}
	eb.queueState(b, marks)
	eb.queueMembers(b, marks)
	if b.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("write current state of room %d: %w", head.RoomNID, TranslateError(err))
	}
	return nil
}

// By the primary keys of the tables: all rows of the room are counted.
const recountSQL = `
UPDATE room_stats s SET joined = m.joined, invited = m.invited, local_joined = m.local_joined, state_events = c.state_events
FROM (
    SELECT count(*) FILTER (WHERE membership = 2) AS joined, count(*) FILTER (WHERE membership = 1) AS invited,
        count(*) FILTER (WHERE membership = 2 AND is_local) AS local_joined
    FROM memberships WHERE room_nid = $1
) m, (SELECT count(*) AS state_events FROM current_state WHERE room_nid = $1) c
WHERE s.room_nid = $1`

// By primary keys; one row each.
const wholeSQL = `
WITH gone AS (DELETE FROM partial_rooms WHERE room_nid = $1),
told AS (INSERT INTO un_partial_stated_rooms (stream_id, writer_nid, room_nid) VALUES ($2, $3, $1))
UPDATE room_heads SET partial = false, generation = generation + 1 WHERE room_nid = $1`

// Unpartial counts the members of a room whose state is whole now, and says so in the un_partial_stated_room stream. The
// room's head must be locked.
func Unpartial(ctx context.Context, tx Querier, room RoomNID, streamID int64, writer WriterNID) error {
	b := &pgx.Batch{}
	b.Queue(recountSQL, int64(room))
	b.Queue(wholeSQL, int64(room), streamID, int16(writer))
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("complete room %d: %w", room, TranslateError(err))
	}
	return nil
}

// UnpartialRoom is a row of the un_partial_stated_room stream.
type UnpartialRoom struct {
	StreamID int64  `db:"stream_id"`
	RoomID   string `db:"room_id"`
}

// By the index on (writer_nid, stream_id).
const unpartialRoomsSQL = `
SELECT u.stream_id, r.room_id FROM un_partial_stated_rooms u JOIN writers w USING (writer_nid) JOIN rooms r USING (room_nid)
WHERE w.name = $1 AND u.stream_id > $2 AND u.stream_id <= $3 ORDER BY u.stream_id LIMIT $4`

// UnpartialRooms returns the rows of a writer with after < stream_id <= upTo, at most limit.
func UnpartialRooms(ctx context.Context, q Querier, writer string, after, upTo int64, limit int) ([]UnpartialRoom, error) {
	rows, err := q.Query(ctx, unpartialRoomsSQL, writer, after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("list rooms whose state is whole: %w", TranslateError(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[UnpartialRoom])
	if err != nil {
		return nil, fmt.Errorf("list rooms whose state is whole: %w", TranslateError(err))
	}
	return out, nil
}
