package sender_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/federation/outbox"
	"github.com/weft-im/weft/federation/sender"
	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/typing"
	"github.com/weft-im/weft/replication"
)

// edusUntil waits until a server has got an EDU that meets a condition, and returns all it has got.
func (n *network) edusUntil(t *testing.T, server, what string, cond func(e federation.EDU) bool) []federation.EDU {
	t.Helper()
	var all []federation.EDU
	n.until(t, what, func() bool {
		all = nil
		for _, txn := range n.received[server] {
			all = append(all, txn.edus...)
		}
		return slices.ContainsFunc(all, cond)
	})
	return all
}

// Other servers hear who is typing, and that they have stopped; of users of other servers they hear nothing from here.
func TestTyping(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	var service *typing.Service
	s := newServer(t, net, func(s *server, _ *sender.Config) {
		p := s.Processes[0]
		var err error
		service, err = typing.New(typing.Config{Rooms: s.rooms.Store, Client: p.Client, Writers: p.Writers, RPC: p.RPC})
		if err != nil {
			t.Fatal(err)
		}
		p.Run(service.Run)
	})
	room := s.rooms.Create(alice)
	s.join(room, "@bob:b.example")
	put := func(user string, timeout time.Duration) {
		t.Helper()
		if err := service.Put(t.Context(), room, user, timeout); err != nil {
			t.Fatal(err)
		}
	}
	put("@bob:b.example", time.Minute)
	put(alice, time.Minute)
	put(alice, 0)
	edus := net.edusUntil(t, "b.example", "the end of typing", func(e federation.EDU) bool { return !contentOf(e).Get("typing").Bool() })
	for _, e := range edus {
		if c := contentOf(e); e.Type != "m.typing" || c.Get("user_id").Str != alice || c.Get("room_id").Str != room {
			t.Errorf("b.example got %s %s", e.Type, e.Content)
		}
	}
}

// Receipts of users of this server go out with their threads; private ones do not.
func TestReceipts(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	var publisher *replication.Publisher[streams.ReceiptsRow]
	s := newServer(t, net, func(s *server, _ *sender.Config) {
		var err error
		if publisher, err = replication.NewPublisher(s.Processes[0].Client, streams.Receipts(), replication.PublisherConfig{}); err != nil {
			t.Fatal(err)
		}
	})
	room := s.rooms.Create(alice)
	s.join(room, "@bob:b.example")
	thread := "$thread"
	row := func(token int64, user, kind, eventID string, threadID *string) replication.Row[streams.ReceiptsRow] {
		data := raw(map[string]any{"ts": 1})
		if threadID != nil {
			data = raw(map[string]any{"ts": 1, "thread_id": *threadID})
		}
		return replication.Row[streams.ReceiptsRow]{Token: token, Value: streams.ReceiptsRow{
			RoomID: room, ReceiptType: kind, UserID: user, EventID: eventID, ThreadID: threadID, Data: data,
		}}
	}
	err := publisher.Publish(5, row(1, alice, receipts.ReadPrivate, "$private", nil), row(2, "@bob:b.example", receipts.Read, "$theirs", nil),
		row(3, alice, receipts.Read, "$old", nil), row(4, alice, receipts.Read, "$new", nil), row(5, alice, receipts.Read, "$in", &thread))
	if err != nil {
		t.Fatal(err)
	}
	get := func(e federation.EDU) (eventID, threadID string) {
		r := contentOf(e).Get(gjson.Escape(room) + `.m\.read.` + gjson.Escape(alice))
		return r.Get("event_ids.0").Str, r.Get("data.thread_id").Str
	}
	var got [][2]string
	edus := net.edusUntil(t, "b.example", "a receipt in a thread", func(e federation.EDU) bool { _, in := get(e); return in == thread })
	for _, e := range edus {
		eventID, in := get(e)
		if e.Type != "m.receipt" || eventID == "" {
			t.Errorf("b.example got %s %s", e.Type, e.Content)
		}
		got = append(got, [2]string{eventID, in})
	}
	if !slices.Contains(got, [2]string{"$new", ""}) || !slices.Contains(got, [2]string{"$in", thread}) {
		t.Errorf("b.example got the receipts %q", got)
	}
}

// Presence goes to the servers that share a room with the user.
func TestPresence(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	var publisher *replication.Publisher[streams.PresenceRow]
	s := newServer(t, net, func(s *server, _ *sender.Config) {
		var err error
		if publisher, err = replication.NewPublisher(s.Processes[0].Client, streams.Presence(), replication.PublisherConfig{}); err != nil {
			t.Fatal(err)
		}
	})
	room := s.rooms.Create(alice)
	s.join(room, "@bob:b.example")
	s.rooms.Send(room, alice, message("hello"))
	net.untilBodies(t, "b.example", 1)
	status := "busy"
	for i, user := range []string{"@bob:b.example", "@stranger:" + streamstest.ServerName, alice} {
		row := streams.PresenceRow{UserID: user, State: "online", LastActiveTS: time.Now().UnixMilli(), StatusMsg: &status, CurrentlyActive: true}
		if err := publisher.Publish(int64(i+1), replication.Row[streams.PresenceRow]{Token: int64(i + 1), Value: row}); err != nil {
			t.Fatal(err)
		}
	}
	edus := net.edusUntil(t, "b.example", "presence", func(e federation.EDU) bool { return e.Type == "m.presence" })
	push := contentOf(edus[0]).Get("push").Array()
	if len(push) != 1 || push[0].Get("user_id").Str != alice || push[0].Get("status_msg").Str != status ||
		!push[0].Get("currently_active").Bool() || !push[0].Get("last_active_ago").Exists() {
		t.Errorf("b.example got %s", edus[0].Content)
	}
}

// EDUs that any process hands to the outbox come to the sender, wherever it runs, those with the same key only once.
func TestOutbox(t *testing.T) {
	t.Parallel()
	net := newNetwork()
	s := &server{Cluster: streamstest.New(t, nil, "sender1", "worker1"), t: t, net: net}
	var boxes []*outbox.Outbox
	for _, p := range s.Processes {
		o, err := outbox.New(outbox.Config{Client: p.Client, Writers: p.Writers, RPC: p.RPC})
		if err != nil {
			t.Fatal(err)
		}
		boxes = append(boxes, o)
	}
	s.rooms = s.Processes[0].Rooms(t)
	cfg := s.config(1)
	cfg.Store, cfg.MissedEDUs = s.Processes[1].Rooms(t).Store, boxes[1].Source
	snd, err := sender.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Processes[1].Run(snd.Run)
	s.Start(t)
	untilSenders(t, &worker{name: "sender1", sender: snd})
	held := make(chan struct{})
	net.hang["b.example"] = held
	send := func(from int, body, key string) {
		t.Helper()
		edu := federation.EDU{Type: "org.example.note", Content: raw(map[string]string{"body": body})}
		if err := boxes[from].Send(t.Context(), []string{"b.example"}, edu, key); err != nil {
			t.Fatal(err)
		}
	}
	send(2, "first", "")
	net.until(t, "a transaction", func() bool { return len(net.begun["b.example"]) == 1 })
	send(0, "replaced", "k")
	send(2, "second", "k")
	send(0, "third", "")
	// The sender has them all before it goes on.
	last, _ := s.Processes[0].Client.Published("federation")
	if err := s.Processes[1].Client.WaitFor(t.Context(), "federation", replication.MainInstance, last); err != nil {
		t.Fatal(err)
	}
	close(held)
	edus := net.edusUntil(t, "b.example", "the last EDU", func(e federation.EDU) bool { return contentOf(e).Get("body").Str == "third" })
	var got []string
	for _, e := range edus {
		got = append(got, contentOf(e).Get("body").Str)
	}
	if want := []string{"first", "second", "third"}; !slices.Equal(got, want) {
		t.Errorf("b.example got %q, expected %q", got, want)
	}
	if err := boxes[0].Send(t.Context(), []string{"b.example"}, federation.EDU{Type: "x", Content: json.RawMessage("{")}, ""); err == nil {
		t.Error("an EDU that is not JSON was taken")
	}
}
