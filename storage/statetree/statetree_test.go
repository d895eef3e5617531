package statetree_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weft-im/weft/storage/statetree"
)

// memory keeps encoded nodes, as a database does, and counts what is asked.
type memory struct {
	data  map[statetree.Hash][]byte
	calls int
	reads int
}

func newMemory() *memory { return &memory{data: map[statetree.Hash][]byte{}} }

func (m *memory) ReadNodes(_ context.Context, hashes []statetree.Hash) ([]*statetree.Node, error) {
	m.calls++
	m.reads += len(hashes)
	seen := map[statetree.Hash]bool{}
	nodes := make([]*statetree.Node, len(hashes))
	for i, h := range hashes {
		if h.IsZero() || seen[h] {
			return nil, errors.New("asked for the zero hash, or for a node twice in one call")
		}
		seen[h] = true
		data, ok := m.data[h]
		if !ok {
			return nil, &statetree.MissingNodeError{Hash: h}
		}
		n, err := statetree.DecodeNode(data)
		if err != nil {
			return nil, err
		}
		nodes[i] = n
	}
	return nodes, nil
}

func (m *memory) write(nodes []*statetree.Node) (written int) {
	for _, n := range nodes {
		m.data[n.Hash()] = n.Encode()
		written += len(n.Hash()) + len(m.data[n.Hash()])
	}
	return written
}

func (m *memory) reset() { m.calls, m.reads = 0, 0 }

func (m *memory) build(entries []statetree.Entry) statetree.Hash {
	root, nodes := statetree.Build(entries)
	m.write(nodes)
	return root
}

func entriesOf(model map[int64]int64) []statetree.Entry {
	entries := []statetree.Entry{}
	for _, k := range slices.Sorted(maps.Keys(model)) {
		entries = append(entries, statetree.Entry{Key: k, Value: model[k]})
	}
	return entries
}

// genChanges draws changes of a state: mostly of few keys, so that they meet;
// sometimes many at once, so that leaves split and merge.
func genChanges(t *rapid.T) []statetree.Entry {
	keys := rapid.OneOf(rapid.Int64Range(1, 100), rapid.Int64Range(1, 2000), rapid.Int64())
	values := rapid.OneOf(rapid.Int64Range(-3, 3), rapid.Int64())
	changes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) statetree.Entry {
		return statetree.Entry{Key: keys.Draw(t, "key"), Value: values.Draw(t, "value")}
	}), 0, 60).Draw(t, "changes")
	if start := rapid.Int64Range(0, 10).Draw(t, "range"); start > 7 {
		value := rapid.Int64Range(0, 1).Draw(t, "range value")
		for k := range int64(300) {
			changes = append(changes, statetree.Entry{Key: start*100 + k, Value: value})
		}
	}
	return changes
}

func applyToModel(model map[int64]int64, changes []statetree.Entry) {
	for _, c := range changes {
		if c.Value == 0 {
			delete(model, c.Key)
		} else {
			model[c.Key] = c.Value
		}
	}
}

func TestAgainstMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		m, model := newMemory(), map[int64]int64{}
		var root statetree.Hash
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			changes := genChanges(t)
			before, beforeRoot := maps.Clone(model), root
			applyToModel(model, changes)

			var nodes []*statetree.Node
			var err error
			if root, nodes, err = statetree.Apply(ctx, m, root, changes); err != nil {
				t.Fatalf("apply %v: %v", changes, err)
			}
			if maps.Equal(before, model) && (root != beforeRoot || len(nodes) != 0) {
				t.Fatalf("no change gave root %v for %v and %d nodes", root, beforeRoot, len(nodes))
			}
			pending := statetree.Overlay(m, nodes)

			all, err := statetree.All(ctx, pending, root)
			if err != nil {
				t.Fatal(err)
			}
			if want := entriesOf(model); !slices.Equal(all, want) {
				t.Fatalf("all = %v, want %v", all, want)
			}
			// The way the state came about leaves no trace.
			if built, all := statetree.Build(shuffled(entriesOf(model))); built != root {
				t.Fatalf("root %v after changes, %v when built at once", root, built)
			} else {
				checkReachable(t, root, pending, all)
			}
			keys := append(rapid.SliceOfN(rapid.Int64Range(0, 2100), 0, 20).Draw(t, "keys"), slices.Collect(maps.Keys(model))...)
			got, err := statetree.Get(ctx, pending, root, keys)
			if err != nil {
				t.Fatal(err)
			}
			want := map[int64]int64{}
			for _, k := range keys {
				if v := model[k]; v != 0 {
					want[k] = v
				}
			}
			if !maps.Equal(got, want) {
				t.Fatalf("get %v = %v, want %v", keys, got, want)
			}
			checkDiff(t, pending, beforeRoot, root, before, model)
			checkDiff(t, pending, root, beforeRoot, model, before)
			m.write(nodes)
		}
	})
}

func shuffled(entries []statetree.Entry) []statetree.Entry {
	rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	return entries
}

// checkReachable checks that the tree consists of exactly the nodes that building
// it makes.
func checkReachable(t *rapid.T, root statetree.Hash, r statetree.NodeReader, built []*statetree.Node) {
	want := map[statetree.Hash]bool{}
	for _, n := range built {
		want[n.Hash()] = true
	}
	got := map[statetree.Hash]bool{}
	var walk func(h statetree.Hash)
	walk = func(h statetree.Hash) {
		nodes, err := r.ReadNodes(context.Background(), []statetree.Hash{h})
		if err != nil {
			t.Fatal(err)
		}
		got[h] = true
		for _, c := range nodes[0].Children() {
			walk(c)
		}
	}
	if !root.IsZero() {
		walk(root)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("tree of %d nodes, built anew of %d", len(got), len(want))
	}
}

func checkDiff(t *rapid.T, r statetree.NodeReader, a, b statetree.Hash, modelA, modelB map[int64]int64) {
	got, err := statetree.Diff(context.Background(), r, a, b)
	if err != nil {
		t.Fatal(err)
	}
	var want []statetree.Difference
	both := maps.Clone(modelA)
	maps.Copy(both, modelB)
	for _, k := range slices.Sorted(maps.Keys(both)) {
		if modelA[k] != modelB[k] {
			want = append(want, statetree.Difference{Key: k, A: modelA[k], B: modelB[k]})
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("difference (-want +got):\n%s", d)
	}
}

// room is a state of n entries as a large room has them: numbers of state keys
// and of events that grow with time, in leaps.
func room(n int) []statetree.Entry {
	rng := rand.New(rand.NewPCG(1, 2))
	entries := make([]statetree.Entry, n)
	key, event := int64(1), int64(1)
	for i := range entries {
		key += 1 + rng.Int64N(50)
		event += 1 + rng.Int64N(100_000)
		entries[i] = statetree.Entry{Key: key, Value: event}
	}
	return entries
}

func TestCostInALargeRoom(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	entries := room(100_000)
	m := newMemory()
	root := m.build(entries)

	m.reset()
	all, err := statetree.All(ctx, m, root)
	if err != nil || len(all) != len(entries) {
		t.Fatalf("%d entries, error %v", len(all), err)
	}
	t.Logf("%d nodes; full state in %d calls", m.reads, m.calls)
	if m.calls > 6 {
		t.Errorf("full state took %d calls, want at most 6", m.calls)
	}

	rng := rand.New(rand.NewPCG(3, 4))
	change := func(i int) statetree.Entry {
		e := statetree.Entry{Key: entries[rng.IntN(len(entries))].Key, Value: 1e10 + int64(i)}
		if i%4 == 0 {
			e.Key = 1e8 + int64(i) // somebody joins
		}
		return e
	}
	most, sum, nodes := 0, 0, 0
	const trials = 1000
	for i := range trials {
		_, made, err := statetree.Apply(ctx, m, root, []statetree.Entry{change(i)})
		if err != nil {
			t.Fatal(err)
		}
		written := newMemory().write(made)
		most, sum, nodes = max(most, written), sum+written, max(nodes, len(made))
	}
	t.Logf("one change writes %d bytes on average, at most %d in %d nodes", sum/trials, most, nodes)
	// A row's header and its index entry come to about 80 bytes a node.
	if most+80*nodes > 4096 {
		t.Errorf("one change writes %d bytes in %d nodes, want at most 4096 with row headers", most, nodes)
	}

	worst := 0
	for range 100 {
		changes := make([]statetree.Entry, 10)
		for i := range changes {
			changes[i] = change(rng.IntN(1000))
		}
		other, made, err := statetree.Apply(ctx, m, root, changes)
		if err != nil {
			t.Fatal(err)
		}
		m.write(made)
		m.reset()
		if diff, err := statetree.Diff(ctx, m, root, other); err != nil || len(diff) == 0 || len(diff) > 10 {
			t.Fatalf("%d differences, error %v", len(diff), err)
		}
		worst = max(worst, m.reads)
	}
	t.Logf("two states 10 changes apart: at most %d nodes read", worst)
	if worst > 80 {
		t.Errorf("two states 10 changes apart took %d node reads, want at most 80", worst)
	}
}

func TestSmallRoomIsOneNode(t *testing.T) {
	t.Parallel()
	root, nodes := statetree.Build(room(statetree.MaxLeaf))
	if len(nodes) != 1 || nodes[0].Hash() != root {
		t.Errorf("%d nodes for %d entries", len(nodes), statetree.MaxLeaf)
	}
	if root, nodes := statetree.Build(nil); !root.IsZero() || len(nodes) != 0 {
		t.Errorf("empty state: root %v, %d nodes", root, len(nodes))
	}
}

func TestGetBatchReadsALevelAtATime(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	m := newMemory()
	var lookups []statetree.Lookup
	for n := range 40 {
		entries := room(n * 100)
		keys := []int64{-1}
		for i := 0; i < len(entries); i += 97 {
			keys = append(keys, entries[i].Key)
		}
		lookups = append(lookups, statetree.Lookup{Root: m.build(entries), Keys: keys})
	}
	// The same state twice, with other keys.
	lookups = append(lookups, statetree.Lookup{Root: lookups[39].Root, Keys: lookups[39].Keys[1:2]})
	m.reset()
	got, err := statetree.GetBatch(ctx, m, lookups)
	if err != nil {
		t.Fatal(err)
	}
	if m.calls > 4 {
		t.Errorf("%d calls for %d lookups", m.calls, len(lookups))
	}
	for i, l := range lookups {
		want, err := statetree.Get(ctx, m, l.Root, l.Keys)
		if err != nil || !maps.Equal(got[i], want) {
			t.Errorf("lookup %d: %v, want %v (error %v)", i, got[i], want, err)
		}
		if i > 0 && i < 40 && len(want) != len(l.Keys)-1 {
			t.Errorf("lookup %d finds %d of %d keys", i, len(want), len(l.Keys)-1)
		}
	}
}

func TestMissingNode(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	m := newMemory()
	entries := room(1000)
	root := m.build(entries)
	nodes, err := m.ReadNodes(ctx, []statetree.Hash{root})
	if err != nil {
		t.Fatal(err)
	}
	gone := nodes[0].Children()[3]
	delete(m.data, gone)
	check := func(what string, err error) {
		t.Helper()
		var missing *statetree.MissingNodeError
		if !errors.As(err, &missing) || missing.Hash != gone {
			t.Errorf("%s: error %v, want that node %v is missing", what, err, gone)
		}
	}
	_, err = statetree.All(ctx, m, root)
	check("All", err)
	_, err = statetree.Diff(ctx, m, root, statetree.Hash{})
	check("Diff", err)
	keys := make([]int64, len(entries))
	for i, e := range entries {
		keys[i] = e.Key
	}
	_, err = statetree.Get(ctx, m, root, keys)
	check("Get", err)
	_, _, err = statetree.Apply(ctx, m, root, entries[:0:0])
	if err != nil {
		t.Errorf("applying nothing: %v", err)
	}
	for i := range entries {
		entries[i].Value++
	}
	_, _, err = statetree.Apply(ctx, m, root, entries)
	check("Apply", err)
}

func FuzzDecodeNode(f *testing.F) {
	for _, n := range []int{1, 2, 32, 33, 500} {
		_, nodes := statetree.Build(room(n))
		f.Add(nodes[0].Encode())
		f.Add(nodes[len(nodes)-1].Encode())
	}
	_, nodes := statetree.Build([]statetree.Entry{{Key: -1 << 63, Value: -1 << 63}, {Key: 1<<63 - 1, Value: 1<<63 - 1}})
	f.Add(nodes[0].Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := statetree.DecodeNode(data)
		if err != nil {
			return
		}
		if again := n.Encode(); !bytes.Equal(again, data) {
			t.Errorf("%x decodes to a node that is encoded as %x", data, again)
		}
	})
}

func TestDecodeRefusesOtherEncodings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"unknown kind", []byte{3, 1, 2, 2}},
		{"no entries", []byte{1, 0}},
		{"too many entries", append([]byte{1, 33, 2, 2}, bytes.Repeat([]byte{1, 0}, 32)...)},
		{"value 0", []byte{1, 1, 2, 0}},
		{"same key twice", []byte{1, 2, 2, 2, 0, 2}},
		{"longer varint than needed", []byte{1, 1, 0x82, 0x00, 2}},
		{"cut short", []byte{1, 1, 2}},
		{"trailing byte", []byte{1, 1, 2, 2, 0}},
		{"inner without children", []byte{2, 0, 0, 33}},
		{"inner that should be a leaf", append([]byte{2, 0, 1, 32}, bytes.Repeat([]byte{1}, 16)...)},
		{"inner with a zero hash", append([]byte{2, 0, 1, 33}, make([]byte, 16)...)},
		{"inner with a hash too few", append([]byte{2, 0, 3, 33}, bytes.Repeat([]byte{1}, 16)...)},
	} {
		if n, err := statetree.DecodeNode(tt.data); err == nil {
			t.Errorf("%s: %x decodes to %v", tt.name, tt.data, n)
		}
	}
}

func BenchmarkApplyOneChange(b *testing.B) {
	ctx := context.Background()
	entries := room(100_000)
	root, nodes := statetree.Build(entries)
	r := statetree.Overlay(newMemory(), nodes)
	for i := 0; b.Loop(); i++ {
		change := []statetree.Entry{{Key: entries[i*31%len(entries)].Key, Value: int64(i) + 1e10}}
		if _, _, err := statetree.Apply(ctx, r, root, change); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild100k(b *testing.B) {
	entries := room(100_000)
	for b.Loop() {
		statetree.Build(entries)
	}
}

func BenchmarkAll100k(b *testing.B) {
	root, nodes := statetree.Build(room(100_000))
	r := statetree.Overlay(newMemory(), nodes)
	for b.Loop() {
		if _, err := statetree.All(context.Background(), r, root); err != nil {
			b.Fatal(err)
		}
	}
}
