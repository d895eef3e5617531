package event

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
)

// testSigner is the key of the specification's test vectors.
func testSigner(server string) Signer {
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		panic(err)
	}
	return Signer{ServerName: server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed)}
}

// ownSigner is a key that differs from server to server.
func ownSigner(server string) Signer {
	seed := sha256.Sum256([]byte(server))
	return Signer{ServerName: server, KeyID: "ed25519:k", Key: ed25519.NewKeyFromSeed(seed[:])}
}

// ownKeys is the key ring of ownSigner.
type ownKeys struct{}

func (ownKeys) VerifyKey(_ context.Context, server, keyID string, _ int64) (ed25519.PublicKey, error) {
	if keyID != "ed25519:k" {
		return nil, ErrKeyNotFound
	}
	return ownSigner(server).Key.Public().(ed25519.PublicKey), nil
}

func version(t testing.TB, id string) *Version {
	t.Helper()
	v, ok := LookupVersion(id)
	if !ok {
		t.Fatalf("no room version %s", id)
	}
	return v
}

// testRoom writes the events of a room one after another.
type testRoom struct {
	t      testing.TB
	v      *Version
	id     string
	ts     int64
	depth  int64
	tip    []string
	state  AuthMap
	create *Event
	hashes map[string]string // reference hashes, for versions 1 and 2
}

// newTestRoom creates a room by @alice:a, who joins.
func newTestRoom(t testing.TB, v *Version) *testRoom {
	t.Helper()
	r := &testRoom{t: t, v: v, id: "!room:a", ts: 1000, state: AuthMap{}}
	if v.RoomIDFromCreate {
		r.id = ""
	}
	content := map[string]any{"room_version": v.ID}
	if !v.ImplicitCreator {
		content["creator"] = "@alice:a"
	}
	r.create = r.put("@alice:a", TypeCreate, "", content)
	r.id = r.create.RoomID()
	r.put("@alice:a", TypeMember, "@alice:a", map[string]any{"membership": "join"})
	return r
}

// draft is an event on top of the room, not put into it.
func (r *testRoom) draft(sender, typ string, stateKey *string, content any) Draft {
	r.t.Helper()
	raw, err := json.Marshal(content)
	if err != nil {
		r.t.Fatal(err)
	}
	d := Draft{
		RoomID: r.id, Sender: sender, Type: typ, StateKey: stateKey, Content: raw,
		PrevEvents: r.tip, Depth: r.depth + 1, OriginServerTS: r.ts + 1, RefHashes: r.hashes,
	}
	for _, tuple := range AuthTuples(r.v, sender, typ, stateKey, mustCanonical(r.t, raw)) {
		if e := r.state.Event(tuple); e != nil {
			d.AuthEvents = append(d.AuthEvents, e.ID())
		}
	}
	return d
}

func (r *testRoom) build(d Draft) *Event {
	r.t.Helper()
	e, err := Build(r.v, d, ownSigner(ServerName(d.Sender)))
	if err != nil {
		r.t.Fatalf("build %s of %s in version %s: %v", d.Type, d.Sender, r.v, err)
	}
	return e
}

// put adds a state event to the room without asking whether it is allowed.
func (r *testRoom) put(sender, typ, stateKey string, content any) *Event {
	r.t.Helper()
	e := r.build(r.draft(sender, typ, &stateKey, content))
	r.apply(e)
	return e
}

func (r *testRoom) apply(e *Event) {
	r.tip, r.depth, r.ts = []string{e.ID()}, e.Depth(), e.OriginServerTS()
	if r.hashes == nil {
		r.hashes = map[string]string{}
	}
	hash := e.ReferenceHash()
	r.hashes[e.ID()] = base64.RawStdEncoding.EncodeToString(hash[:])
	if e.IsState() {
		r.state[e.Tuple()] = e
	}
}

func (r *testRoom) member(sender, target, membership string) *Event {
	r.t.Helper()
	return r.put(sender, TypeMember, target, map[string]any{"membership": membership})
}

func mustCanonical(t testing.TB, raw []byte) []byte {
	t.Helper()
	out, err := Canonical(raw)
	if err != nil {
		t.Fatalf("canonicalise %s: %v", raw, err)
	}
	return out
}

func ptr(s string) *string { return &s }

// eachVersion runs a test for every room version.
func eachVersion(t *testing.T, test func(t *testing.T, v *Version)) {
	t.Helper()
	for _, v := range Versions() {
		t.Run("v"+v.ID, func(t *testing.T) {
			t.Parallel()
			test(t, v)
		})
	}
}

// message1K is a message event of about 1 KiB in a room of version 12.
func message1K(t testing.TB) *Event {
	t.Helper()
	r := newTestRoom(t, version(t, "12"))
	d := r.draft("@alice:a", "m.room.message", nil, map[string]any{
		"msgtype": "m.text", "format": "org.matrix.custom.html",
		"body":           fmt.Sprintf("%0180d \"quoted\"\n second line", 1),
		"formatted_body": fmt.Sprintf("<b>%0190d</b>", 2),
		"m.mentions":     map[string]any{"user_ids": []string{"@bob:b"}},
		"m.relates_to":   map[string]any{"rel_type": "m.thread", "event_id": "$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
	})
	return r.build(d)
}
