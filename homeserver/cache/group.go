// Package cache keeps mutable values in memory, in step over all processes of a server.
//
// What never changes is cached by whoever reads it and needs no help. What does change (the account behind an access
// token, say) goes into a [Cache], and whoever changes it says so where it does:
//
//	err := group.Update(ctx, func(ctx context.Context, tx *storage.Tx, drop *cache.Drops) error {
//		hashes, err := storage.DeleteAccessTokens(ctx, tx, user)
//		drop.Keys("access_tokens", hashes...)
//		return err
//	})
//
// The invalidation is a row of the caches stream, which every process writes and follows. It is committed with the
// change or not at all, takes effect in this process before Update returns, and reaches the others as soon as the bus
// delivers it, or by catching up from the database. A process that missed rows which are no longer there drops all its
// caches.
//
// A load that began before an invalidation never leaves a stale value behind: see [Cache.Get].
package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// retention is how long rows of the caches stream are kept for processes that were away.
const retention = 3 * 24 * time.Hour

// dropper is a Cache of any type.
type dropper interface {
	Name() string
	drop(keys []string)
}

// GroupConfig configures a Group.
type GroupConfig struct {
	// DB is the database. Required.
	DB *storage.DB
	// Client connects the process with the others. Without it the group is alone: invalidations take effect in this
	// process only, for programs and tests that have no other.
	Client *replication.Client
	// IDs numbers this instance's rows of the caches stream. Required with Client.
	IDs *storage.StreamIDs
	// From is a position of the caches stream that was read from the database before anything is cached. Defaults to the
	// start of the stream, which is correct and reads more rows than needed.
	From replication.Position
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

// Group is the mutable caches of one process and their tie to the other processes. It is safe for concurrent use.
type Group struct {
	cfg    GroupConfig
	writer *streams.Writer[streams.CachesRow]

	mu     sync.RWMutex
	caches map[string]dropper
}

// NewGroup returns a group without caches, and has cfg.Client follow and publish the caches stream: the client must not
// run yet. It does no I/O.
func NewGroup(cfg GroupConfig) (*Group, error) {
	g := &Group{cfg: cfg, caches: make(map[string]dropper)}
	if cfg.DB == nil {
		return nil, errors.New("cache group without DB")
	}
	if cfg.Client == nil {
		return g, nil
	}
	if cfg.IDs == nil {
		return nil, errors.New("cache group with Client and without IDs")
	}
	stream := streams.Caches()
	follower, err := replication.Follow(cfg.Client, stream, replication.FollowConfig[streams.CachesRow]{
		Source: g.source,
		From:   cfg.From,
		OnGap:  g.onGap,
	})
	if err != nil {
		return nil, fmt.Errorf("follow caches: %w", err)
	}
	follower.Handle(g.onUpdate)
	g.writer, err = streams.NewWriter(streams.WriterConfig[streams.CachesRow]{
		DB: cfg.DB, IDs: cfg.IDs, Client: cfg.Client, Stream: stream, Source: g.source,
	})
	if err != nil {
		return nil, fmt.Errorf("publish caches: %w", err)
	}
	return g, nil
}

func (g *Group) add(c dropper) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, taken := g.caches[c.Name()]; taken {
		return fmt.Errorf("cache %s: there is one of that name", c.Name())
	}
	g.caches[c.Name()] = c
	return nil
}

// Drops collects what a transaction invalidates.
type Drops struct {
	keys map[string][]string // nil value: all
}

// Keys drops entries of a cache in every process; without keys it does nothing. The process need not have the cache
// itself.
func (d *Drops) Keys(cacheFunc string, keys ...string) {
	if len(keys) == 0 {
		return
	}
	have, ok := d.keys[cacheFunc]
	if ok && have == nil {
		return
	}
	d.set(cacheFunc, append(have, keys...))
}

// All drops a whole cache in every process.
func (d *Drops) All(cacheFunc string) { d.set(cacheFunc, nil) }

func (d *Drops) set(cacheFunc string, keys []string) {
	if d.keys == nil {
		d.keys = make(map[string][]string)
	}
	d.keys[cacheFunc] = keys
}

// Update runs fn in a transaction and drops what it names once that is committed. fn must be repeatable; its errors are
// returned as they are.
func (g *Group) Update(ctx context.Context, fn func(ctx context.Context, tx *storage.Tx, drop *Drops) error) error {
	var drops Drops
	var err error
	if g.writer == nil {
		err = storage.InTx(ctx, g.cfg.DB, storage.TxOptions{}, func(ctx context.Context, tx *storage.Tx) error {
			drops = Drops{}
			return fn(ctx, tx, &drops)
		})
	} else {
		err = g.writer.Write(ctx, 1, func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]replication.Row[streams.CachesRow], error) {
			drops = Drops{}
			if err := fn(ctx, tx, &drops); err != nil || len(drops.keys) == 0 {
				return nil, err
			}
			now := time.Now().UnixMilli()
			out := make([]replication.Row[streams.CachesRow], 0, len(drops.keys))
			rows := make([]storage.CacheInvalidation, 0, len(drops.keys))
			for _, name := range slices.Sorted(maps.Keys(drops.keys)) {
				keys := drops.keys[name]
				rows = append(rows, storage.CacheInvalidation{StreamID: ids[0], WriterNID: writer, CacheFunc: name, Keys: keys, TS: now})
				out = append(out, replication.Row[streams.CachesRow]{Token: ids[0], Value: streams.CachesRow{CacheFunc: name, Keys: keys, InvalidationTS: now}})
			}
			return out, storage.InsertCacheInvalidations(ctx, tx, rows)
		})
	}
	// Also after an error: the transaction may have been committed without our hearing of it, and an entry dropped in
	// vain costs one load.
	for name, keys := range drops.keys {
		g.drop(name, keys)
	}
	return err
}

// drop forgets entries in this process.
func (g *Group) drop(cacheFunc string, keys []string) {
	g.mu.RLock()
	c := g.caches[cacheFunc]
	g.mu.RUnlock()
	if c != nil {
		c.drop(keys)
	}
}

// DropAll forgets everything in this process.
func (g *Group) DropAll() {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, c := range g.caches {
		c.drop(nil)
	}
}

func (g *Group) onUpdate(_ context.Context, u replication.Update[streams.CachesRow]) {
	for _, row := range u.Rows {
		g.drop(row.Value.CacheFunc, row.Value.Keys)
	}
}

func (g *Group) onGap(_ context.Context, writer string, after, upTo int64) {
	g.cfg.Log.Warn().Str("stream", "caches").Str("writer", writer).Int64("after", after).Int64("position", upTo).
		Msg("missed cache invalidations that are gone, dropping all caches")
	g.DropAll()
}

// source reads missed rows.
func (g *Group) source(ctx context.Context, writer string, after, upTo int64, limit int) ([]replication.Row[streams.CachesRow], int64, error) {
	found, pruned, err := storage.GetCacheInvalidations(ctx, g.cfg.DB, writer, after, upTo, limit)
	switch {
	case err != nil:
		return nil, 0, err
	case pruned:
		return nil, 0, replication.ErrRowsGone
	}
	reached := upTo
	if len(found) >= limit {
		reached = found[len(found)-1].StreamID
	}
	rows := make([]replication.Row[streams.CachesRow], len(found))
	for i, f := range found {
		rows[i] = replication.Row[streams.CachesRow]{
			Token: f.StreamID,
			Value: streams.CachesRow{CacheFunc: f.CacheFunc, Keys: f.Keys, InvalidationTS: f.TS},
		}
	}
	return rows, reached, nil
}

// Prune deletes rows of the caches stream that no process needs any more. Run it now and then, in one process.
func (g *Group) Prune(ctx context.Context) error {
	_, err := storage.PruneCacheInvalidations(ctx, g.cfg.DB, time.Now().Add(-retention).UnixMilli())
	return err
}
