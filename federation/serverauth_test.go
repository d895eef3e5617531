package federation_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// signedHeader returns the Authorization header of a request, which says what it should not where change says so.
func signedHeader(t testing.TB, s event.Signer, claim, destination, method, uri, body string) string {
	t.Helper()
	object := map[string]any{"method": method, "uri": uri, "origin": claim}
	if destination != "" {
		object["destination"] = destination
	}
	if body != "" {
		object["content"] = json.RawMessage(body)
	}
	b, err := json.Marshal(object)
	if err == nil {
		b, err = event.SignJSON(b, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	var signed struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(b, &signed); err != nil {
		t.Fatal(err)
	}
	h := fmt.Sprintf(`X-Matrix origin="%s",key="%s",sig="%s"`, claim, s.KeyID, signed.Signatures[s.ServerName][s.KeyID])
	if destination != "" {
		h += `,destination="` + destination + `"`
	}
	return h
}

func TestServerAuth(t *testing.T) {
	t.Parallel()
	signer := func(n byte, server, id string) event.Signer {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = n
		return event.Signer{ServerName: server, KeyID: id, Key: ed25519.NewKeyFromSeed(seed)}
	}
	there, second, forged := signer(1, "there", "ed25519:1"), signer(2, "there", "ed25519:2"), signer(3, "there", "ed25519:1")
	unknown, other, own := signer(4, "there", "ed25519:new"), signer(5, "other", "ed25519:1"), signer(6, "here", "ed25519:1")
	keys := &keys{m: map[string]ed25519.PublicKey{}}
	for _, s := range []event.Signer{there, second, other, own} {
		keys.add(s)
	}
	const method, uri, body = "PUT", "/_matrix/federation/v1/send/1?a=%2F", `{"pdus":[{"content":{"body":"<&>é"}}]}`
	sign := func(s event.Signer) string { return signedHeader(t, s, s.ServerName, "here", method, uri, body) }
	for _, test := range []struct {
		name    string
		headers []string
		body    string
		want    string // the origin, or else:
		status  int
		code    string
	}{
		{"signed", []string{sign(there)}, body, "there", 0, ""},
		{"white space in the body", []string{sign(there)}, " " + strings.ReplaceAll(body, ":", " :\n") + " ", "there", 0, ""},
		{"with two keys", []string{sign(there), sign(second)}, body, "there", 0, ""},
		{"with a key that is not known besides", []string{sign(unknown), sign(there)}, body, "there", 0, ""},
		{"without destination", []string{signedHeader(t, there, "there", "", method, uri, body)}, body, "there", 0, ""},
		{"none", nil, body, "", 401, "M_UNAUTHORIZED"},
		{"bearer", []string{"Bearer token"}, body, "", 401, "M_UNAUTHORIZED"},
		{"nonsense", []string{"X-Matrix nonsense"}, body, "", 401, "M_UNAUTHORIZED"},
		{"forged", []string{sign(forged)}, body, "", 401, "M_UNAUTHORIZED"},
		{"good and forged", []string{sign(second), sign(forged)}, body, "", 401, "M_UNAUTHORIZED"},
		{"with a key that is not known", []string{sign(unknown)}, body, "", 401, "M_UNAUTHORIZED"},
		{"in the name of another", []string{signedHeader(t, there, "other", "here", method, uri, body)}, body, "", 401, "M_UNAUTHORIZED"},
		{"by two servers", []string{sign(there), sign(other)}, body, "", 401, "M_UNAUTHORIZED"},
		{"one key twice", []string{sign(there), sign(there)}, body, "", 401, "M_UNAUTHORIZED"},
		{"for another server", []string{signedHeader(t, there, "there", "elsewhere", method, uri, body)}, body, "", 401, "M_UNAUTHORIZED"},
		{"in the name of this server", []string{sign(own)}, body, "", 401, "M_UNAUTHORIZED"},
		{"for another path", []string{signedHeader(t, there, "there", "here", method, "/other", body)}, body, "", 401, "M_UNAUTHORIZED"},
		{"for another method", []string{signedHeader(t, there, "there", "here", "GET", uri, body)}, body, "", 401, "M_UNAUTHORIZED"},
		{"another body", []string{sign(there)}, `{"pdus":[]}`, "", 401, "M_UNAUTHORIZED"},
		{"body left out", []string{sign(there)}, ``, "", 401, "M_UNAUTHORIZED"},
		{"more than the body", []string{sign(there)}, body + `,"x":1`, "", 400, "M_NOT_JSON"},
		{"no JSON", []string{sign(there)}, `{`, "", 400, "M_NOT_JSON"},
		{"origin that is no name", []string{`X-Matrix origin="a/b",key="ed25519:1",sig="x"`}, body, "", 401, "M_UNAUTHORIZED"},
		{"signature that is no base64", []string{`X-Matrix origin="there",key="ed25519:1",sig="*"`}, body, "", 401, "M_UNAUTHORIZED"},
		{"too many", strings.Split(strings.Repeat(sign(there)+"\n", 20), "\n"), body, "", 401, "M_UNAUTHORIZED"},
	} {
		var seen []string
		a, err := federation.NewServerAuth(federation.ServerAuthConfig{ServerName: "here", Keys: keys, Seen: func(s string) { seen = append(seen, s) }})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(method, uri, nil)
		for _, h := range test.headers {
			r.Header.Add("Authorization", h)
		}
		origin, err := a.AuthenticateServer(t.Context(), r, []byte(test.body))
		mx, _ := mxerr.As(err)
		switch {
		case test.want != "" && (err != nil || origin != test.want || len(seen) != 1):
			t.Errorf("%s: %q, %v, seen %q", test.name, origin, err, seen)
		case test.want == "" && (mx == nil || mx.Status != test.status || mx.Code != test.code || origin != "" || len(seen) > 0):
			t.Errorf("%s: %q, %v, seen %q", test.name, origin, err, seen)
		}
	}
	// Servers that are not on the list are refused before their keys are looked for.
	a, err := federation.NewServerAuth(federation.ServerAuthConfig{ServerName: "here", Keys: noKeys{t}, Allowed: &[]string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, uri, http.NoBody)
	r.Header.Set("Authorization", sign(there))
	if _, err := a.AuthenticateServer(t.Context(), r, []byte(body)); !errors.Is(err, mxerr.Forbidden) {
		t.Errorf("not on the list: %v", err)
	}
}

// noKeys is a key ring nobody should ask.
type noKeys struct{ t *testing.T }

func (k noKeys) VerifyKey(_ context.Context, server, keyID string, _ int64) (ed25519.PublicKey, error) {
	k.t.Errorf("asked for key %s of %s", keyID, server)
	return nil, event.ErrKeyNotFound
}
