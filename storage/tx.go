package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Beginner starts transactions: *DB, *pgxpool.Pool, *pgxpool.Conn and
// *pgx.Conn do.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// TxOptions are the options of one transaction.
type TxOptions struct {
	// Isolation defaults to READ COMMITTED. A caller that needs more says why.
	Isolation pgx.TxIsoLevel
	// ReadOnly refuses writes.
	ReadOnly bool
	// Attempts bounds how often fn is run when it meets [IsRetryable] errors.
	// Defaults to 5.
	Attempts int
}

// Tx is a transaction that [InTx] runs.
type Tx struct {
	pgx.Tx
	effects []func()
}

// AfterCommit has fn called once the transaction is committed, in the order of
// the calls, before InTx returns: publish a row, drop a cache entry. When the
// transaction is rolled back or tried again, fn is forgotten.
func (tx *Tx) AfterCommit(fn func()) { tx.effects = append(tx.effects, fn) }

// InTx runs fn in a transaction and commits when fn returns nil, rolls back
// otherwise. When fn or the commit fails because of a transaction beside it
// ([IsRetryable]), everything is run again, so fn must be repeatable.
//
// The error is translated. When the connection breaks during the commit
// ([IsTransient]), whether the transaction took place is unknown.
func InTx(ctx context.Context, db Beginner, opts TxOptions, fn func(ctx context.Context, tx *Tx) error) error {
	if opts.Attempts == 0 {
		opts.Attempts = 5
	}
	if opts.Isolation == "" {
		opts.Isolation = pgx.ReadCommitted
	}
	for attempt := 1; ; attempt++ {
		tx, err := inTxOnce(ctx, db, opts, fn)
		if err == nil {
			for _, effect := range tx.effects {
				effect()
			}
			return nil
		}
		err = TranslateError(err)
		if attempt >= opts.Attempts || !IsRetryable(err) {
			return err
		}
		// A short wait lets the other transaction finish first.
		if e := sleep(ctx, time.Duration(attempt)*5*time.Millisecond); e != nil {
			return errors.Join(e, err)
		}
	}
}

func inTxOnce(ctx context.Context, db Beginner, opts TxOptions, fn func(ctx context.Context, tx *Tx) error) (_ *Tx, err error) {
	po := pgx.TxOptions{IsoLevel: opts.Isolation}
	if opts.ReadOnly {
		po.AccessMode = pgx.ReadOnly
	}
	raw, err := db.BeginTx(ctx, po)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	tx := &Tx{Tx: raw}
	defer func() {
		// Also when fn panics, so that the connection goes back to the pool. The
		// caller's context may be what ended fn, hence one of its own.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if e := raw.Rollback(ctx); e != nil && !errors.Is(e, pgx.ErrTxClosed) && err == nil {
			err = fmt.Errorf("roll back: %w", e)
		}
	}()
	if err := fn(ctx, tx); err != nil {
		return nil, err
	}
	if err := raw.Commit(ctx); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return tx, nil
}
