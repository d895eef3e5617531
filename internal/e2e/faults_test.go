package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver/cluster"
)

// What happens in the middle of load, and how many answers it may cost those who long-poll on workers that it does not
// hit.
type fault struct {
	name  string
	cause func(t *testing.T, dir string)
	// hits is the worker whose long-polling clients are cut off, "" for none.
	hits string
	// shared says that what every process needs goes away, so that anybody's request may fail.
	shared bool
}

func faults() []fault {
	kill := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { killProcess(t, dir, name) }
	}
	return []fault{
		{name: "generic worker killed", cause: kill("worker1"), hits: "worker1"},
		{name: "event persister killed", cause: kill("persister1")},
		{name: "both event persisters killed", cause: func(t *testing.T, dir string) {
			killProcess(t, dir, "persister1")
			killProcess(t, dir, "persister2")
		}},
		{name: "main process killed", cause: kill("master")},
		{name: "router killed", cause: kill("router")},
		{name: "Redis restarted", cause: restartRedis},
		{name: "PostgreSQL restarted", cause: signalPostgres(syscall.SIGINT), shared: true},
		{name: "PostgreSQL crashed", cause: signalPostgres(syscall.SIGQUIT), shared: true},
	}
}

// Whatever dies in the middle of load: no acknowledged event is lost, none is there twice, each room's order is one and
// the same for everybody, those who long-poll elsewhere go on, and what comes back catches up.
func TestFaultsUnderLoad(t *testing.T) {
	t.Parallel()
	topology := cluster.Default()
	for name, value := range unlimited() {
		topology.Options[name] = value
	}
	url, dir := startCluster(t, topology)
	for i, f := range faults() {
		ok := t.Run(f.name, func(t *testing.T) { underLoad(t, url, dir, strconv.Itoa(i), f) })
		if !ok {
			return // what the cluster does afterwards says nothing
		}
	}
}

const (
	// loadSenders send each into loadRooms rooms in turn.
	loadSenders, loadRooms = 6, 4
	// loadBefore and loadAfter are how many messages each sender has sent when the fault comes, and sends after it.
	loadBefore, loadAfter = 10, 30
)

// underLoad has people talk while f happens, and compares what they were told with what there is.
func underLoad(t *testing.T, url, dir, run string, f fault) {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	router := newAPI(t, url)
	senders := make([]*person, loadSenders)
	for i := range senders {
		senders[i] = router.register(ctx, fmt.Sprintf("s%s-%d", run, i))
	}
	rooms := make([]string, loadRooms)
	for i := range rooms {
		rooms[i] = senders[0].createRoom(ctx)
		for _, p := range senders[1:] {
			p.join(ctx, rooms[i])
		}
	}
	// They long-poll at one worker each, without the router.
	watchers := map[string]*watcher{}
	for _, name := range []string{"worker1", "worker2"} {
		p := router.register(ctx, "w"+run+"-"+name)
		for _, room := range rooms {
			p.join(ctx, room)
		}
		watchers[name] = watch(ctx, p.at(newAPI(t, "unix:"+filepath.Join(dir, "run", name+".sock"))), rooms)
	}

	var before, after atomic.Int64
	struck := make(chan struct{})
	acked := make(chan map[string]string, len(senders)) // event id by body
	for i, p := range senders {
		go func() {
			sent := make(map[string]string)
			defer func() { acked <- sent }()
			for n := range loadBefore + loadAfter {
				if n == loadBefore {
					before.Add(1)
					<-struck
				}
				room := rooms[(n+i)%len(rooms)]
				body := fmt.Sprintf("%s/%d/%03d", run, i, n)
				id := p.sendUntilAcknowledged(ctx, room, body)
				if id == "" {
					return
				}
				sent[room+" "+body] = id
				if n >= loadBefore {
					after.Add(1)
				}
			}
		}()
	}
	// The fault comes while requests are under way: senders are let go first.
	waitFor(ctx, t, "senders at work", func() bool { return before.Load() == loadSenders })
	close(struck)
	waitFor(ctx, t, "requests under way", func() bool { return after.Load() > 0 })
	began := time.Now()
	f.cause(t, dir)
	all := make(map[string]string)
	for range senders {
		for body, id := range <-acked {
			all[body] = id
		}
	}
	t.Logf("%d messages acknowledged, the last %s after the fault", len(all), time.Since(began).Round(time.Millisecond))
	if len(all) != loadSenders*(loadBefore+loadAfter) {
		t.Fatalf("%d of %d messages were acknowledged", len(all), loadSenders*(loadBefore+loadAfter))
	}

	waitCaughtUp(ctx, t, dir)
	for _, room := range rooms {
		timeline := senders[0].timeline(ctx, room)
		checkTimeline(t, room, timeline, all)
		for name, w := range watchers {
			w.waitFor(ctx, room, len(timeline))
			if got := w.seen(room); !slices.Equal(got, timeline) {
				t.Errorf("%s: the client of %s saw\n%v\nthe timeline is\n%v", room, name, ids(got), ids(timeline))
			}
		}
	}
	for name, w := range watchers {
		failures := w.stop()
		if len(failures) > 0 && name != f.hits && !f.shared {
			t.Errorf("the client of %s was not to notice: %v", name, failures)
		}
		for _, e := range failures {
			// A client that is told 401 logs out, one that is told 403 or 404 gives up.
			if e.status >= 400 && e.status < 500 {
				t.Errorf("the client of %s was told %d %s", name, e.status, e.text)
			}
		}
	}
	for _, p := range senders {
		for _, e := range p.refusals() {
			t.Errorf("%s was told %d %s", p.userID, e.status, e.text)
		}
	}
}

// checkTimeline compares a room's messages with what the senders were told.
func checkTimeline(t *testing.T, room string, timeline []message, acked map[string]string) {
	t.Helper()
	count := make(map[string]int)
	last := make(map[string]string) // of a sender
	for _, m := range timeline {
		count[m.body]++
		if id, ok := acked[room+" "+m.body]; !ok || id != m.id {
			t.Errorf("%s: %s has the id %s, its sender was told %q", room, m.body, m.id, id)
		}
		if m.body <= last[m.sender] {
			t.Errorf("%s: %s comes after %s", room, m.body, last[m.sender])
		}
		last[m.sender] = m.body
	}
	for key := range acked {
		if body, ok := strings.CutPrefix(key, room+" "); ok && count[body] != 1 {
			t.Errorf("%s: %s is there %d times", room, body, count[body])
		}
	}
}

func ids(ms []message) (out []string) {
	for _, m := range ms {
		out = append(out, m.body)
	}
	return out
}

// waitCaughtUp waits until every process runs, is ready, and has come as far as all others with each stream that it
// follows: what senders alone follow concerns no other process.
func waitCaughtUp(ctx context.Context, t *testing.T, dir string) {
	t.Helper()
	behind := ""
	defer func() {
		if t.Failed() && behind != "" {
			t.Log(behind)
		}
	}()
	waitFor(ctx, t, "every process caught up", func() bool {
		state, err := cluster.ReadState(dir)
		if err != nil {
			return false
		}
		furthest := make(map[string]map[string]int64) // by stream and writer
		seen := make(map[string]map[string]map[string]int64)
		for _, p := range state.Processes {
			ready, positions := processPositions(ctx, p)
			if !ready {
				behind = p.Name + " is not ready"
				return false
			}
			seen[p.Name] = positions
			for stream, writers := range positions {
				if furthest[stream] == nil {
					furthest[stream] = make(map[string]int64)
				}
				for w, n := range writers {
					furthest[stream][w] = max(furthest[stream][w], n)
				}
			}
		}
		for name, positions := range seen {
			for stream, writers := range positions {
				for w, n := range furthest[stream] {
					if writers[w] < n {
						behind = fmt.Sprintf("%s is at %d of %s by %s, others at %d", name, writers[w], stream, w, n)
						return false
					}
				}
			}
		}
		return true
	})
}

func killProcess(t *testing.T, dir, name string) {
	t.Helper()
	state, err := cluster.ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range state.Processes {
		if p.Name == name {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no process %s", name)
}

func restartRedis(t *testing.T, dir string) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(dir, "run", "redis.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "SHUTDOWN NOSAVE\r\n"); err != nil {
		t.Fatal(err)
	}
}

// signalPostgres ends PostgreSQL: SIGINT as a restart does, SIGQUIT as a crash does. The supervisor starts it again.
func signalPostgres(sig syscall.Signal) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(data), "\n")
		pid, err := strconv.Atoi(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
}
