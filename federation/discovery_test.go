package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-im/weft/internal/iprange"
)

// dns answers for SRV records: "matrix-fed a.example" to targets.
type dns map[string][]*net.SRV

func (d dns) LookupSRV(_ context.Context, service, _, name string) (string, []*net.SRV, error) {
	if records, ok := d[service+" "+name]; ok {
		return name, records, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// web answers for well-known files.
type web func(host string) (status int, header http.Header, body string)

func (w web) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Path != "/.well-known/matrix/server" {
		return nil, fmt.Errorf("unexpected request for %s", r.URL)
	}
	status, header, body := w(r.URL.Host)
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	wellKnown := map[string]string{
		"deleg-literal": `{"m.server":"1.2.3.4"}`, "deleg-literal-port": `{"m.server":"[2001:db8::2]:99"}`,
		"deleg-port": `{"m.server":"matrix.deleg-port:443"}`, "deleg-srv": `{"m.server":"srv"}`, "deleg-old": `{"m.server":"old"}`,
		"deleg-plain": `{"m.server":"plain"}`, "itself": `{"m.server":"itself"}`,
		"nonsense": `{"m.server":"x/y"}`, "no-json": `<html>`, "no-member": `{"server":"elsewhere:1"}`, "huge": `{"m.server":"x", "a":"` + strings.Repeat("x", 60<<10) + `"}`,
	}
	records := dns{
		"matrix-fed srv":      {{Target: "one.srv.", Port: 1}, {Target: "two.srv.", Port: 2}},
		"matrix srv":          {{Target: "not.this.", Port: 3}},
		"matrix old":          {{Target: "old.target.", Port: 4}},
		"matrix-fed nowhere":  {{Target: ".", Port: 0}},
		"matrix-fed nonsense": {{Target: "by.srv.", Port: 5}},
		"matrix-fed itself":   {{Target: "it.self.", Port: 6}},
	}
	r := newResolver(records, &http.Client{Transport: web(func(host string) (int, http.Header, string) {
		if body, ok := wellKnown[host]; ok {
			return 200, nil, body
		}
		if host == "broken" {
			return 0, nil, ""
		}
		return 404, nil, ""
	})})
	for server, want := range map[string]*resolution{
		// 1: literals.
		"1.2.3.4":           {host: "1.2.3.4", tlsName: "1.2.3.4", targets: []string{"1.2.3.4:8448"}},
		"1.2.3.4:99":        {host: "1.2.3.4:99", tlsName: "1.2.3.4", targets: []string{"1.2.3.4:99"}},
		"[2001:db8::1]":     {host: "[2001:db8::1]", tlsName: "2001:db8::1", targets: []string{"[2001:db8::1]:8448"}},
		"[2001:db8::1]:443": {host: "[2001:db8::1]:443", tlsName: "2001:db8::1", targets: []string{"[2001:db8::1]:443"}},
		// 2: a port.
		"deleg-srv:8448": {host: "deleg-srv:8448", tlsName: "deleg-srv", targets: []string{"deleg-srv:8448"}},
		// 3: the well-known file.
		"deleg-literal":      {host: "1.2.3.4", tlsName: "1.2.3.4", targets: []string{"1.2.3.4:8448"}},
		"deleg-literal-port": {host: "[2001:db8::2]:99", tlsName: "2001:db8::2", targets: []string{"[2001:db8::2]:99"}},
		"deleg-port":         {host: "matrix.deleg-port:443", tlsName: "matrix.deleg-port", targets: []string{"matrix.deleg-port:443"}},
		"deleg-srv":          {host: "srv", tlsName: "srv", targets: []string{"one.srv:1", "two.srv:2"}},
		"deleg-old":          {host: "old", tlsName: "old", targets: []string{"old.target:4"}},
		"deleg-plain":        {host: "plain", tlsName: "plain", targets: []string{"plain:8448"}},
		"itself":             {host: "itself", tlsName: "itself", targets: []string{"it.self:6"}},
		// 4 and 5: SRV, also where the file is none.
		"srv":      {host: "srv", tlsName: "srv", targets: []string{"one.srv:1", "two.srv:2"}},
		"old":      {host: "old", tlsName: "old", targets: []string{"old.target:4"}},
		"nonsense": {host: "nonsense", tlsName: "nonsense", targets: []string{"by.srv:5"}},
		// 6: the name.
		"plain":     {host: "plain", tlsName: "plain", targets: []string{"plain:8448"}},
		"broken":    {host: "broken", tlsName: "broken", targets: []string{"broken:8448"}},
		"nowhere":   {host: "nowhere", tlsName: "nowhere", targets: []string{"nowhere:8448"}},
		"no-json":   {host: "no-json", tlsName: "no-json", targets: []string{"no-json:8448"}},
		"no-member": {host: "no-member", tlsName: "no-member", targets: []string{"no-member:8448"}},
		"huge":      {host: "huge", tlsName: "huge", targets: []string{"huge:8448"}},
	} {
		got, err := r.resolve(t.Context(), server)
		if err != nil {
			t.Errorf("%s: %v", server, err)
			continue
		}
		found := *got
		found.expires = time.Time{}
		if !reflect.DeepEqual(&found, want) {
			t.Errorf("%s: got %+v, want %+v", server, found, *want)
		}
	}
	for _, bad := range []string{"", "a b", "a/b", "[::1", "a:99999", "[::1%eth0]"} {
		if got, err := r.resolve(t.Context(), bad); err == nil {
			t.Errorf("%q gave %+v", bad, got)
		}
	}
}

func TestWellKnownIsCached(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	answer := func() (int, http.Header, string) {
		return 200, http.Header{"Cache-Control": {"max-age=3600"}}, `{"m.server":"first:1"}`
	}
	var clock atomic.Int64 // seconds since the epoch
	clock.Store(1_700_000_000)
	r := newResolver(dns{}, &http.Client{Transport: web(func(string) (int, http.Header, string) {
		asked.Add(1)
		return answer()
	})})
	r.now = func() time.Time { return time.Unix(clock.Load(), 0) }
	at := func(d time.Duration, wantTarget string, wantAsked int32) {
		t.Helper()
		clock.Add(int64(d.Seconds()))
		got, err := r.resolve(t.Context(), "a.example")
		if err != nil || got.targets[0] != wantTarget || asked.Load() != wantAsked {
			t.Errorf("got %+v, %v, asked %d times; want %s, %d times", got, err, asked.Load(), wantTarget, wantAsked)
		}
	}
	at(0, "first:1", 1)
	at(59*time.Minute, "first:1", 1)
	// It cannot be read for a while: what it last said holds, and it is asked for ever more seldom.
	answer = func() (int, http.Header, string) { return 0, nil, "" }
	at(2*time.Minute, "first:1", 2)
	at(time.Minute, "first:1", 2)
	at(2*time.Minute, "first:1", 3)
	r.forget("a.example") // as when the server did not answer there
	at(time.Second, "first:1", 3)
	for range 10 {
		clock.Add(3600)
		if _, err := r.resolve(t.Context(), "a.example"); err != nil {
			t.Fatal(err)
		}
	}
	at(0, "a.example:8448", 13)
	answer = func() (int, http.Header, string) { return 200, nil, `{"m.server":"second:2"}` }
	at(time.Hour, "second:2", 14)
	at(23*time.Hour, "second:2", 14)
	at(2*time.Hour, "second:2", 15)
}

func TestConcurrentDiscoveryIsOne(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	arrived, hold := make(chan struct{}, 10), make(chan struct{})
	r := newResolver(dns{}, &http.Client{Transport: web(func(string) (int, http.Header, string) {
		asked.Add(1)
		arrived <- struct{}{}
		<-hold
		return 200, nil, `{"m.server":"b:1"}`
	})})
	first := make(chan error, 1)
	go func() {
		_, err := r.resolve(t.Context(), "a.example")
		first <- err
	}()
	<-arrived
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := r.resolve(ctx, "a.example"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	close(hold)
	if err := <-first; err != nil || asked.Load() != 1 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}

func TestCacheTTL(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		header http.Header
		want   time.Duration
	}{
		{http.Header{}, wellKnownDefaultTTL},
		{http.Header{"Cache-Control": {"max-age=7200"}}, 2 * time.Hour},
		{http.Header{"Cache-Control": {"public", `immutable, Max-Age="7200"`}}, 2 * time.Hour},
		{http.Header{"Cache-Control": {"max-age=1"}}, wellKnownMinTTL},
		{http.Header{"Cache-Control": {"max-age=99999999"}}, wellKnownMaxTTL},
		{http.Header{"Cache-Control": {"max-age=-1"}}, wellKnownDefaultTTL},
		{http.Header{"Cache-Control": {"max-age=99999999999999999999"}}, wellKnownDefaultTTL},
		{http.Header{"Cache-Control": {"no-store, max-age=7200"}}, wellKnownMinTTL},
		{http.Header{"Cache-Control": {"max-age=7200, no-cache"}}, wellKnownMinTTL},
		{http.Header{"Expires": {now.Add(3 * time.Hour).Format(http.TimeFormat)}}, 3 * time.Hour},
		{http.Header{"Expires": {now.Add(-3 * time.Hour).Format(http.TimeFormat)}}, wellKnownMinTTL},
		{http.Header{"Expires": {"0"}}, wellKnownMinTTL},
		{http.Header{"Expires": {now.Add(3 * time.Hour).Format(http.TimeFormat)}, "Cache-Control": {"max-age=7200"}}, 2 * time.Hour},
	} {
		if got := cacheTTL(test.header, now); got != test.want {
			t.Errorf("%v: got %s, want %s", test.header, got, test.want)
		}
	}
}

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"matrix.example.com:443"}`))
	f.Add([]byte(`{"m.server":"[::1]"}`))
	f.Add([]byte(`{"m.server":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		server, err := parseWellKnown(body)
		if err != nil {
			return
		}
		r := newResolver(dns{}, &http.Client{Transport: web(func(string) (int, http.Header, string) { return 404, nil, "" })})
		found, err := r.resolve(t.Context(), server)
		if err != nil || len(found.targets) == 0 || found.tlsName == "" {
			t.Errorf("%q gave %q, which leads to %+v, %v", body, server, found, err)
		}
	})
}

// TestWellKnownRedirects follows redirects, but not away from HTTPS, not without end, and not into denied networks.
func TestWellKnownRedirects(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(nil)
	var privateAsked atomic.Bool
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
		to := map[string]string{
			"/once": "https://127.0.0.1:" + port + "/file", "/private": "https://127.0.0.2:" + port + "/secret",
			"/plain": "http://127.0.0.1:" + port + "/file", "/round": "https://127.0.0.1:" + port + "/round",
		}
		switch target := to[r.URL.Path]; {
		case strings.HasPrefix(r.Host, "127.0.0.2"):
			privateAsked.Store(true)
		case r.URL.Path == "/.well-known/matrix/server":
			http.Redirect(w, r, r.Header.Get("User-Agent"), http.StatusMovedPermanently)
		case target != "":
			http.Redirect(w, r, target, http.StatusFound)
		default:
			_, _ = io.WriteString(w, `{"m.server":"found:1"}`)
		}
	})
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	filter, err := iprange.Parse([]string{"127.0.0.2"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for first, want := range map[string]string{"/once": "found:1", "/private": "", "/plain": "", "/round": ""} {
		client := newWebClient(filter.Dialer(time.Second), &TLSConfig{InsecureSkipVerify: true})
		// The server is told where to send the client first.
		client.Transport = saying{client.Transport, first}
		got, _, err := fetchWellKnown(t.Context(), client, srv.Listener.Addr().String(), time.Now())
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v", first, got, err)
		}
	}
	if privateAsked.Load() {
		t.Error("a denied address was asked")
	}
}

// saying sends a word along in the User-Agent header.
type saying struct {
	http.RoundTripper
	word string
}

func (s saying) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", s.word)
	return s.RoundTripper.RoundTrip(r)
}
