package storage

import (
	"context"
	"errors"

	"github.com/weft-im/weft/storage/statetree"
)

// StateNodesConfig configures [NewStateNodes].
type StateNodesConfig struct {
	// DB is where nodes are read. Required.
	DB Querier
	// CacheBytes bounds the memory of cached nodes. Defaults to 32 MiB.
	CacheBytes uint64
}

// StateNodes reads nodes of state trees from the database through a cache that
// needs no invalidation. It is a [statetree.NodeReader], safe for concurrent
// use.
type StateNodes struct{}

// NewStateNodes makes a reader with an empty cache.
func NewStateNodes(cfg StateNodesConfig) *StateNodes { return &StateNodes{} }

// ReadNodes implements [statetree.NodeReader]: nodes that are not cached are
// read in one round trip.
func (n *StateNodes) ReadNodes(ctx context.Context, hashes []statetree.Hash) ([]*statetree.Node, error) {
	return nil, errors.ErrUnsupported
}

// Remember puts nodes that were just written into the cache.
func (n *StateNodes) Remember(nodes []*statetree.Node) {}

// InsertStateNodes writes nodes that are new, all in one statement; those that
// are there already are left as they are.
func InsertStateNodes(ctx context.Context, q Querier, nodes []*statetree.Node) error {
	return errors.ErrUnsupported
}
