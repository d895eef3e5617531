package event

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSignJSONSpecVectors(t *testing.T) {
	t.Parallel()
	// Appendices, "Cryptographic Test Vectors", "JSON Signing".
	for _, c := range []struct{ in, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{
			`{"one": 1, "two": "Two"}`,
			`{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`,
		},
	} {
		s := testSigner("domain")
		got, err := SignJSON([]byte(c.in), s)
		if err != nil || string(got) != c.want {
			t.Errorf("SignJSON(%s) = %s, %v, want %s", c.in, got, err, c.want)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", s.Key.Public().(ed25519.PublicKey)); err != nil {
			t.Errorf("VerifyJSON(%s): %v", got, err)
		}
	}
}

func TestEventSigningSpecVectors(t *testing.T) {
	t.Parallel()
	// Appendices, "Cryptographic Test Vectors", "Event Signing". They are older than the schemas and lack fields that
	// Parse demands.
	for _, c := range []struct{ in, want string }{
		{
			`{"room_id": "!x:domain", "sender": "@a:domain", "origin": "domain", "origin_server_ts": 1000000,
			"signatures": {}, "hashes": {}, "type": "X", "content": {}, "prev_events": [], "auth_events": [], "depth": 3,
			"unsigned": {"age_ts": 1000000}}`,
			`{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X","unsigned":{"age_ts":1000000}}`,
		},
		{
			`{"content": {"body": "Here is the message content"}, "event_id": "$0:domain", "origin": "domain",
			"origin_server_ts": 1000000, "type": "m.room.message", "room_id": "!r:domain", "sender": "@u:domain",
			"signatures": {}, "unsigned": {"age_ts": 1000000}}`,
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","hashes":{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"},"origin":"domain","origin_server_ts":1000000,"room_id":"!r:domain","sender":"@u:domain","signatures":{"domain":{"ed25519:1":"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"}},"type":"m.room.message","unsigned":{"age_ts":1000000}}`,
		},
	} {
		got, err := HashAndSign(version(t, "1"), []byte(c.in), testSigner("domain"))
		if err != nil || string(got) != c.want {
			t.Errorf("HashAndSign = %s, %v\nwant %s", got, err, c.want)
		}
	}
}

func TestSignJSONKeepsOthers(t *testing.T) {
	t.Parallel()
	a, b := ownSigner("a"), ownSigner("b")
	b.KeyID = `ed25519:"odd`
	once, err := SignJSON([]byte(`{"unsigned":{"age":1},"x":1,"signatures":{"z":{"other:1":"keep"}}}`), b)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := SignJSON(once, a)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Signer{a, b} {
		if err := VerifyJSON(twice, s.ServerName, s.KeyID, s.Key.Public().(ed25519.PublicKey)); err != nil {
			t.Errorf("%s: %v", s.ServerName, err)
		}
	}
	if !strings.Contains(string(twice), `"other:1":"keep"`) || !strings.Contains(string(twice), `"unsigned":{"age":1}`) {
		t.Errorf("lost something: %s", twice)
	}
	if ids, err := JSONSignatures(twice, "z"); err != nil || ids != nil {
		t.Errorf("JSONSignatures of an unknown algorithm = %v, %v", ids, err)
	}
	if ids, err := JSONSignatures(twice, "b"); err != nil || !slices.Equal(ids, []string{b.KeyID}) {
		t.Errorf("JSONSignatures = %v, %v", ids, err)
	}
	tampered := strings.Replace(string(twice), `"x":1`, `"x":2`, 1)
	var se *SignatureError
	if err := VerifyJSON([]byte(tampered), "a", a.KeyID, a.Key.Public().(ed25519.PublicKey)); !errors.As(err, &se) || se.Server != "a" {
		t.Errorf("tampered object: %v", err)
	}
	if err := VerifyJSON(twice, "c", a.KeyID, a.Key.Public().(ed25519.PublicKey)); !errors.As(err, &se) {
		t.Errorf("unsigned object: %v", err)
	}
}

// keyTable is a key ring of listed keys.
type keyTable map[string]ed25519.PublicKey

func (k keyTable) VerifyKey(_ context.Context, server, keyID string, _ int64) (ed25519.PublicKey, error) {
	if key, ok := k[server+" "+keyID]; ok {
		return key, nil
	}
	return nil, ErrKeyNotFound
}

func TestRequiredSigners(t *testing.T) {
	t.Parallel()
	const restricted = `{"membership":"join","join_authorised_via_users_server":"@r:resident"}`
	for _, c := range []struct {
		name, version, typ, content string
		stateKey                    *string
		want                        []string
	}{
		{"message v1", "1", "m.room.message", `{}`, nil, []string{"sender", "origin"}},
		{"message v3", "3", "m.room.message", `{}`, nil, []string{"sender"}},
		{"invite", "10", TypeMember, `{"membership":"invite"}`, ptr("@t:target"), []string{"sender"}},
		{"third party invite v2", "2", TypeMember, `{"membership":"invite","third_party_invite":{}}`, ptr("@t:target"), []string{"origin"}},
		{"third party invite v10", "10", TypeMember, `{"membership":"invite","third_party_invite":{}}`, ptr("@t:target"), []string{}},
		{"third party join", "10", TypeMember, `{"membership":"join","third_party_invite":{}}`, ptr("@t:target"), []string{"sender"}},
		{"restricted join v7", "7", TypeMember, restricted, ptr("@s:sender"), []string{"sender"}},
		{"restricted join v8", "8", TypeMember, restricted, ptr("@s:sender"), []string{"sender", "resident"}},
		{"restricted by the same server", "12", TypeMember, strings.Replace(restricted, "resident", "sender", 1), ptr("@s:sender"), []string{"sender"}},
		{"restricted by nobody", "12", TypeMember, `{"membership":"join","join_authorised_via_users_server":7}`, ptr("@s:sender"), []string{"sender", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, err := Build(version(t, c.version), Draft{
				RoomID: "!r:sender", EventID: "$e:origin", Sender: "@s:sender", Type: c.typ, StateKey: c.stateKey,
				Content: json.RawMessage(c.content), Depth: 1,
			}, ownSigner("sender"))
			if err != nil {
				t.Fatal(err)
			}
			if got := RequiredSigners(e); !slices.Equal(got, c.want) {
				t.Fatalf("RequiredSigners = %q, want %q", got, c.want)
			}
			// Each of them must sign, and only they.
			for i, server := range c.want {
				if i > 0 {
					err := e.VerifySignatures(context.Background(), ownKeys{})
					var se *SignatureError
					if !errors.As(err, &se) || se.Server != server {
						t.Fatalf("without %q: %v", server, err)
					}
				}
				if e, err = e.Sign(ownSigner(server)); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.VerifySignatures(context.Background(), ownKeys{}); err != nil {
				t.Fatalf("signed by all: %v", err)
			}
			if err := e.Redacted().VerifySignatures(context.Background(), ownKeys{}); err != nil {
				t.Fatalf("redacted: %v", err)
			}
		})
	}
}

func TestVerifySignatures(t *testing.T) {
	t.Parallel()
	v := version(t, "11")
	e := newTestRoom(t, v).create
	ctx := context.Background()
	good := ownSigner("a")
	other := Signer{ServerName: "a", KeyID: "ed25519:other", Key: testSigner("x").Key}
	two, err := e.Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	if two.ID() != e.ID() {
		t.Errorf("signing changed the id from %s to %s", e.ID(), two.ID())
	}
	if got := two.SignedKeys("a"); !slices.Equal(got, []string{"ed25519:k", "ed25519:other"}) {
		t.Errorf("SignedKeys = %q", got)
	}
	pub := func(s Signer) ed25519.PublicKey { return s.Key.Public().(ed25519.PublicKey) }
	for _, c := range []struct {
		name string
		e    *Event
		keys keyTable
		ok   bool
	}{
		{"one known key", two, keyTable{"a ed25519:k": pub(good)}, true},
		{"the other known key", two, keyTable{"a ed25519:other": pub(other)}, true},
		{"no known key", two, keyTable{}, false},
		{"one of two known keys is wrong", two, keyTable{"a ed25519:k": pub(good), "a ed25519:other": pub(good)}, false},
		{"key of the wrong size", two, keyTable{"a ed25519:k": pub(good)[:31]}, false},
	} {
		if err := c.e.VerifySignatures(ctx, c.keys); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := two.VerifySignedBy(ctx, keyTable{}, "a"); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("no known key: %v, want ErrKeyNotFound", err)
	}
	if err := two.VerifySignedBy(ctx, ownKeys{}, "b"); err == nil {
		t.Error("a server that did not sign passes")
	}
	failing := errors.New("network down")
	if err := two.VerifySignatures(ctx, failingKeys{failing}); !errors.Is(err, failing) {
		t.Errorf("failing key ring: %v", err)
	}
}

type failingKeys struct{ err error }

func (k failingKeys) VerifyKey(context.Context, string, string, int64) (ed25519.PublicKey, error) {
	return nil, k.err
}

// timedKeys notes at what time keys must be valid.
type timedKeys struct{ at *int64 }

func (k timedKeys) VerifyKey(ctx context.Context, server, keyID string, validAt int64) (ed25519.PublicKey, error) {
	*k.at = validAt
	return ownKeys{}.VerifyKey(ctx, server, keyID, validAt)
}

func TestKeyValidity(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		e := newTestRoom(t, v).create
		var at int64
		if err := e.VerifySignatures(context.Background(), timedKeys{&at}); err != nil {
			t.Fatal(err)
		}
		want := int64(0)
		if v.EnforceKeyValidity {
			want = e.OriginServerTS()
		}
		if at != want {
			t.Errorf("keys must be valid at %d, want %d", at, want)
		}
	})
}
