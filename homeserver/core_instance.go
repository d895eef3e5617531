package homeserver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/storage"
)

// instanceClaim keeps two processes from running under one name: they would take each other for themselves, on the
// streams and in leases. It is an advisory lock on a connection of its own, which the database gives up the moment the
// process is gone, however it went.
type instanceClaim struct {
	db   *storage.DB
	name string
	log  zerolog.Logger
	conn *pgx.Conn
	// lost is why there is no connection now, nil while there is one.
	lost atomic.Pointer[error]
}

const (
	// instanceLockClass sets these locks apart from others of the database.
	instanceLockClass = 0x77656674
	// instanceWait is how long a process that is ending, or was just killed, is waited for.
	instanceWait = 5 * time.Second
	// instanceRetry is the time between attempts.
	instanceRetry = 100 * time.Millisecond
)

var errInstanceTaken = errors.New("another process is running under this name")

// claimInstance takes the name, or fails after instanceWait with errInstanceTaken.
func claimInstance(ctx context.Context, db *storage.DB, name string, log zerolog.Logger) (*instanceClaim, error) {
	c := &instanceClaim{db: db, name: name, log: log.With().Str("component", "instance").Logger()}
	deadline := time.Now().Add(instanceWait)
	for {
		err := c.take(ctx)
		switch {
		case err == nil:
			return c, nil
		case !errors.Is(err, errInstanceTaken) || time.Now().After(deadline):
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(instanceRetry):
		}
	}
}

// take makes one attempt on a new connection.
func (c *instanceClaim) take(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, c.db.Config().ConnConfig.Copy())
	if err != nil {
		return fmt.Errorf("connect to claim the name: %w", err)
	}
	var ok bool
	// Locks are per database, so that servers that share a PostgreSQL do not meet.
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1::int, hashtext($2))`, instanceLockClass, c.name).Scan(&ok)
	if err == nil && ok {
		c.conn = conn
		return nil
	}
	closeConn(conn)
	if err != nil {
		return fmt.Errorf("claim the name: %w", err)
	}
	return errInstanceTaken
}

// Name implements Component.
func (c *instanceClaim) Name() string { return "instance" }

// Check implements Checker: without a connection the database is not there.
func (c *instanceClaim) Check(context.Context) error {
	if err := c.lost.Load(); err != nil {
		return fmt.Errorf("connection to the database lost: %w", *err)
	}
	return nil
}

// Run keeps the claim: when the connection breaks (PostgreSQL was restarted) it takes the name again. It fails where
// another process was faster.
func (c *instanceClaim) Run(ctx context.Context) error {
	for {
		// Nobody notifies: this waits, at no cost, for the connection to break.
		_, err := c.conn.WaitForNotification(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			continue
		}
		closeConn(c.conn)
		c.lost.Store(&err)
		c.log.Warn().Err(err).Msg("connection lost; claiming the name again")
		for wait := instanceRetry; ; wait = min(2*wait, instanceWait) {
			if err = c.take(ctx); err == nil {
				c.lost.Store(nil)
				break
			}
			if errors.Is(err, errInstanceTaken) {
				return fmt.Errorf("%q: %w", c.name, err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
	}
}

// close gives the name up.
func (c *instanceClaim) close() {
	if c != nil && c.conn != nil {
		closeConn(c.conn)
	}
}

// closeConn closes a connection in bounded time, also when the caller's context has ended.
//
//nolint:contextcheck // see above
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
