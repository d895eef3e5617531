package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Querier runs statements. *DB, *pgxpool.Pool, *pgxpool.Conn, *pgx.Conn, pgx.Tx
// and *Tx are Queriers.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// Config says how to reach a database.
type Config struct {
	// ConnString is a PostgreSQL connection URI or a list of key=value pairs.
	// Required.
	ConnString string
	// ApplicationName is shown in pg_stat_activity: the instance's name.
	// Defaults to "weft".
	ApplicationName string
	// MaxConns is the most connections the pool opens. Defaults to 10.
	MaxConns int32
	// MinIdleConns is how many idle connections the pool keeps ready. Defaults
	// to 0.
	MinIdleConns int32
	// MaxConnIdleTime is how long a connection may stay unused before it is
	// closed. Defaults to 5 minutes.
	MaxConnIdleTime time.Duration
	// ConnectTimeout bounds one attempt to connect. Defaults to 5 seconds.
	ConnectTimeout time.Duration
	// StatementTimeout ends statements that run longer; migrations are exempt.
	// Defaults to none.
	StatementTimeout time.Duration
	// IdleInTransactionTimeout ends transactions whose client has gone silent,
	// so that they do not hold up a successor: see [OpenStreamIDs]. Defaults to
	// 1 minute.
	IdleInTransactionTimeout time.Duration
	// Tracer is called beside the built-in counter. It may implement any of
	// pgx's tracer interfaces.
	Tracer pgx.QueryTracer
}

func (c Config) withDefaults() Config {
	if c.ApplicationName == "" {
		c.ApplicationName = "weft"
	}
	if c.MaxConns == 0 {
		c.MaxConns = 10
	}
	if c.MaxConnIdleTime == 0 {
		c.MaxConnIdleTime = 5 * time.Minute
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	if c.IdleInTransactionTimeout == 0 {
		c.IdleInTransactionTimeout = time.Minute
	}
	return c
}

// DB is a pool of connections to one database. It is safe for concurrent use.
type DB struct {
	*pgxpool.Pool
	tracer *tracer
}

// Open prepares a pool. It does not connect: connections are made when they are
// needed, and [DB.WaitReady] waits for a server that is not up yet. The error
// is about cfg.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	if cfg.ConnString == "" {
		return nil, errors.New("open database: no connection string")
	}
	pc, err := pgxpool.ParseConfig(cfg.ConnString)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	t := newTracer(cfg.Tracer)
	pc.MaxConns = cfg.MaxConns
	pc.MinIdleConns = cfg.MinIdleConns
	pc.MaxConnIdleTime = cfg.MaxConnIdleTime
	pc.ConnConfig.ConnectTimeout = cfg.ConnectTimeout
	pc.ConnConfig.Tracer = t
	if params := pc.ConnConfig.RuntimeParams; params["application_name"] == "" {
		params["application_name"] = cfg.ApplicationName
	}
	// By a statement, because connection poolers refuse such parameters at the
	// start; past the tracer, because it is nobody's statement.
	settings := fmt.Sprintf("SET idle_in_transaction_session_timeout = %d; SET statement_timeout = %d",
		cfg.IdleInTransactionTimeout.Milliseconds(), cfg.StatementTimeout.Milliseconds())
	pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		return conn.PgConn().Exec(ctx, settings).Close()
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return &DB{Pool: pool, tracer: t}, nil
}

// WaitReady returns once the server answers. While it is away WaitReady tries
// again with back-off and hands each failure to report (which may be nil); a
// mistake that waiting cannot mend (wrong password, no such database) is
// returned at once.
func (db *DB) WaitReady(ctx context.Context, report func(err error, next time.Duration)) error {
	return Retry(ctx, RetryPolicy{Report: report}, func(ctx context.Context) error {
		if err := db.Ping(ctx); err != nil {
			return fmt.Errorf("connect to database: %w", err)
		}
		return nil
	})
}

// RetryPolicy says how [Retry] waits. The zero value is usable.
type RetryPolicy struct {
	// First is the wait after the first failure; it doubles up to Max.
	// Defaults to 50 milliseconds.
	First time.Duration
	// Max bounds one wait. Defaults to 2 seconds.
	Max time.Duration
	// Attempts bounds the number of attempts. Defaults to no bound but ctx.
	Attempts int
	// Report, if set, is told each failure and the wait that follows.
	Report func(err error, next time.Duration)

	retry func(err error) bool
}

// Retry calls fn until it succeeds or fails with an error that is neither
// [IsTransient] nor [IsRetryable], and returns that error. fn must be
// repeatable. When ctx ends while it waits, the last error is returned, wrapped
// with the context's.
func Retry(ctx context.Context, p RetryPolicy, fn func(ctx context.Context) error) error {
	if p.First == 0 {
		p.First = 50 * time.Millisecond
	}
	if p.Max == 0 {
		p.Max = 2 * time.Second
	}
	if p.retry == nil {
		p.retry = func(err error) bool { return IsTransient(err) || IsRetryable(err) }
	}
	wait := p.First
	for attempt := 1; ; attempt++ {
		err := fn(ctx)
		if err == nil || attempt == p.Attempts || !p.retry(err) {
			return err
		}
		if p.Report != nil {
			p.Report(err, wait)
		}
		if e := sleep(ctx, wait); e != nil {
			return fmt.Errorf("%w (last error: %w)", e, err)
		}
		wait = min(2*wait, p.Max)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
