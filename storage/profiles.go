package storage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Profile is the profile of a user.
type Profile struct {
	UserNID UserNID
	UserID  string
	// DisplayName and AvatarURL are nil where they are not set.
	DisplayName *string
	AvatarURL   *string
	// Fields are the further fields, each value as JSON.
	Fields map[string]json.RawMessage
}

// By the unique index of user_ids and the primary keys; one row a user, and one a further field.
const (
	getProfilesSQL = `
SELECT n.user_nid, n.user_id, p.display_name, p.avatar_url
FROM user_ids n JOIN users u USING (user_nid) LEFT JOIN profiles p USING (user_nid)
WHERE n.user_id = ANY ($1) AND NOT u.deactivated`
	getProfileFieldsSQL = `
SELECT f.user_nid, f.field, f.value FROM user_ids n JOIN profile_fields f USING (user_nid) WHERE n.user_id = ANY ($1)`
)

// GetProfiles returns the profiles of those users that have an account here which is not deactivated, by user id, in one
// round trip. An account without a profile has an empty one.
func GetProfiles(ctx context.Context, q Querier, userIDs []string) (map[string]*Profile, error) {
	byID := make(map[string]*Profile, len(userIDs))
	byNID := make(map[UserNID]*Profile, len(userIDs))
	b := &pgx.Batch{}
	b.Queue(getProfilesSQL, userIDs).Query(func(rows pgx.Rows) error {
		var p Profile
		_, err := pgx.ForEachRow(rows, []any{&p.UserNID, &p.UserID, &p.DisplayName, &p.AvatarURL}, func() error {
			c := p
			byID[c.UserID], byNID[c.UserNID] = &c, &c
			p = Profile{}
			return nil
		})
		return err
	})
	b.Queue(getProfileFieldsSQL, userIDs).Query(func(rows pgx.Rows) error {
		var nid UserNID
		var field string
		var value []byte
		_, err := pgx.ForEachRow(rows, []any{&nid, &field, &value}, func() error {
			if p := byNID[nid]; p != nil {
				if p.Fields == nil {
					p.Fields = make(map[string]json.RawMessage)
				}
				p.Fields[field] = append(json.RawMessage(nil), value...)
			}
			return nil
		})
		return err
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("get profiles: %w", TranslateError(err))
	}
	return byID, nil
}

// LockProfile makes the row of a user's profile where there is none, locks it until the transaction ends, and returns the
// profile: two changes of one profile then come one after the other.
func LockProfile(ctx context.Context, q Querier, user UserNID) (*Profile, error) {
	p := &Profile{UserNID: user, Fields: map[string]json.RawMessage{}}
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO profiles (user_nid) VALUES ($1) ON CONFLICT DO NOTHING`, user)
	b.Queue(`SELECT display_name, avatar_url FROM profiles WHERE user_nid = $1 FOR UPDATE`, user).QueryRow(func(row pgx.Row) error {
		return row.Scan(&p.DisplayName, &p.AvatarURL)
	})
	b.Queue(`SELECT field, value FROM profile_fields WHERE user_nid = $1`, user).Query(func(rows pgx.Rows) error {
		var field string
		var value []byte
		_, err := pgx.ForEachRow(rows, []any{&field, &value}, func() error {
			p.Fields[field] = append(json.RawMessage(nil), value...)
			return nil
		})
		return err
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("lock profile of user %d: %w", user, TranslateError(err))
	}
	return p, nil
}

// SetProfileNames sets display name and avatar; nil takes one away.
func SetProfileNames(ctx context.Context, q Querier, user UserNID, displayName, avatarURL *string) error {
	_, err := q.Exec(ctx, `
INSERT INTO profiles (user_nid, display_name, avatar_url) VALUES ($1, $2, $3)
ON CONFLICT (user_nid) DO UPDATE SET display_name = excluded.display_name, avatar_url = excluded.avatar_url`, user, displayName, avatarURL)
	if err != nil {
		return fmt.Errorf("set profile of user %d: %w", user, TranslateError(err))
	}
	return nil
}

// SetProfileField sets a further field; nil takes it away.
func SetProfileField(ctx context.Context, q Querier, user UserNID, field string, value json.RawMessage) error {
	var err error
	if value == nil {
		_, err = q.Exec(ctx, `DELETE FROM profile_fields WHERE user_nid = $1 AND field = $2`, user, field)
	} else {
		_, err = q.Exec(ctx, `
INSERT INTO profile_fields (user_nid, field, value) VALUES ($1, $2, $3)
ON CONFLICT (user_nid, field) DO UPDATE SET value = excluded.value`, user, field, []byte(value))
	}
	if err != nil {
		return fmt.Errorf("set profile field of user %d: %w", user, TranslateError(err))
	}
	return nil
}

// DeleteProfile deletes all of a user's profile.
func DeleteProfile(ctx context.Context, q Querier, user UserNID) error {
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM profiles WHERE user_nid = $1`, user)
	b.Queue(`DELETE FROM profile_fields WHERE user_nid = $1`, user)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("delete profile of user %d: %w", user, TranslateError(err))
	}
	return nil
}

// By memberships_user for the one, the primary key for the other; stops at the first room.
const shareRoomSQL = `
SELECT EXISTS (
    SELECT FROM memberships a JOIN memberships b USING (room_nid)
    WHERE a.user_nid = (SELECT user_nid FROM user_ids WHERE user_id = $1)
    AND b.user_nid = (SELECT user_nid FROM user_ids WHERE user_id = $2)
    AND a.membership = $3 AND b.membership = $3)`

// By memberships_user; stops at the first room.
const profileVisibleSQL = `
SELECT EXISTS (
    SELECT FROM memberships m JOIN room_stats s USING (room_nid)
    WHERE m.user_nid = (SELECT user_nid FROM user_ids WHERE user_id = $2) AND m.membership = $3
    AND (s.join_rule = 'public' OR s.history_visibility = 'world_readable' OR EXISTS (
        SELECT FROM memberships b WHERE b.room_nid = m.room_nid
        AND b.user_nid = (SELECT user_nid FROM user_ids WHERE user_id = $1) AND b.membership = $3)))`

// ProfileVisible reports whether a user is joined to a room that the viewer is joined to, or that is open to everybody.
func ProfileVisible(ctx context.Context, q Querier, viewerID, userID string) (bool, error) {
	var visible bool
	if err := q.QueryRow(ctx, profileVisibleSQL, viewerID, userID, MembershipJoin).Scan(&visible); err != nil {
		return false, fmt.Errorf("look for a room where a profile is seen: %w", TranslateError(err))
	}
	return visible, nil
}

// ShareRoom reports whether two users are joined to a room of both.
func ShareRoom(ctx context.Context, q Querier, userID, otherID string) (bool, error) {
	var share bool
	if err := q.QueryRow(ctx, shareRoomSQL, userID, otherID, MembershipJoin).Scan(&share); err != nil {
		return false, fmt.Errorf("look for a shared room: %w", TranslateError(err))
	}
	return share, nil
}
