// Package storagetest gives each test a PostgreSQL database of its own.
//
// A template database is migrated once for each set of migrations and cloned
// for each test, which takes some tens of milliseconds. The server is a private
// one that the first test process of the machine starts and later ones use; it
// is not durable and stops by itself when nobody has used it for ten minutes.
// The environment variable WEFT_TEST_DATABASE_URL names another server to use,
// whose user may create databases.
//
// Without PostgreSQL tests are skipped, unless the environment has CI=true: then
// they fail.
package storagetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage"
)

// EnvURL is the environment variable that names a server to use instead of the
// private one.
const EnvURL = "WEFT_TEST_DATABASE_URL"

// New returns a pool of at most 8 connections on a new, migrated, empty
// database. Both are gone when the test ends.
func New(tb testing.TB) *storage.DB {
	tb.Helper()
	return open(tb, NewConnString(tb))
}

// NewConnString returns the connection string of a new, migrated, empty
// database, for tests that open pools of their own or start other processes. The
// database is dropped when the test ends, even if somebody still uses it.
func NewConnString(tb testing.TB) string {
	tb.Helper()
	hash, err := storage.SchemaHash()
	if err != nil {
		tb.Fatal(err)
	}
	return create(tb, func(ctx context.Context, admin *pgx.Conn) (string, error) {
		return template(ctx, admin, hash)
	})
}

// NewEmpty returns the connection string of a new database without a schema.
func NewEmpty(tb testing.TB) string {
	tb.Helper()
	return create(tb, func(context.Context, *pgx.Conn) (string, error) { return "template0", nil })
}

// Count returns what fn asked of db. Whatever else uses db meanwhile is counted
// too; where that matters, count one context's statements with
// [storage.WithCounter].
//
// The first use of a statement on a connection also prepares it, so call fn once
// before counting where Prepares matters.
func Count(tb testing.TB, db *storage.DB, fn func()) storage.Counts {
	tb.Helper()
	before := db.Counts()
	fn()
	return db.Counts().Sub(before)
}

func open(tb testing.TB, connString string) *storage.DB {
	tb.Helper()
	db, err := storage.Open(tb.Context(), storage.Config{ConnString: connString, MaxConns: 8, ApplicationName: "weft test"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// create makes a database from the template that from returns, and has it
// dropped when the test ends.
func create(tb testing.TB, from func(context.Context, *pgx.Conn) (string, error)) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*time.Minute)
	defer cancel()
	admin, err := connectAdmin(ctx)
	if err != nil {
		missing(tb, err)
	}
	defer admin.Close(ctx)
	source, err := from(ctx, admin)
	if err != nil {
		tb.Fatalf("make template database: %v", err)
	}
	name := databaseName()
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+source+strategy(admin)); err != nil {
		tb.Fatalf("create test database: %v", err)
	}
	config := admin.Config().Copy()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
		defer cancel()
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			tb.Errorf("drop test database: %v", err)
			return
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop test database: %v", err)
		}
	})
	return withDatabase(config, name)
}

// missing ends a test that has no server.
func missing(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("no database to test on: %v", err)
	}
	tb.Skipf("no database to test on: %v", err)
}

const databasePrefix = "weft_test_"

// databaseName returns a new name, in which the time says when the database is
// old enough to have been forgotten by a test that was killed.
func databaseName() string {
	var b [8]byte
	// Never fails: see its documentation.
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%s%d_%s", databasePrefix, time.Now().Unix(), hex.EncodeToString(b[:]))
}

// strategy asks for copying files, which is twice as fast as the default for
// small databases when nothing is synced to disk.
func strategy(conn *pgx.Conn) string {
	if version := conn.PgConn().ParameterStatus("server_version"); len(version) >= 2 && version[:2] >= "15" {
		return " STRATEGY file_copy"
	}
	return ""
}
