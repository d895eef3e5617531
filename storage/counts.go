package storage

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// Counts says how much was asked of a database.
type Counts struct {
	// Statements is the number of statements sent, BEGIN and COMMIT included;
	// a COPY is one.
	Statements int64
	// RoundTrips is the number of times the client waited for the server: one
	// a statement, one a batch. Preparing a statement the first time a
	// connection meets it adds one more, which is counted apart.
	RoundTrips int64
	// Prepares is the number of statements prepared outside of batches.
	Prepares int64
}

// Sub returns what was added since earlier.
func (c Counts) Sub(earlier Counts) Counts {
	return Counts{
		Statements: c.Statements - earlier.Statements,
		RoundTrips: c.RoundTrips - earlier.RoundTrips,
		Prepares:   c.Prepares - earlier.Prepares,
	}
}

// Counter adds up [Counts]. The zero value is ready; it is safe for concurrent
// use.
type Counter struct {
	statements, roundTrips, prepares atomic.Int64
}

// Counts returns the sums so far.
func (c *Counter) Counts() Counts {
	return Counts{Statements: c.statements.Load(), RoundTrips: c.roundTrips.Load(), Prepares: c.prepares.Load()}
}

func (c *Counter) add(statements, roundTrips, prepares int64) {
	c.statements.Add(statements)
	c.roundTrips.Add(roundTrips)
	c.prepares.Add(prepares)
}

// Counts returns what db was asked since it was opened.
func (db *DB) Counts() Counts { return db.tracer.total.Counts() }

type counterKey struct{}

// WithCounter returns a context whose statements, on any [DB], are added to c
// too: the cost of one request among others.
func WithCounter(ctx context.Context, c *Counter) context.Context {
	return context.WithValue(ctx, counterKey{}, c)
}

// tracer counts, and hands each hook on to the caller's own tracer where that
// has it.
type tracer struct {
	total Counter
	query pgx.QueryTracer
	batch pgx.BatchTracer
	copy  pgx.CopyFromTracer
	prep  pgx.PrepareTracer
}

func newTracer(next pgx.QueryTracer) *tracer {
	t := &tracer{query: next}
	t.batch, _ = next.(pgx.BatchTracer)
	t.copy, _ = next.(pgx.CopyFromTracer)
	t.prep, _ = next.(pgx.PrepareTracer)
	return t
}

func (t *tracer) add(ctx context.Context, statements, roundTrips, prepares int64) {
	t.total.add(statements, roundTrips, prepares)
	if c, ok := ctx.Value(counterKey{}).(*Counter); ok {
		c.add(statements, roundTrips, prepares)
	}
}

func (t *tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	t.add(ctx, 1, 1, 0)
	if t.query != nil {
		return t.query.TraceQueryStart(ctx, conn, data)
	}
	return ctx
}

func (t *tracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if t.query != nil {
		t.query.TraceQueryEnd(ctx, conn, data)
	}
}

func (t *tracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	n := int64(0)
	if data.Batch != nil {
		n = int64(data.Batch.Len())
	}
	t.add(ctx, n, 1, 0)
	if t.batch != nil {
		return t.batch.TraceBatchStart(ctx, conn, data)
	}
	return ctx
}

func (t *tracer) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	if t.batch != nil {
		t.batch.TraceBatchQuery(ctx, conn, data)
	}
}

func (t *tracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	if t.batch != nil {
		t.batch.TraceBatchEnd(ctx, conn, data)
	}
}

func (t *tracer) TraceCopyFromStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	t.add(ctx, 1, 1, 0)
	if t.copy != nil {
		return t.copy.TraceCopyFromStart(ctx, conn, data)
	}
	return ctx
}

func (t *tracer) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromEndData) {
	if t.copy != nil {
		t.copy.TraceCopyFromEnd(ctx, conn, data)
	}
}

func (t *tracer) TracePrepareStart(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareStartData) context.Context {
	t.add(ctx, 0, 0, 1)
	if t.prep != nil {
		return t.prep.TracePrepareStart(ctx, conn, data)
	}
	return ctx
}

func (t *tracer) TracePrepareEnd(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareEndData) {
	if t.prep != nil {
		t.prep.TracePrepareEnd(ctx, conn, data)
	}
}
