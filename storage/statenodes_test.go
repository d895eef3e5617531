package storage_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
	"github.com/weft-im/weft/storage/storagetest"
)

func stateOf(n int, value int64) []statetree.Entry {
	entries := make([]statetree.Entry, n)
	for i := range entries {
		entries[i] = statetree.Entry{Key: int64(i + 1), Value: value + int64(i)}
	}
	return entries
}

func insertState(t *testing.T, db *storage.DB, entries []statetree.Entry) statetree.Hash {
	t.Helper()
	root, nodes := statetree.Build(entries)
	if err := storage.InsertStateNodes(t.Context(), db, nodes); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestStateOfALargeRoomInTheDatabase(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	entries := stateOf(100_000, 1_000_000)
	began := time.Now()
	root := insertState(t, db, entries)
	t.Logf("built and written in %v", time.Since(began))

	nodes := storage.NewStateNodes(storage.StateNodesConfig{DB: db})
	began = time.Now()
	counts := storagetest.Count(t, db, func() {
		all, err := statetree.All(t.Context(), nodes, root)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(all, entries) {
			t.Error("the state that was read is not the one that was written")
		}
	})
	t.Logf("read in %v, %+v", time.Since(began), counts)
	if counts.RoundTrips > 6 {
		t.Errorf("reading took %d round trips, want at most 6", counts.RoundTrips)
	}
	counts = storagetest.Count(t, db, func() {
		if _, err := statetree.Get(t.Context(), nodes, root, []int64{1, 500, 99_999}); err != nil {
			t.Fatal(err)
		}
	})
	if counts.Statements != 0 {
		t.Errorf("reading cached nodes took %+v", counts)
	}

	// One change: one statement, whatever the room's size.
	changed, made, err := statetree.Apply(t.Context(), nodes, root, []statetree.Entry{{Key: 77, Value: 5}})
	if err != nil {
		t.Fatal(err)
	}
	counts = storagetest.Count(t, db, func() {
		if err := storage.InsertStateNodes(t.Context(), db, made); err != nil {
			t.Fatal(err)
		}
	})
	if counts.Statements != 1 {
		t.Errorf("writing one change took %+v", counts)
	}
	diff, err := statetree.Diff(t.Context(), storage.NewStateNodes(storage.StateNodesConfig{DB: db}), root, changed)
	if want := (statetree.Difference{Key: 77, A: 1_000_076, B: 5}); err != nil || len(diff) != 1 || diff[0] != want {
		t.Errorf("difference %v, error %v", diff, err)
	}
}

func TestStateNodesThatAreMissingOrDamaged(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	root := insertState(t, db, stateOf(10, 1))
	reader := storage.NewStateNodes(storage.StateNodesConfig{DB: db})
	none := statetree.Hash{1}
	var missing *statetree.MissingNodeError
	if _, err := reader.ReadNodes(t.Context(), []statetree.Hash{root, none}); !errors.As(err, &missing) || missing.Hash != none {
		t.Errorf("error %v, want that %v is missing", err, none)
	}
	if _, err := db.Exec(t.Context(), `UPDATE state_nodes SET data = data || '\x00'`); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.NewStateNodes(storage.StateNodesConfig{DB: db}).ReadNodes(t.Context(), []statetree.Hash{root}); err == nil {
		t.Error("a damaged node was read")
	}
}

func TestConcurrentWritersOfTheSameNodes(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	_, nodes := statetree.Build(stateOf(2000, 1))
	var wg sync.WaitGroup
	for i := range 8 {
		mine := slices.Clone(nodes)
		if i%2 == 0 {
			slices.Reverse(mine)
		}
		wg.Go(func() {
			for range 5 {
				if err := storage.InsertStateNodes(t.Context(), db, append(mine, mine[0])); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSmallCacheStillReads(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	entries := stateOf(5000, 1)
	root := insertState(t, db, entries)
	reader := storage.NewStateNodes(storage.StateNodesConfig{DB: db, CacheBytes: 1000})
	all, err := statetree.All(t.Context(), reader, root)
	if err != nil || !slices.Equal(all, entries) {
		t.Errorf("%d entries, error %v", len(all), err)
	}
}

func TestCollectStateGarbage(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	ctx := t.Context()
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := db.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TABLE roots (id bigint PRIMARY KEY, root bytea)`)
	// Three large states that share most of their nodes, one that shares none, a
	// small one, none.
	base := stateOf(3000, 1)
	reader := storage.NewStateNodes(storage.StateNodesConfig{DB: db})
	kept := insertState(t, db, base)
	var others [2]statetree.Hash
	for i := range others {
		root, made, err := statetree.Apply(ctx, reader, kept, []statetree.Entry{{Key: int64(100 + i), Value: 7}})
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.InsertStateNodes(ctx, db, made); err != nil {
			t.Fatal(err)
		}
		others[i] = root
	}
	small := insertState(t, db, stateOf(3, 50_000))
	alone := insertState(t, db, stateOf(500, 100_000))
	released := insertState(t, db, stateOf(100, 200_000))
	exec(`INSERT INTO roots VALUES (1, $1), (2, $2), (3, $3), (4, $4), (5, NULL), (6, ''), (-7, $1)`,
		kept, others[0], small, statetree.Hash{})
	exec(`UPDATE state_nodes SET written_ts = 0`)
	if err := storage.ReleaseStateRoots(ctx, db, []statetree.Hash{released, kept}); err != nil {
		t.Fatal(err)
	}
	// Written just now and not referred to yet.
	fresh := insertState(t, db, stateOf(40, 300_000))

	config := storage.StateGCConfig{BatchRows: 7, Roots: []storage.StateRootColumn{{Table: "roots", Key: "id", Column: "root"}}}
	got, err := storage.CollectStateGarbage(ctx, db, config)
	if err != nil {
		t.Fatal(err)
	}
	if got.Deleted == 0 || got.Roots != 3 || got.Seen < got.Reachable {
		t.Errorf("result %+v", got)
	}
	check := func(what string, root statetree.Hash, want bool) {
		t.Helper()
		_, err := statetree.All(ctx, storage.NewStateNodes(storage.StateNodesConfig{DB: db}), root)
		var missing *statetree.MissingNodeError
		if err != nil && !errors.As(err, &missing) || (err == nil) != want {
			t.Errorf("%s: error %v, want there: %v", what, err, want)
		}
	}
	check("state in use", kept, true)
	check("another state in use", others[0], true)
	check("small state in use", small, true)
	check("released a moment ago", released, true)
	check("written a moment ago", fresh, true)
	check("state without a reference", alone, false)
	check("state without a reference that shares nodes", others[1], false)

	again, err := storage.CollectStateGarbage(ctx, db, config)
	if err != nil || again.Deleted != 0 {
		t.Errorf("second collection %+v, error %v", again, err)
	}
	exec(`UPDATE state_nodes SET written_ts = 0`)
	exec(`UPDATE state_roots_released SET released_ts = 0`)
	if _, err := storage.CollectStateGarbage(ctx, db, config); err != nil {
		t.Fatal(err)
	}
	check("released long ago", released, false)
	check("state in use, released once", kept, true)
	if _, err := storage.CollectStateGarbage(ctx, db, storage.StateGCConfig{}); err != nil {
		t.Errorf("collection over this module's tables: %v", err)
	}
}

// A writer commits trees all the time, each built on the one before, and once in
// a while goes back to a state it had before, whose nodes may be garbage by now.
func TestCollectStateGarbageBesideAWriter(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, sql := range []string{`CREATE TABLE roots (id bigint PRIMARY KEY, root bytea)`, `INSERT INTO roots VALUES (1, '')`} {
		if _, err := db.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	// A round of states takes longer than the grace period.
	var wg sync.WaitGroup
	wg.Go(func() {
		var root statetree.Hash
		for round := 0; ctx.Err() == nil; round++ {
			changes := []statetree.Entry{{Key: int64(round % 1000), Value: 1 + int64(round/1000)%2}}
			// No cache: it would hide what was deleted.
			next, made, err := statetree.Apply(ctx, storage.NewStateNodes(storage.StateNodesConfig{DB: db}), root, changes)
			if err == nil {
				b := &pgx.Batch{}
				storage.QueueStateNodes(b, made)
				b.Queue(`UPDATE roots SET root = $1`, next)
				err = db.SendBatch(ctx, b).Close()
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("round %d: %v", round, err)
				return
			}
			root = next
		}
	})
	config := storage.StateGCConfig{
		Grace: 400 * time.Millisecond, BatchRows: 100,
		Roots: []storage.StateRootColumn{{Table: "roots", Key: "id", Column: "root"}},
	}
	const enough = 3000 // more than there are states
	var deleted int64
	for began := time.Now(); deleted < enough && time.Since(began) < 20*time.Second; {
		got, err := storage.CollectStateGarbage(ctx, db, config)
		if err != nil {
			t.Fatal(err)
		}
		deleted += got.Deleted
	}
	cancel()
	wg.Wait()
	if deleted < enough {
		t.Errorf("only %d nodes were deleted: the test shows nothing", deleted)
	}
	var root statetree.Hash
	if err := db.QueryRow(t.Context(), `SELECT root FROM roots`).Scan(&root); err != nil {
		t.Fatal(err)
	}
	if _, err := statetree.All(t.Context(), storage.NewStateNodes(storage.StateNodesConfig{DB: db}), root); err != nil {
		t.Errorf("state in use after collections: %v", err)
	}
}

// A transaction needs a node that is there as garbage, and collection comes
// before the transaction's end.
func TestCollectStateGarbageSparesNodesOfAnOpenTransaction(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE roots (id bigint PRIMARY KEY, root bytea)`); err != nil {
		t.Fatal(err)
	}
	root, nodes := statetree.Build(stateOf(100, 1))
	if err := storage.InsertStateNodes(t.Context(), db, nodes); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), `UPDATE state_nodes SET written_ts = 0`); err != nil {
		t.Fatal(err)
	}
	var collected chan error
	err := storage.InTx(t.Context(), db, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
		if err := storage.InsertStateNodes(ctx, tx, nodes); err != nil {
			return err
		}
		collected = make(chan error, 1)
		go func() {
			_, err := storage.CollectStateGarbage(context.WithoutCancel(t.Context()), db, storage.StateGCConfig{
				Roots: []storage.StateRootColumn{{Table: "roots", Key: "id", Column: "root"}},
			})
			collected <- err
		}()
		for len(collected) == 0 && !lockWaited(t, db) {
			continue
		}
		_, err := tx.Exec(ctx, `INSERT INTO roots VALUES (1, $1)`, root)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-collected; err != nil {
		t.Fatal(err)
	}
	if _, err := statetree.All(t.Context(), storage.NewStateNodes(storage.StateNodesConfig{DB: db}), root); err != nil {
		t.Error(err)
	}
}
