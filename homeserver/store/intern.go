package store

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/storage"
)

// UserNIDs returns the numbers of users in the order of ids, 0 for those the database has never met.
func (s *Store) UserNIDs(ctx context.Context, ids []string) ([]storage.UserNID, error) {
	return cached(s.userNIDs, ids, func(missing []string) (map[string]storage.UserNID, error) {
		users, err := storage.LookupUsers(ctx, s.db, missing)
		return s.rememberUsers(users), err
	})
}

// UserNID returns the number of one user, 0 if the database has never met it.
func (s *Store) UserNID(ctx context.Context, id string) (storage.UserNID, error) {
	if nid, ok := s.userNIDs.GetIfPresent(id); ok {
		return nid, nil
	}
	nids, err := s.UserNIDs(ctx, []string{id})
	if err != nil {
		return 0, err
	}
	return nids[0], nil
}

// InternUsers is UserNIDs that gives numbers to those that have none.
func (s *Store) InternUsers(ctx context.Context, ids []string) ([]storage.UserNID, error) {
	return cached(s.userNIDs, ids, func(missing []string) (map[string]storage.UserNID, error) {
		users, err := storage.InternUsers(ctx, s.db, missing)
		return s.rememberUsers(users), err
	})
}

func (s *Store) rememberUsers(users []storage.User) map[string]storage.UserNID {
	m := make(map[string]storage.UserNID, len(users))
	for _, u := range users {
		m[u.ID] = u.NID
		s.userNIDs.Set(u.ID, u.NID)
		s.userIDs.Set(u.NID, u.ID)
	}
	return m
}

// UserIDs returns the user ids of numbers, in the order of nids, "" for numbers nobody has.
func (s *Store) UserIDs(ctx context.Context, nids []storage.UserNID) ([]string, error) {
	return cached(s.userIDs, nids, func(missing []storage.UserNID) (map[storage.UserNID]string, error) {
		users, err := storage.GetUsers(ctx, s.db, missing)
		s.rememberUsers(users)
		m := make(map[storage.UserNID]string, len(users))
		for _, u := range users {
			m[u.NID] = u.ID
		}
		return m, err
	})
}

// StateKeyNIDs returns the numbers of pairs of event type and state key in the order of tuples, 0 for those the database
// has never met.
func (s *Store) StateKeyNIDs(ctx context.Context, tuples []event.Tuple) ([]storage.StateKeyNID, error) {
	return cached(s.keyNIDs, tuples, func(missing []event.Tuple) (map[event.Tuple]storage.StateKeyNID, error) {
		keys, err := storage.LookupStateKeys(ctx, s.db, stateKeys(missing))
		return s.rememberKeys(keys), err
	})
}

// InternStateKeys is StateKeyNIDs that gives numbers to those that have none.
func (s *Store) InternStateKeys(ctx context.Context, tuples []event.Tuple) ([]storage.StateKeyNID, error) {
	return cached(s.keyNIDs, tuples, func(missing []event.Tuple) (map[event.Tuple]storage.StateKeyNID, error) {
		keys, err := storage.InternStateKeys(ctx, s.db, stateKeys(missing))
		return s.rememberKeys(keys), err
	})
}

func (s *Store) rememberKeys(keys []storage.StateKey) map[event.Tuple]storage.StateKeyNID {
	m := make(map[event.Tuple]storage.StateKeyNID, len(keys))
	for _, k := range keys {
		t := event.Tuple{Type: k.Type, StateKey: k.StateKey}
		m[t] = k.NID
		s.keyNIDs.Set(t, k.NID)
		s.tuples.Set(k.NID, t)
	}
	return m
}

// Tuples returns the pairs of event type and state key of numbers, in the order of nids, the zero Tuple for numbers that
// nothing has.
func (s *Store) Tuples(ctx context.Context, nids []storage.StateKeyNID) ([]event.Tuple, error) {
	return cached(s.tuples, nids, func(missing []storage.StateKeyNID) (map[storage.StateKeyNID]event.Tuple, error) {
		keys, err := storage.GetStateKeys(ctx, s.db, missing)
		m := make(map[storage.StateKeyNID]event.Tuple, len(keys))
		for t, nid := range s.rememberKeys(keys) {
			m[nid] = t
		}
		return m, err
	})
}

func stateKeys(tuples []event.Tuple) []storage.StateKey {
	keys := make([]storage.StateKey, len(tuples))
	for i, t := range tuples {
		keys[i] = storage.StateKey{Type: t.Type, StateKey: t.StateKey}
	}
	return keys
}

// cached looks keys up in c and asks load for those that are not there, all at once. load puts into c what it finds.
// Keys that load does not find give the zero value.
func cached[K comparable, V any](c memo.Cache[K, V], keys []K, load func(missing []K) (map[K]V, error)) ([]V, error) {
	out := make([]V, len(keys))
	var missing []K
	var at []int
	for i, k := range keys {
		v, ok := c.GetIfPresent(k)
		if ok {
			out[i] = v
			continue
		}
		missing, at = append(missing, k), append(at, i)
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := load(missing)
	if err != nil {
		return nil, err
	}
	for j, k := range missing {
		out[at[j]] = found[k]
	}
	return out, nil
}
