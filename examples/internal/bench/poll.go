package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/homeserver/cluster"
)

// pollTarget is the CPU time of a delivery, in milliseconds.
const pollTarget = 0.2

// loneSends is how many messages are sent one by one to know what one takes.
const loneSends = 200

// poll measures long-polling clients in one room, over two workers, while messages come into it at a steady rate.
func poll(ctx context.Context, cfg Config, r *Report) (err error) {
	const scenario = "poll"
	processes := append(oneProcess(),
		cluster.Process{Name: "worker1", App: cluster.AppGenericWorker},
		cluster.Process{Name: "worker2", App: cluster.AppGenericWorker},
		cluster.Process{Name: "persister1", App: cluster.AppEventPersister},
		cluster.Process{Name: "router", App: cluster.AppRouter})
	i, err := startInstance(ctx, cfg, processes)
	if err != nil {
		return err
	}
	defer func() { err = i.end(err) }()
	people, err := register(ctx, i.url, "sender", 1)
	defer closeAll(people)
	if err != nil {
		return err
	}
	sender := people[0]
	room, err := sender.createRoom(ctx)
	if err != nil {
		return err
	}
	lone, err := sendAll(ctx, people, []string{room}, "lone", loneSends)
	if err != nil {
		return err
	}
	p50 := quantile(lone, .5)
	r.add(scenario, "lone send, p50", milliseconds(p50), "ms")

	pollers, err := i.pollers(ctx, room, cfg.Pollers)
	defer closeAll(pollers)
	if err != nil {
		return err
	}
	load := pollLoad{room: room}
	stop, err := load.start(ctx, pollers)
	if err != nil {
		return err
	}
	defer func() { _ = stop() }()
	reads, err := i.eventsRead(ctx, cfg.CountAfter)
	if err != nil {
		return err
	}
	before, err := i.usage()
	if err != nil {
		return err
	}
	finish, err := i.profile(ctx, cfg, scenario)
	if err != nil {
		return err
	}
	start := time.Now()
	sent, err := load.sendSteadily(ctx, sender, cfg.PollRate, cfg.PollTime)
	if err != nil {
		return err
	}
	if err := load.await(ctx, int64(sent*len(pollers))); err != nil {
		return err
	}
	elapsed := time.Since(start)
	after, err := i.usage()
	if err != nil {
		return err
	}
	if err := finish(); err != nil {
		return err
	}
	readsAfter, err := i.eventsRead(ctx, cfg.CountAfter)
	if err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	spent, n := after.since(before), float64(sent*len(pollers))
	latencies := slices.Concat(load.latencies...)
	r.add(scenario, "messages", float64(sent)/elapsed.Seconds(), "1/s")
	r.add(scenario, "deliveries a response", n/float64(load.responses.Load()), "")
	for _, name := range slices.Sorted(maps.Keys(spent)) {
		r.add(scenario, "CPU of a delivery, "+name, milliseconds(spent[name])/n, "ms")
	}
	r.addTarget(scenario, "CPU of a delivery", milliseconds(spent.total())/n, "ms", pollTarget)
	r.add(scenario, "CPU of a response", milliseconds(spent.total())/float64(load.responses.Load()), "ms")
	r.add(scenario, "delivery, p50", milliseconds(quantile(latencies, .5)), "ms")
	p99 := quantile(latencies, .99)
	r.add(scenario, "delivery, p99", milliseconds(p99), "ms")
	r.addTarget(scenario, "delivery p99 / lone send p50", float64(p99)/float64(p50), "", 10)
	r.addTarget(scenario, "rows of events read from the database", float64(readsAfter-reads), "", 0)
	return nil
}

// pollers makes accounts that are in the room, half of them at each worker.
func (i *instance) pollers(ctx context.Context, room string, n int) ([]*client, error) {
	users, err := register(ctx, i.url, "poller", n)
	if err != nil {
		return users, err
	}
	var workers []string
	for _, name := range []string{"worker1", "worker2"} {
		address, err := i.clientAddress(name)
		if err != nil {
			return users, err
		}
		workers = append(workers, address)
	}
	return users, forEach(ctx, n, func(ctx context.Context, k int) error {
		u := users[k]
		err := u.join(ctx, room)
		u.close() // from now on at a worker
		u.address = workers[k%len(workers)]
		return err
	})
}

// eventsRead counts the rows of the table events that any process has read so far, after a while in which PostgreSQL's
// backends tell of what they read.
func (i *instance) eventsRead(ctx context.Context, after time.Duration) (int64, error) {
	if err := sleep(ctx, after); err != nil {
		return 0, err
	}
	conn, err := pgx.Connect(ctx, i.database)
	if err != nil {
		return 0, fmt.Errorf("count reads: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var n int64
	err = conn.QueryRow(ctx, `SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'events'`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count reads: %w", err)
	}
	return n, nil
}

// pollLoad is clients that wait for messages in one room.
type pollLoad struct {
	room      string
	latencies [][]time.Duration // by client
	responses atomic.Int64
	arrived   atomic.Int64 // deliveries
}

// start has every client sync once and then wait for what comes. stop ends them and returns the first error of any.
func (l *pollLoad) start(ctx context.Context, pollers []*client) (stop func() error, err error) {
	since := make([]string, len(pollers))
	err = forEach(ctx, len(pollers), func(ctx context.Context, k int) error {
		body, err := pollers[k].do(ctx, http.MethodGet, "/_matrix/client/v3/sync?filter="+leanFilter, nil)
		if err != nil {
			return err
		}
		since[k] = nextBatch(body)
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.latencies = make([][]time.Duration, len(pollers))
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	errs := make([]error, len(pollers))
	for k, p := range pollers {
		wg.Go(func() {
			for ctx.Err() == nil {
				body, err := p.do(ctx, http.MethodGet, "/_matrix/client/v3/sync?timeout=60000&filter="+leanFilter+"&since="+since[k], nil)
				now := time.Now()
				if err != nil {
					if ctx.Err() == nil {
						errs[k] = err
					}
					return
				}
				since[k] = nextBatch(body)
				l.responses.Add(1)
				for _, sent := range sentTimes(body) {
					l.latencies[k] = append(l.latencies[k], now.Sub(sent))
					l.arrived.Add(1)
				}
			}
		})
	}
	return sync.OnceValue(func() error {
		cancel()
		for _, p := range pollers {
			if conn := p.conn; conn != nil {
				_ = conn.SetDeadline(time.Now())
			}
		}
		wg.Wait()
		return errors.Join(errs...)
	}), nil
}

// leanFilter is a filter as clients have it: members are loaded lazily.
const leanFilter = "%7B%22room%22:%7B%22state%22:%7B%22lazy_load_members%22:true%7D,%22timeline%22:%7B%22limit%22:50%7D%7D%7D"

// sendSteadily sends rate messages a second for a while. A message that is late does not delay those after it.
func (l *pollLoad) sendSteadily(ctx context.Context, sender *client, rate int, d time.Duration) (sent int, err error) {
	n := int(d.Seconds() * float64(rate))
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for k := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return sent, ctx.Err()
		}
		if _, err := sender.do(ctx, http.MethodPut, sayPath(l.room, "steady"+strconv.Itoa(k)), message(time.Now())); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

// await returns when n deliveries have arrived.
func (l *pollLoad) await(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for l.arrived.Load() < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d deliveries arrived: %w", l.arrived.Load(), n, ctx.Err())
		}
	}
	return nil
}

// nextBatch finds the token in a response; decoding all of it in 1,000 clients would cost more than what is measured.
func nextBatch(body []byte) string {
	_, rest, _ := bytes.Cut(body, []byte(`"next_batch":"`))
	token, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(token)
}

// sentTimes finds when the messages in a response were sent.
func sentTimes(body []byte) []time.Time {
	var out []time.Time
	for {
		_, rest, ok := bytes.Cut(body, []byte(`"bench.sent":`))
		if !ok {
			return out
		}
		end := bytes.IndexAny(rest, ",}")
		if end < 0 {
			return out
		}
		if n, err := strconv.ParseInt(string(rest[:end]), 10, 64); err == nil {
			out = append(out, time.UnixMicro(n))
		}
		body = rest[end:]
	}
}
