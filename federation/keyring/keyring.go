// Package keyring finds the keys other servers sign with: in memory, in the database, from the servers themselves, and
// from notaries where those do not answer or no longer publish a key. It checks what each key is good for, and asks for
// one thing once, however many wait for it.
//
// A server that did not answer is not asked again for a while, which doubles each time, and neither is one for a key that
// it does not have: anybody can send requests in anybody's name, with key ids made up.
//
// Spec: server-server API, "Retrieving server keys" (v1.19).
package keyring

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/storage"
)

// Fetcher asks for keys. *federation.Client is one.
type Fetcher interface {
	// ServerKeys returns what a server publishes under /_matrix/key/v2/server.
	ServerKeys(ctx context.Context, server string) (json.RawMessage, error)
	// QueryKeys asks a notary for keys: of each server by key id, with the time in milliseconds since the epoch at which
	// they should be valid.
	QueryKeys(ctx context.Context, notary string, wanted map[string]map[string]int64) ([]json.RawMessage, error)
}

// Notary is a server that is trusted to hand on the keys of others.
type Notary struct {
	// Server is its name. Required.
	Server string
	// Keys are its keys by id, one of which must have signed what it hands on. Without any its TLS certificate suffices.
	Keys map[string]ed25519.PublicKey
}

// Own is a key of this server.
type Own struct {
	// ID is the key's full name, "ed25519:a".
	ID  string
	Key ed25519.PublicKey
	// ExpiredTS is when it was last used, in milliseconds since the epoch, 0 for one in use.
	ExpiredTS int64
}

// Config is what a Ring is made of.
type Config struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// Own are the keys of this server. Required.
	Own []Own
	// DB keeps the keys of other servers. Required.
	DB storage.Querier
	// Fetcher asks other servers. Required.
	Fetcher Fetcher
	// Notaries are asked, in this order, for what a server does not tell itself.
	Notaries []Notary
	// Now defaults to time.Now.
	Now func() time.Time
	// Log defaults to silence.
	Log zerolog.Logger
}

// Ring finds keys. It implements event.KeyRing and is safe for concurrent use.
type Ring struct {
	cfg Config
	// known has what was read or fetched of servers; entries are never changed, but replaced.
	known memo.Loading[string, *entry]
	// vain has what was asked for in vain, of servers and of single keys.
	vain   memo.Cache[vainKey, vain]
	flight singleflight.Group
	// slots bounds the fetches at a time.
	slots chan struct{}
}

const (
	maxServers = 50_000
	maxFetches = 64
	// knownTTL is how long memory is believed before the database is read again: another process may have learned that a
	// key was retired.
	knownTTL = time.Hour
	// maxValidity bounds how long a key is good after it was fetched, whatever its server says.
	maxValidity = 7 * 24 * time.Hour
)

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Ring, error) {
	var errs []error
	if cfg.ServerName == "" {
		errs = append(errs, errors.New("ServerName is required"))
	}
	if len(cfg.Own) == 0 {
		errs = append(errs, errors.New("Own is required"))
	}
	if cfg.DB == nil {
		errs = append(errs, errors.New("DB is required"))
	}
	if cfg.Fetcher == nil {
		errs = append(errs, errors.New("Fetcher is required"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("key ring: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Ring{
		cfg: cfg, known: memo.NewLoading[string, *entry](maxServers), vain: memo.New[vainKey, vain](4 * maxServers),
		slots: make(chan struct{}, maxFetches),
	}, nil
}

// entry is what is known of one server.
type entry struct {
	keys map[string]storage.ServerKey
	// read is when, in milliseconds since the epoch.
	read int64
}

// goodAt reports whether a key may be used for what was signed at a time.
func goodAt(k storage.ServerKey, validAt int64) bool {
	if validAt == 0 || k.IsOld {
		return validAt <= k.ValidUntilTS || validAt == 0
	}
	return validAt <= min(k.ValidUntilTS, k.FetchedTS+maxValidity.Milliseconds())
}

func (e *entry) find(keyID string, validAt int64) (ed25519.PublicKey, bool) {
	k, ok := e.keys[keyID]
	if !ok || !goodAt(k, validAt) {
		return nil, false
	}
	return k.PublicKey, true
}

// VerifyKey implements event.KeyRing. Keys that cannot be fetched are event.ErrKeyNotFound too.
func (r *Ring) VerifyKey(ctx context.Context, server, keyID string, validAt int64) (ed25519.PublicKey, error) {
	if server == r.cfg.ServerName {
		return r.own(keyID, validAt)
	}
	e, err := r.read(ctx, server)
	if err != nil {
		return nil, err
	}
	if key, ok := e.find(keyID, validAt); ok {
		return key, nil
	}
	if !strings.HasPrefix(keyID, algorithm) || len(keyID) > maxKeyID {
		return nil, fmt.Errorf("%s of %s: %w", keyID, server, event.ErrKeyNotFound)
	}
	if err := id.ValidateServerName(server); err != nil {
		return nil, fmt.Errorf("%w: %w", event.ErrKeyNotFound, err)
	}
	if e, err = r.fetch(ctx, server, keyID, validAt); err != nil {
		return nil, err
	}
	if key, ok := e.find(keyID, validAt); ok {
		return key, nil
	}
	return nil, fmt.Errorf("%s of %s: %w", keyID, server, event.ErrKeyNotFound)
}

func (r *Ring) own(keyID string, validAt int64) (ed25519.PublicKey, error) {
	for _, k := range r.cfg.Own {
		if k.ID == keyID && (k.ExpiredTS == 0 || validAt <= k.ExpiredTS) {
			return k.Key, nil
		}
	}
	return nil, fmt.Errorf("own key %s: %w", keyID, event.ErrKeyNotFound)
}

// read returns what memory or the database has of a server.
func (r *Ring) read(ctx context.Context, server string) (*entry, error) {
	if e, ok := r.known.GetIfPresent(server); ok {
		if r.now()-e.read < knownTTL.Milliseconds() {
			return e, nil
		}
		r.known.Invalidate(server)
	}
	return r.known.Load(ctx, server, func(ctx context.Context, server string) (*entry, error) {
		keys, err := storage.GetServerKeys(ctx, r.cfg.DB, []string{server})
		return r.entryOf(keys), err
	})
}

func (r *Ring) entryOf(keys []storage.ServerKey) *entry {
	e := &entry{keys: make(map[string]storage.ServerKey, len(keys)), read: r.now()}
	for _, k := range keys {
		e.keys[k.KeyID] = k
	}
	return e
}

func (r *Ring) now() int64 { return r.cfg.Now().UnixMilli() }

// Warm reads the keys of servers ahead, in one query, for work that will need many.
func (r *Ring) Warm(ctx context.Context, servers []string) error {
	servers = slices.Clone(servers)
	slices.Sort(servers)
	servers = slices.DeleteFunc(slices.Compact(servers), func(s string) bool {
		e, ok := r.known.GetIfPresent(s)
		return s == r.cfg.ServerName || ok && r.now()-e.read < knownTTL.Milliseconds()
	})
	if len(servers) == 0 {
		return nil
	}
	keys, err := storage.GetServerKeys(ctx, r.cfg.DB, servers)
	if err != nil {
		return err
	}
	of := make(map[string][]storage.ServerKey, len(servers))
	for _, k := range keys {
		of[k.Server] = append(of[k.Server], k)
	}
	for _, s := range servers {
		r.known.SetIfAbsent(s, r.entryOf(of[s]))
	}
	return nil
}
