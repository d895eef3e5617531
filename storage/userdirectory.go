package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// DirectoryUser is a user in the user directory.
type DirectoryUser struct {
	UserNID UserNID
	IsLocal bool
	// DisplayName and AvatarURL are nil where they are not known.
	DisplayName, AvatarURL *string
	// Words is a tsvector in its text form.
	Words string
	// RefreshTS is when to ask the user's server for the profile, in milliseconds since the epoch, 0 for never.
	RefreshTS int64
}

// By the primary key; one row a user. A refresh that is due sooner stays so, and its tries are counted on.
const putDirectoryUsersSQL = `
INSERT INTO user_directory AS d (user_nid, is_local, display_name, avatar_url, words, refresh_ts)
SELECT u.user_nid, u.is_local, u.display_name, u.avatar_url, u.words::tsvector, nullif(u.refresh_ts, 0)
FROM unnest($1::bigint[], $2::boolean[], $3::text[], $4::text[], $5::text[], $6::bigint[])
     AS u (user_nid, is_local, display_name, avatar_url, words, refresh_ts)
ORDER BY u.user_nid
ON CONFLICT (user_nid) DO UPDATE SET
    is_local = excluded.is_local, display_name = excluded.display_name, avatar_url = excluded.avatar_url,
    words = excluded.words, refresh_ts = excluded.refresh_ts, refresh_tries = 0`

// PutDirectoryUsers puts users into the directory, or replaces what it says of them. No user may be given twice.
func PutDirectoryUsers(ctx context.Context, q Querier, users []DirectoryUser) error {
	n := len(users)
	nids, local, names, avatars := make([]int64, n), make([]bool, n), make([]*string, n), make([]*string, n)
	words, refresh := make([]string, n), make([]int64, n)
	for i, u := range users {
		nids[i], local[i], names[i], avatars[i] = int64(u.UserNID), u.IsLocal, u.DisplayName, u.AvatarURL
		words[i], refresh[i] = u.Words, u.RefreshTS
	}
	if _, err := q.Exec(ctx, putDirectoryUsersSQL, nids, local, names, avatars, words, refresh); err != nil {
		return fmt.Errorf("put %d users into the directory: %w", n, TranslateError(err))
	}
	return nil
}

// DeleteDirectoryUsers takes users out of the directory.
func DeleteDirectoryUsers(ctx context.Context, q Querier, users []UserNID) error {
	if _, err := q.Exec(ctx, `DELETE FROM user_directory WHERE user_nid = ANY ($1::bigint[])`, int64s(users)); err != nil {
		return fmt.Errorf("delete %d users from the directory: %w", len(users), TranslateError(err))
	}
	return nil
}

// By the primary key.
const askDirectoryProfilesSQL = `
UPDATE user_directory SET refresh_ts = least(refresh_ts, $2) WHERE user_nid = ANY ($1::bigint[])`

// AskDirectoryProfiles has the profiles of users asked for at ts, or sooner where that was planned.
func AskDirectoryProfiles(ctx context.Context, q Querier, users []UserNID, ts int64) error {
	if _, err := q.Exec(ctx, askDirectoryProfilesSQL, int64s(users), ts); err != nil {
		return fmt.Errorf("plan to ask for %d profiles: %w", len(users), TranslateError(err))
	}
	return nil
}

// StaleProfile is a user whose profile is to be asked for.
type StaleProfile struct {
	UserNID UserNID `db:"user_nid"`
	UserID  string  `db:"user_id"`
	// Tries is how often that has failed.
	Tries int `db:"refresh_tries"`
}

// By user_directory_refresh; $2 rows.
const staleDirectoryProfilesSQL = `
SELECT d.user_nid, n.user_id, d.refresh_tries FROM user_directory d JOIN user_ids n USING (user_nid)
WHERE d.refresh_ts <= $1 ORDER BY d.refresh_ts LIMIT $2`

// StaleDirectoryProfiles returns users whose profiles are to be asked for at nowTS, the longest overdue first.
func StaleDirectoryProfiles(ctx context.Context, q Querier, nowTS int64, limit int) ([]StaleProfile, error) {
	return collect[StaleProfile](ctx, q, staleDirectoryProfilesSQL, nowTS, limit)
}

// PostponeDirectoryProfile counts a failed attempt to ask for a profile, and plans the next.
func PostponeDirectoryProfile(ctx context.Context, q Querier, user UserNID, nextTS int64) error {
	_, err := q.Exec(ctx, `UPDATE user_directory SET refresh_ts = $2, refresh_tries = refresh_tries + 1 WHERE user_nid = $1`, user, nextTS)
	if err != nil {
		return fmt.Errorf("postpone profile of user %d: %w", user, TranslateError(err))
	}
	return nil
}

// DirectoryProgress returns up to which event the directory has come.
func DirectoryProgress(ctx context.Context, q Querier) (EventNID, error) {
	var nid EventNID
	if err := q.QueryRow(ctx, `SELECT event_nid FROM user_directory_progress`).Scan(&nid); err != nil {
		return 0, fmt.Errorf("get progress of the user directory: %w", TranslateError(err))
	}
	return nid, nil
}

// SetDirectoryProgress notes up to which event the directory has come.
func SetDirectoryProgress(ctx context.Context, q Querier, nid EventNID) error {
	if _, err := q.Exec(ctx, `UPDATE user_directory_progress SET event_nid = greatest(event_nid, $1)`, nid); err != nil {
		return fmt.Errorf("set progress of the user directory: %w", TranslateError(err))
	}
	return nil
}

// By the primary key of events, the rows in between; then those of memberships, one a user named, and for the rooms that
// a user of this server has joined all members that the directory does not have: such a room may be new here with all who
// are in it.
const directoryChangesSQL = `
WITH changed AS (
    SELECT DISTINCT e.room_nid, n.user_nid, m.membership, m.is_local
    FROM events e
    JOIN state_keys k USING (state_key_nid)
    JOIN user_ids n ON n.user_id = k.state_key
    JOIN memberships m ON m.room_nid = e.room_nid AND m.user_nid = n.user_nid
    WHERE e.event_nid > $1 AND e.event_nid <= $2 AND k.type = 'm.room.member'
)
SELECT user_nid FROM changed
UNION
SELECT m.user_nid FROM memberships m
WHERE m.room_nid IN (SELECT room_nid FROM changed WHERE is_local AND membership = 2) AND m.membership = 2
AND NOT EXISTS (SELECT FROM user_directory d WHERE d.user_nid = m.user_nid)`

// DirectoryChanges returns the users whose place in the directory may have changed by events numbered above after, up to
// upTo.
func DirectoryChanges(ctx context.Context, q Querier, after, upTo EventNID) ([]UserNID, error) {
	rows, err := q.Query(ctx, directoryChangesSQL, after, upTo)
	if err != nil {
		return nil, fmt.Errorf("look for changes of the user directory: %w", TranslateError(err))
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[UserNID])
	if err != nil {
		return nil, fmt.Errorf("look for changes of the user directory: %w", TranslateError(err))
	}
	return users, nil
}

// DirectoryFacts is what the directory is to know of a user.
type DirectoryFacts struct {
	UserNID UserNID `db:"user_nid"`
	UserID  string  `db:"user_id"`
	// Local says that the user has an account here; Gone that it is deactivated.
	Local bool `db:"local"`
	Gone  bool `db:"gone"`
	// Listed says that the directory has the user.
	Listed bool `db:"listed"`
	// Joined says that the user is in a room, Public that one of them is open to everybody's eyes.
	Joined bool `db:"joined"`
	Public bool `db:"public"`
	// DisplayName and AvatarURL are those of the profile of a user of this server, those of the newest public room of
	// another.
	DisplayName *string `db:"display_name"`
	AvatarURL   *string `db:"avatar_url"`
}

// By primary keys, and memberships_user: as many rows as the users have rooms.
const directoryFactsSQL = `
SELECT n.user_nid, n.user_id, u.user_nid IS NOT NULL AS local, coalesce(u.deactivated, false) AS gone,
    d.user_nid IS NOT NULL AS listed,
    EXISTS (SELECT FROM memberships m WHERE m.user_nid = n.user_nid AND m.membership = 2) AS joined,
    r.room_nid IS NOT NULL AS public,
    CASE WHEN u.user_nid IS NULL THEN r.display_name ELSE p.display_name END AS display_name,
    CASE WHEN u.user_nid IS NULL THEN r.avatar_url ELSE p.avatar_url END AS avatar_url
FROM user_ids n
LEFT JOIN users u USING (user_nid)
LEFT JOIN profiles p USING (user_nid)
LEFT JOIN user_directory d USING (user_nid)
LEFT JOIN LATERAL (
    SELECT m.room_nid, m.display_name, m.avatar_url FROM memberships m JOIN room_stats s USING (room_nid)
    WHERE u.user_nid IS NULL AND m.user_nid = n.user_nid AND m.membership = 2
    AND (s.join_rule = 'public' OR s.history_visibility = 'world_readable')
    ORDER BY m.event_nid DESC LIMIT 1
) r ON true
WHERE n.user_nid = ANY ($1::bigint[])
ORDER BY n.user_nid`

// GetDirectoryFacts returns what the directory is to know of users.
func GetDirectoryFacts(ctx context.Context, q Querier, users []UserNID) ([]DirectoryFacts, error) {
	return collect[DirectoryFacts](ctx, q, directoryFactsSQL, int64s(users))
}

// DirectoryQuery is a search of the user directory.
type DirectoryQuery struct {
	// Searcher is who searches, and is not found.
	Searcher UserNID
	// Words and Whole are the query as tsquery in its text form: words that begin so, and the same as whole words.
	Words, Whole string
	// All finds users whom the searcher shares no room with; LocalOnly only those of this server; LocalFirst these
	// before others; Locked those whose accounts are locked.
	All, LocalOnly, LocalFirst, Locked bool
	// Limit is the most users to return.
	Limit int
}

// DirectoryResult is a user that was found.
type DirectoryResult struct {
	UserID      string  `db:"user_id" json:"user_id"`
	DisplayName *string `db:"display_name" json:"display_name,omitempty"`
	AvatarURL   *string `db:"avatar_url" json:"avatar_url,omitempty"`
}

// By user_directory_words: the users with such a name; for each, memberships_user up to the first room that makes them
// visible.
const searchDirectorySQL = `
WITH mine AS MATERIALIZED (
    SELECT room_nid FROM memberships WHERE user_nid = $1 AND membership = 2
)
SELECT n.user_id, d.display_name, d.avatar_url
FROM user_directory d
JOIN user_ids n USING (user_nid)
LEFT JOIN users u USING (user_nid)
WHERE d.words @@ $2::tsquery AND d.user_nid <> $1
AND (u.user_nid IS NULL OR NOT u.deactivated AND ($7 OR NOT u.locked) AND u.user_type IS DISTINCT FROM 'support')
AND (NOT $5 OR d.is_local)
AND ($4 OR EXISTS (
    SELECT FROM memberships m JOIN room_stats s USING (room_nid)
    WHERE m.user_nid = d.user_nid AND m.membership = 2
    AND (s.join_rule = 'public' OR s.history_visibility = 'world_readable' OR m.room_nid IN (SELECT room_nid FROM mine))))
ORDER BY $6 AND d.is_local DESC, d.words @@ $3::tsquery DESC, ts_rank('{0.1,0.1,0.8,1}', d.words, $2::tsquery) DESC,
    (d.display_name IS NOT NULL)::int + (d.avatar_url IS NOT NULL)::int DESC, n.user_id
LIMIT $8`

// SearchDirectory returns the users that a search finds, the best first.
func SearchDirectory(ctx context.Context, q Querier, s DirectoryQuery) ([]DirectoryResult, error) {
	return collect[DirectoryResult](ctx, q, searchDirectorySQL,
		s.Searcher, s.Words, s.Whole, s.All, s.LocalOnly, s.LocalFirst, s.Locked, s.Limit)
}
