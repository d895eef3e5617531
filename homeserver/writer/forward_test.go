package writer_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage/storagetest"
)

// cluster is two writers and a process that writes no rooms, which reach one another over HTTP.
type cluster struct {
	writers map[string]*instance
	edge    *writer.Writer
	servers map[string]*httptest.Server
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	connString := storagetest.NewConnString(t)
	names := []string{"w1", "w2", "edge"}
	c := &cluster{writers: map[string]*instance{}, servers: map[string]*httptest.Server{}}
	handlers := map[string]*http.ServeMux{}
	addresses := map[string]rpc.Address{}
	for _, name := range names {
		handlers[name] = http.NewServeMux()
		c.servers[name] = httptest.NewServer(handlers[name])
		t.Cleanup(c.servers[name].Close)
		host, port, err := net.SplitHostPort(c.servers[name].Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		addresses[name] = rpc.Address{Host: host, Port: n}
	}
	for _, name := range names {
		others := map[string]rpc.Address{}
		for k, a := range addresses {
			if k != name {
				others[k] = a
			}
		}
		node, err := rpc.New(rpc.Config{Instance: name, Instances: others})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = node.Close() })
		writers, err := replication.NewWriters(replication.WritersConfig{
			Instance: name, Instances: names, StreamWriters: map[string][]string{"events": {"w1", "w2"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		handlers[name].Handle("/", node.Handler())
		adjust := func(cfg *writer.Config) { cfg.RPC, cfg.Writers = node, writers }
		if name != "edge" {
			c.writers[name] = start(t, openDB(t, connString), name, adjust)
			continue
		}
		db := openDB(t, connString)
		s, err := store.New(store.Config{DB: db, ServerName: server})
		if err != nil {
			t.Fatal(err)
		}
		cfg := writer.Config{DB: db, Store: s, Signer: signer()}
		adjust(&cfg)
		if c.edge, err = writer.New(cfg); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestForwarding(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	w1, w2 := c.writers["w1"], c.writers["w2"]
	owners := map[string]int{}
	for i := range 12 {
		room, err := (&instance{Writer: c.edge, t: t}).tryCreate(t.Context(), []string{"11", "12"}[i%2])
		if err != nil {
			t.Fatalf("create room: %v", err)
		}
		if len(room.Results) != 5 || room.RoomNID == 0 {
			t.Fatalf("created %+v", room)
		}
		d := message(alice, "hi")
		d.DeviceID, d.TxnID = "D", "1"
		first, err := c.edge.Send(t.Context(), room.RoomID, d)
		if err != nil {
			t.Fatal(err)
		}
		owners[first[0].Writer]++
		// From anywhere it is the same event.
		for _, w := range []*writer.Writer{c.edge, w1.Writer, w2.Writer} {
			again, err := w.Send(t.Context(), room.RoomID, d)
			if err != nil || again[0].EventID != first[0].EventID || !again[0].Duplicate || again[0].Writer != first[0].Writer {
				t.Errorf("sent again: %+v, %v; first %+v", again, err, first)
			}
		}
		_, err = c.edge.Send(t.Context(), room.RoomID, message(bob, "hi"))
		mx, ok := mxerr.As(err)
		if !ok || mx.Status != 403 || !errors.Is(err, mxerr.Forbidden) || mx.Message == "" {
			t.Errorf("refusal through another process: got %v", err)
		}
		m := newModel(t, checkLine(t, w1.db, room.RoomID))
		user := "@a:" + remote
		join := m.build(user, event.TypeMember, &user, `{"membership":"join"}`, m.ends...)
		if res, err := c.edge.Receive(t.Context(), room.RoomID, writer.Received{Event: join}); err != nil || res[0].EventID != join.ID() || res[0].Rejected {
			t.Errorf("receive through another process: %+v, %v", res, err)
		}
		_, _ = m.receive(join)
		said := m.build(user, "m.room.message", nil, `{}`, join.ID())
		_, _ = m.receive(said)
		last := m.build(user, "m.room.message", nil, `{}`, said.ID())
		var missing *writer.MissingEventsError
		if _, err := c.edge.Receive(t.Context(), room.RoomID, writer.Received{Event: last}); !errors.As(err, &missing) || len(missing.Prev) != 1 || missing.Prev[0] != said.ID() {
			t.Errorf("missing events through another process: got %v", err)
		}
		checkLine(t, w1.db, room.RoomID)
	}
	if owners["w1"] == 0 || owners["w2"] == 0 {
		t.Errorf("rooms went to %v", owners)
	}
}

func TestForwardingToUnreachableOwner(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	var room string
	for i := 0; room == ""; i++ {
		created := c.writers["w1"].create("11")
		if created.Results[0].Writer == "w1" {
			room = created.RoomID
		}
		if i > 20 {
			t.Fatal("no room is w1's")
		}
	}
	c.servers["w1"].Close()
	ctx, cancel := contextWithTimeout(t)
	defer cancel()
	_, err := c.edge.Send(ctx, room, message(alice, "hi"))
	mx, ok := mxerr.As(err)
	if !ok || mx.Status < 500 || mx.Code != "M_UNKNOWN" {
		t.Errorf("got %v, want a 5xx M_UNKNOWN", err)
	}
}
