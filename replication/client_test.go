package replication_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/replicationtest"
	"github.com/weft-im/weft/replication/wire"
)

func startAll(t *testing.T, ps ...*process) {
	t.Helper()
	for _, p := range ps {
		p.start()
		t.Cleanup(func() { p.stop(t) })
	}
	synctest.Wait()
}

func TestWaitFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{})
		startAll(t, w, f)
		ctx := context.Background()

		id := w.write(t, db, 2)
		if err := f.fol.WaitFor(ctx, "w", id); err != nil {
			t.Fatal(err)
		}
		if got := f.rows("w"); len(got) != 2 {
			t.Errorf("WaitFor came back before the rows: %q", got)
		}

		// The bound is the context's or the client's, whichever comes first.
		start := time.Now()
		err := f.fol.WaitFor(ctx, "w", 100)
		var wait *replication.WaitError
		if !errors.As(err, &wait) || wait.Stream != "events" || wait.Writer != "w" || wait.Want != 100 || wait.Have != id {
			t.Errorf("got %#v", err)
		}
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("gave up after %v with %v, want the default of 10s", time.Since(start), err)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		start = time.Now()
		if err := f.fol.WaitFor(short, "w", 100); err == nil || time.Since(start) != time.Second {
			t.Errorf("gave up after %v with %v, want the context's 1s", time.Since(start), err)
		}

		pos := replication.NewPosition(id)
		if err := f.fol.WaitForPosition(ctx, pos); err != nil {
			t.Error(err)
		}
		if err := f.fol.WaitForPosition(short, pos.Advance("w", id+1)); !errors.As(err, &wait) || wait.Writer != "w" {
			t.Errorf("got %v for a position that is ahead", err)
		}
		if err := f.fol.WaitForPosition(ctx, pos.WithEpoch(7)); !errors.As(err, &wait) {
			t.Errorf("got %v for a position of another epoch", err)
		}
		if err := f.client.WaitFor(ctx, "typing", "w", 1); !errors.Is(err, replication.ErrNotFollowed) {
			t.Errorf("got %v for a stream that is not followed", err)
		}
		if err := w.client.WaitForPosition(ctx, "events", pos); !errors.Is(err, replication.ErrNotFollowed) {
			t.Errorf("got %v for a stream that is only written", err)
		}
		// Asking after somebody who does not exist must not hold back the floor.
		if err := f.fol.WaitFor(short, "nobody", 5); err == nil {
			t.Error("nobody wrote something")
		}
		if got := f.fol.Position(); !got.IsLevel() || got.Floor() != id {
			t.Errorf("position is %v, want %d", got, id)
		}
	})
}

// A lost last message is noticed quickly when somebody waits for it, and in the end anyway.
func TestLostLastMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{})
		startAll(t, w, f)
		lose := func() int64 {
			net.Script(func(m replicationtest.Message) replicationtest.Action {
				if m.From == "w" {
					return replicationtest.Drop
				}
				return replicationtest.Deliver
			})
			id := w.write(t, db, 1)
			synctest.Wait()
			net.Script(nil)
			return id
		}
		id, start := lose(), time.Now()
		if err := f.fol.WaitFor(context.Background(), "w", id); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 300*time.Millisecond {
			t.Errorf("a waiter noticed after %v", d)
		}
		id = lose()
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if have := f.fol.Position().Get("w"); have != id {
			t.Errorf("nobody noticed: position %d, want %d", have, id)
		}
	})
}

func TestBatchesStayWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{client: replication.Config{CatchUpLimit: 1}})
		var sizes []int
		f.fol.Handle(func(_ context.Context, u update) {
			last := int64(0)
			for _, r := range u.Rows {
				if r.Token != last {
					last, sizes = r.Token, append(sizes, 0)
				}
				sizes[len(sizes)-1]++
			}
		})
		startAll(t, w, f)
		w.write(t, db, 3)
		synctest.Wait()
		net.Partition("f")
		w.write(t, db, 4)
		w.write(t, db, 2)
		net.Heal("f")
		synctest.Wait()
		if !slices.Equal(sizes, []int{3, 4, 2}) {
			t.Errorf("rows by token came as %v, want 3 from the bus, then 4 and 2 from the source", sizes)
		}
	})
}

// Rows are sent as Synapse sends them.
func TestLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, _ := pair(t, net, db, processConfig{})
		ear := net.Bus("ear")
		r := replicationtest.NewRecorder()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- ear.Subscribe(ctx, []string{server, server + "/events"}, r) }()
		synctest.Wait() // it hears all from the start
		startAll(t, w)
		w.write(t, db, 1)
		synctest.Wait()
		w.write(t, db, 2)
		synctest.Wait()
		got := r.Messages()
		slices.Sort(got)
		want := []string{
			"a.test REPLICATE",
			"a.test/events POSITION events w 0 0",
			"a.test/events POSITION events w 0 0",
			"a.test/events RDATA events w 1 \"w-1-0\"\nPOSITION events w 0 1",
			"a.test/events RDATA events w batch \"w-2-0\"\nRDATA events w 2 \"w-2-1\"\nPOSITION events w 1 2",
		}
		if !slices.Equal(slices.Compact(got), slices.Compact(want)) {
			t.Errorf("got\n%q, want\n%q", got, want)
		}
		cancel()
		<-done
	})
}

// Lines of other implementations have no position after their rows.
func TestForeignLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		_, f := pair(t, net, db, processConfig{})
		startAll(t, f)
		bus := net.Bus("synapse")
		say := func(lines ...string) {
			t.Helper()
			for _, l := range lines {
				if err := bus.Publish(context.Background(), server+"/events", l); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		say(`RDATA events s batch "a"`, `RDATA events s batch "b"`)
		if got := f.rows("s"); len(got) > 0 {
			t.Errorf("rows without a token were handed out: %q", got)
		}
		say(`RDATA events s 5 "c"`, `RDATA events s 6 "d"`, `RDATA events s 6 "d"`, "POSITION events s 6 9")
		if got := f.rows("s"); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
			t.Errorf("got %q", got)
		}
		if have := f.fol.Position().Get("s"); have != 9 {
			t.Errorf("position is %d, want 9", have)
		}
		// An interruption in the middle of a batch: it is read from the source.
		db.mu.Lock()
		db.rows["s"] = []row{{10, "e"}, {10, "f"}, {11, "g"}}
		db.mu.Unlock()
		say(`RDATA events s batch "e"`)
		net.Restart()
		say(`RDATA events s 10 "f"`, `RDATA events s 11 "g"`)
		if got := f.rows("s"); !slices.Equal(got, []string{"a", "b", "c", "d", "e", "f", "g"}) {
			t.Errorf("got %q", got)
		}
		// Nonsense is passed over; a row that cannot be read comes from the source.
		db.mu.Lock()
		db.rows["s"] = append(db.rows["s"], row{12, "h"})
		db.mu.Unlock()
		say("", "garbage", "RDATA events s", "POSITION events s x y", "RDATA other s 20 \"x\"\nPOSITION other s 11 20", "POSITION events s 5 4",
			"RDATA events s 12 {\nPOSITION events s 11 12")
		if got := f.rows("s"); len(got) != 8 || got[7] != "h" {
			t.Errorf("got %q", got)
		}
	})
}

func TestHeldRowsKeepOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{})
		startAll(t, w, f)
		// 2 and 3 commit before 1, and nothing is seen of them until 1 has.
		publish := func(position int64, tokens ...int64) {
			t.Helper()
			var rows []row
			for _, token := range tokens {
				rows = append(rows, row{token, fmt.Sprint(token)})
			}
			if err := w.pub.Publish(position, rows...); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		publish(0, 3)
		publish(0, 2)
		if got := f.rows("w"); len(got) > 0 {
			t.Errorf("rows above the position were handed out: %q", got)
		}
		publish(3, 1)
		publish(2)
		publish(4, 4, 6)
		publish(5, 5)
		publish(6)
		if got := strings.Join(f.rows("w"), " "); got != "1 2 3 4 5 6" {
			t.Errorf("got %q", got)
		}
		if err := w.pub.Publish(7, row{6, "late"}); err == nil {
			t.Error("a row behind the position was accepted")
		}
		if w.pub.Position() != 6 {
			t.Errorf("the refused call moved the position to %d", w.pub.Position())
		}
	})
}

// A commit whose answer was lost: everybody looks for its rows, none twice.
func TestDoubt(t *testing.T) {
	t.Parallel()
	for _, found := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			net, db := replicationtest.NewNetwork(), newTable()
			w, f := pair(t, net, db, processConfig{})
			w.start()
			f.start()
			synctest.Wait()
			id := db.begin("w")
			w.pub.Doubt(id)
			rows := db.commit("w", id, 2)
			position := db.done("w", id)
			if !found {
				// Another writer's position moves this one's on before the rows are found.
				w.pub.Advance(position)
			}
			if err := w.pub.Publish(position, rows...); (err == nil) != found {
				t.Errorf("publishing the rows gave %v", err)
			}
			synctest.Wait()
			w.write(t, db, 1)
			synctest.Wait()
			if got := f.rows("w"); !slices.Equal(got, db.stored("w", 0)) {
				t.Errorf("got %q", got)
			}
			w.stop(t)
			f.stop(t)
		})
	}
}

// A process sees its own rows without a bus, in the same way.
func TestAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newTable()
		p := newProcess(t, "master", nil, processConfig{follow: replication.FollowConfig[string]{Source: db.source}})
		sent := make(chan string, 1)
		if err := replication.OnCommand(p.client, func(_ context.Context, c wire.RemoteServerUp) { sent <- c.Server }); err != nil {
			t.Fatal(err)
		}
		startAll(t, p)
		<-p.client.Ready()
		if !p.client.Connected() {
			t.Error("a process that is alone is not connected")
		}
		id := p.write(t, db, 2)
		if err := p.fol.WaitFor(context.Background(), "master", id); err != nil {
			t.Fatal(err)
		}
		if db.reads > 0 {
			t.Error("the process read its own rows from the source")
		}
		if got := p.rows("master"); len(got) != 2 {
			t.Errorf("got %q", got)
		}
		if err := p.client.Send(wire.RemoteServerUp{Server: "b.test"}); err != nil {
			t.Error(err)
		}
		if got := <-sent; got != "b.test" {
			t.Errorf("got %q", got)
		}
		if err := p.client.Send(wire.RemoteServerUp{}); err == nil {
			t.Error("a command without its word was accepted")
		}
	})
}

func TestOwnRowsComeOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		p := newProcess(t, "p", net.Bus("p"), processConfig{follow: replication.FollowConfig[string]{Source: db.source}})
		startAll(t, p)
		for range 20 {
			p.write(t, db, 1)
		}
		net.Partition("p")
		p.write(t, db, 1)
		synctest.Wait()
		if got := p.rows("p"); len(got) != 21 {
			t.Errorf("%d rows came while the bus was away, want 21", len(got))
		}
		net.Heal("p")
		time.Sleep(time.Minute)
		if got := p.rows("p"); !slices.Equal(got, db.stored("p", 0)) {
			t.Errorf("got %q", got)
		}
	})
}

func TestGapsWithoutSource(t *testing.T) {
	t.Parallel()
	for _, source := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			net, db := replicationtest.NewNetwork(), newTable()
			cfg := processConfig{follow: replication.FollowConfig[string]{FromNow: true}}
			if source {
				db.gone = true
				cfg.follow.Source = db.source
			}
			w, f := pair(t, net, db, cfg)
			w.start()
			w.write(t, db, 1)
			synctest.Wait()
			f.start()
			synctest.Wait()
			w.write(t, db, 1)
			synctest.Wait()
			net.Partition("f")
			w.write(t, db, 1)
			w.write(t, db, 1)
			synctest.Wait()
			net.Heal("f")
			synctest.Wait()
			w.write(t, db, 1)
			synctest.Wait()
			if got := strings.Join(f.rows("w"), " "); got != "w-2-0 w-5-0" {
				t.Errorf("got %q, want what was written from the start on, without what was lost", got)
			}
			if want := []string{"w 2 4"}; !slices.Equal(f.gaps, want) {
				t.Errorf("gaps are %q, want %q", f.gaps, want)
			}
			f.stop(t)
			w.stop(t)
		})
	}
}

// Idle writers follow the others without much ado.
func TestIdleWriters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		names := []string{"w", "idle"}
		writers, err := replication.NewWriters(replication.WritersConfig{Instance: "f", Instances: append(names, "f"), StreamWriters: map[string][]string{"events": names}})
		if err != nil {
			t.Fatal(err)
		}
		w, _ := pair(t, net, db, processConfig{})
		f := newProcess(t, "f", net.Bus("f"), processConfig{noPub: true, client: replication.Config{Writers: writers}, follow: replication.FollowConfig[string]{Source: db.source}})
		idle := newProcess(t, "idle", net.Bus("idle"), processConfig{noFol: true, publish: replication.PublisherConfig{OnForeignPosition: db.foreign("idle")}})
		if !f.fol.Position().IsZero() {
			t.Errorf("position is %v before anything was heard", f.fol.Position())
		}
		startAll(t, w, f, idle)
		w.write(t, db, 1)
		synctest.Wait()
		if pos := f.fol.Position(); !pos.IsLevel() || pos.Floor() != 1 {
			t.Errorf("position is %v after the first row, want 1", pos)
		}
		before := idle.client.Snapshot()[0].Sent
		for range 1000 {
			w.write(t, db, 1)
			time.Sleep(time.Millisecond)
		}
		if n := idle.client.Snapshot()[0].Sent - before; n < 5 || n > 15 {
			t.Errorf("the idle writer sent %d positions in a second, want about 10", n)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if pos := f.fol.Position(); !pos.IsLevel() || pos.Floor() != 1001 {
			t.Errorf("position is %v in the end, want 1001", pos)
		}
		// A busy one stays behind, and the token tells who.
		id := db.begin("idle")
		w.write(t, db, 1)
		time.Sleep(time.Second)
		if pos := f.fol.Position(); pos.Get("idle") >= id || pos.Get("w") != id+1 {
			t.Errorf("position is %v while %d is in flight", pos, id)
		}
		idle.pub.Advance(db.done("idle", id))
		time.Sleep(time.Second)
		if pos := f.fol.Position(); pos.Get("idle") < id {
			t.Errorf("position is %v after %d", pos, id)
		}
	})
}

// Silence is cheap: a writer reminds of its position less and less often.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{})
		startAll(t, w, f)
		w.write(t, db, 1)
		time.Sleep(time.Hour)
		if n := w.client.Snapshot()[0].Sent; n < 15 || n > 40 {
			t.Errorf("an idle writer sent %d messages in an hour", n)
		}
	})
}

// Observe brings in what a dead writer committed and never told of.
func TestObserve(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		_, f := pair(t, net, db, processConfig{})
		startAll(t, f)
		db.commit("dead", db.begin("dead"), 2)
		f.client.Observe("events", "dead", 1)
		f.client.Observe("nothing", "dead", 1)
		if err := f.fol.WaitFor(context.Background(), "dead", 1); err != nil {
			t.Fatal(err)
		}
		if got := f.rows("dead"); len(got) != 2 {
			t.Errorf("got %q", got)
		}
	})
}

func TestSlowHandlerIsCaughtUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{client: replication.Config{QueueSize: 4}})
		block := make(chan struct{})
		f.fol.Handle(func(context.Context, update) { <-block })
		startAll(t, w, f)
		for range 200 {
			w.write(t, db, 1)
			synctest.Wait()
		}
		s := f.client.Snapshot()[0]
		if s.Queued > 4 || s.Dropped == 0 {
			t.Errorf("%d updates wait and %d were dropped", s.Queued, s.Dropped)
		}
		if lag := s.Writers[0]; lag.Lag != 1 {
			// Only what was taken off the queue is known to be behind.
			t.Errorf("lag is %+v", lag)
		}
		close(block)
		if err := f.fol.WaitFor(context.Background(), "w", 200); err != nil {
			t.Fatal(err)
		}
		if got := f.rows("w"); !slices.Equal(got, db.stored("w", 0)) {
			t.Errorf("got %d rows: %q", len(got), got)
		}
		if s := f.client.Snapshot()[0]; s.CatchUps == 0 || s.Rows != 200 {
			t.Errorf("snapshot is %+v", s)
		}
	})
}

func TestSourceFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{})
		other := newProcess(t, "other", net.Bus("other"), processConfig{noFol: true})
		startAll(t, w, f, other)
		net.Partition("f")
		w.write(t, db, 1)
		synctest.Wait()
		db.mu.Lock()
		db.failures = 3
		db.mu.Unlock()
		net.Heal("f")
		synctest.Wait()
		w.write(t, db, 1)
		// While the rows of one writer cannot be read, those of another go on.
		id := other.write(t, db, 1)
		synctest.Wait()
		if got := f.rows("other"); len(got) != 1 {
			t.Errorf("rows of the other writer %d wait too: %q", id, got)
		}
		if got := f.rows("w"); len(got) > 0 {
			t.Errorf("rows behind the gap were handed out: %q", got)
		}
		if lag := f.client.Snapshot()[0].Writers[1]; lag.Writer != "w" || lag.Lag == 0 {
			t.Errorf("lag is %+v", lag)
		}
		time.Sleep(2 * time.Second)
		if got := f.rows("w"); !slices.Equal(got, db.stored("w", 0)) {
			t.Errorf("got %q after the source was back", got)
		}
	})
}

func TestCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net := replicationtest.NewNetwork()
		var mu sync.Mutex
		var got []string
		client := func(name string) *replication.Client {
			c, err := replication.NewClient(replication.Config{ServerName: server, Instance: name, Bus: net.Bus(name)})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		a, b := client("a"), client("b")
		hear := func(c *replication.Client, cmd replication.Command) {
			line, err := wire.Format(cmd)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, c.Instance()+": "+line)
		}
		for _, c := range []*replication.Client{a, b} {
			for _, err := range []error{
				replication.OnCommand(c, func(_ context.Context, cmd wire.UserSync) { hear(c, cmd) }),
				replication.OnCommand(c, func(_ context.Context, cmd wire.ClearUserSync) { hear(c, cmd) }),
				replication.OnCommand(c, func(_ context.Context, cmd wire.FederationAck) { hear(c, cmd) }),
				replication.OnCommand(c, func(_ context.Context, cmd wire.LockReleased) { hear(c, cmd) }),
				replication.OnCommand(c, func(_ context.Context, cmd wire.RemoteServerUp) { hear(c, cmd) }),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := replication.OnCommand(b, func(_ context.Context, cmd wire.UserIP) { hear(b, cmd) }); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 2)
		for _, c := range []*replication.Client{a, b} {
			go func() { done <- c.Run(ctx) }()
		}
		synctest.Wait()
		for _, cmd := range []replication.Command{
			wire.UserSync{InstanceID: "a", UserID: "@u:x", DeviceID: "D", Syncing: true, LastSyncMS: 5},
			wire.ClearUserSync{InstanceID: "a"},
			wire.FederationAck{Instance: "a", Token: 3},
			wire.LockReleased{Instance: "a", Lock: "l", Key: "k"},
			wire.UserIP{UserID: "@u:x", AccessToken: "t", IP: "::1"},
			wire.RemoteServerUp{Server: "c.test"},
			wire.CancelTask{TaskID: "nobody-listens"},
		} {
			if err := a.Send(cmd); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		// Those that name a sender do not come back to it.
		want := []string{
			"a: REMOTE_SERVER_UP c.test", "b: CLEAR_USER_SYNC a", "b: FEDERATION_ACK a 3", `b: LOCK_RELEASED ["a","l","k"]`,
			"b: REMOTE_SERVER_UP c.test", `b: USER_IP @u:x ["t","::1","",null,0]`, "b: USER_SYNC a @u:x D start 5",
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got\n%q, want\n%q", got, want)
		}
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// What was published just before the end is still sent.
func TestDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		w, f := pair(t, net, db, processConfig{})
		startAll(t, f)
		w.start()
		synctest.Wait()
		for range 50 {
			w.write(t, db, 1)
		}
		w.stop(t)
		synctest.Wait()
		if got := f.rows("w"); !slices.Equal(got, db.stored("w", 0)) {
			t.Errorf("got %d rows, want 50", len(got))
		}
	})
}

func TestSetupErrors(t *testing.T) {
	t.Parallel()
	for _, cfg := range []replication.Config{
		{}, {ServerName: "a b"}, {ServerName: "a", Instance: "x y"}, {ServerName: "a", QueueSize: -1}, {ServerName: "a", WaitTimeout: -1},
	} {
		if _, err := replication.NewClient(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	writers, err := replication.NewWriters(replication.WritersConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replication.NewClient(replication.Config{ServerName: "a", Instance: "w", Writers: writers}); err == nil {
		t.Error("Writers of another instance were accepted")
	}
	c, err := replication.NewClient(replication.Config{ServerName: "a"})
	if err != nil {
		t.Fatal(err)
	}
	db := newTable()
	if _, err := replication.Follow(c, events, replication.FollowConfig[string]{Source: db.source}); err != nil {
		t.Fatal(err)
	}
	if _, err := replication.Follow(c, events, replication.FollowConfig[string]{}); err != nil {
		t.Errorf("a second follower of the stream is refused: %v", err)
	}
	if _, err := replication.Follow(c, events, replication.FollowConfig[string]{Source: db.source}); err == nil {
		t.Error("two sources were accepted")
	}
	if _, err := replication.Follow(c, replication.Stream[int]{StreamInfo: events.StreamInfo}, replication.FollowConfig[int]{}); err == nil {
		t.Error("another row type was accepted")
	}
	if _, err := replication.Follow(c, replication.Stream[int]{}, replication.FollowConfig[int]{}); err == nil {
		t.Error("a stream without a name was accepted")
	}
	if _, err := replication.NewPublisher(c, events, replication.PublisherConfig{}); err != nil {
		t.Fatal(err)
	}
	if _, err := replication.NewPublisher(c, events, replication.PublisherConfig{}); err == nil {
		t.Error("two publishers were accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	if _, err := replication.Follow(c, events, replication.FollowConfig[string]{}); !errors.Is(err, replication.ErrStarted) {
		t.Errorf("got %v after the start, want ErrStarted", err)
	}
	if err := replication.OnCommand(c, func(context.Context, wire.UserIP) {}); !errors.Is(err, replication.ErrStarted) {
		t.Errorf("got %v after the start, want ErrStarted", err)
	}
	if err := c.Run(ctx); !errors.Is(err, replication.ErrStarted) {
		t.Errorf("got %v from a second Run, want ErrStarted", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClosedBusEndsRun(t *testing.T) {
	t.Parallel()
	bus := replication.NewLocalBus()
	c, err := replication.NewClient(replication.Config{ServerName: "a", Bus: bus})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(context.Background()) }()
	<-c.Ready()
	bus.Close()
	if err := <-done; !errors.Is(err, replication.ErrBusClosed) {
		t.Errorf("Run returned %v, want ErrBusClosed", err)
	}
}

// badCodec cannot write some rows.
type badCodec struct{ replication.Codec[string] }

func (c badCodec) AppendRow(dst []byte, row string) ([]byte, error) {
	if row == "bad" {
		return dst, errors.New("bad row")
	}
	if row == "lines" {
		return append(dst, "\"lines\"\r\n"...), nil
	}
	return c.Codec.AppendRow(dst, row)
}

func TestRowsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		net, db := replicationtest.NewNetwork(), newTable()
		_, f := pair(t, net, db, processConfig{})
		c, err := replication.NewClient(replication.Config{ServerName: server, Instance: "b", Bus: net.Bus("b")})
		if err != nil {
			t.Fatal(err)
		}
		stream := events
		stream.Codec = badCodec{replication.JSONCodec[string]()}
		pub, err := replication.NewPublisher(c, stream, replication.PublisherConfig{})
		if err != nil {
			t.Fatal(err)
		}
		startAll(t, f)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		db.rows["b"] = []row{{1, "good"}, {2, "bad"}, {3, "good"}}
		if err := pub.Publish(3, db.rows["b"]...); err == nil {
			t.Error("no error for the bad row")
		}
		synctest.Wait()
		if err := pub.Publish(4, row{4, "lines"}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := strings.Join(f.rows("b"), " "); got != "good bad good lines" {
			t.Errorf("got %q", got)
		}
		cancel()
		<-done
	})
}
