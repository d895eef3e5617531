package account_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/cache"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// leaver records who was to leave which room; the first room it is told of refuses, the second fails once.
type leaver struct {
	mu    sync.Mutex
	calls []string
	done  chan struct{}
	want  int
}

func (l *leaver) Leave(_ context.Context, who *account.Requester, roomID, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, roomID)
	if len(l.calls) == l.want {
		close(l.done)
	}
	switch len(l.calls) {
	case 1:
		return mxerr.Forbidden
	case 2:
		return errors.New("no connection")
	}
	return nil
}

func TestChangesOfAccountsReachTheRooms(t *testing.T) {
	t.Parallel()
	cluster := streamstest.New(t, nil, "worker")
	var services []*account.Service
	var rooms []*streamstest.Rooms
	for _, p := range cluster.Processes {
		caches, err := cache.NewGroup(cache.GroupConfig{DB: p.DB, Client: p.Client, IDs: p.IDs(t, "caches")})
		if err != nil {
			t.Fatal(err)
		}
		cfg := options()
		cfg.DB, cfg.Caches = p.DB, caches
		s, err := account.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		services, rooms = append(services, s), append(rooms, p.Rooms(t))
	}
	// Only the worker carries changes out. It polls, for those that the main process makes.
	leave := &leaver{done: make(chan struct{}), want: 3}
	w, err := account.NewRoomWorker(account.RoomWorkerConfig{Accounts: services[1], Rooms: leave, Writer: rooms[1].Writer, Poll: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Processes[1].Run(w.Run)
	cluster.Start(t)
	ctx := t.Context()
	if _, _, err := services[0].Create(ctx, account.NewAccount{Localpart: "anna"}); err != nil {
		t.Fatal(err)
	}
	const anna = "@anna:test"
	joined := []string{rooms[0].Create(anna), rooms[0].Create(anna)}
	left := rooms[0].Create(anna, "@bert:test")
	key, none := anna, ""
	if err := services[0].CheckProfileVisible(ctx, &account.Requester{UserID: "@carl:test"}, "@bert:test"); err != nil {
		t.Errorf("profile of somebody in a public room: %v", err)
	}
	rooms[0].SendDraft(left, writer.Draft{Type: "m.room.join_rules", StateKey: &none, Sender: anna, Content: json.RawMessage(`{"join_rule":"invite"}`)})
	rooms[0].SendDraft(left, writer.Draft{Type: "m.room.member", StateKey: &key, Sender: anna, Content: json.RawMessage(`{"membership":"leave"}`)})

	who := &account.Requester{UserID: anna}
	if err := services[0].CheckProfileVisible(ctx, who, anna); err != nil {
		t.Errorf("own profile: %v", err)
	}
	wantCode(t, "profile of somebody in a room that was left", services[0].CheckProfileVisible(ctx, who, "@bert:test"), 403, "M_FORBIDDEN")
	rooms[0].SendDraft(joined[0], writer.Draft{Type: "m.room.member", StateKey: ptr("@bert:test"), Sender: "@bert:test", Content: json.RawMessage(`{"membership":"join"}`)})
	if err := services[0].CheckProfileVisible(ctx, who, "@bert:test"); err != nil {
		t.Errorf("profile of somebody in the same room: %v", err)
	}
	for i, s := range services {
		name := []string{"First", "Second"}[i]
		if err := s.SetProfileField(ctx, who, anna, "displayname", json.RawMessage(`"`+name+`"`)); err != nil {
			t.Fatal(err)
		}
		eventually(t, name, func() bool {
			return !slices.ContainsFunc(joined, func(room string) bool {
				return memberContent(t, rooms[0].Store, room, anna).Get("displayname").Str != name
			})
		})
	}
	if c := memberContent(t, rooms[0].Store, left, anna); c.Get("membership").Str != "leave" {
		t.Errorf("the change brought the user back into a room: %s", c.Raw)
	}
	eventually(t, "all work done", func() bool {
		var n int
		if err := cluster.DB.QueryRow(ctx, `SELECT count(*) FROM account_room_work`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})

	if err := services[1].Deactivate(ctx, anna, false); err != nil {
		t.Fatal(err)
	}
	select {
	case <-leave.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("rooms left are %v", leave.calls)
	}
	leave.mu.Lock()
	defer leave.mu.Unlock()
	// The first refused and was passed over, the second failed and was tried again.
	if c := leave.calls; c[0] == c[1] || c[1] != c[2] || !slices.Contains(joined, c[0]) || !slices.Contains(joined, c[1]) {
		t.Errorf("rooms left are %v, want one of %v once and the other twice", c, joined)
	}
}

func memberContent(t *testing.T, s *store.Store, roomID, userID string) gjson.Result {
	t.Helper()
	room, err := s.Room(t.Context(), roomID)
	if err != nil {
		t.Fatal(err)
	}
	head, err := s.Head(t.Context(), room.NID)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.StateEvent(t.Context(), head.StateRoot, "m.room.member", userID)
	if err != nil || e == nil {
		t.Fatalf("member event of %s in %s: %v", userID, roomID, err)
	}
	return gjson.ParseBytes(e.Content())
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

// A process that dies leaves its work to others, from where it was.
func TestRoomWorkIsClaimedByOne(t *testing.T) {
	t.Parallel()
	k := newKit(t, nil)
	ctx := t.Context()
	user, _, err := k.Create(ctx, account.NewAccount{Localpart: "anna"})
	if err != nil {
		t.Fatal(err)
	}
	request := func(now int64) {
		t.Helper()
		if err := storage.RequestRoomWork(ctx, k.db, user, storage.RoomWorkProfile, now); err != nil {
			t.Fatal(err)
		}
	}
	claim := func(now int64) *storage.RoomWork {
		t.Helper()
		w, err := storage.ClaimRoomWork(ctx, k.db, now, now+100)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	request(1000)
	first := claim(1000)
	if first == nil || first.UserID != "@anna:test" || claim(1050) != nil {
		t.Fatalf("claimed %+v; work must be claimed by one", first)
	}
	if same, err := storage.AdvanceRoomWork(ctx, k.db, first, 7, 1200); err != nil || !same {
		t.Fatal(same, err)
	}
	if claim(1199) != nil {
		t.Error("a claim that was renewed is not held")
	}
	second := claim(1200)
	if second == nil || second.AfterRoomNID != 7 {
		t.Fatalf("after the claim ran out got %+v, want to go on behind room 7", second)
	}
	request(1000) // a later change, in the same millisecond
	if same, err := storage.AdvanceRoomWork(ctx, k.db, second, 9, 1400); err != nil || same {
		t.Errorf("work that was asked for anew advanced: %v, %v", same, err)
	}
	if err := storage.FinishRoomWork(ctx, k.db, second); err != nil {
		t.Fatal(err)
	}
	third := claim(1250)
	if third == nil || third.AfterRoomNID != 0 {
		t.Fatalf("the later change is %+v, want it from the start", third)
	}
	if err := storage.FinishRoomWork(ctx, k.db, third); err != nil {
		t.Fatal(err)
	}
	if w := claim(9999); w != nil {
		t.Errorf("finished work is still there: %+v", w)
	}
}
