package homeserver

import (
	"context"
	"time"

	"github.com/weft-im/weft/storage"
)

// leaseStore keeps leases in the database, for package lease.
type leaseStore struct{ db *storage.DB }

// AcquireLease implements lease.Store.
func (s leaseStore) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (token int64, ok bool, err error) {
	got, err := storage.AcquireLeases(ctx, s.db, holder, []string{name}, ttl)
	if err != nil || len(got) == 0 {
		return 0, false, err
	}
	return got[0].Token, true, nil
}

// RenewLease implements lease.Store.
func (s leaseStore) RenewLease(ctx context.Context, name, holder string, token int64, ttl time.Duration) (bool, error) {
	got, err := storage.RenewLeases(ctx, s.db, []storage.Lease{{Name: name, Holder: holder, Token: token}}, ttl)
	return len(got) == 1, err
}

// ReleaseLease implements lease.Store.
func (s leaseStore) ReleaseLease(ctx context.Context, name, holder string, token int64) error {
	return storage.ReleaseLeases(ctx, s.db, []storage.Lease{{Name: name, Holder: holder, Token: token}})
}
