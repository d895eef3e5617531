package storage

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage/statetree"
)

// EventBatch is what one transaction writes to rooms: any number of events of any number of rooms, in one round trip and
// a fixed number of statements, each left out when it has no rows.
//
// Every row belongs to a room of Heads, and is written only if the head of that room still has the generation expected
// and none of the room's Txns has been used: otherwise the room is lost and nothing of it is written, while the other
// rooms go through. State nodes are written in any case, as they say nothing by themselves.
type EventBatch struct {
	// Rooms are the rooms that are new. Their heads start at generation 0.
	Rooms []NewRoom
	// Heads are the rooms that are written to, each once. LastEventNID of each must be a number that only this batch has.
	Heads []RoomHead
	// Txns are the transaction ids of the events, which must be new.
	Txns []Txn
	// Events are new events, Upgrades those that are known as outliers (by number) and get their place in the room.
	Events, Upgrades []NewEvent
	// Auth says which of the events (state events only) name which others in their auth_events.
	Auth []AuthEdge
	// Gaps are prev_events of the events that are missing.
	Gaps []EventGap
	// Nodes are nodes of state trees.
	Nodes []*statetree.Node
	// Redactions are redactions, and those known before that turn out to be allowed.
	Redactions []Redaction
	// State changes current state, each piece at most once; EventNID 0 takes it out.
	State []CurrentState
	// Members changes places in rooms, each user at most once a room.
	Members []Member
	// Gone are members whose m.room.member event is no longer part of the room's state.
	Gone []Member
	// Stats changes what rooms show, each room at most once.
	Stats []RoomStatsChange
	// Stripped is the stripped state of invites and knocks.
	Stripped []StrippedState
	// PushCounts are what the events notify of, each event and subject once, PushGroups who is counted with whom from an
	// event on, PushSent who has sent what.
	PushCounts []PushCount
	PushGroups []PushGroup
	PushSent   []PushSent
	// Partial are rooms that are entered with a part of their state, Whole those that are entered anew with all of it.
	Partial []PartialRoom
	Whole   []RoomNID
}

// NewRoom is a room that is made.
type NewRoom struct {
	Room
	// CreatedTS is when, in milliseconds since the Unix epoch.
	CreatedTS int64
}

// NewEvent is an event to be written.
type NewEvent struct {
	Event
	Type string
}

// EventGap says that an event follows one that is missing.
type EventGap struct {
	RoomNID     RoomNID
	EventNID    EventNID
	PrevEventID string
}

// Redaction says that an event takes out the content of another.
type Redaction struct {
	RoomNID      RoomNID
	Redacts      string
	RedactionNID EventNID
	// Allowed says whether it is to be applied; false where that is not known before the other event arrives.
	Allowed bool
}

// CurrentState is a piece of a room's current state.
type CurrentState struct {
	RoomNID     RoomNID
	StateKeyNID StateKeyNID
	EventNID    EventNID
}

// StrippedState is the stripped state of a member event, a JSON array.
type StrippedState struct {
	RoomNID  RoomNID
	EventNID EventNID
	State    []byte
}

// RoomStatsChange changes a row of room_stats, which is made where it is missing.
type RoomStatsChange struct {
	RoomNID RoomNID
	// Joined, Invited, LocalJoined and StateEvents are added to the counts.
	Joined, Invited, LocalJoined, StateEvents int
	// Set says which of the fields of Shown are set, as a sum of StatsCreate and so on.
	Set int
	// Shown has the new values.
	Shown RoomStats
}

// The fields of RoomStatsChange.Set.
const (
	StatsCreate            = 1 << iota // creator, room_type, federate
	StatsName                          // name
	StatsTopic                         // topic
	StatsAvatarURL                     // avatar_url
	StatsCanonicalAlias                // canonical_alias
	StatsJoinRule                      // join_rule
	StatsGuestAccess                   // guest_access
	StatsHistoryVisibility             // history_visibility
	StatsEncryption                    // encryption
)

// One row a room, made with its head, in order of the number. A room id that exists already makes nothing, so the room
// is lost.
const insertRoomsSQL = `
WITH made AS (
    INSERT INTO rooms (room_nid, room_id, version, created_ts)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[])
    ON CONFLICT DO NOTHING
    RETURNING room_nid
)
INSERT INTO room_heads (room_nid, generation, extremities, state_root, depth, last_event_nid)
SELECT room_nid, 0, '{}', '', 0, 0 FROM made`

// The comparison that decides. By the primary key of room_heads, one row a room; and by events_txn, one probe a
// transaction id. A transaction that has changed a head meanwhile is waited for, and the generation looked at again.
// The numbers of the dup rows are the same for both: with an equal generation nothing was written to the room since
// before this statement began, so its snapshot has all transaction ids.
const advanceHeadsSQL = `
UPDATE room_heads h SET generation = n.generation + 1, extremities = n.extremities::bigint[], state_root = n.state_root,
    depth = n.depth, last_event_nid = n.last_event_nid
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[])
    AS n(room_nid, generation, extremities, state_root, depth, last_event_nid)
WHERE h.room_nid = n.room_nid AND h.generation = n.generation
RETURNING h.room_nid`

const advanceHeadsTxnSQL = `
UPDATE room_heads h SET generation = n.generation + 1, extremities = n.extremities::bigint[], state_root = n.state_root,
    depth = n.depth, last_event_nid = n.last_event_nid
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[])
    AS n(room_nid, generation, extremities, state_root, depth, last_event_nid)
WHERE h.room_nid = n.room_nid AND h.generation = n.generation AND n.room_nid <> ALL (ARRAY(
    SELECT t.room_nid
    FROM unnest($7::bigint[], $8::bigint[], $9::text[], $10::text[]) AS t(room_nid, sender_nid, txn_device, txn_id)
    CROSS JOIN LATERAL (
        SELECT FROM events e
        WHERE e.room_nid = t.room_nid AND e.sender_nid = t.sender_nid AND e.txn_device = t.txn_device AND e.txn_id = t.txn_id
        LIMIT 1
    ) dup
))
RETURNING h.room_nid`

// The condition of all that follows: the room was won. Rows carry the number that the batch has set as last_event_nid,
// which no other transaction can have.
const wonJoin = `JOIN room_heads h ON h.room_nid = n.room_nid AND h.last_event_nid = n.won`

const insertEventsSQL = `
INSERT INTO events (room_nid, event_nid, sender_nid, state_key_nid, depth, origin_server_ts, received_ts, auth_depth,
    writer_nid, flags, event_id, type, state_root, txn_device, txn_id, outbound, json)
SELECT n.room_nid, n.event_nid, n.sender_nid, nullif(n.state_key_nid, 0), n.event_depth, n.origin_server_ts, n.received_ts,
    n.auth_depth, n.writer_nid, n.flags, n.event_id, n.type, nullif(n.root, ''), nullif(n.txn_device, ''),
    nullif(n.txn_id, ''), nullif(n.outbound, false), n.json
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::integer[], $10::smallint[], $11::smallint[], $12::text[], $13::text[], $14::bytea[], $15::text[], $16::text[], $17::boolean[], $18::bytea[])
    AS n(won, room_nid, event_nid, sender_nid, state_key_nid, event_depth, origin_server_ts, received_ts, auth_depth,
    writer_nid, flags, event_id, type, root, txn_device, txn_id, outbound, json)
` + wonJoin

// By the primary key, one row an event.
const upgradeEventsSQL = `
UPDATE events e SET flags = n.flags, state_root = nullif(n.root, '')
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bytea[]) AS n(won, room_nid, event_nid, flags, root)
` + wonJoin + ` WHERE e.event_nid = n.event_nid AND e.flags & 1 <> 0`

const insertEventAuthSQL = `
INSERT INTO event_auth (event_nid, auth_nid, auth_depth)
SELECT n.event_nid, n.auth_nid, n.auth_depth
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::integer[]) AS n(won, room_nid, event_nid, auth_nid, auth_depth)
` + wonJoin + ` ON CONFLICT DO NOTHING`

const insertEventGapsSQL = `
INSERT INTO event_gaps (prev_event_id, event_nid, room_nid)
SELECT n.prev_event_id, n.event_nid, n.room_nid
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]) AS n(won, room_nid, event_nid, prev_event_id)
` + wonJoin + ` ON CONFLICT DO NOTHING`

const upsertRedactionsSQL = `
INSERT INTO redactions (redacts, redaction_nid, room_nid, allowed)
SELECT n.redacts, n.redaction_nid, n.room_nid, n.allowed
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::boolean[]) AS n(won, room_nid, redacts, redaction_nid, allowed)
` + wonJoin + ` ON CONFLICT (redacts, redaction_nid) DO UPDATE SET allowed = true WHERE excluded.allowed`

const upsertCurrentStateSQL = `
INSERT INTO current_state (room_nid, state_key_nid, event_nid)
SELECT n.room_nid, n.state_key_nid, n.event_nid
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS n(won, room_nid, state_key_nid, event_nid)
` + wonJoin + ` ON CONFLICT (room_nid, state_key_nid) DO UPDATE SET event_nid = excluded.event_nid`

const deleteCurrentStateSQL = `
DELETE FROM current_state c USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS n(won, room_nid, state_key_nid)
` + wonJoin + ` WHERE c.room_nid = n.room_nid AND c.state_key_nid = n.state_key_nid`

const upsertMembersSQL = `
INSERT INTO memberships AS m (room_nid, user_nid, membership, event_nid, sender_nid, is_local, display_name, avatar_url, joined_nid)
SELECT n.room_nid, n.user_nid, n.membership, n.event_nid, n.sender_nid, n.is_local, nullif(n.display_name, ''), nullif(n.avatar_url, ''), n.joined_nid
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bigint[], $7::boolean[], $8::text[], $9::text[], $10::bigint[])
    AS n(won, room_nid, user_nid, membership, event_nid, sender_nid, is_local, display_name, avatar_url, joined_nid)
` + wonJoin + ` ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid,
    sender_nid = excluded.sender_nid, is_local = excluded.is_local, display_name = excluded.display_name,
    avatar_url = excluded.avatar_url, forgotten = m.forgotten AND excluded.membership IN (4, 5),
    joined_nid = CASE WHEN excluded.joined_nid <> 0 THEN excluded.joined_nid ELSE m.joined_nid END`

const deleteMembersSQL = `
DELETE FROM memberships m USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS n(won, room_nid, user_nid)
` + wonJoin + ` WHERE m.room_nid = n.room_nid AND m.user_nid = n.user_nid`

const upsertRoomStatsSQL = `
INSERT INTO room_stats AS s (room_nid, joined, invited, local_joined, state_events, federate, creator, room_type, name, topic,
    avatar_url, canonical_alias, join_rule, guest_access, history_visibility, encryption)
SELECT n.room_nid, n.joined, n.invited, n.local_joined, n.state_events, n.federate OR n.set & 1 = 0, nullif(n.creator, ''),
    nullif(n.room_type, ''), nullif(n.name, ''), nullif(n.topic, ''), nullif(n.avatar_url, ''), nullif(n.canonical_alias, ''),
    nullif(n.join_rule, ''), nullif(n.guest_access, ''), nullif(n.history_visibility, ''), nullif(n.encryption, '')
FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::integer[], $5::integer[], $6::integer[], $7::integer[], $8::boolean[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[])
    AS n(won, room_nid, joined, invited, local_joined, state_events, set, federate, creator, room_type, name, topic, avatar_url,
    canonical_alias, join_rule, guest_access, history_visibility, encryption)
` + wonJoin + ` ON CONFLICT (room_nid) DO UPDATE SET
    joined = s.joined + excluded.joined, invited = s.invited + excluded.invited,
    local_joined = s.local_joined + excluded.local_joined, state_events = s.state_events + excluded.state_events`

// The fields that a state event shows: a second statement, since most changes of a room's numbers are joins. Which
// fields are set says a sum of powers of two.
const setRoomShownSQL = `
UPDATE room_stats s SET
    federate = CASE WHEN n.set & 1 <> 0 THEN n.federate ELSE s.federate END,
    creator = CASE WHEN n.set & 1 <> 0 THEN nullif(n.creator, '') ELSE s.creator END,
    room_type = CASE WHEN n.set & 1 <> 0 THEN nullif(n.room_type, '') ELSE s.room_type END,
    name = CASE WHEN n.set & 2 <> 0 THEN nullif(n.name, '') ELSE s.name END,
    topic = CASE WHEN n.set & 4 <> 0 THEN nullif(n.topic, '') ELSE s.topic END,
    avatar_url = CASE WHEN n.set & 8 <> 0 THEN nullif(n.avatar_url, '') ELSE s.avatar_url END,
    canonical_alias = CASE WHEN n.set & 16 <> 0 THEN nullif(n.canonical_alias, '') ELSE s.canonical_alias END,
    join_rule = CASE WHEN n.set & 32 <> 0 THEN nullif(n.join_rule, '') ELSE s.join_rule END,
    guest_access = CASE WHEN n.set & 64 <> 0 THEN nullif(n.guest_access, '') ELSE s.guest_access END,
    history_visibility = CASE WHEN n.set & 128 <> 0 THEN nullif(n.history_visibility, '') ELSE s.history_visibility END,
    encryption = CASE WHEN n.set & 256 <> 0 THEN nullif(n.encryption, '') ELSE s.encryption END
FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::text[], $14::text[])
    AS n(won, room_nid, set, federate, creator, room_type, name, topic, avatar_url, canonical_alias, join_rule, guest_access,
    history_visibility, encryption)
` + wonJoin + ` WHERE s.room_nid = n.room_nid`

const insertStrippedSQL = `
INSERT INTO stripped_state (event_nid, state)
SELECT n.event_nid, n.state FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]) AS n(won, room_nid, event_nid, state)
` + wonJoin + ` ON CONFLICT (event_nid) DO UPDATE SET state = excluded.state`

// Queue appends the statements to b. When the results are read, won is called for each room that was not lost.
func (eb *EventBatch) Queue(b *pgx.Batch, won func(RoomNID)) {
	slices.SortFunc(eb.Heads, func(x, y RoomHead) int { return int(min(max(x.RoomNID-y.RoomNID, -1), 1)) })
	marks := make(map[RoomNID]int64, len(eb.Heads))
	for i := range eb.Heads {
		marks[eb.Heads[i].RoomNID] = int64(eb.Heads[i].LastEventNID)
	}
	eb.queueHeads(b, won)
	eb.queueEvents(b, marks)
	eb.queueState(b, marks)
	eb.queueMembers(b, marks)
	eb.queueStats(b, marks)
	eb.queuePush(b, marks)
	eb.queuePartial(b, marks)
}

func (eb *EventBatch) queueHeads(b *pgx.Batch, won func(RoomNID)) {
	if n := len(eb.Rooms); n > 0 {
		nids, ids, versions, created := make([]int64, n), make([]string, n), make([]string, n), make([]int64, n)
		for i, r := range eb.Rooms {
			nids[i], ids[i], versions[i], created[i] = int64(r.NID), r.ID, r.Version, r.CreatedTS
		}
		b.Queue(insertRoomsSQL, nids, ids, versions, created)
	}
	n := len(eb.Heads)
	rooms, gens, depths, lasts := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	exts, roots := make([]string, n), make([][]byte, n)
	for i, h := range eb.Heads {
		rooms[i], gens[i], depths[i], lasts[i] = int64(h.RoomNID), h.Generation, h.Depth, int64(h.LastEventNID)
		exts[i], roots[i] = arrayLiteral(h.Extremities), orEmpty(h.StateRoot)
	}
	args := []any{rooms, gens, exts, roots, depths, lasts}
	sql := advanceHeadsSQL
	if len(eb.Txns) > 0 {
		sql = advanceHeadsTxnSQL
		args = append(args, txnArgs(eb.Txns)...)
	}
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		var nid int64
		_, err := pgx.ForEachRow(rows, []any{&nid}, func() error {
			won(RoomNID(nid))
			return nil
		})
		if err != nil {
			return fmt.Errorf("advance heads of rooms: %w", err)
		}
		return nil
	})
}

func (eb *EventBatch) queueEvents(b *pgx.Batch, marks map[RoomNID]int64) {
	if n := len(eb.Events); n > 0 {
		ints := make([]int64, 8*n)
		col := func(i int) []int64 { return ints[i*n : (i+1)*n : (i+1)*n] }
		won, room, nid, sender, key, depth, ots, rts := col(0), col(1), col(2), col(3), col(4), col(5), col(6), col(7)
		authDepth, writer, flags := make([]int32, n), make([]int16, n), make([]int16, n)
		strs := make([]string, 4*n)
		scol := func(i int) []string { return strs[i*n : (i+1)*n : (i+1)*n] }
		id, typ, dev, txn := scol(0), scol(1), scol(2), scol(3)
		root, json, outbound := make([][]byte, n), make([][]byte, n), make([]bool, n)
		for i := range eb.Events {
			e := &eb.Events[i]
			won[i], room[i], nid[i], sender[i] = marks[e.RoomNID], int64(e.RoomNID), int64(e.NID), int64(e.SenderNID)
			key[i], depth[i], ots[i], rts[i] = int64(e.StateKeyNID), e.Depth, e.OriginServerTS, e.ReceivedTS
			authDepth[i], writer[i], flags[i] = e.AuthDepth, int16(e.WriterNID), e.Flags
			id[i], typ[i], dev[i], txn[i] = e.EventID, e.Type, e.TxnDevice, e.TxnID
			root[i], json[i], outbound[i] = orEmpty(e.StateRoot), e.JSON, e.Outbound
		}
		b.Queue(insertEventsSQL, won, room, nid, sender, key, depth, ots, rts, authDepth, writer, flags, id, typ, root, dev, txn, outbound, json)
	}
	if n := len(eb.Upgrades); n > 0 {
		won, room, nid := make([]int64, n), make([]int64, n), make([]int64, n)
		flags, root := make([]int16, n), make([][]byte, n)
		for i := range eb.Upgrades {
			e := &eb.Upgrades[i]
			won[i], room[i], nid[i], flags[i], root[i] = marks[e.RoomNID], int64(e.RoomNID), int64(e.NID), e.Flags, orEmpty(e.StateRoot)
		}
		b.Queue(upgradeEventsSQL, won, room, nid, flags, root)
	}
	if n := len(eb.Auth); n > 0 {
		rooms := make(map[EventNID]RoomNID)
		for i := range eb.Events {
			rooms[eb.Events[i].NID] = eb.Events[i].RoomNID
		}
		for i := range eb.Upgrades {
			rooms[eb.Upgrades[i].NID] = eb.Upgrades[i].RoomNID
		}
		won, room, auth, nid := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
		depth := make([]int32, n)
		for i, a := range eb.Auth {
			r := rooms[a.EventNID]
			won[i], room[i], auth[i], nid[i], depth[i] = marks[r], int64(r), int64(a.AuthNID), int64(a.EventNID), a.AuthDepth
		}
		b.Queue(insertEventAuthSQL, won, room, nid, auth, depth)
	}
	if n := len(eb.Gaps); n > 0 {
		won, room, nid, prev := make([]int64, n), make([]int64, n), make([]int64, n), make([]string, n)
		for i, g := range eb.Gaps {
			won[i], room[i], nid[i], prev[i] = marks[g.RoomNID], int64(g.RoomNID), int64(g.EventNID), g.PrevEventID
		}
		b.Queue(insertEventGapsSQL, won, room, nid, prev)
	}
	if len(eb.Nodes) > 0 {
		QueueStateNodes(b, eb.Nodes)
	}
	if n := len(eb.Redactions); n > 0 {
		won, room, nid := make([]int64, n), make([]int64, n), make([]int64, n)
		redacts, allowed := make([]string, n), make([]bool, n)
		for i, r := range eb.Redactions {
			won[i], room[i], nid[i], redacts[i], allowed[i] = marks[r.RoomNID], int64(r.RoomNID), int64(r.RedactionNID), r.Redacts, r.Allowed
		}
		b.Queue(upsertRedactionsSQL, won, room, redacts, nid, allowed)
	}
	if n := len(eb.Stripped); n > 0 {
		won, room, nid, state := make([]int64, n), make([]int64, n), make([]int64, n), make([][]byte, n)
		for i, s := range eb.Stripped {
			won[i], room[i], nid[i], state[i] = marks[s.RoomNID], int64(s.RoomNID), int64(s.EventNID), s.State
		}
		b.Queue(insertStrippedSQL, won, room, nid, state)
	}
}

func (eb *EventBatch) queueState(b *pgx.Batch, marks map[RoomNID]int64) {
	var won, room, key, nid, goneWon, goneRoom, goneKey []int64
	for _, s := range eb.State {
		if s.EventNID == 0 {
			goneWon, goneRoom, goneKey = append(goneWon, marks[s.RoomNID]), append(goneRoom, int64(s.RoomNID)), append(goneKey, int64(s.StateKeyNID))
			continue
		}
		won, room = append(won, marks[s.RoomNID]), append(room, int64(s.RoomNID))
		key, nid = append(key, int64(s.StateKeyNID)), append(nid, int64(s.EventNID))
	}
	if len(won) > 0 {
		b.Queue(upsertCurrentStateSQL, won, room, key, nid)
	}
	if len(goneWon) > 0 {
		b.Queue(deleteCurrentStateSQL, goneWon, goneRoom, goneKey)
	}
}

func (eb *EventBatch) queueMembers(b *pgx.Batch, marks map[RoomNID]int64) {
	if n := len(eb.Members); n > 0 {
		won, room, user, nid, sender := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
		joined := make([]int64, n)
		membership, local := make([]int16, n), make([]bool, n)
		name, avatar := make([]string, n), make([]string, n)
		for i := range eb.Members {
			m := &eb.Members[i]
			won[i], room[i], user[i], nid[i], sender[i] = marks[m.RoomNID], int64(m.RoomNID), int64(m.UserNID), int64(m.EventNID), int64(m.SenderNID)
			membership[i], local[i], name[i], avatar[i], joined[i] = int16(m.Membership), m.IsLocal, m.DisplayName, m.AvatarURL, int64(m.JoinedNID)
		}
		b.Queue(upsertMembersSQL, won, room, user, membership, nid, sender, local, name, avatar, joined)
	}
	if n := len(eb.Gone); n > 0 {
		won, room, user := make([]int64, n), make([]int64, n), make([]int64, n)
		for i := range eb.Gone {
			won[i], room[i], user[i] = marks[eb.Gone[i].RoomNID], int64(eb.Gone[i].RoomNID), int64(eb.Gone[i].UserNID)
		}
		b.Queue(deleteMembersSQL, won, room, user)
	}
}

func (eb *EventBatch) queueStats(b *pgx.Batch, marks map[RoomNID]int64) {
	c := newStatsColumns(eb.Stats, marks, false)
	if len(c.won) > 0 {
		b.Queue(upsertRoomStatsSQL, append([]any{c.won, c.room, c.joined, c.invited, c.local, c.state}, c.shown()...)...)
	}
	c = newStatsColumns(eb.Stats, marks, true)
	if len(c.won) > 0 {
		b.Queue(setRoomShownSQL, append([]any{c.won, c.room}, c.shown()...)...)
	}
}

// statsColumns are room statistics by column, as unnest wants them.
type statsColumns struct {
	won, room                          []int64
	joined, invited, local, state, set []int32
	federate                           []bool
	creator, roomType, name, topic     []string
	avatar, alias, joinRule, guest     []string
	visibility, encryption             []string
}

func newStatsColumns(stats []RoomStatsChange, marks map[RoomNID]int64, onlySet bool) *statsColumns {
	c := &statsColumns{}
	for i := range stats {
		s := &stats[i]
		if onlySet && s.Set == 0 {
			continue
		}
		c.won, c.room = append(c.won, marks[s.RoomNID]), append(c.room, int64(s.RoomNID))
		c.joined, c.invited = append(c.joined, int32(s.Joined)), append(c.invited, int32(s.Invited))
		c.local, c.state = append(c.local, int32(s.LocalJoined)), append(c.state, int32(s.StateEvents))
		c.set, c.federate = append(c.set, int32(s.Set)), append(c.federate, s.Shown.Federate)
		c.creator, c.roomType = append(c.creator, s.Shown.Creator), append(c.roomType, s.Shown.RoomType)
		c.name, c.topic = append(c.name, s.Shown.Name), append(c.topic, s.Shown.Topic)
		c.avatar, c.alias = append(c.avatar, s.Shown.AvatarURL), append(c.alias, s.Shown.CanonicalAlias)
		c.joinRule, c.guest = append(c.joinRule, s.Shown.JoinRule), append(c.guest, s.Shown.GuestAccess)
		c.visibility, c.encryption = append(c.visibility, s.Shown.HistoryVisibility), append(c.encryption, s.Shown.Encryption)
	}
	return c
}

func (c *statsColumns) shown() []any {
	return []any{c.set, c.federate, c.creator, c.roomType, c.name, c.topic, c.avatar, c.alias, c.joinRule, c.guest, c.visibility, c.encryption}
}

// arrayLiteral writes numbers as PostgreSQL's text form of an array, since unnest cannot keep arrays of different
// lengths apart.
func arrayLiteral(nids []EventNID) string {
	b := append(make([]byte, 0, 2+12*len(nids)), '{')
	for i, n := range nids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return string(append(b, '}'))
}

func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
