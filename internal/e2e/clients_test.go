package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/weft-im/weft/homeserver/cluster"
	"github.com/weft-im/weft/replication"
)

// Two people, one at matrix-js-sdk and one at mautrix-go, are served by different workers behind the router
// and have a whole conversation.
func TestConversationBetweenWorkers(t *testing.T) {
	t.Parallel()
	baseURL, _ := startCluster(t, cluster.Default())
	alice := startJSAgent(t, baseURL)
	aliceName, bobName := namesOnDifferentWorkers(t)

	aliceID := alice.call("register", map[string]any{"username": aliceName, "password": "correct horse battery"})["user_id"].(string)
	bob := registerMautrix(t, baseURL, bobName, "staple battery horse")

	roomID := alice.call("createRoom", map[string]any{"name": "Looms", "preset": "private_chat"})["room_id"].(string)
	alice.call("invite", map[string]any{"room_id": roomID, "user_id": bob.UserID.String()})
	bob.wait("the invite", func(e *event.Event) bool {
		return e.Type == event.StateMember && e.RoomID.String() == roomID && e.GetStateKey() == bob.UserID.String() &&
			e.Content.AsMember().Membership == event.MembershipInvite
	})
	if _, err := bob.JoinRoomByID(t.Context(), id.RoomID(roomID)); err != nil {
		t.Fatalf("bob joins: %v", err)
	}
	alice.waitEvent("timeline", map[string]any{"room_id": roomID, "type": "m.room.member", "sender": bob.UserID.String()})

	// Both ways.
	hello := alice.call("send", map[string]any{"room_id": roomID, "body": "hello from the warp"})["event_id"].(string)
	bob.wait("alice's message", func(e *event.Event) bool {
		return e.ID.String() == hello && e.Content.AsMessage().Body == "hello from the warp"
	})
	reply, err := bob.SendText(t.Context(), id.RoomID(roomID), "hello from the weft")
	if err != nil {
		t.Fatalf("bob sends: %v", err)
	}
	alice.waitEvent("timeline", map[string]any{"event_id": reply.EventID.String(), "sender": bob.UserID.String()})

	// Typing and receipts, each seen by the other.
	if _, err := bob.UserTyping(t.Context(), id.RoomID(roomID), true, 20*time.Second); err != nil {
		t.Fatalf("bob types: %v", err)
	}
	alice.waitEvent("typing", map[string]any{"user_id": bob.UserID.String(), "typing": true})
	alice.call("read", map[string]any{"room_id": roomID, "event_id": reply.EventID.String()})
	bob.wait("alice's receipt", func(e *event.Event) bool {
		if e.Type != event.EphemeralEventReceipt {
			return false
		}
		_, read := e.Content.AsReceipt().GetOrCreate(reply.EventID).GetOrCreate(event.ReceiptTypeRead)[id.UserID(aliceID)]
		return read
	})

	// Alice takes her message back.
	alice.call("redact", map[string]any{"room_id": roomID, "event_id": hello})
	bob.wait("the redaction", func(e *event.Event) bool { return e.Type == event.EventRedaction && e.Sender.String() == aliceID })
	got, err := bob.GetEvent(t.Context(), id.RoomID(roomID), id.EventID(hello))
	if err != nil {
		t.Fatalf("bob reads the redacted event: %v", err)
	}
	if len(got.Content.Raw) != 0 {
		t.Errorf("the redacted event still has content %v", got.Content.Raw)
	}

	// Both log out; their tokens end.
	alice.call("logout", nil)
	bob.stop()
	if _, err := bob.Logout(t.Context()); err != nil {
		t.Fatalf("bob logs out: %v", err)
	}
	bob.AccessToken = bob.formerToken
	if _, err := bob.Whoami(t.Context()); !errors.Is(err, mautrix.MUnknownToken) {
		t.Errorf("bob's token after logging out: got %v, want M_UNKNOWN_TOKEN", err)
	}
}

// namesOnDifferentWorkers returns two user names that the router sends to different generic workers.
func namesOnDifferentWorkers(t *testing.T) (a, b string) {
	t.Helper()
	workers := []string{"worker1", "worker2"}
	a = "alice"
	for _, b := range []string{"bob", "bert", "bill", "basil", "boris", "bruno"} {
		if replication.Rendezvous(workers, a) != replication.Rendezvous(workers, b) {
			return a, b
		}
	}
	t.Fatal("all names belong to one worker")
	return "", ""
}

// mautrixUser is a person at a mautrix-go client that syncs in the background.
type mautrixUser struct {
	*mautrix.Client
	t           *testing.T
	formerToken string
	stop        func()

	mu   sync.Mutex
	seen []*event.Event
	more chan struct{}
}

func registerMautrix(t *testing.T, baseURL, name, password string) *mautrixUser {
	t.Helper()
	client, err := mautrix.NewClient(baseURL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{Username: name, Password: password})
	if err != nil {
		t.Fatalf("register %s: %v", name, err)
	}
	client.UserID, client.DeviceID, client.AccessToken = resp.UserID, resp.DeviceID, resp.AccessToken
	u := &mautrixUser{Client: client, t: t, formerToken: resp.AccessToken, more: make(chan struct{}, 1)}
	syncer := client.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEvent(func(_ context.Context, e *event.Event) {
		u.mu.Lock()
		u.seen = append(u.seen, e)
		u.mu.Unlock()
		select {
		case u.more <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.SyncWithContext(ctx)
	}()
	u.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(u.stop)
	return u
}

// wait blocks until an event that match accepts has come through sync.
func (u *mautrixUser) wait(what string, match func(e *event.Event) bool) {
	u.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		u.mu.Lock()
		for _, e := range u.seen {
			if match(e) {
				u.mu.Unlock()
				return
			}
		}
		u.mu.Unlock()
		select {
		case <-u.more:
		case <-deadline:
			u.mu.Lock()
			defer u.mu.Unlock()
			raw, _ := json.Marshal(u.seen)
			u.t.Fatalf("%s did not see %s; saw %s", u.UserID, what, raw)
		}
	}
}
