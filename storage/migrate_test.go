package storage

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// testMigrations returns migrations that make tables t1 to tn, the last of which
// says which version it is compatible with.
func testMigrations(t *testing.T, n int, oldest string) []migration {
	t.Helper()
	base, err := migrationFiles.ReadFile("migrations/0001_base.sql")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{"migrations/0001_base.sql": {Data: base}}
	for i := 2; i <= n; i++ {
		num := string(rune('0' + i))
		sql := "-- A table.\nCREATE TABLE t" + num + " ();\nCREATE INDEX ON t" + num + " ((1));\n"
		if i == n {
			sql = oldest + "\n" + sql
		}
		files["migrations/000"+num+"_t.sql"] = &fstest.MapFile{Data: []byte(sql)}
	}
	ms, err := readMigrations(files)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

// emptyDB is set by the external test package, whose test kit imports this one.
var emptyDB func(t *testing.T) *DB

func TestMigrateOneAtATime(t *testing.T) {
	t.Parallel()
	db := emptyDB(t)
	ms := testMigrations(t, 4, "")
	if err := checkSchema(t.Context(), db, ms); !errors.Is(err, ErrNotMigrated) {
		t.Errorf("empty database: error %v, want ErrNotMigrated", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := migrate(t.Context(), db, ms); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var rows, oldest int
	if err := db.QueryRow(t.Context(), `SELECT count(*), max(oldest_compatible) FROM schema_migrations WHERE version > 0`).Scan(&rows, &oldest); err != nil {
		t.Fatal(err)
	}
	if rows != 4 || oldest != 4 {
		t.Errorf("%d migrations recorded, oldest compatible version %d; want 4 and 4", rows, oldest)
	}
	// The timeouts that were lifted for migrating are back.
	err := db.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		var timeout string
		err := c.QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&timeout)
		if timeout != "1min" {
			t.Errorf("idle_in_transaction_session_timeout = %s after migrating", timeout)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSchemaVersions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		oldest        string
		program       int
		wantNotYet    bool
		wantTooNew    bool
		databaseAhead int
	}{
		{name: "same version", program: 3},
		{name: "older database", program: 4, wantNotYet: true},
		{name: "newer database that needs its own version", program: 2, wantTooNew: true},
		{name: "newer database that suits", program: 2, oldest: "-- oldest-compatible: 2"},
		{name: "newer database that does not suit", program: 1, oldest: "-- oldest-compatible: 2", wantTooNew: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db := emptyDB(t)
			if err := migrate(t.Context(), db, testMigrations(t, 3, tt.oldest)); err != nil {
				t.Fatal(err)
			}
			err := checkSchema(t.Context(), db, testMigrations(t, tt.program, ""))
			var tooNew *SchemaTooNewError
			if errors.Is(err, ErrNotMigrated) != tt.wantNotYet || errors.As(err, &tooNew) != tt.wantTooNew ||
				err == nil != (!tt.wantNotYet && !tt.wantTooNew) {
				t.Errorf("error %v", err)
			}
			if tooNew != nil && (tooNew.Version != 3 || tooNew.Known != int64(tt.program)) {
				t.Errorf("error %+v", tooNew)
			}
		})
	}
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	db := emptyDB(t)
	ms := testMigrations(t, 3, "")
	good := ms[2].sql
	ms[2].sql += "CREATE TABLE t2 ();" // there already
	if err := migrate(t.Context(), db, ms); err == nil || !strings.Contains(err.Error(), "t2") {
		t.Errorf("error %v", err)
	}
	ms[2].sql = good
	if err := migrate(t.Context(), db, ms); err != nil {
		t.Errorf("migration after it was mended: %v", err)
	}
}

func TestMigrationOutsideATransaction(t *testing.T) {
	t.Parallel()
	db := emptyDB(t)
	ms := testMigrations(t, 3, "")
	ms[2].sql, ms[2].noTransaction = "CREATE INDEX CONCURRENTLY i ON t2 ((2))", true
	var wg sync.WaitGroup
	// Those that wait for their turn must not hold the index up.
	for range 3 {
		wg.Go(func() {
			if err := migrate(t.Context(), db, ms); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestWaitSchema(t *testing.T) {
	t.Parallel()
	db := emptyDB(t)
	told := make(chan error, 1)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		done <- WaitSchema(ctx, db, func(err error, _ time.Duration) {
			select {
			case told <- err:
			default:
			}
		})
	}()
	if err := <-told; !errors.Is(err, ErrNotMigrated) {
		t.Errorf("waits because of %v", err)
	}
	if err := Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNothingToMigrateIsQuick(t *testing.T) {
	t.Parallel()
	db := emptyDB(t)
	if err := Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	before := db.Counts()
	began := time.Now()
	if err := Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	t.Logf("nothing to migrate: %v", time.Since(began))
	if c := db.Counts().Sub(before); c.RoundTrips != 1 {
		t.Errorf("nothing to migrate took %+v, want one round trip", c)
	}
}

func TestReadMigrationsRefuses(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]fstest.MapFS{
		"none":              {},
		"bad name":          {"migrations/one.sql": {}},
		"same number twice": {"migrations/0001_a.sql": {}, "migrations/0001_b.sql": {}},
		"compatible with a later version": {
			"migrations/0001_a.sql": {Data: []byte("-- oldest-compatible: 2\n")},
		},
	} {
		if ms, err := readMigrations(files); err == nil {
			t.Errorf("%s: accepted as %v", name, ms)
		}
	}
}
