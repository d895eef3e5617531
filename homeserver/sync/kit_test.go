package sync_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"strconv"
	gosync "sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/accountdata"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/homeserver/typing"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

const serverName = "weft.test"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proc is a process of a test: what one needs to write rooms and to answer /sync.
type proc struct {
	t        testing.TB
	name     string
	db       *storage.DB
	client   *replication.Client
	store    *store.Store
	writer   *writer.Writer
	sync     *sync.Service
	account  *accountdata.Service
	typing   *typing.Service
	receipts *receipts.Service
}

// options change what a test's processes are made of.
type options struct {
	sync func(*sync.Config)
	// readers are the processes that write no events.
	readers map[string]bool
	// conn is the database. Defaults to a new one.
	conn string
	// eventCache is the store's EventCacheBytes.
	eventCache uint64
}

// newProc starts one process.
func newProc(t testing.TB, change ...func(*sync.Config)) *proc {
	t.Helper()
	o := options{}
	if len(change) > 0 {
		o.sync = change[0]
	}
	return newCluster(t, o, replication.MainInstance)[0]
}

// newCluster starts processes that share a database and a bus, the first of which must be the main process.
func newCluster(t testing.TB, o options, names ...string) []*proc {
	t.Helper()
	conn := o.conn
	if conn == "" {
		conn = storagetest.NewConnString(t)
	}
	bus := replication.NewLocalBus()
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	var eventWriters []string
	for _, n := range names {
		if !o.readers[n] {
			eventWriters = append(eventWriters, n)
		}
	}
	// Servers first: each process must know where the others are.
	servers := make([]*httptest.Server, len(names))
	addresses := map[string]rpc.Address{}
	for i, n := range names {
		servers[i] = httptest.NewUnstartedServer(nil)
		host, port, err := net.SplitHostPort(servers[i].Listener.Addr().String())
		must(t, err)
		p, err := strconv.Atoi(port)
		must(t, err)
		addresses[n] = rpc.Address{Host: host, Port: p}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running gosync.WaitGroup
	var closers []func()
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, c := range closers {
			c()
		}
	})
	procs := make([]*proc, len(names))
	for i, name := range names {
		db, err := storage.Open(ctx, storage.Config{ConnString: conn, ApplicationName: name, MaxConns: 4})
		must(t, err)
		closers = append(closers, db.Close)
		p := &proc{t: t, name: name, db: db}
		procs[i] = p
		writers, err := replication.NewWriters(replication.WritersConfig{
			Instance: name, Instances: names, StreamWriters: map[string][]string{"events": eventWriters},
		})
		must(t, err)
		p.client, err = replication.NewClient(replication.Config{ServerName: serverName, Instance: name, Bus: bus, Writers: writers})
		must(t, err)
		node, err := rpc.New(rpc.Config{Instance: name, Instances: addresses})
		must(t, err)
		closers = append(closers, func() { _ = node.Close() })
		servers[i].Config.Handler = node.Handler()
		servers[i].Start()
		closers = append(closers, servers[i].Close)

		p.store, err = store.New(store.Config{DB: db, ServerName: serverName, EventCacheBytes: o.eventCache})
		must(t, err)
		events, err := replication.Follow(p.client, streams.Events(), replication.FollowConfig[*streams.EventRow]{Source: p.store.EventRows, From: position(t, db, "events")})
		must(t, err)
		events.Handle(func(_ context.Context, u replication.Update[*streams.EventRow]) {
			for _, r := range u.Rows {
				p.store.Apply(r.Value)
			}
		})
		p.store.Following()
		cfg := writer.Config{DB: db, Store: p.store, Writers: writers, RPC: node, Signer: event.Signer{ServerName: serverName, KeyID: "ed25519:1", Key: key}}
		if !o.readers[name] {
			cfg.IDs = openIDs(t, db, "events", name, "")
			pub, err := replication.NewPublisher(p.client, streams.Events(), replication.PublisherConfig{Position: cfg.IDs.Position(), OnForeignPosition: cfg.IDs.Advance})
			must(t, err)
			cfg.Publisher = pub
		}
		p.writer, err = writer.New(cfg)
		must(t, err)

		ac := accountdata.Config{DB: db, From: position(t, db, "account_data"), Client: p.client, Writers: writers, RPC: node}
		if name == names[0] {
			ac.IDs = openIDs(t, db, "account_data", name, accountdata.MaxIDSQL)
		}
		p.account, err = accountdata.New(ac)
		must(t, err)
		rc := receipts.Config{DB: db, From: position(t, db, "receipts"), Rooms: p.store, Markers: p.account, Client: p.client, Writers: writers, RPC: node}
		if name == names[0] {
			rc.IDs = openIDs(t, db, "receipts", name, receipts.MaxIDSQL)
		}
		p.receipts, err = receipts.New(rc)
		must(t, err)
		p.typing, err = typing.New(typing.Config{Rooms: p.store, Client: p.client, Writers: writers, RPC: node})
		must(t, err)

		sc := sync.Config{DB: db, Store: p.store, Replication: p.client, WriterIDs: token.NewWriters(db)}
		if o.sync != nil {
			o.sync(&sc)
		}
		p.sync, err = sync.New(sc)
		must(t, err)
		for _, run := range []func(context.Context) error{p.client.Run, p.writer.Run, p.typing.Run} {
			running.Go(func() {
				if err := run(ctx); err != nil {
					t.Errorf("run a part of %s: %v", name, err)
				}
			})
		}
	}
	for _, p := range procs {
		select {
		case <-p.client.Ready():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s does not get ready", p.name)
		}
	}
	return procs
}

func openIDs(t testing.TB, db *storage.DB, stream, instance, maxID string) *storage.StreamIDs {
	t.Helper()
	ids, err := storage.OpenStreamIDs(context.Background(), storage.StreamIDsConfig{DB: db, Stream: stream, Instance: instance, MaxIDSQL: maxID})
	must(t, err)
	return ids
}

// position is how far a stream has come in the database.
func position(t testing.TB, db *storage.DB, stream string) replication.Position {
	t.Helper()
	states, err := storage.GetStreams(context.Background(), db, []string{stream})
	must(t, err)
	at := map[string]int64{}
	for _, p := range states[0].Positions {
		at[p.Writer] = p.Position
	}
	return replication.PositionOf(int64(states[0].Epochs.Current()), at)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func user(name string) string { return "@" + name + ":" + serverName }

// ask is a /sync request of a test.
type ask struct {
	user, device, since, filter string
	full, after                 bool
	timeout                     time.Duration
}

// try sends a request.
func (p *proc) try(ctx context.Context, a ask) (gjson.Result, error) {
	if a.device == "" {
		a.device = "DEVICE"
	}
	resp, err := p.sync.Sync(ctx, sync.Request{
		Requester: &requester.Requester{UserID: user(a.user), DeviceID: a.device},
		Since:     a.since, Filter: a.filter, FullState: a.full, UseStateAfter: a.after, Timeout: a.timeout,
	})
	if err != nil {
		return gjson.Result{}, err
	}
	var b bytes.Buffer
	if err := resp.Write(&b); err != nil {
		return gjson.Result{}, err
	}
	if !json.Valid(b.Bytes()) {
		return gjson.Result{}, fmt.Errorf("response is not JSON: %s", b.Bytes())
	}
	res := gjson.ParseBytes(b.Bytes())
	if res.Get("next_batch").Str != resp.NextBatch || resp.NextBatch == "" {
		return gjson.Result{}, fmt.Errorf("next_batch is %q in the body, %q beside it", res.Get("next_batch").Str, resp.NextBatch)
	}
	return res, nil
}

// ask is try that must not fail.
func (p *proc) ask(a ask) gjson.Result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := p.try(ctx, a)
	if err != nil {
		p.t.Fatalf("sync %+v: %v", a, err)
	}
	return res
}

// room makes a room of a user with the given preset of history visibility and returns its id.
func (p *proc) room(creator, visibility string, state ...writer.Draft) string {
	p.t.Helper()
	v, ok := event.LookupVersion("11")
	if !ok {
		p.t.Fatal("no room version 11")
	}
	c := user(creator)
	drafts := []writer.Draft{
		stateDraft(c, "m.room.member", c, `{"membership":"join"}`),
		stateDraft(c, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:100},"users_default":50,"state_default":50,"invite":0}`, c)),
		stateDraft(c, "m.room.join_rules", "", `{"join_rule":"public"}`),
		stateDraft(c, "m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, visibility)),
	}
	created, err := p.writer.CreateRoom(context.Background(), v, stateDraft(c, "m.room.create", "", `{"room_version":"11"}`), append(drafts, state...)...)
	must(p.t, err)
	return created.RoomID
}

func stateDraft(sender, typ, key, content string) writer.Draft {
	return writer.Draft{Type: typ, StateKey: &key, Sender: sender, Content: json.RawMessage(content)}
}

func (p *proc) send(roomID string, drafts ...writer.Draft) []writer.Result {
	p.t.Helper()
	res, err := p.writer.Send(context.Background(), roomID, drafts...)
	if err != nil {
		p.t.Fatalf("send to %s: %v", roomID, err)
	}
	return res
}

// say sends a message and returns its event id.
func (p *proc) say(roomID, from, body string) string {
	p.t.Helper()
	return p.send(roomID, message(from, body))[0].EventID
}

func message(from, body string) writer.Draft {
	content, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": body})
	return writer.Draft{Type: "m.room.message", Sender: user(from), Content: content}
}

// member changes a membership; by is who does it.
func (p *proc) member(roomID, by, who, membership string) string {
	p.t.Helper()
	return p.send(roomID, stateDraft(user(by), "m.room.member", user(who), fmt.Sprintf(`{"membership":%q}`, membership)))[0].EventID
}

func (p *proc) join(roomID, who string)  { p.t.Helper(); p.member(roomID, who, who, "join") }
func (p *proc) leave(roomID, who string) { p.t.Helper(); p.member(roomID, who, who, "leave") }

func joined(res gjson.Result, roomID string) gjson.Result {
	return res.Get("rooms.join." + gjson.Escape(roomID))
}

func left(res gjson.Result, roomID string) gjson.Result {
	return res.Get("rooms.leave." + gjson.Escape(roomID))
}

// bodies are the bodies of the messages of a section.
func bodies(section gjson.Result) []string {
	out := []string{}
	for _, e := range section.Get("events").Array() {
		if e.Get("type").Str == "m.room.message" {
			out = append(out, e.Get("content.body").Str)
		}
	}
	return out
}

// pieces are the state events of a section as "type|state_key".
func pieces(section gjson.Result) map[string]gjson.Result {
	out := map[string]gjson.Result{}
	for _, e := range section.Get("events").Array() {
		if e.Get("state_key").Exists() {
			out[e.Get("type").Str+"|"+e.Get("state_key").Str] = e
		}
	}
	return out
}
