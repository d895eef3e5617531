package sender_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/federation/sender"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const alice = "@alice:" + streamstest.ServerName

// server is this server: one process that writes events, and the senders of the test.
type server struct {
	*streamstest.Cluster
	t      *testing.T
	rooms  *streamstest.Rooms
	stores []*store.Store
	net    *network
}

// newServer starts a server whose main process sends to the others of net.
func newServer(t *testing.T, net *network, edit ...func(*server, *sender.Config)) *server {
	t.Helper()
	s := &server{Cluster: streamstest.New(t, nil), t: t, net: net}
	main := s.Processes[0]
	s.rooms = main.Rooms(t)
	s.stores = append(s.stores, s.rooms.Store)
	cfg := s.config(0)
	for _, e := range edit {
		e(s, &cfg)
	}
	snd, err := sender.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	net.wake = snd.Wake
	main.Run(snd.Run)
	s.Start(t)
	untilSenders(t, &worker{name: main.Name, sender: snd})
	return s
}

func (s *server) config(process int) sender.Config {
	p := s.Processes[process]
	return sender.Config{
		ServerName: streamstest.ServerName, Instance: p.Name, DB: p.DB, Store: s.rooms.Store, Replication: p.Client,
		WriterIDs: token.NewWriters(p.DB), Transport: s.net,
	}
}

// join puts users of other servers into a room, behind the writer's back.
func (s *server) join(roomID string, users ...string) {
	s.t.Helper()
	const sql = `
		WITH made AS (INSERT INTO user_ids (user_id) SELECT unnest($2::text[]) ON CONFLICT (user_id) DO UPDATE SET user_id = excluded.user_id RETURNING user_nid)
		INSERT INTO memberships (room_nid, user_nid, membership, event_nid, sender_nid, is_local)
		SELECT r.room_nid, made.user_nid, 2, h.last_event_nid + 1, made.user_nid, false FROM rooms r JOIN room_heads h USING (room_nid), made WHERE r.room_id = $1
		ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = 2, event_nid = excluded.event_nid`
	if _, err := s.DB.Exec(s.t.Context(), sql, roomID, users); err != nil {
		s.t.Fatal(err)
	}
	s.forget()
}

// leave takes a user of another server out of a room.
func (s *server) leave(roomID, user string) {
	s.t.Helper()
	const sql = `
		UPDATE memberships m SET membership = 4, event_nid = h.last_event_nid FROM rooms r, room_heads h, user_ids u
		WHERE r.room_id = $1 AND h.room_nid = r.room_nid AND m.room_nid = r.room_nid AND u.user_id = $2 AND m.user_nid = u.user_nid`
	if _, err := s.DB.Exec(s.t.Context(), sql, roomID, user); err != nil {
		s.t.Fatal(err)
	}
	s.forget()
}

// forget has the processes see what was done behind their backs.
func (s *server) forget() {
	for _, st := range s.stores {
		st.Forget()
	}
}

// message is the content of a message.
func message(body any) string { return fmt.Sprintf(`{"msgtype":"m.text","body":"%v"}`, body) }

// servers are the names of n servers, and the ids of a user on each.
func servers(n int) (names, users []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("s%d.example", i))
		users = append(users, "@u:"+names[i])
	}
	return names, users
}

// network is the other servers.
type network struct {
	mu       sync.Mutex
	changed  chan struct{}
	begun    map[string][]transaction // also what has not arrived yet
	received map[string][]transaction
	down     map[string]bool          // do not answer
	hang     map[string]chan struct{} // answer when the channel is closed
	wake     func(server string)
	answer   func(server string) error
}

type transaction struct {
	id     string
	bodies []string // of messages; the types of other events
	edus   []federation.EDU
	failed bool
}

func newNetwork() *network {
	return &network{changed: make(chan struct{}), begun: map[string][]transaction{}, received: map[string][]transaction{}, down: map[string]bool{}, hang: map[string]chan struct{}{}}
}

var errDown = errors.New("down")

// SendTransaction implements sender.Transport.
func (n *network) SendTransaction(ctx context.Context, server, txnID string, t *federation.Transaction) (map[string]federation.PDUResult, error) {
	txn := transaction{id: txnID, edus: t.EDUs}
	for _, p := range t.PDUs {
		v := gjson.ParseBytes(p)
		if body := v.Get("content.body"); body.Exists() {
			txn.bodies = append(txn.bodies, body.Str)
		} else {
			txn.bodies = append(txn.bodies, v.Get("type").Str)
		}
	}
	n.mu.Lock()
	hang, down := n.hang[server], n.down[server]
	n.begun[server] = append(n.begun[server], txn)
	n.tell()
	if down || hang == nil {
		n.receive(server, txn, down)
	}
	n.mu.Unlock()
	if down {
		return nil, &federation.ConnectionError{Destination: server, Err: errDown}
	}
	if hang != nil {
		select {
		case <-hang:
			n.mu.Lock()
			n.receive(server, txn, false)
			n.mu.Unlock()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if n.answer != nil {
		return nil, n.answer(server)
	}
	return nil, nil
}

func (n *network) receive(server string, txn transaction, failed bool) {
	txn.failed = failed
	n.received[server] = append(n.received[server], txn)
	n.tell()
}

func (n *network) tell() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// RetryAt implements sender.Transport.
func (n *network) RetryAt(context.Context, string) (time.Time, error) { return time.Time{}, nil }

func (n *network) setDown(down bool, servers ...string) {
	n.mu.Lock()
	for _, s := range servers {
		n.down[s] = down
	}
	n.mu.Unlock()
	if !down {
		for _, s := range servers {
			n.wake(s)
		}
	}
}

// bodies are those of the messages a server has got, in order.
func (n *network) bodies(server string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bodiesLocked(server)
}

func (n *network) bodiesLocked(server string) []string {
	var out []string
	for _, t := range n.received[server] {
		if !t.failed {
			out = append(out, t.bodies...)
		}
	}
	return out
}

// transactions are those that have reached a server, or were lost on the way.
func (n *network) transactions(server string) []transaction {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.received[server])
}

// until waits until what has arrived meets a condition.
func (n *network) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		n.mu.Lock()
		ok, changed := cond(), n.changed
		n.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// untilBodies waits until a server has got so many messages.
func (n *network) untilBodies(t *testing.T, server string, count int) {
	t.Helper()
	n.until(t, fmt.Sprintf("%d messages at %s", count, server), func() bool { return len(n.bodiesLocked(server)) >= count })
}

// cursor is what the database says of a destination.
func (s *server) cursor(destination string) (sent int64, txnID string) {
	s.t.Helper()
	err := s.DB.QueryRow(s.t.Context(), `SELECT sent_nid, coalesce(txn_id, '') FROM outbound_cursors WHERE destination = $1`, destination).Scan(&sent, &txnID)
	if err != nil && !errors.Is(storage.TranslateError(err), storage.ErrNotFound) {
		s.t.Fatal(err)
	}
	return sent, txnID
}

// untilSettled waits until the database says that a destination has been sent everything.
func (s *server) untilSettled(destination string) {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		var open int
		err := s.DB.QueryRow(s.t.Context(), `
			SELECT count(*) FROM outbound_cursors c WHERE destination = $1 AND txn_id IS NULL
			AND sent_nid >= (SELECT max(event_nid) FROM events WHERE outbound)`, destination).Scan(&open)
		if err != nil {
			s.t.Fatal(err)
		}
		if open == 1 {
			return
		}
		if time.Now().After(deadline) {
			sent, txn := s.cursor(destination)
			s.t.Fatalf("%s is not settled: sent up to %d, transaction %q", destination, sent, txn)
		}
		time.Sleep(5 * time.Millisecond) // the database cannot tell when it changes
	}
}

func contentOf(e federation.EDU) gjson.Result { return gjson.ParseBytes(e.Content) }

func raw(v any) json.RawMessage {
	b, _ := json.Marshal(v)
	return b
}
