package statetree

import (
	"context"
	"errors"
)

// Hash names a node by its content. The zero Hash is the root of the empty
// state, which has no node.
type Hash [16]byte

// Entry is one element of a state: key is a state key's number, value an
// event's.
type Entry struct {
	Key   int64
	Value int64 // never 0; in a change 0 removes the key
}

// Node is an immutable piece of a tree.
type Node struct{}

// Hash returns the node's name.
func (n *Node) Hash() Hash { return Hash{} }

// Encode returns the node's bytes.
func (n *Node) Encode() []byte { return nil }

// DecodeNode reads what [Node.Encode] made.
func DecodeNode(data []byte) (*Node, error) { return nil, errors.ErrUnsupported }

// NodeReader finds nodes.
type NodeReader interface {
	// ReadNodes returns the nodes with the given hashes, in that order.
	// Algorithms call it once for each level of the tree they visit. A missing
	// node is an error: [*MissingNodeError].
	ReadNodes(ctx context.Context, hashes []Hash) ([]*Node, error)
}

// MissingNodeError says that a node is not where the tree's root says.
type MissingNodeError struct{ Hash Hash }

func (e *MissingNodeError) Error() string { return "" }

// Difference is a key on which two states differ; 0 stands for absent.
type Difference struct {
	Key  int64
	A, B int64
}

// Apply sets and removes (Value 0) entries of the state root and returns the
// new root with the nodes that have to be written. The last change of a key
// wins.
func Apply(ctx context.Context, r NodeReader, root Hash, changes []Entry) (Hash, []*Node, error) {
	return Hash{}, nil, errors.ErrUnsupported
}

// Build makes the tree of a whole state from nothing.
func Build(entries []Entry) (Hash, []*Node) { return Hash{}, nil }

// Get returns the values of those keys that the state has.
func Get(ctx context.Context, r NodeReader, root Hash, keys []int64) (map[int64]int64, error) {
	return nil, errors.ErrUnsupported
}

// Lookup asks for keys of one state.
type Lookup struct {
	Root Hash
	Keys []int64
}

// GetBatch answers many lookups, level by level over all of them: as many round
// trips as one lookup takes.
func GetBatch(ctx context.Context, r NodeReader, lookups []Lookup) ([]map[int64]int64, error) {
	return nil, errors.ErrUnsupported
}

// All returns the whole state, ascending by key.
func All(ctx context.Context, r NodeReader, root Hash) ([]Entry, error) {
	return nil, errors.ErrUnsupported
}

// Diff returns the keys on which two states differ, ascending by key.
func Diff(ctx context.Context, r NodeReader, a, b Hash) ([]Difference, error) {
	return nil, errors.ErrUnsupported
}

// Overlay reads pending nodes first and falls back to base.
func Overlay(base NodeReader, pending ...[]*Node) NodeReader { return nil }
