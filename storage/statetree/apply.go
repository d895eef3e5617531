package statetree

import (
	"context"
	"fmt"
	"slices"
)

// Apply sets and removes (Value 0) entries of a state and returns the new root
// with the nodes that the old tree does not have. The last change of a key wins.
// When nothing changes the root is the same and there are no new nodes.
func Apply(ctx context.Context, r NodeReader, root Hash, changes []Entry) (Hash, []*Node, error) {
	a := applier{set: newNodeSet(r)}
	todo := placeChanges(changes)
	if len(todo) == 0 {
		return root, nil, nil
	}
	// Find out which nodes matter, a level a time; then compute.
	for {
		if err := a.visit(root, 0, todo); err != nil {
			return Hash{}, nil, err
		}
		more, err := a.set.load(ctx)
		if err != nil {
			return Hash{}, nil, err
		}
		if !more {
			break
		}
	}
	result, err := a.apply(root, 0, todo)
	if err != nil {
		return Hash{}, nil, err
	}
	return result.hash, a.made, nil
}

// Build makes the tree of a whole state and returns its root and all its nodes.
// The last of several entries with one key wins; entries with Value 0 are passed
// over.
func Build(entries []Entry) (Hash, []*Node) {
	present := slices.DeleteFunc(placeChanges(entries), func(p placed) bool { return p.Value == 0 })
	var a applier
	return a.build(present, 0).hash, a.made
}

// placeChanges returns the changes by position, one a key.
func placeChanges(changes []Entry) []placed {
	out := make([]placed, len(changes))
	for i, c := range changes {
		out[i] = placed{c, position(c.Key)}
	}
	slices.SortStableFunc(out, byPosition)
	kept := out[:0]
	for i, p := range out {
		if i+1 < len(out) && out[i+1].Key == p.Key {
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// applier computes one new tree.
type applier struct {
	set  *nodeSet
	made []*Node
}

// subtree is the result of a change below one node.
type subtree struct {
	hash Hash
	size int64
}

// visit asks for the nodes that changes below a node concern and that are not
// loaded yet.
func (a *applier) visit(h Hash, level int, changes []placed) error {
	if h.IsZero() {
		return nil
	}
	n := a.set.nodes[h]
	if n == nil {
		a.set.want(h)
		return nil
	}
	if n.isLeaf() {
		return nil
	}
	if level >= levels {
		return errTooDeep
	}
	if n.size-removals(changes) <= MaxLeaf {
		// It may become a leaf: then all its entries are needed.
		a.visitAll(n)
		return nil
	}
	var err error
	split(changes, level, func(branch int, part []placed) {
		if e := a.visit(n.child(branch), level+1, part); e != nil {
			err = e
		}
	})
	return err
}

func (a *applier) visitAll(n *Node) {
	for _, h := range n.children {
		if c := a.set.nodes[h]; c != nil {
			a.visitAll(c)
		} else {
			a.set.want(h)
		}
	}
}

func removals(changes []placed) (count int64) {
	for _, c := range changes {
		if c.Value == 0 {
			count++
		}
	}
	return count
}

func (a *applier) node(h Hash) (*Node, error) {
	n := a.set.nodes[h]
	if n == nil {
		return nil, fmt.Errorf("apply state changes: %w", &MissingNodeError{h})
	}
	return n, nil
}

// apply returns the tree that changes make of the one at h, and adds new nodes to
// made.
func (a *applier) apply(h Hash, level int, changes []placed) (subtree, error) {
	if h.IsZero() {
		added := slices.DeleteFunc(slices.Clone(changes), func(p placed) bool { return p.Value == 0 })
		return a.build(added, level), nil
	}
	n, err := a.node(h)
	if err != nil {
		return subtree{}, err
	}
	if n.isLeaf() {
		return a.applyToLeaf(n, level, changes), nil
	}
	present, children, size := n.present, [16]Hash{}, n.size
	for i := range children {
		children[i] = n.child(i)
	}
	first := len(a.made)
	split(changes, level, func(branch int, part []placed) {
		if err != nil {
			return
		}
		before := int64(0)
		if c := children[branch]; !c.IsZero() {
			var old *Node
			if old, err = a.node(c); err != nil {
				return
			}
			before = old.size
		}
		var after subtree
		if after, err = a.apply(children[branch], level+1, part); err != nil {
			return
		}
		children[branch] = after.hash
		size += after.size - before
		present &^= 1 << branch
		if after.size > 0 {
			present |= 1 << branch
		}
	})
	if err != nil {
		return subtree{}, err
	}
	if size <= MaxLeaf {
		// What was made of the children is not part of the new tree.
		made := a.made[first:]
		for _, m := range made {
			a.set.nodes[m.hash] = m
		}
		entries, err := a.gather(children[:], nil)
		if err != nil {
			return subtree{}, err
		}
		a.made = a.made[:first]
		return a.leaf(entries), nil
	}
	list := make([]Hash, 0, 16)
	for _, c := range children {
		if !c.IsZero() {
			list = append(list, c)
		}
	}
	if present == n.present && slices.Equal(list, n.children) {
		return subtree{h, size}, nil
	}
	return a.add(newInner(present, list, size)), nil
}

// applyToLeaf merges changes into a leaf, which may grow into a subtree or
// vanish.
func (a *applier) applyToLeaf(n *Node, level int, changes []placed) subtree {
	merged := make([]placed, 0, len(n.entries)+len(changes))
	changed := false
	for _, e := range n.entries {
		p := placed{e, position(e.Key)}
		if i, ok := slices.BinarySearchFunc(changes, p, byPosition); ok {
			changed = changed || changes[i].Value != e.Value
			continue
		}
		merged = append(merged, p)
	}
	for _, c := range changes {
		if c.Value != 0 {
			changed = changed || n.value(c.Key) == 0
			merged = append(merged, c)
		}
	}
	if !changed {
		return subtree{n.hash, n.size}
	}
	slices.SortFunc(merged, byPosition)
	return a.build(merged, level)
}

// gather appends the entries of all subtrees to out.
func (a *applier) gather(hashes []Hash, out []Entry) ([]Entry, error) {
	for _, h := range hashes {
		if h.IsZero() {
			continue
		}
		n, err := a.node(h)
		if err != nil {
			return nil, err
		}
		out = append(out, n.entries...)
		if out, err = a.gather(n.children, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// build makes the tree of entries that ascend by position.
func (a *applier) build(entries []placed, level int) subtree {
	if len(entries) <= MaxLeaf {
		plain := make([]Entry, len(entries))
		for i, e := range entries {
			plain[i] = e.Entry
		}
		return a.leaf(plain)
	}
	var present uint16
	children := make([]Hash, 0, 16)
	split(entries, level, func(branch int, part []placed) {
		present |= 1 << branch
		children = append(children, a.build(part, level+1).hash)
	})
	return a.add(newInner(present, children, int64(len(entries))))
}

func (a *applier) leaf(entries []Entry) subtree {
	if len(entries) == 0 {
		return subtree{}
	}
	slices.SortFunc(entries, byKey)
	return a.add(newLeaf(entries))
}

func (a *applier) add(n *Node) subtree {
	a.made = append(a.made, n)
	return subtree{n.hash, n.size}
}
