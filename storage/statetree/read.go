package statetree

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// errTooDeep means that hashes collide or a reader returns wrong nodes.
var errTooDeep = errors.New("state tree is deeper than any can be")

// nodeSet reads nodes through a reader and keeps them for one operation.
type nodeSet struct {
	r      NodeReader
	nodes  map[Hash]*Node
	wanted []Hash
	asked  map[Hash]struct{}
}

func newNodeSet(r NodeReader) *nodeSet {
	return &nodeSet{r: r, nodes: map[Hash]*Node{}, asked: map[Hash]struct{}{}}
}

// want notes that a node is needed; the zero hash needs none.
func (s *nodeSet) want(h Hash) {
	if h.IsZero() {
		return
	}
	if _, ok := s.asked[h]; !ok {
		s.asked[h] = struct{}{}
		s.wanted = append(s.wanted, h)
	}
}

// load reads what is wanted in one call and tells whether there was anything.
func (s *nodeSet) load(ctx context.Context) (bool, error) {
	if len(s.wanted) == 0 {
		return false, nil
	}
	nodes, err := s.r.ReadNodes(ctx, s.wanted)
	if err != nil {
		return false, fmt.Errorf("read %d state nodes: %w", len(s.wanted), err)
	}
	for i, n := range nodes {
		s.nodes[s.wanted[i]] = n
	}
	s.wanted = s.wanted[:0:0]
	return true, nil
}

// Lookup asks for keys of one state.
type Lookup struct {
	Root Hash
	Keys []int64
}

// Get returns the values of those keys that the state has.
func Get(ctx context.Context, r NodeReader, root Hash, keys []int64) (map[int64]int64, error) {
	found, err := GetBatch(ctx, r, []Lookup{{root, keys}})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// GetBatch answers many lookups at once: it reads a level of all the trees in one
// call, and a node that several need once.
func GetBatch(ctx context.Context, r NodeReader, lookups []Lookup) ([]map[int64]int64, error) {
	type visit struct {
		hash   Hash
		lookup int
		keys   []placed
	}
	found := make([]map[int64]int64, len(lookups))
	set := newNodeSet(r)
	var visits []visit
	for i, l := range lookups {
		found[i] = make(map[int64]int64, len(l.Keys))
		if l.Root.IsZero() || len(l.Keys) == 0 {
			continue
		}
		visits = append(visits, visit{l.Root, i, placeKeys(l.Keys)})
	}
	for level := 0; len(visits) > 0; level++ {
		if level == levels {
			return nil, errTooDeep
		}
		for _, v := range visits {
			set.want(v.hash)
		}
		if _, err := set.load(ctx); err != nil {
			return nil, err
		}
		var next []visit
		for _, v := range visits {
			n := set.nodes[v.hash]
			if !n.isLeaf() {
				split(v.keys, level, func(branch int, part []placed) {
					if c := n.child(branch); !c.IsZero() {
						next = append(next, visit{c, v.lookup, part})
					}
				})
				continue
			}
			for _, k := range v.keys {
				if value := n.value(k.Key); value != 0 {
					found[v.lookup][k.Key] = value
				}
			}
		}
		visits = next
	}
	return found, nil
}

func placeKeys(keys []int64) []placed {
	out := make([]placed, len(keys))
	for i, k := range keys {
		out[i] = placed{Entry{Key: k}, position(k)}
	}
	slices.SortFunc(out, byPosition)
	return out
}

// All returns the whole state, ascending by key.
func All(ctx context.Context, r NodeReader, root Hash) ([]Entry, error) {
	var all []Entry
	hashes := []Hash{root}
	if root.IsZero() {
		hashes = nil
	}
	for level := 0; len(hashes) > 0; level++ {
		if level == levels {
			return nil, errTooDeep
		}
		nodes, err := r.ReadNodes(ctx, hashes)
		if err != nil {
			return nil, fmt.Errorf("read %d state nodes: %w", len(hashes), err)
		}
		if level == 0 {
			all = make([]Entry, 0, nodes[0].size)
		}
		var next []Hash
		for _, n := range nodes {
			all = append(all, n.entries...)
			next = append(next, n.children...)
		}
		hashes = next
	}
	slices.SortFunc(all, byKey)
	return all, nil
}
