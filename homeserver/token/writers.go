package token

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weft-im/weft/storage"
)

// Bounds of looking for writers that are not known yet: how long one look may take, and how often there is one. Tokens
// come from clients, so a made-up number must not cost a query each time.
const (
	writersTimeout = 5 * time.Second
	writersEvery   = time.Second
)

// Writers numbers the writers in tokens as the database does. It is a replication.WriterIDs, safe for concurrent use:
// what is known is answered from memory, what is not is looked for in the database.
type Writers struct {
	db storage.Querier

	mu     sync.RWMutex
	byName map[string]int
	byID   map[int]string
	looked time.Time
}

// NewWriters returns the numbers of a database's writers. Call Load before the first use to find a database that cannot
// be read.
func NewWriters(db storage.Querier) *Writers {
	return &Writers{db: db, byName: map[string]int{}, byID: map[int]string{}}
}

// Load reads the writers that there are.
func (w *Writers) Load(ctx context.Context) error {
	rows, err := storage.ListWriters(ctx, w.db)
	if err != nil {
		return fmt.Errorf("load writers: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range rows {
		w.byName[r.Name], w.byID[int(r.NID)] = int(r.NID), r.Name
	}
	return nil
}

// WriterID returns the number of a writer, and false where it has none.
func (w *Writers) WriterID(name string) (int, bool) {
	get := func() (int, bool) { id, ok := w.byName[name]; return id, ok }
	return find(w, get)
}

// WriterName returns the writer of a number, and false where there is none.
func (w *Writers) WriterName(id int) (string, bool) {
	get := func() (string, bool) { name, ok := w.byID[id]; return name, ok }
	return find(w, get)
}

func find[T any](w *Writers, get func() (T, bool)) (T, bool) {
	w.mu.RLock()
	v, ok := get()
	again := !ok && time.Since(w.looked) > writersEvery
	w.mu.RUnlock()
	if !again {
		return v, ok
	}
	w.mu.Lock()
	w.looked = time.Now()
	w.mu.Unlock()
	// The interface has no context: whoever reads or writes a token does not expect a query.
	ctx, cancel := context.WithTimeout(context.Background(), writersTimeout)
	defer cancel()
	if err := w.Load(ctx); err != nil {
		return v, false
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return get()
}
