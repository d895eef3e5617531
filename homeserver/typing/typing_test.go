package typing_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/typing"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rooms is one room, "!room:test", in which everybody but @out:test is.
type rooms struct{}

const room = "!room:test"

func (rooms) Room(_ context.Context, roomID string) (*store.Room, error) {
	if roomID != room && roomID != "!other:test" {
		return nil, storage.ErrNotFound
	}
	return &store.Room{NID: 1, ID: roomID}, nil
}

func (rooms) Membership(_ context.Context, _ storage.RoomNID, userID string) (*store.Member, error) {
	switch userID {
	case "@never:test":
		return nil, nil
	case "@out:test":
		return &store.Member{UserID: userID, Membership: storage.MembershipLeave}, nil
	}
	return &store.Member{UserID: userID, Membership: storage.MembershipJoin}, nil
}

func as(userID string) *requester.Requester { return &requester.Requester{UserID: userID} }

func newService(t *testing.T, p *streamstest.Process) *typing.Service {
	t.Helper()
	s, err := typing.New(typing.Config{Rooms: rooms{}, Client: p.Client, Writers: p.Writers, RPC: p.RPC})
	if err != nil {
		t.Fatal(err)
	}
	p.Run(s.Run)
	return s
}

// watch collects what a service hears of a room.
func watch(s *typing.Service) chan []string {
	heard := make(chan []string, 100)
	s.Handle(func(_ context.Context, u replication.Update[streams.TypingRow]) {
		for _, r := range u.Rows {
			if r.Value.RoomID == room {
				heard <- r.Value.UserIDs
			}
		}
	})
	return heard
}

func hear(t *testing.T, who string, heard chan []string, want ...string) {
	t.Helper()
	select {
	case got := <-heard:
		if !slices.Equal(got, want) {
			t.Fatalf("%s heard %v, want %v", who, got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s heard nothing, want %v", who, want)
	}
}

// Whichever process is asked, and whichever writes the stream, every process hears the same.
func TestTypingOnAnyProcess(t *testing.T) {
	t.Parallel()
	for _, writer := range []string{"master", "worker"} {
		for _, asked := range []int{0, 1} {
			t.Run(fmt.Sprintf("writer %s, process %d", writer, asked), func(t *testing.T) {
				t.Parallel()
				cluster := streamstest.New(t, map[string][]string{"typing": {writer}}, "worker")
				var services []*typing.Service
				var heard []chan []string
				for _, p := range cluster.Processes {
					s := newService(t, p)
					services, heard = append(services, s), append(heard, watch(s))
				}
				cluster.Start(t)
				s, ctx := services[asked], t.Context()
				all := func(want ...string) {
					t.Helper()
					for i := range heard {
						hear(t, cluster.Processes[i].Name, heard[i], want...)
					}
				}
				steps := []struct {
					user   string
					typing bool
					want   []string
				}{
					{"@b:test", true, []string{"@b:test"}},
					{"@b:test", true, nil}, // goes on: no news
					{"@a:test", true, []string{"@a:test", "@b:test"}},
					{"@b:test", false, []string{"@a:test"}},
					{"@b:test", false, nil},
					{"@a:test", false, []string{}},
				}
				for _, step := range steps {
					if err := s.Set(ctx, as(step.user), room, step.typing, 0); err != nil {
						t.Fatal(err)
					}
					if step.want != nil {
						all(step.want...)
					}
				}
				for i, s := range services {
					if r := s.Room(room); len(r.UserIDs) != 0 || r.Token == 0 || r.Writer != writer {
						t.Errorf("%s has %+v", cluster.Processes[i].Name, r)
					}
				}
				for userID, roomID := range map[string]string{"@out:test": room, "@never:test": room, "@a:test": "!unknown:test"} {
					err := s.Set(ctx, as(userID), roomID, true, 0)
					if mx, ok := mxerr.As(err); !ok || mx.Code != "M_FORBIDDEN" {
						t.Errorf("%s in %s: got %v, want M_FORBIDDEN", userID, roomID, err)
					}
				}
				if err := s.Set(ctx, &requester.Requester{UserID: "@ghost:test", ShadowBanned: true}, room, true, 0); err != nil {
					t.Error(err)
				}
				if err := s.Set(ctx, as("@c:test"), room, true, time.Second); err != nil {
					t.Fatal(err)
				}
				all("@c:test") // and not the ghost
				all()          // whose second is over
			})
		}
	}
}

// alone is a service that writes its stream, in a process without others.
func alone(t *testing.T, bus replication.Bus) (*typing.Service, *replication.Client) {
	t.Helper()
	writers, err := replication.NewWriters(replication.WritersConfig{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := replication.NewClient(replication.Config{ServerName: "test", Bus: bus, Writers: writers})
	if err != nil {
		t.Fatal(err)
	}
	node, err := rpc.New(rpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	s, err := typing.New(typing.Config{Rooms: rooms{}, Client: client, Writers: writers, RPC: node})
	if err != nil {
		t.Fatal(err)
	}
	return s, client
}

func TestTypingEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, client := alone(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- client.Run(ctx) }()
		go func() { done <- s.Run(ctx) }()
		<-client.Ready()
		set := func(user string, timeout time.Duration) {
			t.Helper()
			if err := s.Set(ctx, as(user), room, true, timeout); err != nil {
				t.Fatal(err)
			}
		}
		typing := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if got := s.Room(room).UserIDs; !slices.Equal(got, want) {
				t.Errorf("typing are %v, want %v", got, want)
			}
		}
		set("@a:test", 10*time.Second)
		set("@b:test", 20*time.Second)
		time.Sleep(9 * time.Second)
		typing("@a:test", "@b:test")
		set("@a:test", 20*time.Second) // goes on
		time.Sleep(10 * time.Second)
		typing("@a:test", "@b:test")
		time.Sleep(2 * time.Second)
		typing("@a:test")
		time.Sleep(10 * time.Second)
		typing()
		set("@a:test", 0) // 30 seconds
		time.Sleep(29 * time.Second)
		typing("@a:test")
		time.Sleep(2 * time.Second)
		typing()
		set("@a:test", time.Hour) // no more than two minutes
		time.Sleep(121 * time.Second)
		typing()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// A follower that comes late, or misses the writer's restart, ends up knowing what the writer knows.
func TestCatchingUp(t *testing.T) {
	t.Parallel()
	cluster := streamstest.New(t, nil, "worker")
	first := newService(t, cluster.Processes[0])
	late := newService(t, cluster.Processes[1])
	heard := watch(late)
	// Before anybody runs, so that the worker has it from the writer's memory alone.
	if err := first.Set(t.Context(), as("@a:test"), room, true, time.Minute); err != nil {
		t.Fatal(err)
	}
	cluster.Start(t)
	hear(t, "the worker", heard, "@a:test")
}
