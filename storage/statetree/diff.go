package statetree

import (
	"cmp"
	"context"
	"slices"
)

// Difference is a key on which two states differ.
type Difference struct {
	Key int64
	// A and B are the key's values in the two states, 0 where it is absent.
	A, B int64
}

// side is one state's part of a pair of subtrees that are compared: a subtree,
// or the entries of a leaf that stands higher up in its tree.
type side struct {
	hash    Hash
	entries []Entry // in no particular order
}

func (s side) isEmpty() bool { return s.hash.IsZero() && len(s.entries) == 0 }

// Diff returns the keys on which the states a and b differ, ascending by key. It
// reads the nodes that only one of them has.
func Diff(ctx context.Context, r NodeReader, a, b Hash) ([]Difference, error) {
	type pair struct{ a, b side }
	var diffs []Difference
	set := newNodeSet(r)
	pairs := []pair{{side{hash: a}, side{hash: b}}}
	for level := 0; len(pairs) > 0; level++ {
		if level > levels {
			return nil, errTooDeep
		}
		pairs = slices.DeleteFunc(pairs, func(p pair) bool { return p.a.hash == p.b.hash && len(p.a.entries) == 0 && len(p.b.entries) == 0 })
		for _, p := range pairs {
			set.want(p.a.hash)
			set.want(p.b.hash)
		}
		if _, err := set.load(ctx); err != nil {
			return nil, err
		}
		var next []pair
		for _, p := range pairs {
			na, nb := set.nodes[p.a.hash], set.nodes[p.b.hash]
			if (na == nil || na.isLeaf()) && (nb == nil || nb.isLeaf()) {
				diffs = diffEntries(diffs, p.a.list(na), p.b.list(nb))
				continue
			}
			as, bs := p.a.parts(na, level), p.b.parts(nb, level)
			for i := range as {
				if !as[i].isEmpty() || !bs[i].isEmpty() {
					next = append(next, pair{as[i], bs[i]})
				}
			}
		}
		pairs = next
	}
	slices.SortFunc(diffs, func(x, y Difference) int { return cmp.Compare(x.Key, y.Key) })
	return diffs, nil
}

// list returns the entries of a side that has no inner node.
func (s side) list(n *Node) []Entry {
	if n != nil {
		return n.entries
	}
	return s.entries
}

// parts returns the side's share of each branch of a level.
func (s side) parts(n *Node, level int) (parts [16]side) {
	if n != nil && !n.isLeaf() {
		for i := range parts {
			parts[i].hash = n.child(i)
		}
		return parts
	}
	for _, e := range s.list(n) {
		p := &parts[branch(position(e.Key), level)]
		p.entries = append(p.entries, e)
	}
	return parts
}

func diffEntries(diffs []Difference, a, b []Entry) []Difference {
	a, b = slices.SortedFunc(slices.Values(a), byKey), slices.SortedFunc(slices.Values(b), byKey)
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Key < b[0].Key:
			diffs = append(diffs, Difference{Key: a[0].Key, A: a[0].Value})
			a = a[1:]
		case len(a) == 0 || b[0].Key < a[0].Key:
			diffs = append(diffs, Difference{Key: b[0].Key, B: b[0].Value})
			b = b[1:]
		default:
			if a[0].Value != b[0].Value {
				diffs = append(diffs, Difference{Key: a[0].Key, A: a[0].Value, B: b[0].Value})
			}
			a, b = a[1:], b[1:]
		}
	}
	return diffs
}
