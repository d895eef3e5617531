package cache

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/weft-im/weft/internal/memo"
)

// Config configures a Cache.
type Config struct {
	// Name is the cache's name on the caches stream, the same in every process. Required, unique in the group.
	Name string
	// MaxEntries bounds the entries kept. Defaults to 10,000.
	MaxEntries int
}

// Cache keeps values by key until they are invalidated, here or in any other process of the server, or pushed out by
// others that are used more. It is safe for concurrent use. Values are shared: do not change them.
type Cache[V any] struct {
	name    string
	entries memo.Loading[string, entry]
	// age counts how often the whole cache was dropped. An entry of an earlier age does not count, so that a load under
	// way when that happened cannot bring back what was dropped.
	age atomic.Uint64
}

// entry holds any value, so that all caches are of one type to the compiler: see package memo.
type entry struct {
	age   uint64
	value any
}

func newEntries(n int) memo.Loading[string, entry] { return memo.NewLoading[string, entry](n) }

// New returns an empty cache that belongs to a group. The group must not be running yet.
func New[V any](g *Group, cfg Config) (*Cache[V], error) {
	if cfg.Name == "" {
		return nil, errors.New("cache without a name")
	}
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = 10_000
	}
	if cfg.MaxEntries < 0 {
		return nil, fmt.Errorf("cache %s: MaxEntries is %d, must not be negative", cfg.Name, cfg.MaxEntries)
	}
	c := &Cache[V]{name: cfg.Name, entries: newEntries(cfg.MaxEntries)}
	if err := g.add(c); err != nil {
		return nil, err
	}
	return c, nil
}

// Name returns the cache's name.
func (c *Cache[V]) Name() string { return c.name }

// Get returns the value of key, from load where it is not cached. Concurrent calls for one key share a load. An error of
// load is returned as it is and not cached. A value whose load began before an invalidation of its key is not kept, and
// not returned to anybody who asked after it.
func (c *Cache[V]) Get(ctx context.Context, key string, load func(ctx context.Context, key string) (V, error)) (V, error) {
	age := c.age.Load()
	if e, ok := c.entries.GetIfPresent(key); ok {
		if e.age == age {
			return as[V](e), nil
		}
		c.entries.Invalidate(key)
	}
	for {
		e, err := c.entries.Load(ctx, key, func(ctx context.Context, key string) (entry, error) {
			age := c.age.Load()
			v, err := load(ctx, key)
			return entry{age, v}, err
		})
		if err != nil {
			var zero V
			return zero, err
		}
		// Dropped whole since this call began, and the load had begun before that.
		if e.age >= age {
			return as[V](e), nil
		}
		c.entries.Invalidate(key)
	}
}

// Peek returns the value of key if it is cached.
func (c *Cache[V]) Peek(key string) (V, bool) {
	e, ok := c.entries.GetIfPresent(key)
	if !ok || e.age != c.age.Load() {
		var zero V
		return zero, false
	}
	return as[V](e), true
}

// as gives the value its type back. A nil value of an interface type has none.
func as[V any](e entry) V {
	v, _ := e.value.(V)
	return v
}

// Len returns about how many entries there are.
func (c *Cache[V]) Len() int { return c.entries.EstimatedSize() }

// drop forgets entries in this process: those of keys, or all where keys is nil.
func (c *Cache[V]) drop(keys []string) {
	if keys == nil {
		c.age.Add(1)
		c.entries.InvalidateAll()
		return
	}
	for _, k := range keys {
		c.entries.Invalidate(k)
	}
}
