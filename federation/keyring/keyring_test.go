package keyring_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-im/weft/federation/keyring"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// remote is a server with keys.
type remote struct {
	name  string
	inUse map[string]ed25519.PrivateKey
	old   map[string]int64 // by id of a key in keys
	keys  map[string]ed25519.PrivateKey
	until int64
}

func key(n byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	return ed25519.NewKeyFromSeed(seed)
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// response returns what the server publishes, signed by its keys and those of others.
func (r *remote) response(t testing.TB, also ...event.Signer) json.RawMessage {
	t.Helper()
	verify, old := map[string]any{}, map[string]any{}
	for id, k := range r.inUse {
		verify[id] = map[string]any{"key": base64.RawStdEncoding.EncodeToString(public(k))}
	}
	for id, expired := range r.old {
		old[id] = map[string]any{"key": base64.RawStdEncoding.EncodeToString(public(r.keys[id])), "expired_ts": expired}
	}
	object, err := json.Marshal(map[string]any{"server_name": r.name, "verify_keys": verify, "old_verify_keys": old, "valid_until_ts": r.until})
	if err != nil {
		t.Fatal(err)
	}
	for id, k := range r.inUse {
		also = append(also, event.Signer{ServerName: r.name, KeyID: id, Key: k})
	}
	for _, s := range also {
		if object, err = event.SignJSON(object, s); err != nil {
			t.Fatal(err)
		}
	}
	return object
}

// net answers for servers and notaries.
type net struct {
	mu       sync.Mutex
	direct   map[string]json.RawMessage
	notaries map[string][]json.RawMessage
	hold     chan struct{} // closed to let direct answers go
	asked    atomic.Int32
	queried  atomic.Int32
}

var errDown = errors.New("down")

func (n *net) ServerKeys(ctx context.Context, server string) (json.RawMessage, error) {
	n.asked.Add(1)
	n.mu.Lock()
	out, hold := n.direct[server], n.hold
	n.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if out == nil {
		return nil, errDown
	}
	return out, nil
}

func (n *net) QueryKeys(_ context.Context, notary string, _ map[string]map[string]int64) ([]json.RawMessage, error) {
	n.queried.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if out, ok := n.notaries[notary]; ok {
		return out, nil
	}
	return nil, errDown
}

func (n *net) set(server string, response json.RawMessage) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.direct[server] = response
}

type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

const start = int64(1_700_000_000_000)

func newRing(t *testing.T, db storage.Querier, n *net, c *clock, notaries ...keyring.Notary) *keyring.Ring {
	t.Helper()
	r, err := keyring.New(keyring.Config{
		ServerName: "here", DB: db, Fetcher: n, Now: c.now, Notaries: notaries,
		Own: []keyring.Own{{ID: "ed25519:own", Key: public(key(9))}, {ID: "ed25519:was", Key: public(key(8)), ExpiredTS: start}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func kit() (*net, *clock) {
	c := &clock{}
	c.ms.Store(start)
	return &net{direct: map[string]json.RawMessage{}, notaries: map[string][]json.RawMessage{}}, c
}

func server(name string) *remote {
	return &remote{
		name: name, inUse: map[string]ed25519.PrivateKey{"ed25519:a": key(1)}, keys: map[string]ed25519.PrivateKey{"ed25519:o": key(2)},
		old: map[string]int64{"ed25519:o": start - 1000}, until: start + time.Hour.Milliseconds(),
	}
}

func TestVerifyKey(t *testing.T) {
	t.Parallel()
	n, c := kit()
	s := server("there")
	long := server("long")
	long.until = start + 365*24*time.Hour.Milliseconds()
	n.direct["there"], n.direct["long"] = s.response(t), long.response(t)
	n.direct["impostor"] = s.response(t)
	r := newRing(t, storagetest.New(t), n, c)
	week := 7 * 24 * time.Hour.Milliseconds()
	for _, test := range []struct {
		name, server, id string
		validAt          int64
		want             ed25519.PrivateKey
	}{
		{"in use", "there", "ed25519:a", start, key(1)},
		{"any time", "there", "ed25519:a", 0, key(1)},
		{"until it ends", "there", "ed25519:a", s.until, key(1)},
		{"after it ended", "there", "ed25519:a", s.until + 1, nil},
		{"old, before it expired", "there", "ed25519:o", start - 1000, key(2)},
		{"old, after it expired", "there", "ed25519:o", start - 999, nil},
		{"old, any time", "there", "ed25519:o", 0, key(2)},
		{"at most 7 days", "long", "ed25519:a", start + week, key(1)},
		{"above 7 days", "long", "ed25519:a", start + week + 1, nil},
		{"unknown", "there", "ed25519:b", start, nil},
		{"other algorithm", "there", "rsa:a", start, nil},
		{"keys of another server", "impostor", "ed25519:a", start, nil},
		{"down", "nowhere", "ed25519:a", start, nil},
		{"no server name", "a/b", "ed25519:a", start, nil},
		{"NUL in the id", "there", "ed25519:\x00", start, nil},
		{"own", "here", "ed25519:own", start, key(9)},
		{"own, retired", "here", "ed25519:was", start + 1, nil},
		{"own, before it retired", "here", "ed25519:was", start, key(8)},
		{"own, unknown", "here", "ed25519:a", start, nil},
	} {
		got, err := r.VerifyKey(t.Context(), test.server, test.id, test.validAt)
		if test.want == nil {
			if !errors.Is(err, event.ErrKeyNotFound) {
				t.Errorf("%s: got %x, %v", test.name, got, err)
			}
		} else if err != nil || !got.Equal(public(test.want)) {
			t.Errorf("%s: got %x, %v", test.name, got, err)
		}
	}
}

func TestConcurrentFetchesAreOne(t *testing.T) {
	t.Parallel()
	n, c := kit()
	n.direct["there"] = server("there").response(t)
	n.hold = make(chan struct{})
	db := storagetest.New(t)
	r := newRing(t, db, n, c)
	var wg sync.WaitGroup
	for i := range 50 {
		id := []string{"ed25519:a", "ed25519:o"}[i%2]
		wg.Go(func() {
			if _, err := r.VerifyKey(t.Context(), "there", id, 0); err != nil {
				t.Error(err)
			}
		})
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.VerifyKey(gone, "there", "ed25519:a", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	close(n.hold)
	wg.Wait()
	if got := n.asked.Load(); got != 1 {
		t.Errorf("asked %d times", got)
	}
	// Another process reads the database.
	if _, err := newRing(t, db, n, c).VerifyKey(t.Context(), "there", "ed25519:a", start); err != nil || n.asked.Load() != 1 {
		t.Errorf("second process: %v, asked %d times", err, n.asked.Load())
	}
}

func TestVainFetchesPause(t *testing.T) {
	t.Parallel()
	n, c := kit()
	r := newRing(t, storagetest.New(t), n, c)
	try := func(id string) error {
		_, err := r.VerifyKey(t.Context(), "there", id, start)
		return err
	}
	for range 20 {
		if err := try("ed25519:a"); !errors.Is(err, event.ErrKeyNotFound) {
			t.Fatal(err)
		}
	}
	if got := n.asked.Load(); got != 1 {
		t.Errorf("a server that is down was asked %d times", got)
	}
	n.set("there", server("there").response(t))
	c.advance(time.Minute)
	if err := try("ed25519:a"); err != nil {
		t.Errorf("a server that came back: %v", err)
	}
	// Somebody makes up key ids.
	n.asked.Store(0)
	for i := range 100 {
		if err := try(fmt.Sprintf("ed25519:x%d", i)); !errors.Is(err, event.ErrKeyNotFound) {
			t.Fatal(err)
		}
	}
	if got := n.asked.Load(); got != 1 {
		t.Errorf("asked %d times for keys that are not there", got)
	}
	// A key that was rotated in is found after a moment all the same.
	s := server("there")
	s.inUse["ed25519:new"] = key(3)
	n.set("there", s.response(t))
	c.advance(10 * time.Second)
	if err := try("ed25519:new"); err != nil {
		t.Errorf("new key: %v", err)
	}
}

func TestExpiredKeysAreFetchedAgain(t *testing.T) {
	t.Parallel()
	n, c := kit()
	s := server("there")
	n.direct["there"] = s.response(t)
	r := newRing(t, storagetest.New(t), n, c)
	verify := func() error {
		_, err := r.VerifyKey(t.Context(), "there", "ed25519:a", c.now().UnixMilli())
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	c.advance(2 * time.Hour)
	s.until = c.now().Add(time.Hour).UnixMilli()
	n.set("there", s.response(t))
	if err := verify(); err != nil || n.asked.Load() != 2 {
		t.Errorf("%v, asked %d times", err, n.asked.Load())
	}
	// The key is retired: what was signed before counts still.
	c.advance(2 * time.Hour)
	s.keys["ed25519:a"], s.old["ed25519:a"] = s.inUse["ed25519:a"], c.now().Add(-time.Hour).UnixMilli()
	s.inUse = map[string]ed25519.PrivateKey{"ed25519:b": key(4)}
	s.until = c.now().Add(time.Hour).UnixMilli()
	n.set("there", s.response(t))
	if err := verify(); !errors.Is(err, event.ErrKeyNotFound) {
		t.Errorf("retired key: %v", err)
	}
	if _, err := r.VerifyKey(t.Context(), "there", "ed25519:a", start); err != nil {
		t.Errorf("before it was retired: %v", err)
	}
}

func TestNotaries(t *testing.T) {
	t.Parallel()
	notaryKey := key(7)
	notary := keyring.Notary{Server: "notary", Keys: map[string]ed25519.PublicKey{"ed25519:n": public(notaryKey)}}
	vouch := event.Signer{ServerName: "notary", KeyID: "ed25519:n", Key: notaryKey}
	forged := event.Signer{ServerName: "notary", KeyID: "ed25519:n", Key: key(6)}
	unknown := event.Signer{ServerName: "notary", KeyID: "ed25519:m", Key: key(6)}
	for name, test := range map[string]struct {
		notary  keyring.Notary
		answers func(s *remote) []json.RawMessage
		found   bool
	}{
		"vouched for": {notary, func(s *remote) []json.RawMessage { return []json.RawMessage{s.response(t, vouch)} }, true},
		"among others": {notary, func(s *remote) []json.RawMessage {
			return []json.RawMessage{[]byte(`{}`), []byte(`[`), server("elsewhere").response(t, vouch), s.response(t, vouch)}
		}, true},
		"not signed by the notary":     {notary, func(s *remote) []json.RawMessage { return []json.RawMessage{s.response(t)} }, false},
		"forged":                       {notary, func(s *remote) []json.RawMessage { return []json.RawMessage{s.response(t, forged)} }, false},
		"with an unknown key":          {notary, func(s *remote) []json.RawMessage { return []json.RawMessage{s.response(t, unknown)} }, false},
		"trusted by its TLS":           {keyring.Notary{Server: "notary"}, func(s *remote) []json.RawMessage { return []json.RawMessage{s.response(t)} }, true},
		"keys of another under a name": {keyring.Notary{Server: "notary"}, func(*remote) []json.RawMessage { return []json.RawMessage{server("elsewhere").response(t)} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, c := kit()
			n.notaries["notary"] = test.answers(server("there"))
			r := newRing(t, storagetest.New(t), n, c, keyring.Notary{Server: "dead"}, test.notary)
			_, err := r.VerifyKey(t.Context(), "there", "ed25519:a", start)
			if test.found && err != nil || !test.found && !errors.Is(err, event.ErrKeyNotFound) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestNotaryCannotRollBack has a notary hand on keys from before one was retired.
func TestNotaryCannotRollBack(t *testing.T) {
	t.Parallel()
	n, c := kit()
	before := server("there")
	before.until = start + 24*time.Hour.Milliseconds()
	n.notaries["notary"] = []json.RawMessage{before.response(t)}
	now := server("there")
	now.inUse = map[string]ed25519.PrivateKey{"ed25519:b": key(4)}
	now.keys["ed25519:a"], now.old["ed25519:a"] = key(1), start-1
	n.direct["there"] = now.response(t)
	r := newRing(t, storagetest.New(t), n, c, keyring.Notary{Server: "notary"})
	if _, err := r.VerifyKey(t.Context(), "there", "ed25519:a", start); !errors.Is(err, event.ErrKeyNotFound) {
		t.Errorf("got %v", err)
	}
	if n.queried.Load() == 0 {
		t.Error("the notary was not asked")
	}
}

func TestBadResponses(t *testing.T) {
	t.Parallel()
	good := server("there")
	many := server("there")
	for i := range 70 {
		many.inUse[fmt.Sprintf("ed25519:%d", i)] = key(byte(i))
	}
	spoiled := []byte(fmt.Sprintf(`{"old_verify_keys":{},"server_name":"there","valid_until_ts":%d,"verify_keys":{"ed25519:a":{"key":"%s"}},"signatures":{"there":{"ed25519:a":"%s"}}}`,
		good.until, base64.RawStdEncoding.EncodeToString(public(key(1))), base64.RawStdEncoding.EncodeToString(make([]byte, 64))))
	unsigned, err := json.Marshal(map[string]any{"server_name": "there", "valid_until_ts": good.until, "verify_keys": map[string]any{
		"ed25519:a": map[string]string{"key": base64.RawStdEncoding.EncodeToString(public(key(1)))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, response := range map[string]json.RawMessage{
		"empty": []byte(`{}`), "array": []byte(`[]`), "null": []byte(`null`), "cut off": good.response(t)[:40], "unsigned": unsigned,
		"bad signature": spoiled, "too many keys": many.response(t), "keys of a wrong type": []byte(`{"server_name":"there","verify_keys":[]}`),
		"fractional time": []byte(`{"server_name":"there","verify_keys":{},"valid_until_ts":1.5}`),
		"too long":        append([]byte(`{"a":"`), append(make([]byte, 70<<10), `"}`...)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, c := kit()
			n.direct["there"] = response
			db := storagetest.New(t)
			if _, err := newRing(t, db, n, c).VerifyKey(t.Context(), "there", "ed25519:a", start); !errors.Is(err, event.ErrKeyNotFound) {
				t.Errorf("got %v", err)
			}
			if keys, err := storage.GetServerKeys(t.Context(), db, []string{"there"}); err != nil || len(keys) > 0 {
				t.Errorf("stored %d keys, %v", len(keys), err)
			}
		})
	}
}

func TestResponses(t *testing.T) {
	t.Parallel()
	n, c := kit()
	s := server("there")
	n.direct["there"] = s.response(t)
	r := newRing(t, storagetest.New(t), n, c)
	ask := func(server string, keys map[string]int64) int {
		t.Helper()
		out, err := r.Responses(t.Context(), map[string]map[string]int64{server: keys})
		if err != nil {
			t.Fatal(err)
		}
		return len(out)
	}
	if got := ask("there", nil); got != 1 {
		t.Errorf("got %d responses", got)
	}
	if got := ask("there", map[string]int64{"ed25519:a": start}); got != 1 || n.asked.Load() != 1 {
		t.Errorf("got %d responses, asked %d times", got, n.asked.Load())
	}
	if got := ask("nowhere", nil); got != 0 {
		t.Errorf("got %d responses of a server that is down", got)
	}
	if got := ask("no/name", nil); got != 0 {
		t.Errorf("got %d responses of no server", got)
	}
	// At half its time the response is fetched again, and handed on as it is where that fails.
	n.asked.Store(0)
	c.advance(31 * time.Minute)
	n.set("there", nil)
	if got := ask("there", map[string]int64{"ed25519:a": start}); got != 1 || n.asked.Load() != 1 {
		t.Errorf("got %d responses, asked %d times", got, n.asked.Load())
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte(server("there").response(f)))
	f.Add([]byte(`{"server_name":"there","verify_keys":{"ed25519:a":{"key":""}},"signatures":{"there":{"ed25519:a":1}}}`))
	f.Fuzz(func(t *testing.T, response []byte) {
		name, keys, err := keyring.ParseResponse(response, start)
		if err == nil && (name == "" || len(keys) == 0) {
			t.Errorf("%q gave %q with %d keys", response, name, len(keys))
		}
	})
}
