package storage_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func acquire(t *testing.T, db *storage.DB, holder string, names ...string) []storage.Lease {
	t.Helper()
	leases, err := storage.AcquireLeases(t.Context(), db, holder, names, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

// expire has the leases run out, as time would.
func expire(t *testing.T, db *storage.DB) {
	t.Helper()
	if _, err := db.Exec(t.Context(), `UPDATE leases SET expires_ts = 1`); err != nil {
		t.Fatal(err)
	}
}

func TestLeaseHasOneHolder(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	var held atomic.Int32
	var wg sync.WaitGroup
	for _, holder := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			leases, err := storage.AcquireLeases(t.Context(), db, holder, []string{"x", "y"}, time.Minute)
			if err != nil {
				t.Error(err)
			}
			held.Add(int32(len(leases)))
		})
	}
	wg.Wait()
	if got := held.Load(); got != 2 {
		t.Errorf("%d leases given, want 2", got)
	}
	list, err := storage.ListLeases(t.Context(), db)
	if err != nil || len(list) != 2 || list[0].Name != "x" || list[1].Name != "y" {
		t.Errorf("list %+v, error %v", list, err)
	}
}

func TestLeaseLife(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	first := acquire(t, db, "a", "job")
	if len(first) != 1 || first[0].Holder != "a" || first[0].Token != 1 || first[0].Remaining <= 50*time.Second || first[0].Remaining > time.Minute {
		t.Fatalf("acquired %+v", first)
	}
	if got := acquire(t, db, "b", "job"); len(got) != 0 {
		t.Fatalf("second holder got %+v", got)
	}
	if got, err := storage.RenewLeases(t.Context(), db, first, time.Hour); err != nil || len(got) != 1 || got[0].Token != 1 || got[0].Remaining <= time.Minute {
		t.Errorf("renewed %+v, error %v", got, err)
	}

	// It ran out and nobody took it: nothing is lost.
	expire(t, db)
	if got, err := storage.RenewLeases(t.Context(), db, first, time.Minute); err != nil || len(got) != 1 {
		t.Errorf("renewed %+v, error %v", got, err)
	}

	// It ran out and somebody took it.
	expire(t, db)
	second := acquire(t, db, "b", "job")
	if len(second) != 1 || second[0].Token != 2 {
		t.Fatalf("second holder got %+v", second)
	}
	if got, err := storage.RenewLeases(t.Context(), db, first, time.Minute); err != nil || len(got) != 0 {
		t.Errorf("a lost lease was renewed: %+v, error %v", got, err)
	}
	if err := storage.ReleaseLeases(t.Context(), db, first); err != nil {
		t.Fatal(err)
	}
	if got := acquire(t, db, "c", "job"); len(got) != 0 {
		t.Errorf("releasing a lost lease freed it: %+v", got)
	}

	// The same holder, started again, need not wait and fences its past off.
	again := acquire(t, db, "b", "job")
	if len(again) != 1 || again[0].Token != 3 {
		t.Errorf("started again: %+v", again)
	}

	if err := storage.ReleaseLeases(t.Context(), db, again); err != nil {
		t.Fatal(err)
	}
	if got, err := storage.RenewLeases(t.Context(), db, again, time.Minute); err != nil || len(got) != 0 {
		t.Errorf("a released lease was renewed: %+v, error %v", got, err)
	}
	if list, err := storage.ListLeases(t.Context(), db); err != nil || len(list) != 0 {
		t.Errorf("list %+v, error %v", list, err)
	}
	if got := acquire(t, db, "c", "job"); len(got) != 1 || got[0].Token != 4 {
		t.Errorf("acquired after release: %+v", got)
	}
}

func TestFenceLease(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	mine := acquire(t, db, "a", "job")[0]
	fenced := func(l storage.Lease, during func()) error {
		return storage.InTx(t.Context(), db, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
			if err := storage.FenceLease(ctx, tx, l); err != nil {
				return err
			}
			during()
			return nil
		})
	}
	took := make(chan []storage.Lease, 1)
	err := fenced(mine, func() {
		go func() {
			ctx := context.WithoutCancel(t.Context())
			if _, err := db.Exec(ctx, `UPDATE leases SET expires_ts = 1`); err != nil {
				t.Error(err)
			}
			leases, err := storage.AcquireLeases(ctx, db, "b", []string{"job"}, time.Minute)
			if err != nil {
				t.Error(err)
			}
			took <- leases
		}()
		waitForLock(t, db)
		if len(took) != 0 {
			t.Error("the lease was taken during the transaction")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := <-took; len(got) != 1 {
		t.Fatalf("acquired %+v", got)
	}
	if err := fenced(mine, func() { t.Error("transaction went on") }); !errors.Is(err, storage.ErrLeaseLost) {
		t.Errorf("error %v, want ErrLeaseLost", err)
	}
}
