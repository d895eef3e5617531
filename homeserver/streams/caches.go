package streams

import "github.com/weft-im/weft/replication"

// CachesRow is a row of the caches stream: entries of a mutable cache that no longer hold.
type CachesRow struct {
	// CacheFunc is the name of the cache.
	CacheFunc string
	// Keys are the keys of the entries; nil means the whole cache.
	Keys []string
	// InvalidationTS is when, in milliseconds since the epoch.
	InvalidationTS int64
}

// Caches is the stream of cache invalidations. Every process writes it. See package homeserver/cache.
func Caches() replication.Stream[CachesRow] {
	return replication.Stream[CachesRow]{
		StreamInfo: replication.StreamInfo{Name: "caches", Mode: replication.EveryProcess},
		Codec:      replication.MustArrayCodec[CachesRow](),
	}
}
