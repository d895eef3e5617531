package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The keys of events that can be searched, as event_search numbers them.
const (
	SearchBody int16 = iota
	SearchName
	SearchTopic
)

// Takes up to $2 events of each room into the index that lie after, and as many that lie before, those that are in it.
// Two requests at a time do the same work twice and agree: each goes on from where the index ended, and events of a room
// are numbered in the order of their commits. The rows they share are locked in order of the room.
// events_room_order; $2 rows a room.
const searchRoomsSQL = `
WITH rooms AS (
    SELECT r.room_nid, coalesce(s.first_nid, h.last_event_nid + 1) AS first_nid, coalesce(s.last_nid, h.last_event_nid) AS last_nid
    FROM unnest($1::bigint[]) AS r(room_nid)
    JOIN room_heads h USING (room_nid)
    LEFT JOIN event_search_rooms s USING (room_nid)
), found AS (
    SELECT r.room_nid, e.event_nid, e.type, e.json, e.flags
    FROM rooms r CROSS JOIN LATERAL (
        (SELECT event_nid, type, json, flags FROM events e
         WHERE e.room_nid = r.room_nid AND e.event_nid > r.last_nid ORDER BY e.event_nid LIMIT $2)
        UNION ALL
        (SELECT event_nid, type, json, flags FROM events e
         WHERE e.room_nid = r.room_nid AND e.event_nid < r.first_nid ORDER BY e.event_nid DESC LIMIT $2)
    ) e
), words AS (
    INSERT INTO event_search (event_nid, key, room_nid, vector)
    SELECT f.event_nid, k.key, f.room_nid, w.vector
    FROM found f
    JOIN (VALUES ('m.room.message', 0::smallint, 'body'), ('m.room.name', 1::smallint, 'name'), ('m.room.topic', 2::smallint, 'topic'))
        AS k(type, key, name) ON k.type = f.type
    CROSS JOIN LATERAL (SELECT event_words(f.json, k.name) AS vector OFFSET 0) w
    WHERE w.vector IS NOT NULL AND f.flags = 0
    ON CONFLICT DO NOTHING
)
INSERT INTO event_search_rooms AS s (room_nid, first_nid, last_nid)
SELECT r.room_nid, least(r.first_nid, min(f.event_nid)), greatest(r.last_nid, max(f.event_nid))
FROM rooms r JOIN found f USING (room_nid)
GROUP BY r.room_nid, r.first_nid, r.last_nid
ORDER BY r.room_nid
ON CONFLICT (room_nid) DO UPDATE
SET first_nid = least(s.first_nid, excluded.first_nid), last_nid = greatest(s.last_nid, excluded.last_nid)`

// IndexForSearch takes events of rooms that are not yet in the search index into it, at most limit newer and limit older
// ones a room, and returns how many rooms had any.
func IndexForSearch(ctx context.Context, q Querier, rooms []RoomNID, limit int) (int, error) {
	tag, err := q.Exec(ctx, searchRoomsSQL, int64s(rooms), limit)
	if err != nil {
		return 0, fmt.Errorf("index %d rooms for search: %w", len(rooms), TranslateError(err))
	}
	return int(tag.RowsAffected()), nil
}

// SearchQuery says what to look for.
type SearchQuery struct {
	// Rooms are the rooms to search, Keys the keys.
	Rooms []RoomNID
	Keys  []int16
	// Term is what a person typed: words that must all occur, "phrases", -exclusions.
	Term string
	// ByRank orders by how well events match instead of by time.
	ByRank bool
	// Before bounds an order by time: numbers below it. 0 is no bound.
	Before EventNID
	// Offset leaves out the first results of an order by rank.
	Offset int
	// Types, NotTypes, Senders and NotSenders are as in EventPageQuery.
	Types, NotTypes     []string
	Senders, NotSenders []UserNID
	Limit               int
}

// SearchHit is an event that matches.
type SearchHit struct {
	NID  EventNID
	Rank float64
}

const searchWhere = `
FROM event_search s JOIN events c USING (event_nid)
WHERE s.room_nid = ANY($1::bigint[]) AND s.key = ANY($2::smallint[]) AND s.vector @@ websearch_to_tsquery('english', $3)
AND ($4::text[] IS NULL OR c.type LIKE ANY($4)) AND NOT coalesce(c.type LIKE ANY($5), false)
AND ($6::bigint[] IS NULL OR c.sender_nid = ANY($6)) AND NOT coalesce(c.sender_nid = ANY($7), false)
AND ` + notRedacted

// event_search_vector; as many rows as events of the server match, those of other rooms left out.
const (
	searchRecentSQL = `SELECT s.event_nid, ts_rank_cd(s.vector, websearch_to_tsquery('english', $3))::float8` + searchWhere + `
AND ($8::bigint = 0 OR s.event_nid < $8) ORDER BY s.event_nid DESC LIMIT $9`
	searchRankSQL = `SELECT s.event_nid, ts_rank_cd(s.vector, websearch_to_tsquery('english', $3))::float8` + searchWhere + `
ORDER BY 2 DESC, s.event_nid DESC OFFSET $8 LIMIT $9`
	searchCountSQL = `SELECT count(*)` + searchWhere
)

// SearchEvents returns events that match and how many do in all. One round trip.
func SearchEvents(ctx context.Context, q Querier, p SearchQuery) ([]SearchHit, int64, error) {
	args := []any{int64s(p.Rooms), p.Keys, p.Term, p.Types, p.NotTypes, p.Senders, p.NotSenders}
	sql, from := searchRecentSQL, int64(p.Before)
	if p.ByRank {
		sql, from = searchRankSQL, int64(p.Offset)
	}
	var (
		hits  []SearchHit
		total int64
		b     pgx.Batch
	)
	b.Queue(sql, append(args[:len(args):len(args)], from, p.Limit)...).Query(func(rows pgx.Rows) (err error) {
		hits, err = pgx.CollectRows(rows, pgx.RowToStructByPos[SearchHit])
		return err
	})
	b.Queue(searchCountSQL, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&total) })
	if err := q.SendBatch(ctx, &b).Close(); err != nil {
		return nil, 0, fmt.Errorf("search events: %w", TranslateError(err))
	}
	return hits, total, nil
}
