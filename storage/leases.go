package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrLeaseLost says that a lease is no longer the caller's: it ran out and was
// taken by another holder, or was released.
var ErrLeaseLost = errors.New("lease lost")

// Lease is the right to be the only one who does a thing, until it runs out.
//
// The database's clock alone decides when that is. A holder whose process was
// suspended may believe in a lease that another has taken meanwhile, so what it
// writes must be fenced: [FenceLease] in the same transaction, or Token stored
// beside what is written and compared.
type Lease struct {
	// Name is what is held.
	Name string `db:"name"`
	// Holder is who holds it: an instance name.
	Holder string `db:"holder"`
	// Token grows each time the lease changes hands and never repeats for one
	// name.
	Token int64 `db:"token"`
	// ExpiresTS is when it runs out by the database's clock, in milliseconds
	// since the epoch.
	ExpiresTS int64 `db:"expires_ts"`
	// Remaining is how long it was still to run when the database answered.
	// Counting it from before the request was sent never overestimates.
	Remaining time.Duration `db:"-"`
}

type leaseRow struct {
	Lease
	RemainingMS int64 `db:"remaining_ms"`
}

const leaseColumns = `name, holder, token, expires_ts, greatest(expires_ts - now_ms(), 0) AS remaining_ms`

// By primary key; as many rows as names. A row whose lease still runs for
// another holder is locked and left as it is.
const acquireLeasesSQL = `
INSERT INTO leases AS l (name, holder, token, expires_ts, acquired_ts)
SELECT name, $2, 1, now_ms() + $3, now_ms()
FROM unnest($1::text[]) AS name
ORDER BY name
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, token = l.token + 1, expires_ts = excluded.expires_ts, acquired_ts = excluded.acquired_ts
WHERE l.holder = excluded.holder OR l.expires_ts <= now_ms()
RETURNING ` + leaseColumns

// AcquireLeases takes those of the named leases that are free and returns them,
// in no particular order; a name that is missing from the result is held by
// someone else. A lease that holder already has is taken anew with a higher
// token: an instance that was started again does not wait for its own past to
// run out, and the past is fenced off. ttl is rounded to milliseconds. names
// must be distinct.
func AcquireLeases(ctx context.Context, q Querier, holder string, names []string, ttl time.Duration) ([]Lease, error) {
	leases, err := collectLeases(ctx, q, acquireLeasesSQL, names, holder, ttl.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("acquire leases %q: %w", names, err)
	}
	return leases, nil
}

// By primary key; as many rows as leases.
const renewLeasesSQL = `
UPDATE leases AS l SET expires_ts = now_ms() + $3
FROM (
    SELECT l.name FROM leases AS l
    JOIN unnest($1::text[], $2::bigint[]) AS want (name, token) ON l.name = want.name AND l.token = want.token
    WHERE l.expires_ts > 0
    ORDER BY l.name FOR UPDATE OF l
) AS mine
WHERE l.name = mine.name
RETURNING l.` + leaseColumns

// RenewLeases has the leases run for ttl from now and returns those that could
// be renewed; the rest are lost. A lease that ran out but that nobody took is
// renewed with its old token, since nobody acted in between.
func RenewLeases(ctx context.Context, q Querier, leases []Lease, ttl time.Duration) ([]Lease, error) {
	names, tokens := leaseKeys(leases)
	renewed, err := collectLeases(ctx, q, renewLeasesSQL, names, tokens, ttl.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("renew leases %q: %w", names, err)
	}
	return renewed, nil
}

// The row stays, so that its token goes on growing.
const releaseLeasesSQL = `
UPDATE leases AS l SET expires_ts = 0
FROM (
    SELECT l.name FROM leases AS l
    JOIN unnest($1::text[], $2::bigint[]) AS want (name, token) ON l.name = want.name AND l.token = want.token
    ORDER BY l.name FOR UPDATE OF l
) AS mine
WHERE l.name = mine.name`

// ReleaseLeases gives the leases up, so that others may take them at once.
// Leases that were lost already are passed over.
func ReleaseLeases(ctx context.Context, q Querier, leases []Lease) error {
	names, tokens := leaseKeys(leases)
	if _, err := q.Exec(ctx, releaseLeasesSQL, names, tokens); err != nil {
		return fmt.Errorf("release leases %q: %w", names, TranslateError(err))
	}
	return nil
}

const fenceLeaseSQL = `SELECT fence_lease($1, $2)`

// FenceLease makes the transaction it runs in fail with [ErrLeaseLost] unless
// the lease still has this token, and keeps anyone from taking the lease until
// the transaction ends. It does not ask whether the lease has run out: while
// nobody took it, its holder is still the only one.
func FenceLease(ctx context.Context, tx Querier, l Lease) error {
	if _, err := tx.Exec(ctx, fenceLeaseSQL, l.Name, l.Token); err != nil {
		return fmt.Errorf("fence lease %q: %w", l.Name, TranslateError(err))
	}
	return nil
}

// QueueFenceLease appends [FenceLease] to a batch. The error, untranslated,
// comes out of the batch.
func QueueFenceLease(b *pgx.Batch, l Lease) { b.Queue(fenceLeaseSQL, l.Name, l.Token) }

// One sequential scan of a table with a row for each singleton: tens of rows.
const listLeasesSQL = `SELECT ` + leaseColumns + ` FROM leases WHERE expires_ts > now_ms() ORDER BY name`

// ListLeases returns the leases that are held now, by name.
func ListLeases(ctx context.Context, q Querier) ([]Lease, error) {
	leases, err := collectLeases(ctx, q, listLeasesSQL)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return leases, nil
}

func collectLeases(ctx context.Context, q Querier, sql string, args ...any) ([]Lease, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, TranslateError(err)
	}
	collected, err := pgx.CollectRows(rows, pgx.RowToStructByName[leaseRow])
	if err != nil {
		return nil, TranslateError(err)
	}
	leases := make([]Lease, len(collected))
	for i, r := range collected {
		leases[i] = r.Lease
		leases[i].Remaining = time.Duration(r.RemainingMS) * time.Millisecond
	}
	return leases, nil
}

func leaseKeys(leases []Lease) (names []string, tokens []int64) {
	for _, l := range leases {
		names = append(names, l.Name)
		tokens = append(tokens, l.Token)
	}
	return names, tokens
}
