package replication

import "sync"

// WriterTable is a WriterIDs in memory: writers get the ids 1, 2, 3, ... in the order in
// which they are added. It serves tests and servers with one fixed set of writers; a real
// deployment keeps the ids in its database, because they must survive a restart.
// It is safe for concurrent use.
type WriterTable struct {
	mu    sync.RWMutex
	ids   map[string]int
	names []string
}

// NewWriterIDs returns a table of the given names, numbered from 1 in that order.
func NewWriterIDs(names ...string) *WriterTable {
	t := &WriterTable{ids: make(map[string]int)}
	for _, n := range names {
		t.Add(n)
	}
	return t
}

// Add gives name the next id and returns it; a known name keeps the one it has.
func (t *WriterTable) Add(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id, ok := t.ids[name]; ok {
		return id
	}
	t.names = append(t.names, name)
	t.ids[name] = len(t.names)
	return len(t.names)
}

// WriterID implements WriterIDs.
func (t *WriterTable) WriterID(name string) (int, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	id, ok := t.ids[name]
	return id, ok
}

// WriterName implements WriterIDs.
func (t *WriterTable) WriterName(id int) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if id < 1 || id > len(t.names) {
		return "", false
	}
	return t.names[id-1], true
}
