package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/cluster"
)

// unlimited are options with which no rate limit and no cost of hashing stands in the way of a load.
func unlimited() map[string]any {
	rate := map[string]any{"per_second": 1_000_000, "burst_count": 1_000_000}
	return map[string]any{
		"bcrypt_rounds": 4, "rc_message": rate, "rc_registration": rate, "rc_room_creation": rate, "rc_joins_per_room": rate,
		"rc_joins": map[string]any{"local": rate, "remote": rate}, "filter_timeline_limit": 1000,
	}
}

// api is where clients reach the homeserver: the router, or one process.
type api struct {
	t      *testing.T
	client *http.Client
	url    string
}

func newAPI(t *testing.T, address string) *api {
	client, base := cluster.HTTPClient(address)
	client.Timeout = 40 * time.Second
	t.Cleanup(client.CloseIdleConnections)
	return &api{t: t, client: client, url: base}
}

// failure is an answer other than 200, or none: then the status is 0.
type failure struct {
	status int
	text   string
}

func (a *api) do(ctx context.Context, method, path, token string, body, into any) *failure {
	encoded, err := json.Marshal(body)
	if err != nil {
		return &failure{text: err.Error()}
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(encoded))
	if err != nil {
		return &failure{text: err.Error()}
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return &failure{text: err.Error()}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return &failure{text: err.Error()}
	}
	if resp.StatusCode != http.StatusOK {
		return &failure{resp.StatusCode, string(answer)}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return &failure{text: err.Error()}
	}
	return nil
}

// must is do for what happens while all is well.
func (a *api) must(ctx context.Context, method, path, token string, body, into any) {
	a.t.Helper()
	if f := a.do(ctx, method, path, token, body, into); f != nil {
		a.t.Fatalf("%s %s: %d %s", method, path, f.status, f.text)
	}
}

// person is a user at an api.
type person struct {
	*api
	userID, token string

	mu      sync.Mutex
	refused []failure
}

func (a *api) register(ctx context.Context, name string) *person {
	a.t.Helper()
	var out struct {
		UserID string `json:"user_id"`
		Token  string `json:"access_token"`
	}
	a.must(ctx, "POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": name, "password": "correct horse", "auth": map[string]any{"type": "m.login.dummy"},
	}, &out)
	return &person{api: a, userID: out.UserID, token: out.Token}
}

// at is the same user at another process.
func (p *person) at(a *api) *person { return &person{api: a, userID: p.userID, token: p.token} }

func (p *person) createRoom(ctx context.Context) string {
	p.t.Helper()
	var out struct {
		RoomID string `json:"room_id"`
	}
	p.must(ctx, "POST", "/_matrix/client/v3/createRoom", p.token, map[string]any{"preset": "public_chat"}, &out)
	return out.RoomID
}

func (p *person) join(ctx context.Context, room string) {
	p.t.Helper()
	p.must(ctx, "POST", "/_matrix/client/v3/join/"+url.PathEscape(room), p.token, map[string]any{}, nil)
}

// sendUntilAcknowledged sends a message, with the same transaction id again and again as a client does, until it gets
// the event's id. It returns "" when ctx ends first. What no client expects is kept for refusals.
func (p *person) sendUntilAcknowledged(ctx context.Context, room, body string) string {
	path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/%s", url.PathEscape(room), url.PathEscape(body))
	for ctx.Err() == nil {
		var out struct {
			EventID string `json:"event_id"`
		}
		f := p.do(ctx, "PUT", path, p.token, map[string]any{"msgtype": "m.text", "body": body}, &out)
		if f == nil {
			return out.EventID
		}
		if f.status >= 400 && f.status < 500 {
			p.mu.Lock()
			p.refused = append(p.refused, *f)
			p.mu.Unlock()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return ""
}

// refusals are the answers to sends which a client does not try again after.
func (p *person) refusals() []failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.refused)
}

// message is what the tests look at of a message.
type message struct{ id, sender, body string }

type rawEvent struct {
	ID      string `json:"event_id"`
	Type    string `json:"type"`
	Sender  string `json:"sender"`
	Content struct {
		Body string `json:"body"`
	} `json:"content"`
}

func messages(events []rawEvent) (out []message) {
	for _, e := range events {
		if e.Type == "m.room.message" {
			out = append(out, message{e.ID, e.Sender, e.Content.Body})
		}
	}
	return out
}

// timeline reads all messages of a room, the first one first.
func (p *person) timeline(ctx context.Context, room string) (out []message) {
	p.t.Helper()
	for from := ""; ; {
		var page struct {
			Chunk []rawEvent `json:"chunk"`
			End   string     `json:"end"`
		}
		p.must(ctx, "GET", fmt.Sprintf("/_matrix/client/v3/rooms/%s/messages?dir=f&limit=200&from=%s", url.PathEscape(room), from), p.token, nil, &page)
		out = append(out, messages(page.Chunk)...)
		if page.End == "" || len(page.Chunk) == 0 {
			return out
		}
		from = page.End
	}
}

// watcher long-polls /sync and keeps what it sees.
type watcher struct {
	p      *person
	cancel context.CancelFunc
	done   chan struct{}
	more   chan struct{}

	mu       sync.Mutex
	rooms    map[string][]message
	failures []failure
}

// watch starts to long-poll; it has the first answer when it returns.
func watch(ctx context.Context, p *person, rooms []string) *watcher {
	p.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{p: p, cancel: cancel, done: make(chan struct{}), more: make(chan struct{}, 1), rooms: make(map[string][]message)}
	filter := url.QueryEscape(`{"room":{"timeline":{"limit":1000}}}`)
	var first syncAnswer
	p.must(ctx, "GET", "/_matrix/client/v3/sync?filter="+filter, p.token, nil, &first)
	for _, room := range rooms {
		if _, ok := first.Rooms.Join[room]; !ok {
			p.t.Fatalf("%s is not in the first answer", room)
		}
	}
	p.t.Cleanup(func() { w.stop() })
	go func() {
		defer close(w.done)
		for since := first.Next; ctx.Err() == nil; {
			var answer syncAnswer
			f := p.do(ctx, "GET", "/_matrix/client/v3/sync?timeout=30000&filter="+filter+"&since="+url.QueryEscape(since), p.token, nil, &answer)
			if ctx.Err() != nil {
				return
			}
			if f != nil {
				w.mu.Lock()
				w.failures = append(w.failures, *f)
				w.mu.Unlock()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			since = answer.Next
			w.mu.Lock()
			for room, r := range answer.Rooms.Join {
				if r.Timeline.Limited {
					w.failures = append(w.failures, failure{text: "a gap in " + room})
				}
				w.rooms[room] = append(w.rooms[room], messages(r.Timeline.Events)...)
			}
			w.mu.Unlock()
			select {
			case w.more <- struct{}{}:
			default:
			}
		}
	}()
	return w
}

type syncAnswer struct {
	Next  string `json:"next_batch"`
	Rooms struct {
		Join map[string]struct {
			Timeline struct {
				Events  []rawEvent `json:"events"`
				Limited bool       `json:"limited"`
			} `json:"timeline"`
		} `json:"join"`
	} `json:"rooms"`
}

func (w *watcher) seen(room string) []message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.rooms[room])
}

// waitFor waits until n messages of a room were seen.
func (w *watcher) waitFor(ctx context.Context, room string, n int) {
	w.p.t.Helper()
	for len(w.seen(room)) < n {
		select {
		case <-w.more:
		case <-ctx.Done():
			w.mu.Lock()
			defer w.mu.Unlock()
			w.p.t.Fatalf("%s saw %d of %d messages in %s; failures: %v", w.p.userID, len(w.rooms[room]), n, room, w.failures)
		}
	}
}

// stop ends the polling and returns what went wrong on the way.
func (w *watcher) stop() []failure {
	w.cancel()
	<-w.done
	return w.failures
}

// waitFor waits for a condition that gives no other sign.
func waitFor(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

// processPositions asks a process whether it is ready and how far it has followed each writer of each stream. A router
// follows none.
func processPositions(ctx context.Context, p cluster.ProcessState) (ready bool, positions map[string]map[string]int64) {
	client, base := cluster.HTTPClient(p.Address)
	defer client.CloseIdleConnections()
	a := &api{client: client, url: base}
	if f := a.do(ctx, "GET", "/ready", "", nil, nil); f != nil {
		return false, nil
	}
	if p.App == cluster.AppRouter {
		return true, nil
	}
	var status homeserver.InstanceStatus
	if f := a.do(ctx, "GET", "/_weft/status", "", nil, &status); f != nil {
		return false, nil
	}
	positions = make(map[string]map[string]int64)
	for _, s := range status.Streams {
		positions[s.Stream] = make(map[string]int64)
		for _, w := range s.Writers {
			positions[s.Stream][w.Writer] = w.Position
		}
	}
	return true, positions
}
