package store

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// UserNIDs returns the numbers of users in the order of ids, 0 for those the database has never met.
func (s *Store) UserNIDs(ctx context.Context, ids []string) ([]storage.UserNID, error) {
	panic("not yet")
}

// UserNID returns the number of one user, 0 if the database has never met it.
func (s *Store) UserNID(ctx context.Context, id string) (storage.UserNID, error) { panic("not yet") }

// InternUsers is UserNIDs that gives numbers to those that have none.
func (s *Store) InternUsers(ctx context.Context, ids []string) ([]storage.UserNID, error) {
	panic("not yet")
}

// UserIDs returns the user ids of numbers, in the order of nids, "" for numbers nobody has.
func (s *Store) UserIDs(ctx context.Context, nids []storage.UserNID) ([]string, error) {
	panic("not yet")
}

// StateKeyNIDs returns the numbers of pairs of event type and state key in the order of tuples, 0 for those the database
// has never met.
func (s *Store) StateKeyNIDs(ctx context.Context, tuples []event.Tuple) ([]storage.StateKeyNID, error) {
	panic("not yet")
}

// InternStateKeys is StateKeyNIDs that gives numbers to those that have none.
func (s *Store) InternStateKeys(ctx context.Context, tuples []event.Tuple) ([]storage.StateKeyNID, error) {
	panic("not yet")
}

// Tuples returns the pairs of event type and state key of numbers, in the order of nids, the zero Tuple for numbers that
// nothing has.
func (s *Store) Tuples(ctx context.Context, nids []storage.StateKeyNID) ([]event.Tuple, error) {
	panic("not yet")
}
