// Package memo keeps bounded maps in memory, with an otter cache behind an interface.
//
// The interface is there for the compiler: a struct with an *otter.Cache[K, V] in it has the whole cache compiled again in
// every package that can see the struct, which took 10 seconds and 800 MB in each. Behind [Cache] it is compiled once,
// where [New] is called.
package memo

import (
	"context"
	"iter"

	"github.com/maypok86/otter/v2"
)

// Cache is a bounded map from K to V that drops what is used least. It is safe for concurrent use.
type Cache[K comparable, V any] interface {
	// GetIfPresent returns the value of a key, if there is one.
	GetIfPresent(key K) (V, bool)
	// Set puts a value in place of what was there, which it returns, with whether it put a new key.
	Set(key K, value V) (V, bool)
	// SetIfAbsent puts a value where there is none, and returns what is there then, with whether it put the value.
	SetIfAbsent(key K, value V) (V, bool)
	// Invalidate forgets a key, and returns its value with whether there was one.
	Invalidate(key K) (V, bool)
	// InvalidateAll forgets everything.
	InvalidateAll()
	// Keys and Values iterate without order over what is there.
	Keys() iter.Seq[K]
	Values() iter.Seq[V]
}

// New returns a cache of at most the given number of entries, which must be positive.
func New[K comparable, V any](entries int) Cache[K, V] {
	return otter.Must(&otter.Options[K, V]{MaximumSize: max(entries, 1), Executor: inline})
}

// NewWeighted returns a cache that is bounded by the sum of its entries' weights.
func NewWeighted[K comparable, V any](maximum uint64, weigh func(key K, value V) uint32) Cache[K, V] {
	return otter.Must(&otter.Options[K, V]{MaximumWeight: max(maximum, 1), Weigher: weigh, Executor: inline})
}

// Loading is a Cache that fetches what it does not have.
type Loading[K comparable, V any] interface {
	Cache[K, V]
	// Load returns the value of a key, from load where it is not there. Concurrent calls for one key share a load, and a
	// value whose load began before the key was invalidated is not kept. An error of load is returned as it is.
	Load(ctx context.Context, key K, load func(ctx context.Context, key K) (V, error)) (V, error)
	// EstimatedSize returns about how many entries there are.
	EstimatedSize() int
}

// NewLoading returns a loading cache of at most the given number of entries, which must be positive.
func NewLoading[K comparable, V any](entries int) Loading[K, V] {
	return loading[K, V]{otter.Must(&otter.Options[K, V]{MaximumSize: max(entries, 1), Executor: inline})}
}

type loading[K comparable, V any] struct{ *otter.Cache[K, V] }

// Load implements Loading.
func (c loading[K, V]) Load(ctx context.Context, key K, load func(ctx context.Context, key K) (V, error)) (V, error) {
	return c.Get(ctx, key, otter.LoaderFunc[K, V](load))
}

// inline runs a cache's upkeep where it arises, so that a cache needs no goroutine and no Close.
func inline(fn func()) { fn() }
