package storage

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/storage/statetree"
)

// StateNodesConfig configures [NewStateNodes].
type StateNodesConfig struct {
	// DB is where nodes are read. Required.
	DB Querier
	// CacheBytes bounds the memory of cached nodes. Defaults to 32 MiB, which
	// holds the state of a room of half a million members.
	CacheBytes uint64
}

// StateNodes reads nodes of state trees from the database through a cache. Since
// nodes never change, the cache needs no invalidation, and each process may keep
// its own. It is a [statetree.NodeReader], safe for concurrent use.
type StateNodes struct {
	db    Querier
	cache memo.Cache[statetree.Hash, *statetree.Node]
}

// NewStateNodes makes a reader with an empty cache.
func NewStateNodes(cfg StateNodesConfig) *StateNodes {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 32 << 20
	}
	cache := memo.NewWeighted(cfg.CacheBytes, func(_ statetree.Hash, n *statetree.Node) uint32 {
		const overhead = 100 // of the cache's own entry
		return uint32(n.MemoryBytes() + overhead)
	})
	return &StateNodes{db: cfg.DB, cache: cache}
}

// By primary key; a row for each hash that is there.
const readStateNodesSQL = `SELECT data FROM state_nodes WHERE hash = ANY ($1)`

// ReadNodes implements [statetree.NodeReader]. Nodes that are not cached are read
// in one round trip. A node whose bytes do not have its hash is an error.
func (s *StateNodes) ReadNodes(ctx context.Context, hashes []statetree.Hash) ([]*statetree.Node, error) {
	nodes := make([]*statetree.Node, len(hashes))
	var missing [][]byte
	var at map[statetree.Hash]int
	for i, h := range hashes {
		n, ok := s.cache.GetIfPresent(h)
		if ok {
			nodes[i] = n
			continue
		}
		if at == nil {
			at = make(map[statetree.Hash]int, len(hashes)-i)
			missing = make([][]byte, 0, len(hashes)-i)
		}
		at[h], missing = i, append(missing, hashes[i][:])
	}
	if len(missing) == 0 {
		return nodes, nil
	}
	rows, err := s.db.Query(ctx, readStateNodesSQL, missing)
	if err != nil {
		return nil, fmt.Errorf("read %d state nodes: %w", len(missing), TranslateError(err))
	}
	var data pgtype.DriverBytes // valid until the next row
	_, err = pgx.ForEachRow(rows, []any{&data}, func() error {
		n, err := statetree.DecodeNode(data)
		if err != nil {
			return err
		}
		if i, ok := at[n.Hash()]; ok {
			nodes[i] = n
			s.cache.Set(n.Hash(), n)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %d state nodes: %w", len(missing), TranslateError(err))
	}
	for i, n := range nodes {
		if n == nil {
			return nil, &statetree.MissingNodeError{Hash: hashes[i]}
		}
	}
	return nodes, nil
}

// Remember puts nodes into the cache that were just written. Nodes that were not
// written after all do no harm there beyond the room they take.
func (s *StateNodes) Remember(nodes []*statetree.Node) {
	for _, n := range nodes {
		s.cache.Set(n.Hash(), n)
	}
}

// By primary key; one row a node. A node that is there already is marked as
// written again, so that garbage collection spares it until the transaction that
// needs it is visible.
const insertStateNodesSQL = `
INSERT INTO state_nodes (hash, data, written_ts)
SELECT hash, data, now_ms() FROM unnest($1::bytea[], $2::bytea[]) AS n (hash, data)
ON CONFLICT (hash) DO UPDATE SET written_ts = excluded.written_ts`

// maxNodesPerStatement bounds the memory of one statement: about half a megabyte.
const maxNodesPerStatement = 4096

// QueueStateNodes appends statements to b that write nodes, one for up to 4096 of
// them. Nodes may be there already. They are written in the order of their
// hashes, so that two transactions with the same nodes cannot wait for each
// other.
func QueueStateNodes(b *pgx.Batch, nodes []*statetree.Node) {
	sorted := slices.SortedFunc(slices.Values(nodes), func(x, y *statetree.Node) int {
		hx, hy := x.Hash(), y.Hash()
		return bytes.Compare(hx[:], hy[:])
	})
	sorted = slices.CompactFunc(sorted, func(x, y *statetree.Node) bool { return x.Hash() == y.Hash() })
	for part := range slices.Chunk(sorted, maxNodesPerStatement) {
		hashes, data := make([]statetree.Hash, len(part)), make([][]byte, len(part))
		for i, n := range part {
			hashes[i], data[i] = n.Hash(), n.Encode()
		}
		b.Queue(insertStateNodesSQL, hashes, data)
	}
}

// InsertStateNodes writes nodes in one round trip: see [QueueStateNodes].
func InsertStateNodes(ctx context.Context, q Querier, nodes []*statetree.Node) error {
	if len(nodes) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	QueueStateNodes(b, nodes)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("insert %d state nodes: %w", len(nodes), TranslateError(err))
	}
	return nil
}
