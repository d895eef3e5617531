package event

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
)

func BenchmarkLoad1K(b *testing.B) {
	e := message1K(b)
	b.SetBytes(int64(len(e.JSON())))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(e.Version(), e.ID(), e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse1K(b *testing.B) {
	e := message1K(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(e.Version(), e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseVerify1K(b *testing.B) {
	e := message1K(b)
	keys := fixedKey{ownSigner("a").Key.Public().(ed25519.PublicKey)}
	b.ReportAllocs()
	for b.Loop() {
		parseAndVerify(b, e, e.JSON(), keys)
	}
}

// BenchmarkCryptoFloor1K is what ParseVerify1K cannot do without: both hashes and one signature check.
func BenchmarkCryptoFloor1K(b *testing.B) {
	e := message1K(b)
	floor := cryptoFloor(b, e)
	for b.Loop() {
		floor()
	}
}

func BenchmarkBuild1K(b *testing.B) {
	e := message1K(b)
	d := Draft{
		RoomID: e.RoomID(), Sender: e.Sender(), Type: e.Type(), Content: e.Content(), PrevEvents: e.PrevEvents(),
		AuthEvents: e.AuthEvents(), Depth: e.Depth(), OriginServerTS: e.OriginServerTS(),
	}
	s := ownSigner("a")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(e.Version(), d, s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignFloor1K(b *testing.B) {
	e := message1K(b)
	message := e.appendRedacted(nil, false)
	key := ownSigner("a").Key
	for b.Loop() {
		ed25519.Sign(key, message)
	}
}

func BenchmarkAppendClient1K(b *testing.B) {
	e := message1K(b)
	dst := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendClient(dst[:0], e, ClientOptions{NowTS: 2000, TransactionID: "m1", Membership: "join"})
	}
}

func BenchmarkAuthoriseMessage(b *testing.B) {
	r := newTestRoom(b, version(b, "12"))
	r.put("@alice:a", TypePowerLevels, "", map[string]any{"events_default": 0, "users": map[string]any{"@bob:b": 50}})
	e := r.build(r.draft("@alice:a", "m.room.message", nil, map[string]any{"body": "x"}))
	b.ReportAllocs()
	for b.Loop() {
		if err := Authorise(e, r.state); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResolve shows that time goes with the width of a fork, not with the size of the room.
func BenchmarkResolve(b *testing.B) {
	for _, id := range []string{"1", "11", "12"} {
		for _, members := range []int{100, 2000} {
			for _, width := range []int{10, 100} {
				b.Run(fmt.Sprintf("v%s/members=%d/width=%d", id, members, width), func(b *testing.B) {
					v := version(b, id)
					f := forkRoom(b, v, members, 5, width)
					src := knownDifference(b, f)
					b.ReportAllocs()
					for b.Loop() {
						if _, err := ResolveConflict(context.Background(), v, f.conflict, src); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// fixedKey is a key ring of one key, so that benchmarks do not measure its making.
type fixedKey struct{ key ed25519.PublicKey }

func (k fixedKey) VerifyKey(context.Context, string, string, int64) (ed25519.PublicKey, error) {
	return k.key, nil
}

func parseAndVerify(b testing.TB, e *Event, raw []byte, keys KeyRing) {
	got, err := Parse(e.Version(), raw)
	if err != nil {
		b.Fatal(err)
	}
	if err := got.VerifySignatures(context.Background(), keys); err != nil {
		b.Fatal(err)
	}
}

func cryptoFloor(t testing.TB, e *Event) func() {
	key := ownSigner("a").Key.Public().(ed25519.PublicKey)
	message := e.appendRedacted(nil, false)
	hashed := appendCut(nil, e.raw, e.hashes.member("hashes"), e.signatures.member("signatures"))
	sig, ok := decodeBase64(lookup(lookup(e.bytes(e.signatures), "a"), "ed25519:k"))
	if !ok {
		t.Fatal("no signature")
	}
	return func() {
		sha256.Sum256(hashed)
		sha256.Sum256(message)
		if !ed25519.Verify(key, message, sig) {
			t.Fatal("bad signature")
		}
	}
}
