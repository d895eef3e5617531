package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// StateKey is a pair of event type and state key, with its number.
type StateKey struct {
	NID      StateKeyNID `db:"state_key_nid"`
	Type     string      `db:"type"`
	StateKey string      `db:"state_key"`
}

// User is a user id with its number.
type User struct {
	NID UserNID `db:"user_nid"`
	ID  string  `db:"user_id"`
}

// By the unique index on user_id; one row a name at most.
const lookupUsersSQL = `SELECT user_nid, user_id FROM user_ids WHERE user_id = ANY($1::text[])`

// LookupUsers returns those of the users that have a number, in no order.
func LookupUsers(ctx context.Context, q Querier, ids []string) ([]User, error) {
	rows, err := q.Query(ctx, lookupUsersSQL, ids)
	if err != nil {
		return nil, fmt.Errorf("look up %d users: %w", len(ids), TranslateError(err))
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByName[User])
	if err != nil {
		return nil, fmt.Errorf("look up %d users: %w", len(ids), TranslateError(err))
	}
	return users, nil
}

// The insert is tried for new names only, so that looking up uses up no numbers, and in order of the names, so that two
// transactions cannot wait for each other. A name that another transaction makes meanwhile is in neither half.
const makeUsersSQL = `
WITH made AS (
    INSERT INTO user_ids (user_id)
    SELECT DISTINCT w.user_id COLLATE "C" FROM unnest($1::text[]) AS w(user_id)
    WHERE NOT EXISTS (SELECT FROM user_ids u WHERE u.user_id = w.user_id)
    ORDER BY 1
    ON CONFLICT DO NOTHING
    RETURNING user_nid, user_id
)
SELECT user_nid, user_id FROM made
UNION ALL
SELECT user_nid, user_id FROM user_ids WHERE user_id = ANY($1::text[])`

// InternUsers returns the users with their numbers, in no order, and gives numbers to those that have none. q must not
// be a transaction that may be rolled back, as callers keep numbers for good.
func InternUsers(ctx context.Context, q Querier, ids []string) ([]User, error) {
	return intern(ctx, q, "users", ids, func(ctx context.Context, ids []string) ([]User, error) {
		rows, err := q.Query(ctx, makeUsersSQL, ids)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByName[User])
	}, func(u User) string { return u.ID })
}

// By the primary key.
const getUsersSQL = `SELECT user_nid, user_id FROM user_ids WHERE user_nid = ANY($1::bigint[])`

// GetUsers returns users by number, in no order.
func GetUsers(ctx context.Context, q Querier, nids []UserNID) ([]User, error) {
	rows, err := q.Query(ctx, getUsersSQL, int64s(nids))
	if err != nil {
		return nil, fmt.Errorf("get %d users: %w", len(nids), TranslateError(err))
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByName[User])
	if err != nil {
		return nil, fmt.Errorf("get %d users: %w", len(nids), TranslateError(err))
	}
	return users, nil
}

// By the unique index on (type, state_key); one row a pair at most.
const lookupStateKeysSQL = `
SELECT k.state_key_nid, k.type, k.state_key
FROM unnest($1::text[], $2::text[]) AS w(type, state_key)
JOIN state_keys k ON k.type = w.type AND k.state_key = w.state_key`

// LookupStateKeys returns those of the pairs that have a number, in no order. The NIDs of keys are not looked at.
func LookupStateKeys(ctx context.Context, q Querier, keys []StateKey) ([]StateKey, error) {
	types, sks := splitKeys(keys)
	rows, err := q.Query(ctx, lookupStateKeysSQL, types, sks)
	if err != nil {
		return nil, fmt.Errorf("look up %d state keys: %w", len(keys), TranslateError(err))
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[StateKey])
	if err != nil {
		return nil, fmt.Errorf("look up %d state keys: %w", len(keys), TranslateError(err))
	}
	return found, nil
}

// As makeUsersSQL.
const makeStateKeysSQL = `
WITH made AS (
    INSERT INTO state_keys (type, state_key)
    SELECT DISTINCT w.type COLLATE "C", w.state_key COLLATE "C" FROM unnest($1::text[], $2::text[]) AS w(type, state_key)
    WHERE NOT EXISTS (SELECT FROM state_keys k WHERE k.type = w.type AND k.state_key = w.state_key)
    ORDER BY 1, 2
    ON CONFLICT DO NOTHING
    RETURNING state_key_nid, type, state_key
)
SELECT state_key_nid, type, state_key FROM made
UNION ALL
SELECT k.state_key_nid, k.type, k.state_key
FROM unnest($1::text[], $2::text[]) AS w(type, state_key)
JOIN state_keys k ON k.type = w.type AND k.state_key = w.state_key`

// InternStateKeys returns the pairs with their numbers, in no order, and gives numbers to those that have none. As with
// [InternUsers], q must not be a transaction that may be rolled back.
func InternStateKeys(ctx context.Context, q Querier, keys []StateKey) ([]StateKey, error) {
	return intern(ctx, q, "state keys", keys, func(ctx context.Context, keys []StateKey) ([]StateKey, error) {
		types, sks := splitKeys(keys)
		rows, err := q.Query(ctx, makeStateKeysSQL, types, sks)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByName[StateKey])
	}, func(k StateKey) StateKey { return StateKey{Type: k.Type, StateKey: k.StateKey} })
}

// By the primary key.
const getStateKeysSQL = `SELECT state_key_nid, type, state_key FROM state_keys WHERE state_key_nid = ANY($1::bigint[])`

// GetStateKeys returns pairs by number, in no order.
func GetStateKeys(ctx context.Context, q Querier, nids []StateKeyNID) ([]StateKey, error) {
	rows, err := q.Query(ctx, getStateKeysSQL, int64s(nids))
	if err != nil {
		return nil, fmt.Errorf("get %d state keys: %w", len(nids), TranslateError(err))
	}
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByName[StateKey])
	if err != nil {
		return nil, fmt.Errorf("get %d state keys: %w", len(nids), TranslateError(err))
	}
	return keys, nil
}

// intern runs query until it has returned a row for each name: a name that another transaction inserts at the same time
// is only seen by the next statement.
func intern[K comparable, R any](ctx context.Context, q Querier, what string, names []K, query func(context.Context, []K) ([]R, error), key func(R) K) ([]R, error) {
	var all []R
	for missing := names; ; {
		found, err := query(ctx, missing)
		if err != nil {
			return nil, fmt.Errorf("intern %d %s: %w", len(names), what, TranslateError(err))
		}
		all = append(all, found...)
		have := make(map[K]bool, len(all))
		for _, r := range all {
			have[key(r)] = true
		}
		var next []K
		for _, n := range missing {
			if !have[n] {
				next = append(next, n)
			}
		}
		if len(next) == 0 {
			return all, nil
		}
		missing = next
	}
}

func splitKeys(keys []StateKey) (types, stateKeys []string) {
	types, stateKeys = make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		types[i], stateKeys[i] = k.Type, k.StateKey
	}
	return types, stateKeys
}

// int64s converts numbers for pgx, which knows arrays of int64 without reflection.
func int64s[N ~int64](nids []N) []int64 {
	out := make([]int64, len(nids))
	for i, n := range nids {
		out[i] = int64(n)
	}
	return out
}
