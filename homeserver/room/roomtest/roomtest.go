// Package roomtest wires what rooms need, store, writer and room service, on a PostgreSQL database of a test's own, for
// tests of what stands on them.
package roomtest

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/signingkey"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// ServerName is the name of the kit's server.
const ServerName = "example.org"

// Kit is a server reduced to its rooms.
type Kit struct {
	DB     *storage.DB
	Store  *store.Store
	Writer *writer.Writer
	Rooms  *room.Service
	Signer event.Signer

	tb       testing.TB
	mu       sync.Mutex
	profiles map[string][2]string
}

// New returns a kit that stops with the test. change, which may be nil, adjusts the configuration of the room service.
func New(tb testing.TB, change func(*room.Config)) *Kit {
	tb.Helper()
	ctx := tb.Context()
	k := &Kit{DB: storagetest.New(tb), tb: tb, profiles: map[string][2]string{}}
	var err error
	if k.Store, err = store.New(store.Config{DB: k.DB, ServerName: ServerName}); err != nil {
		tb.Fatal(err)
	}
	ids, err := storage.OpenStreamIDs(ctx, storage.StreamIDsConfig{DB: k.DB, Stream: "events", Instance: replication.MainInstance})
	if err != nil {
		tb.Fatal(err)
	}
	backfillIDs, err := storage.OpenStreamIDs(ctx, storage.StreamIDsConfig{DB: k.DB, Stream: "backfill", Instance: replication.MainInstance})
	if err != nil {
		tb.Fatal(err)
	}
	key := signingkey.Generate()
	k.Signer = event.Signer{ServerName: ServerName, KeyID: key.ID, Key: key.Private}
	k.Writer, err = writer.New(writer.Config{
		DB: k.DB, Store: k.Store, IDs: ids, BackfillIDs: backfillIDs, Signer: k.Signer,
		Log: zerolog.New(zerolog.NewTestWriter(tb)).Level(zerolog.WarnLevel),
	})
	if err != nil {
		tb.Fatal(err)
	}
	// The writer is the only one and tells the store of all it writes, which is what following the stream would do.
	k.Store.Following()
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- k.Writer.Run(run) }()
	tb.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			tb.Errorf("writer: %v", err)
		}
	})
	cfg := room.Config{
		ServerName: ServerName, DB: k.DB, Store: k.Store, Writer: k.Writer, Profiles: k, WriterIDs: replication.NewWriterIDs(),
	}
	if change != nil {
		change(&cfg)
	}
	if k.Rooms, err = room.New(cfg); err != nil {
		tb.Fatal(err)
	}
	return k
}

// Profile implements room.Profiles.
func (k *Kit) Profile(_ context.Context, userID string) (displayName, avatarURL string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.profiles[userID]
	return p[0], p[1], nil
}

// SetProfile gives a user a display name and an avatar URL.
func (k *Kit) SetProfile(who *requester.Requester, displayName, avatarURL string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.profiles[who.UserID] = [2]string{displayName, avatarURL}
}

// User returns a user of the server, on a device of their own.
func (k *Kit) User(localpart string) *requester.Requester {
	return &requester.Requester{UserID: "@" + localpart + ":" + ServerName, DeviceID: "DEVICE" + localpart}
}

// Create makes a room and returns its id.
func (k *Kit) Create(who *requester.Requester, req room.CreateRequest) string {
	k.tb.Helper()
	id, err := k.Rooms.Create(k.tb.Context(), who, req)
	if err != nil {
		k.tb.Fatalf("create room: %v", err)
	}
	return id
}

// Join joins a room.
func (k *Kit) Join(who *requester.Requester, roomID string) {
	k.tb.Helper()
	if _, err := k.Rooms.Join(k.tb.Context(), who, roomID, room.JoinRequest{}); err != nil {
		k.tb.Fatalf("%s joins: %v", who.UserID, err)
	}
}

// Leave leaves a room.
func (k *Kit) Leave(who *requester.Requester, roomID string) {
	k.tb.Helper()
	if err := k.Rooms.Leave(k.tb.Context(), who, roomID, ""); err != nil {
		k.tb.Fatalf("%s leaves: %v", who.UserID, err)
	}
}

// Invite invites a user.
func (k *Kit) Invite(who *requester.Requester, roomID string, target *requester.Requester) {
	k.tb.Helper()
	if err := k.Rooms.Invite(k.tb.Context(), who, roomID, target.UserID, ""); err != nil {
		k.tb.Fatalf("%s invites %s: %v", who.UserID, target.UserID, err)
	}
}

// Say sends a text message and returns its event id.
func (k *Kit) Say(who *requester.Requester, roomID, body string) string {
	k.tb.Helper()
	return k.Send(who, roomID, "m.room.message", map[string]any{"msgtype": "m.text", "body": body})
}

// Send sends a message event and returns its event id.
func (k *Kit) Send(who *requester.Requester, roomID, typ string, content any) string {
	k.tb.Helper()
	id, err := k.Rooms.Send(k.tb.Context(), who, roomID, room.SendRequest{Type: typ, Content: k.json(content)})
	if err != nil {
		k.tb.Fatalf("%s sends %s: %v", who.UserID, typ, err)
	}
	return id
}

// SetState sends a state event and returns its event id.
func (k *Kit) SetState(who *requester.Requester, roomID, typ, stateKey string, content any) string {
	k.tb.Helper()
	id, err := k.Rooms.SendState(k.tb.Context(), who, roomID, stateKey, room.SendRequest{Type: typ, Content: k.json(content)})
	if err != nil {
		k.tb.Fatalf("%s sets %s: %v", who.UserID, typ, err)
	}
	return id
}

// State returns the content of a piece of a room's current state as a user reads it, "" where there is none.
func (k *Kit) State(who *requester.Requester, roomID, typ, stateKey string) string {
	k.tb.Helper()
	raw, err := k.Rooms.StateEvent(k.tb.Context(), who, roomID, typ, stateKey, false)
	if err != nil {
		return ""
	}
	return string(raw)
}

func (k *Kit) json(v any) json.RawMessage {
	k.tb.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		k.tb.Fatal(err)
	}
	return raw
}

// Follow returns a room service with caches of its own, as on another process that follows what k writes but has not read
// anything yet.
func Follow(tb testing.TB, k *Kit) *room.Service {
	tb.Helper()
	st, err := store.New(store.Config{DB: k.DB, ServerName: ServerName})
	if err != nil {
		tb.Fatal(err)
	}
	st.Following()
	svc, err := room.New(room.Config{
		ServerName: ServerName, DB: k.DB, Store: st, Writer: k.Writer, Profiles: k, WriterIDs: replication.NewWriterIDs(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return svc
}
