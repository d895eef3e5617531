package statetree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// MaxLeaf is how many entries a leaf holds at most.
const MaxLeaf = 32

// Hash names a node by its content. The zero Hash is the root of the empty
// state, which has no node. In the database it is a bytea of 16 bytes.
type Hash [16]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero tells whether h is the root of the empty state.
func (h Hash) IsZero() bool { return h == Hash{} }

// ScanBytes reads a bytea column (it makes *Hash a pgtype.BytesScanner). An
// empty value is the zero Hash, as NULL is.
func (h *Hash) ScanBytes(v []byte) error {
	if len(v) != len(h) && len(v) != 0 {
		return fmt.Errorf("state node hash of %d bytes", len(v))
	}
	*h = Hash{}
	copy(h[:], v)
	return nil
}

// BytesValue is how a Hash is sent to a bytea column (it makes Hash a
// pgtype.BytesValuer).
func (h Hash) BytesValue() ([]byte, error) { return h[:], nil }

// Entry is one element of a state.
type Entry struct {
	Key int64
	// Value is never 0 in a state; in a change, 0 removes the key.
	Value int64
}

// Node is an immutable piece of a tree: a leaf or an inner node. Share it freely.
type Node struct {
	hash Hash
	// entries of a leaf, ascending by key.
	entries []Entry
	// An inner node's children: bit i of present says that there is one for the
	// value i of the four bits, and children has the present ones in order.
	present  uint16
	children []Hash
	// size is how many entries are at or below the node.
	size int64
}

// Hash returns the node's name.
func (n *Node) Hash() Hash { return n.hash }

// Size returns how many entries the tree below the node has.
func (n *Node) Size() int64 { return n.size }

// Children returns the hashes of an inner node's children; a leaf has none. The
// slice must not be changed.
func (n *Node) Children() []Hash { return n.children }

// MemoryBytes returns about how much memory the node takes.
func (n *Node) MemoryBytes() int {
	const header = 16 + 24 + 8 + 24 + 8
	return header + 16*cap(n.entries) + 16*cap(n.children)
}

func (n *Node) isLeaf() bool { return n.present == 0 }

// child returns the hash of the child for a value of the four bits, zero when
// there is none.
func (n *Node) child(i int) Hash {
	if n.present&(1<<i) == 0 {
		return Hash{}
	}
	return n.children[bits.OnesCount16(n.present&(1<<i-1))]
}

// value returns a leaf's value for key, 0 when it has none.
func (n *Node) value(key int64) int64 {
	i, ok := slices.BinarySearchFunc(n.entries, key, func(e Entry, key int64) int {
		switch {
		case e.Key < key:
			return -1
		case e.Key > key:
			return 1
		}
		return 0
	})
	if !ok {
		return 0
	}
	return n.entries[i].Value
}

// newLeaf makes a leaf of 1 to MaxLeaf entries, ascending by key; the leaf keeps
// the slice.
func newLeaf(entries []Entry) *Node {
	n := &Node{entries: entries, size: int64(len(entries))}
	n.hash = hashOf(n.Encode())
	return n
}

func newInner(present uint16, children []Hash, size int64) *Node {
	n := &Node{present: present, children: children, size: size}
	n.hash = hashOf(n.Encode())
	return n
}

func hashOf(data []byte) (h Hash) {
	sum := sha256.Sum256(data)
	copy(h[:], sum[:])
	return h
}

// The first byte of an encoded node.
const (
	kindLeaf  = 1
	kindInner = 2
)

// Encode returns the node's bytes, of which the hash is taken:
//
//	leaf:  1, number of entries, then for each: key, value
//	inner: 2, which children (2 bytes, big-endian), size, hashes of the children
//
// The first key and value of a leaf are signed varints. Later keys are unsigned
// varints of the distance to the one before, later values signed varints of
// theirs. Size is an unsigned varint.
func (n *Node) Encode() []byte {
	if !n.isLeaf() {
		out := make([]byte, 0, 13+16*len(n.children))
		out = append(out, kindInner)
		out = binary.BigEndian.AppendUint16(out, n.present)
		out = binary.AppendUvarint(out, uint64(n.size))
		for _, c := range n.children {
			out = append(out, c[:]...)
		}
		return out
	}
	out := make([]byte, 0, 2+10*len(n.entries))
	out = append(out, kindLeaf, byte(len(n.entries)))
	var prev Entry
	for i, e := range n.entries {
		if i == 0 {
			out = binary.AppendVarint(out, e.Key)
		} else {
			out = binary.AppendUvarint(out, uint64(e.Key)-uint64(prev.Key))
		}
		out = binary.AppendVarint(out, e.Value-prev.Value)
		prev = e
	}
	return out
}

var errBadNode = errors.New("malformed state node")

// DecodeNode reads what [Node.Encode] made. It accepts exactly one encoding of
// each node.
func DecodeNode(data []byte) (*Node, error) {
	n := &Node{hash: hashOf(data)}
	if len(data) < 2 {
		return nil, errBadNode
	}
	var ok bool
	switch data[0] {
	case kindLeaf:
		ok = n.decodeLeaf(data[1:])
	case kindInner:
		ok = n.decodeInner(data[1:])
	}
	if !ok {
		return nil, errBadNode
	}
	return n, nil
}

func (n *Node) decodeLeaf(data []byte) bool {
	count := int(data[0])
	if count == 0 || count > MaxLeaf {
		return false
	}
	d := decoder{data: data[1:], ok: true}
	n.entries = make([]Entry, count)
	n.size = int64(count)
	var prev Entry
	for i := range n.entries {
		e := &n.entries[i]
		if i == 0 {
			e.Key = d.varint()
		} else {
			e.Key = int64(uint64(prev.Key) + d.uvarint())
			d.ok = d.ok && e.Key > prev.Key
		}
		e.Value = prev.Value + d.varint()
		if !d.ok || e.Value == 0 {
			return false
		}
		prev = *e
	}
	return len(d.data) == 0
}

func (n *Node) decodeInner(data []byte) bool {
	if len(data) < 3 {
		return false
	}
	n.present = binary.BigEndian.Uint16(data)
	d := decoder{data: data[2:], ok: true}
	size := d.uvarint()
	count := bits.OnesCount16(n.present)
	if !d.ok || count == 0 || size <= MaxLeaf || size > 1<<62 || len(d.data) != count*len(Hash{}) {
		return false
	}
	n.size = int64(size)
	n.children = make([]Hash, count)
	for i := range n.children {
		copy(n.children[i][:], d.data[i*len(Hash{}):])
		if n.children[i].IsZero() {
			return false
		}
	}
	return true
}

// decoder reads varints; ok stays false after the first that is cut short, too
// large, or longer than it need be.
type decoder struct {
	data []byte
	ok   bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 || n > 1 && d.data[n-1] == 0 {
		d.ok = false
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// NodeReader finds nodes.
type NodeReader interface {
	// ReadNodes returns the nodes with the given hashes, which are distinct and
	// not zero, in that order. Operations call it once for each level of the
	// trees they visit, so one call should cost at most one round trip. A node
	// that is not there is an error: a [*MissingNodeError].
	ReadNodes(ctx context.Context, hashes []Hash) ([]*Node, error)
}

// MissingNodeError says that a node which a tree refers to is not there.
type MissingNodeError struct{ Hash Hash }

func (e *MissingNodeError) Error() string { return "missing state node " + e.Hash.String() }

// Pending is a [NodeReader] that knows nodes which are not written yet, and asks
// another for the rest. It is not safe for use while nodes are added.
type Pending struct {
	base  NodeReader
	nodes map[Hash]*Node
}

// Overlay returns a reader of pending nodes over base.
func Overlay(base NodeReader, pending ...[]*Node) *Pending {
	p := &Pending{base: base, nodes: map[Hash]*Node{}}
	for _, nodes := range pending {
		p.Add(nodes)
	}
	return p
}

// Add makes nodes known.
func (p *Pending) Add(nodes []*Node) {
	for _, n := range nodes {
		p.nodes[n.hash] = n
	}
}

// ReadNodes implements [NodeReader].
func (p *Pending) ReadNodes(ctx context.Context, hashes []Hash) ([]*Node, error) {
	found := make([]*Node, len(hashes))
	var missing []Hash
	var at []int
	for i, h := range hashes {
		if found[i] = p.nodes[h]; found[i] == nil {
			missing, at = append(missing, h), append(at, i)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	read, err := p.base.ReadNodes(ctx, missing)
	if err != nil {
		return nil, err
	}
	for i, n := range read {
		found[at[i]] = n
	}
	return found, nil
}
