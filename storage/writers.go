package storage

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// Writers turns names of instances into numbers and back, and remembers them:
// pairs are never changed or deleted. It is safe for concurrent use.
type Writers struct {
	mu     sync.RWMutex
	byName map[string]WriterNID
	byNID  map[WriterNID]string
}

// NewWriters returns an empty cache.
func NewWriters() *Writers {
	return &Writers{byName: map[string]WriterNID{}, byNID: map[WriterNID]string{}}
}

type writerRow struct {
	NID  WriterNID `db:"writer_nid"`
	Name string    `db:"name"`
}

// By the unique index on name; one row, found or made. The insert is tried only
// when the name is new, so that looking up uses up no number.
const internWriterSQL = `
WITH made AS (
    INSERT INTO writers (name) SELECT $1 WHERE NOT EXISTS (SELECT FROM writers WHERE name = $1)
    ON CONFLICT (name) DO UPDATE SET name = excluded.name
    RETURNING writer_nid, name
)
SELECT writer_nid, name FROM made UNION ALL SELECT writer_nid, name FROM writers WHERE name = $1 LIMIT 1`

// Intern returns the number of an instance, which is made when the name is new.
// q must not be a transaction that may be rolled back.
func (w *Writers) Intern(ctx context.Context, q Querier, name string) (WriterNID, error) {
	w.mu.RLock()
	nid, ok := w.byName[name]
	w.mu.RUnlock()
	if ok {
		return nid, nil
	}
	rows, err := q.Query(ctx, internWriterSQL, name)
	if err != nil {
		return 0, fmt.Errorf("intern writer %q: %w", name, TranslateError(err))
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[writerRow])
	if err != nil {
		return 0, fmt.Errorf("intern writer %q: %w", name, TranslateError(err))
	}
	w.remember(row)
	return row.NID, nil
}

// The whole table: as many rows as instances the deployment ever had.
const listWritersSQL = `SELECT writer_nid, name FROM writers`

// Name returns the name of an instance, or [ErrNotFound].
func (w *Writers) Name(ctx context.Context, q Querier, nid WriterNID) (string, error) {
	w.mu.RLock()
	name, ok := w.byNID[nid]
	w.mu.RUnlock()
	if ok {
		return name, nil
	}
	rows, err := q.Query(ctx, listWritersSQL)
	if err != nil {
		return "", fmt.Errorf("list writers: %w", TranslateError(err))
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[writerRow])
	if err != nil {
		return "", fmt.Errorf("list writers: %w", TranslateError(err))
	}
	w.remember(all...)
	w.mu.RLock()
	defer w.mu.RUnlock()
	if name, ok = w.byNID[nid]; !ok {
		return "", fmt.Errorf("writer %d: %w", nid, ErrNotFound)
	}
	return name, nil
}

func (w *Writers) remember(rows ...writerRow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range rows {
		w.byName[r.Name], w.byNID[r.NID] = r.NID, r.Name
	}
}
