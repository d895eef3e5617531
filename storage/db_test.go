package storage_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// openEmpty returns a pool on a database without a schema.
func openEmpty(t *testing.T) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Config{ConnString: storagetest.NewEmpty(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func TestQueriers(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for name, q := range map[string]storage.Querier{"pool": db, "pool connection": conn, "connection": conn.Conn()} {
		var one int
		if err := q.QueryRow(t.Context(), `SELECT 1`).Scan(&one); err != nil || one != 1 {
			t.Errorf("%s: %d, error %v", name, one, err)
		}
	}
}

func TestInTxRunsAgainAndThenTakesEffect(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE counter AS SELECT 0 AS n`); err != nil {
		t.Fatal(err)
	}
	var runs int
	var effects []int
	err := storage.InTx(t.Context(), db, storage.TxOptions{Isolation: pgx.RepeatableRead}, func(ctx context.Context, tx *storage.Tx) error {
		runs++
		run := runs
		tx.AfterCommit(func() { effects = append(effects, run) })
		tx.AfterCommit(func() { effects = append(effects, -run) })
		var n int
		if err := tx.QueryRow(ctx, `SELECT n FROM counter`).Scan(&n); err != nil {
			return err
		}
		if run == 1 {
			// Somebody else is quicker.
			if _, err := db.Exec(ctx, `UPDATE counter SET n = n + 1`); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE counter SET n = $1`, n+10)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := db.QueryRow(t.Context(), `SELECT n FROM counter`).Scan(&n); err != nil || n != 11 {
		t.Errorf("counter = %d, error %v; want 11", n, err)
	}
	if !slices.Equal(effects, []int{2, -2}) {
		t.Errorf("effects %v, want those of the second run in order", effects)
	}
}

func TestInTxRollsBack(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE mark ()`); err != nil {
		t.Fatal(err)
	}
	mine := errors.New("no")
	effect := false
	run := func(ctx context.Context, fail func() error) error {
		return storage.InTx(ctx, db, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
			tx.AfterCommit(func() { effect = true })
			if _, err := tx.Exec(ctx, `INSERT INTO mark DEFAULT VALUES`); err != nil {
				return err
			}
			return fail()
		})
	}
	if err := run(t.Context(), func() error { return mine }); !errors.Is(err, mine) {
		t.Errorf("error %v, want the function's", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := run(ctx, func() error { cancel(); return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_ = run(t.Context(), func() error { panic("bug") })
	}()
	var n int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM mark`).Scan(&n); err != nil || n != 0 || effect {
		t.Errorf("%d rows, effect %v, error %v; want nothing", n, effect, err)
	}
	if inUse := db.Stat().AcquiredConns(); inUse != 0 {
		t.Errorf("%d connections still in use", inUse)
	}
}

func TestInTxGivesUp(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	runs := 0
	err := storage.InTx(t.Context(), db, storage.TxOptions{Attempts: 3}, func(ctx context.Context, tx *storage.Tx) error {
		runs++
		_, err := tx.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$`)
		return err
	})
	if !storage.IsRetryable(err) || runs != 3 {
		t.Errorf("%d runs, error %v; want 3 and the last error", runs, err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE person (name text CONSTRAINT one_of_a_name UNIQUE)`); err != nil {
		t.Fatal(err)
	}
	insert := func() error {
		_, err := db.Exec(t.Context(), `INSERT INTO person VALUES ('secret')`)
		return storage.TranslateError(err)
	}
	if err := insert(); err != nil {
		t.Fatal(err)
	}
	err := insert()
	var conflict *storage.ConflictError
	if !errors.As(err, &conflict) || conflict.Constraint != "one_of_a_name" || conflict.Table != "person" || strings.Contains(err.Error(), "secret") {
		t.Errorf("conflict: error %v", err)
	}
	var name string
	err = storage.TranslateError(db.QueryRow(t.Context(), `SELECT name FROM person WHERE name = ''`).Scan(&name))
	if !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("no row: error %v", err)
	}
	if storage.TranslateError(nil) != nil || storage.IsTransient(nil) || storage.IsRetryable(nil) {
		t.Error("nil is taken for an error")
	}
	for _, err := range []error{err, conflict, context.Canceled, context.DeadlineExceeded} {
		if storage.IsTransient(err) || storage.IsRetryable(err) {
			t.Errorf("%v is taken for one that passes", err)
		}
	}
}

func TestOpenAServerThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := storage.Open(t.Context(), storage.Config{}); err == nil {
		t.Error("opened without a connection string")
	}
	if _, err := storage.Open(t.Context(), storage.Config{ConnString: "postgres://host:port/"}); err == nil {
		t.Error("opened with a malformed connection string")
	}
	db, err := storage.Open(t.Context(), storage.Config{ConnString: "host=127.0.0.1 port=1 sslmode=disable"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	err = db.WaitReady(ctx, func(err error, next time.Duration) {
		if told++; told == 3 {
			cancel()
		}
		if !storage.IsTransient(err) || next <= 0 {
			t.Errorf("told of %v, next attempt in %v", err, next)
		}
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v, want that the context ended and why the server was not there", err)
	}
}

func TestWaitReadyReturnsMistakesAtOnce(t *testing.T) {
	t.Parallel()
	missing := strings.Replace(storagetest.NewEmpty(t), "weft_test_", "weft_none_", 1)
	db, err := storage.Open(t.Context(), storage.Config{ConnString: missing})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.WaitReady(t.Context(), func(err error, _ time.Duration) { t.Errorf("tries again after %v", err) })
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("error %v", err)
	}
}

func TestCounters(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	var mine, other storage.Counter
	ctx := storage.WithCounter(t.Context(), &mine)
	b := &pgx.Batch{}
	b.Queue(`SELECT 1`)
	b.Queue(`SELECT 2`)
	if err := db.SendBatch(ctx, b).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(storage.WithCounter(t.Context(), &other), `SELECT 3`); err != nil {
		t.Fatal(err)
	}
	if got, want := mine.Counts(), (storage.Counts{Statements: 2, RoundTrips: 1}); got != want {
		t.Errorf("a batch of two counts as %+v, want %+v", got, want)
	}
	if got := other.Counts(); got.Statements != 1 || got.RoundTrips != 1 {
		t.Errorf("one statement counts as %+v", got)
	}
}

func TestWriters(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	a, b := storage.NewWriters(), storage.NewWriters()
	one, err := a.Intern(t.Context(), db, "event_persister1")
	if err != nil || one == 0 {
		t.Fatalf("number %d, error %v", one, err)
	}
	two, err := b.Intern(t.Context(), db, "event_persister2")
	if err != nil || two == one {
		t.Fatalf("numbers %d and %d, error %v", one, two, err)
	}
	for _, w := range []*storage.Writers{a, b} {
		if got, err := w.Intern(t.Context(), db, "event_persister1"); err != nil || got != one {
			t.Errorf("number %d, error %v; want %d", got, err, one)
		}
	}
	if got, err := a.Name(t.Context(), db, two); err != nil || got != "event_persister2" {
		t.Errorf("name %q, error %v", got, err)
	}
	counts := storagetest.Count(t, db, func() {
		if _, err := a.Name(t.Context(), db, two); err != nil {
			t.Error(err)
		}
	})
	if counts.Statements != 0 {
		t.Errorf("a name that is known took %+v", counts)
	}
	if _, err := a.Name(t.Context(), db, 999); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("unknown number: error %v", err)
	}
}
