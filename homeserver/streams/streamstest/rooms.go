package streamstest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/replication"
)

// Rooms lets a process read and write rooms. The events writer is the main process.
type Rooms struct {
	Store  *store.Store
	Writer *writer.Writer
	tb     testing.TB
}

// Rooms gives the process a store and a writer, whose configuration adjust may change. Call it before Start.
func (p *Process) Rooms(tb testing.TB, adjust ...func(*writer.Config)) *Rooms {
	tb.Helper()
	r := &Rooms{tb: tb}
	var err error
	if r.Store, err = store.New(store.Config{DB: p.DB, ServerName: ServerName}); err != nil {
		tb.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := writer.Config{
		DB: p.DB, Store: r.Store, Writers: p.Writers, RPC: p.RPC,
		Signer: event.Signer{ServerName: ServerName, KeyID: "ed25519:1", Key: key},
	}
	follower, err := replication.Follow(p.Client, streams.Events(), replication.FollowConfig[*streams.EventRow]{})
	if err != nil {
		tb.Fatal(err)
	}
	follower.Handle(func(_ context.Context, u replication.Update[*streams.EventRow]) {
		for _, row := range u.Rows {
			r.Store.Apply(row.Value)
		}
	})
	r.Store.Following()
	if cfg.IDs = p.IDsIf(tb, "events"); cfg.IDs != nil {
		cfg.Publisher, err = replication.NewPublisher(p.Client, streams.Events(), replication.PublisherConfig{
			Position: cfg.IDs.Position(), OnForeignPosition: cfg.IDs.Advance,
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	for _, a := range adjust {
		a(&cfg)
	}
	if r.Writer, err = writer.New(cfg); err != nil {
		tb.Fatal(err)
	}
	p.Run(r.Writer.Run)
	return r
}

// Create makes a room that anybody may join, with the creator in it, and has the others join.
func (r *Rooms) Create(creator string, others ...string) string {
	r.tb.Helper()
	version, ok := event.LookupVersion("11")
	if !ok {
		r.tb.Fatal("no room version 11")
	}
	state := func(typ, key, sender string, content any) writer.Draft {
		b, err := json.Marshal(content)
		if err != nil {
			r.tb.Fatal(err)
		}
		return writer.Draft{Type: typ, StateKey: &key, Sender: sender, Content: b}
	}
	join := map[string]string{"membership": "join"}
	made, err := r.Writer.CreateRoom(r.tb.Context(), version, state("m.room.create", "", creator, map[string]string{"room_version": "11"}),
		state("m.room.member", creator, creator, join), state("m.room.join_rules", "", creator, map[string]string{"join_rule": "public"}))
	if err != nil {
		r.tb.Fatal(err)
	}
	for _, other := range others {
		r.SendDraft(made.RoomID, state("m.room.member", other, other, join))
	}
	return made.RoomID
}

// Send sends a message event with the content, a JSON object, and returns its id.
func (r *Rooms) Send(roomID, sender, content string) string {
	r.tb.Helper()
	return r.SendDraft(roomID, writer.Draft{Type: "m.room.message", Sender: sender, Content: json.RawMessage(content)})
}

// SendDraft sends an event and returns its id.
func (r *Rooms) SendDraft(roomID string, d writer.Draft) string {
	r.tb.Helper()
	results, err := r.Writer.Send(r.tb.Context(), roomID, d)
	if err != nil {
		r.tb.Fatal(err)
	}
	return results[0].EventID
}
