package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCache[V any](t *testing.T, g *cache.Group, name string) *cache.Cache[V] {
	t.Helper()
	c, err := cache.New[V](g, cache.Config{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func alone(t *testing.T) *cache.Group {
	t.Helper()
	g, err := cache.NewGroup(cache.GroupConfig{DB: storagetest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func drop(t *testing.T, g *cache.Group, name string, keys ...string) {
	t.Helper()
	err := g.Update(t.Context(), func(_ context.Context, _ *storage.Tx, d *cache.Drops) error {
		if keys == nil {
			d.All(name)
		}
		d.Keys(name, keys...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// counter is a load that gives "key-n", n being how often it was called.
type counter struct{ n atomic.Int64 }

func (c *counter) load(_ context.Context, key string) (string, error) {
	return fmt.Sprintf("%s-%d", key, c.n.Add(1)), nil
}

func want(t *testing.T, c *cache.Cache[string], load *counter, key, value string) {
	t.Helper()
	got, err := c.Get(t.Context(), key, load.load)
	if err != nil || got != value {
		t.Errorf("Get(%q) = %q, %v, want %q", key, got, err, value)
	}
}

func TestGetKeepsUntilDropped(t *testing.T) {
	t.Parallel()
	g := alone(t)
	c, other := newCache[string](t, g, "one"), newCache[string](t, g, "two")
	var load, loadOther counter
	want(t, c, &load, "a", "a-1")
	want(t, c, &load, "a", "a-1")
	want(t, c, &load, "b", "b-2")
	want(t, other, &loadOther, "a", "a-1")
	drop(t, g, "one", "a")
	want(t, c, &load, "a", "a-3")
	want(t, c, &load, "b", "b-2")
	drop(t, g, "one")
	want(t, c, &load, "b", "b-4")
	want(t, other, &loadOther, "a", "a-1")
	g.DropAll()
	want(t, other, &loadOther, "a", "a-2")
	if _, err := cache.New[int](g, cache.Config{Name: "one"}); err == nil {
		t.Error("two caches of one name were accepted")
	}
}

func TestErrorsAreNotKept(t *testing.T) {
	t.Parallel()
	c := newCache[string](t, alone(t), "one")
	failure := errors.New("no database")
	_, err := c.Get(t.Context(), "a", func(context.Context, string) (string, error) { return "", failure })
	if !errors.Is(err, failure) {
		t.Errorf("got error %v, want %v", err, failure)
	}
	var load counter
	want(t, c, &load, "a", "a-1")
}

func TestARolledBackUpdateDropsNothingElsewhere(t *testing.T) {
	t.Parallel()
	g := alone(t)
	c := newCache[string](t, g, "one")
	var load counter
	want(t, c, &load, "a", "a-1")
	refused := errors.New("refused")
	err := g.Update(t.Context(), func(_ context.Context, _ *storage.Tx, d *cache.Drops) error {
		d.Keys("one", "b")
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("got error %v, want %v", err, refused)
	}
	want(t, c, &load, "a", "a-1")
}

// A load that has read the old value when the entry is dropped must not bring it back.
func TestALoadThatBeganBeforeADropIsNotKept(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{"one entry": {"a"}, "whole cache": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := alone(t)
			c := newCache[string](t, g, "one")
			var truth atomic.Value
			truth.Store("old")
			began, finish := make(chan struct{}), make(chan struct{})
			var first sync.Once
			load := func(context.Context, string) (string, error) {
				v := truth.Load().(string)
				first.Do(func() { close(began); <-finish })
				return v, nil
			}
			got := make(chan string, 1)
			go func() {
				v, _ := c.Get(context.Background(), "a", load)
				got <- v
			}()
			<-began
			truth.Store("new")
			drop(t, g, "one", keys...)
			// Asked after the drop: must not be answered by the load that began before.
			after := make(chan string, 1)
			go func() {
				v, _ := c.Get(context.Background(), "a", load)
				after <- v
			}()
			close(finish)
			<-got // either is right: it was asked before
			if v := <-after; v != "new" {
				t.Errorf("asked after the drop, got %q", v)
			}
			if v, err := c.Get(t.Context(), "a", load); err != nil || v != "new" {
				t.Errorf("later, got %q, %v", v, err)
			}
		})
	}
}

func TestDropsReachOtherProcesses(t *testing.T) {
	t.Parallel()
	cluster := streamstest.New(t, nil, "worker1", "worker2")
	groups := make([]*cache.Group, len(cluster.Processes))
	caches := make([]*cache.Cache[string], len(groups))
	ids := make([]*storage.StreamIDs, len(groups))
	for i, p := range cluster.Processes {
		var err error
		ids[i] = p.IDs(t, "caches")
		groups[i], err = cache.NewGroup(cache.GroupConfig{DB: p.DB, Client: p.Client, IDs: ids[i]})
		if err != nil {
			t.Fatal(err)
		}
		caches[i] = newCache[string](t, groups[i], "one")
	}
	cluster.Start(t)
	loads := make([]counter, len(caches))
	for i, c := range caches {
		want(t, c, &loads[i], "a", "a-1")
		want(t, c, &loads[i], "b", "b-2")
	}
	for round, keys := range [][]string{{"a"}, {"a", "x"}, nil} {
		writer := round % len(groups)
		drop(t, groups[writer], "one", keys...)
		if _, ok := caches[writer].Peek("a"); ok {
			t.Errorf("round %d: the process that dropped the entry still has it", round)
		}
		for i, c := range caches {
			p := cluster.Processes[i]
			if err := p.Client.WaitFor(t.Context(), "caches", cluster.Processes[writer].Name, ids[writer].Position()); err != nil {
				t.Fatal(err)
			}
			if _, ok := c.Peek("a"); ok {
				t.Errorf("round %d: %s still has the entry", round, p.Name)
			}
			_, kept := c.Peek("b")
			if keys != nil && !kept {
				t.Errorf("round %d: %s has lost another entry", round, p.Name)
			}
			_, _ = c.Get(t.Context(), "a", loads[i].load)
		}
	}
}

func TestPruneIsRemembered(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	ctx := t.Context()
	writers := storage.NewWriters()
	nid, err := writers.Intern(ctx, db, "worker")
	if err != nil {
		t.Fatal(err)
	}
	rows := []storage.CacheInvalidation{
		{StreamID: 1, WriterNID: nid, CacheFunc: "one", Keys: []string{"a"}, TS: 1000},
		{StreamID: 2, WriterNID: nid, CacheFunc: "one", Keys: nil, TS: 2000},
		{StreamID: 2, WriterNID: nid, CacheFunc: "two", Keys: []string{"x"}, TS: 2000},
		{StreamID: 3, WriterNID: nid, CacheFunc: "one", Keys: []string{"b"}, TS: 3000},
	}
	if err := storage.InsertCacheInvalidations(ctx, db, rows); err != nil {
		t.Fatal(err)
	}
	got, pruned, err := storage.GetCacheInvalidations(ctx, db, "worker", 0, 10, 2)
	if err != nil || pruned || len(got) != 3 {
		t.Errorf("with limit 2 got %v, pruned %v, %v; want three rows, as two share an id", got, pruned, err)
	}
	if n, err := storage.PruneCacheInvalidations(ctx, db, 2500); err != nil || n != 3 {
		t.Errorf("pruned %d, %v, want 3", n, err)
	}
	if _, pruned, _ = storage.GetCacheInvalidations(ctx, db, "worker", 1, 10, 10); !pruned {
		t.Error("a follower at 1 is not told that rows are gone")
	}
	if got, pruned, _ = storage.GetCacheInvalidations(ctx, db, "worker", 2, 10, 10); pruned || len(got) != 1 {
		t.Errorf("a follower at 2 got %v, pruned %v", got, pruned)
	}
}

func BenchmarkGet(b *testing.B) {
	g, err := cache.NewGroup(cache.GroupConfig{DB: &storage.DB{}})
	if err != nil {
		b.Fatal(err)
	}
	c, err := cache.New[string](g, cache.Config{Name: "one"})
	if err != nil {
		b.Fatal(err)
	}
	var load counter
	for b.Loop() {
		if _, err := c.Get(context.Background(), "a", load.load); err != nil {
			b.Fatal(err)
		}
	}
}
