package federationtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver/event"
)

// Fake is a server that a test drives by hand.
type Fake struct {
	// Name is its server name, "localhost:12345".
	Name string
	// Signer signs its requests and events.
	Signer event.Signer

	front  *front
	mux    *http.ServeMux
	client *http.Client
}

// Fake starts a server that publishes its key and answers nothing else but what Handle says.
func (n *Network) Fake(tb testing.TB) *Fake {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	f := &Fake{mux: http.NewServeMux()}
	f.front = newFront(tb, n, f.mux)
	f.Name = f.front.name
	f.Signer = event.Signer{ServerName: f.Name, KeyID: "ed25519:fake", Key: key}
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: n.roots}, ForceAttemptHTTP2: true}
	f.client = &http.Client{Transport: transport}
	tb.Cleanup(transport.CloseIdleConnections)
	f.Handle("GET /_matrix/key/v2/server", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(f.Keys(tb)) })
	f.Handle("/", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
	})
	return f
}

// Handle answers requests with a pattern of net/http.ServeMux.
func (f *Fake) Handle(pattern string, handler http.HandlerFunc) { f.mux.HandleFunc(pattern, handler) }

// Answer answers requests that match a pattern with a status and JSON.
func (f *Fake) Answer(tb testing.TB, pattern string, status int, body any) {
	tb.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	f.Handle(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(b)
	})
}

// Cut makes the fake unreachable.
func (f *Fake) Cut() { f.front.Cut() }

// Mend makes it reachable again.
func (f *Fake) Mend(tb testing.TB) { tb.Helper(); f.front.Mend(tb) }

// Keys returns the fake's keys, as it publishes them.
func (f *Fake) Keys(tb testing.TB) []byte {
	tb.Helper()
	return f.Sign(tb, map[string]any{
		"server_name": f.Name, "valid_until_ts": time.Now().Add(time.Hour).UnixMilli(), "old_verify_keys": map[string]any{},
		"verify_keys": map[string]any{f.Signer.KeyID: map[string]string{
			"key": base64.RawStdEncoding.EncodeToString(f.Signer.Key.Public().(ed25519.PublicKey)),
		}},
	})
}

// Sign returns the JSON of an object with the fake's signature.
func (f *Fake) Sign(tb testing.TB, object any) []byte {
	tb.Helper()
	b, err := json.Marshal(object)
	if err == nil {
		b, err = event.SignJSON(b, f.Signer)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Do sends a signed request to a server. A body other than nil is sent as JSON, json.RawMessage and []byte as they are.
func (f *Fake) Do(tb testing.TB, server, method, uri string, body any) (status int, response []byte) {
	tb.Helper()
	var content json.RawMessage
	switch v := body.(type) {
	case nil:
	case []byte:
		content = v
	case json.RawMessage:
		content = v
	default:
		var err error
		if content, err = json.Marshal(v); err != nil {
			tb.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, "https://"+server+uri, bytes.NewReader(content))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Authorization", f.authorization(tb, server, method, uri, content))
	res, err := f.client.Do(req)
	if err != nil {
		tb.Fatalf("%s %s of %s: %v", method, uri, server, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("%s %s of %s: %v", method, uri, server, err)
	}
	return res.StatusCode, b
}

// Call is Do for what must succeed: any status but 200 fails the test. The body is decoded into out, unless that is nil.
func (f *Fake) Call(tb testing.TB, server, method, uri string, body, out any) {
	tb.Helper()
	status, b := f.Do(tb, server, method, uri, body)
	if status != http.StatusOK {
		tb.Fatalf("%s %s of %s: %d %s", method, uri, server, status, b)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(b, out); err != nil {
		tb.Fatalf("%s %s of %s: %v in %s", method, uri, server, err, b)
	}
}

func (f *Fake) authorization(tb testing.TB, server, method, uri string, content json.RawMessage) string {
	tb.Helper()
	object := map[string]any{"method": method, "uri": uri, "origin": f.Name, "destination": server}
	if len(content) > 0 {
		object["content"] = content
	}
	var signed struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(f.Sign(tb, object), &signed); err != nil {
		tb.Fatal(err)
	}
	return strings.NewReplacer("{origin}", f.Name, "{destination}", server, "{key}", f.Signer.KeyID, "{sig}",
		signed.Signatures[f.Name][f.Signer.KeyID]).Replace(`X-Matrix origin="{origin}",destination="{destination}",key="{key}",sig="{sig}"`)
}
