package sync_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	gosync "sync"
	"syscall"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/sync"
)

// ownCPU is what this process has used.
func ownCPU(b *testing.B) time.Duration {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// backendCPU is what PostgreSQL has used for the connections of the processes.
func backendCPU(b *testing.B, ps ...*proc) time.Duration {
	b.Helper()
	rows, err := ps[0].db.Query(context.Background(), `SELECT pid FROM pg_stat_activity WHERE datname = current_database()`)
	must(b, err)
	var total time.Duration
	for rows.Next() {
		var pid int
		must(b, rows.Scan(&pid))
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		var user, sys int64
		fmt.Sscan(f[11], &user)
		fmt.Sscan(f[12], &sys)
		total += time.Duration(user+sys) * time.Second / 100
	}
	must(b, rows.Err())
	return total
}

// BenchmarkInitialSync is an initial sync of an account in 500 rooms, with the events read from the database or cached.
func BenchmarkInitialSync(b *testing.B) {
	const lazy = `{"room":{"state":{"lazy_load_members":true}}}`
	for _, mode := range []struct {
		name   string
		cache  uint64
		filter string
	}{{"cold", 1, ""}, {"warm", 0, ""}, {"cold lazy", 1, lazy}} {
		b.Run(mode.name, func(b *testing.B) {
			const rooms = 500
			p := newCluster(b, options{eventCache: mode.cache, sync: func(c *sync.Config) { c.OnlyWriter = true }}, "master")[0]
			for range rooms {
				room := p.room("alice", "shared", stateDraft(user("alice"), "m.room.name", "", `{"name":"Room"}`))
				for _, name := range []string{"bob", "carol", "dave", "erin", "frank"} {
					p.join(room, name)
				}
				for k := range 20 {
					p.say(room, "alice", fmt.Sprint("a message of usual length, such as people send to one another: ", k))
				}
			}
			_, err := p.db.Exec(context.Background(), "VACUUM ANALYZE")
			must(b, err)
			req := sync.Request{Requester: &requester.Requester{UserID: user("alice"), DeviceID: "D"}, Filter: mode.filter}
			var size writeCounter
			do := func() {
				resp, err := p.sync.Sync(context.Background(), req)
				must(b, err)
				size = 0
				must(b, resp.Write(&size))
			}
			do()
			cpu, pg := ownCPU(b), backendCPU(b, p)
			for b.Loop() {
				do()
			}
			n := float64(b.N * rooms)
			cpu, pg = ownCPU(b)-cpu, backendCPU(b, p)-pg
			b.ReportMetric(float64(cpu.Microseconds())/1000/n, "cpu-ms/room")
			b.ReportMetric(float64(pg.Microseconds())/1000/n, "postgres-cpu-ms/room")
			b.ReportMetric(float64(size)/rooms, "bytes/room")
		})
	}
}

type writeCounter int

func (w *writeCounter) Write(p []byte) (int, error) { *w += writeCounter(len(p)); return len(p), nil }

// BenchmarkFanOut has 1,000 requests wait on two processes for messages in one room. One operation is one message.
func BenchmarkFanOut(b *testing.B) {
	const clients = 1000
	ps := newCluster(b, options{}, "master", "writer2")
	room := ps[0].room("alice", "shared")
	names := make([]string, clients)
	for i := range names {
		names[i] = fmt.Sprint("c", i)
		ps[0].join(room, names[i])
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg gosync.WaitGroup
	var mu gosync.Mutex
	arrived := gosync.NewCond(&mu)
	deliveries := 0
	for i, name := range names {
		p := ps[i%2]
		since := p.ask(ask{user: name}).Get("next_batch").Str
		req := sync.Request{Requester: &requester.Requester{UserID: user(name), DeviceID: "D"}, Since: since, Timeout: time.Minute}
		wg.Go(func() {
			for {
				resp, err := p.sync.Sync(ctx, req)
				if err != nil {
					return
				}
				must(b, resp.Write(io.Discard))
				req.Since = resp.NextBatch
				mu.Lock()
				deliveries++
				arrived.Broadcast()
				mu.Unlock()
			}
		})
	}
	for i, name := range names {
		ps[i%2].sync.AwaitWaiting(b, user(name), 1)
	}
	cpu, pg, before := ownCPU(b), backendCPU(b, ps...), deliveries
	for b.Loop() {
		ps[0].say(room, "alice", "a message of usual length, such as people send to one another")
		mu.Lock()
		for want := before + clients; deliveries < want; {
			arrived.Wait()
		}
		before = deliveries
		mu.Unlock()
	}
	n := float64(b.N * clients)
	cpu, pg = ownCPU(b)-cpu, backendCPU(b, ps...)-pg
	b.ReportMetric(float64(cpu.Microseconds())/1000/n, "cpu-ms/delivery")
	b.ReportMetric(float64(pg.Microseconds())/1000/n, "postgres-cpu-ms/delivery")
	stop()
	wg.Wait()
}
