package storage

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// A migration is a file <number>_<name>.sql that is run as a whole in one
// transaction. Comments at its head, each on a line of its own, say more:
//
//	-- oldest-compatible: N   programs that know schema version N or later can
//	                          work on the migrated database; without the line,
//	                          only programs that know this migration can
//	-- no-transaction         run outside of a transaction, for CREATE INDEX
//	                          CONCURRENTLY; the file holds one statement
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// ErrNotMigrated says that the database's schema is older than this program
// needs, or is not there at all. The main process and `weftctl migrate`
// migrate; others wait ([WaitSchema]).
var ErrNotMigrated = errors.New("the database schema is older than this program needs")

// SchemaTooNewError says that the database was migrated by a later release that
// this program can no longer work beside.
type SchemaTooNewError struct {
	// Version is the database's schema version.
	Version int64
	// OldestCompatible is the oldest version that a program on this database
	// must know.
	OldestCompatible int64
	// Known is the version this program knows.
	Known int64
}

func (e *SchemaTooNewError) Error() string {
	return fmt.Sprintf("the database schema (version %d) needs a program that knows version %d; this one knows %d: upgrade it",
		e.Version, e.OldestCompatible, e.Known)
}

type migration struct {
	version          int64
	name             string
	oldestCompatible int64
	noTransaction    bool
	sql              string
}

var (
	migrationName    = regexp.MustCompile(`^(\d+)_([a-z0-9_]+)\.sql$`)
	oldestCompatible = regexp.MustCompile(`(?m)^-- oldest-compatible: (\d+)$`)
	noTransaction    = regexp.MustCompile(`(?m)^-- no-transaction$`)
)

// readMigrations returns the migrations in files, by version.
func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var ms []migration
	for _, name := range names {
		match := migrationName.FindStringSubmatch(path.Base(name))
		if match == nil {
			return nil, fmt.Errorf("migration %s: the name must be <number>_<words>.sql", name)
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		m := migration{name: match[2], sql: string(data), noTransaction: noTransaction.Match(data)}
		if m.version, err = strconv.ParseInt(match[1], 10, 64); err != nil || m.version == 0 {
			return nil, fmt.Errorf("migration %s: bad number", name)
		}
		m.oldestCompatible = m.version
		if c := oldestCompatible.FindSubmatch(data); c != nil {
			if m.oldestCompatible, err = strconv.ParseInt(string(c[1]), 10, 64); err != nil || m.oldestCompatible > m.version {
				return nil, fmt.Errorf("migration %s: bad oldest-compatible version", name)
			}
		}
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(a, b migration) int { return int(a.version - b.version) })
	for i := 1; i < len(ms); i++ {
		if ms[i].version == ms[i-1].version {
			return nil, fmt.Errorf("migrations %s and %s have the same number", ms[i-1].name, ms[i].name)
		}
	}
	if len(ms) == 0 {
		return nil, errors.New("no migrations")
	}
	return ms, nil
}

// SchemaHash returns a short name for the schema this program makes: the same
// migrations have the same hash.
func SchemaHash() (string, error) {
	ms, err := readMigrations(migrationFiles)
	if err != nil {
		return "", fmt.Errorf("read migrations: %w", err)
	}
	h := sha256.New()
	for _, m := range ms {
		fmt.Fprintf(h, "%d %d\n%s", m.version, len(m.sql), m.sql)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// Migrate brings the schema up to date, one process at a time, and returns at
// once when it is. A database that a later release has migrated is left alone;
// the error is then that of [CheckSchema].
func Migrate(ctx context.Context, db *DB) error {
	ms, err := readMigrations(migrationFiles)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := migrate(ctx, db, ms); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func migrate(ctx context.Context, db *DB, ms []migration) error {
	err := checkSchema(ctx, db, ms)
	if !errors.Is(err, ErrNotMigrated) {
		return err
	}
	sqlDB := stdlib.OpenDBFromPool(db.Pool)
	defer sqlDB.Close()
	steps := make([]*goose.Migration, len(ms))
	for i, m := range ms {
		up := &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, m.sql)
			return err
		}}
		if m.noTransaction {
			up = &goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
				_, err := db.ExecContext(ctx, m.sql)
				return err
			}}
		}
		steps[i] = goose.NewGoMigration(m.version, up, nil)
	}
	provider, err := goose.NewProvider(goose.DialectCustom, sqlDB, nil,
		goose.WithStore(&schemaStore{migrations: ms}),
		goose.WithSessionLocker(migrationLock{}),
		goose.WithGoMigrations(steps...),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()),
	)
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return TranslateError(err)
	}
	return checkSchema(ctx, db, ms)
}

// CheckSchema tells whether the schema suits this program: nil,
// [ErrNotMigrated] or a [*SchemaTooNewError]. It is one round trip.
//
// It also notices when the database was copied, restored or failed over since
// it was last used, and then has every stream start a new epoch: see
// [StreamEpochs].
func CheckSchema(ctx context.Context, db *DB) error {
	ms, err := readMigrations(migrationFiles)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := checkSchema(ctx, db, ms); err != nil {
		return fmt.Errorf("check database schema: %w", err)
	}
	return nil
}

// WaitSchema returns once [CheckSchema] is content. While the schema is too old
// or the server away, it tries again with back-off and hands each failure to
// report, which may be nil.
func WaitSchema(ctx context.Context, db *DB, report func(err error, next time.Duration)) error {
	policy := RetryPolicy{Max: time.Second, Report: report, retry: func(err error) bool {
		return errors.Is(err, ErrNotMigrated) || IsTransient(err) || IsRetryable(err)
	}}
	return Retry(ctx, policy, func(ctx context.Context) error { return CheckSchema(ctx, db) })
}

// A table of as many rows as migrations, and one of one row.
const checkSchemaSQL = `
SELECT (SELECT coalesce(max(version), 0) FROM schema_migrations),
       (SELECT coalesce(max(oldest_compatible), 0) FROM schema_migrations),
       EXISTS (` + sameIdentitySQL + `)`

func checkSchema(ctx context.Context, db *DB, ms []migration) error {
	known := ms[len(ms)-1].version
	var version, oldest int64
	var same bool
	err := db.QueryRow(ctx, checkSchemaSQL).Scan(&version, &oldest, &same)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == codeUndefinedTable:
		return fmt.Errorf("%w: it has none, this program knows version %d", ErrNotMigrated, known)
	case err != nil:
		return TranslateError(err)
	case version < known:
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrNotMigrated, version, known)
	case oldest > known:
		return &SchemaTooNewError{Version: version, OldestCompatible: oldest, Known: known}
	case !same:
		return adoptDatabase(ctx, db)
	}
	return nil
}
