package storagetest_test

import (
	"context"
	"testing"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	a, b := storagetest.New(t), storagetest.New(t)
	for _, db := range []*storage.DB{a, b} {
		if err := storage.CheckSchema(t.Context(), db); err != nil {
			t.Errorf("schema of a new database: %v", err)
		}
	}
	if _, err := a.Exec(t.Context(), `CREATE TABLE mine ()`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(t.Context(), `SELECT FROM mine`); err == nil {
		t.Error("a table made in one test's database is in the other's")
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	twice := func() {
		for range 2 {
			if _, err := db.Exec(t.Context(), `SELECT 1`); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := storagetest.Count(t, db, twice)
	if got.Statements != 2 || got.RoundTrips != 2 {
		t.Errorf("two statements counted as %+v", got)
	}
}

func TestServerComesBack(t *testing.T) {
	t.Parallel()
	s := storagetest.NewServer(t, nil)
	db, err := storage.Open(t.Context(), storage.Config{ConnString: s.ConnString()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := storage.CheckSchema(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	for _, down := range []func(testing.TB){s.Stop, s.Kill} {
		down(t)
		if err := db.Ping(context.Background()); !storage.IsTransient(err) {
			t.Errorf("error of a server that is down is not transient: %v", err)
		}
		s.Start(t)
		if err := db.WaitReady(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
}
