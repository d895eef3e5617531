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
	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/cluster"
)

// pollTarget is the CPU time of a delivery, in milliseconds.
const pollTarget = 0.2

// loneSends is how many messages are sent one by one to know what one takes.
const loneSends = 200

// speakers is how many people send in turn, so that one answer that is late does not hold up the next message.
const speakers = 16

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
	people, err := register(ctx, i.url, "speaker", speakers)
	defer closeAll(people)
	if err != nil {
		return err
	}
	room, err := people[0].createRoom(ctx)
	if err != nil {
		return err
	}
	for _, u := range people[1:] {
		if err := u.join(ctx, room); err != nil {
			return err
		}
	}
	lone, err := sendAll(ctx, people[:1], []string{room}, "lone", loneSends)
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
	// Each speaker is new to the clients once.
	if _, err := load.sendSteadily(ctx, "warm", people, cfg.PollRate, min(time.Second, cfg.PollTime)); err != nil {
		return err
	}
	if err := load.finish(ctx, people[0]); err != nil {
		return err
	}
	load.reset()
	reads, err := i.eventsRead(ctx, cfg.CountAfter)
	if err != nil {
		return err
	}
	var sent int
	var elapsed time.Duration // of the sending, without the wait for the last delivery
	spent, _, err := i.measure(ctx, cfg, scenario, func() (err error) {
		start := time.Now()
		if sent, err = load.sendSteadily(ctx, "steady", people, cfg.PollRate, cfg.PollTime); err != nil {
			return err
		}
		elapsed = time.Since(start)
		return load.finish(ctx, people[0])
	})
	if err != nil {
		return err
	}
	sent++
	readsAfter, err := i.eventsRead(ctx, cfg.CountAfter)
	if err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	n := float64(load.arrived.Load())
	latencies := slices.Concat(load.latencies...)
	r.add(scenario, "messages", float64(sent)/elapsed.Seconds(), "1/s")
	r.add(scenario, "deliveries a response", n/float64(load.responses.Load()), "")
	r.add(scenario, "deliveries left out of limited timelines", float64(sent*len(pollers))-n, "")
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
	last      atomic.Int64 // when the last message was sent, in microseconds, or 0
	ended     atomic.Int64 // clients that have the last message
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
					if sent.UnixMicro() == l.last.Load() {
						l.ended.Add(1)
					}
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

// sendSteadily sends rate messages a second for a while, whether or not those before have been answered.
func (l *pollLoad) sendSteadily(ctx context.Context, name string, speakers []*client, rate int, d time.Duration) (sent int, err error) {
	n := int(d.Seconds() * float64(rate))
	due := make(chan int, n)
	g, ctx := errgroup.WithContext(ctx)
	for _, u := range speakers {
		g.Go(func() error {
			for k := range due {
				if _, err := u.do(ctx, http.MethodPut, sayPath(l.room, name+strconv.Itoa(k)), message(time.Now())); err != nil {
					return err
				}
			}
			return nil
		})
	}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for k := 0; k < n && ctx.Err() == nil; k++ {
		select {
		case <-tick.C:
			due <- k
		case <-ctx.Done():
		}
	}
	close(due)
	return n, g.Wait()
}

// finish sends the last message and returns when every client has it. A client that has fallen far behind sees a limited
// timeline, so that the number of deliveries says nothing of the end.
func (l *pollLoad) finish(ctx context.Context, speaker *client) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	now := time.Now()
	l.last.Store(now.UnixMicro())
	if _, err := speaker.do(ctx, http.MethodPut, sayPath(l.room, "last"+strconv.FormatInt(now.UnixMicro(), 10)), message(now)); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for l.ended.Load() < int64(len(l.latencies)) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d clients have the last message: %w", l.ended.Load(), len(l.latencies), ctx.Err())
		}
	}
	return nil
}

// reset begins to count anew, while nothing is on its way.
func (l *pollLoad) reset() {
	for k := range l.latencies {
		l.latencies[k] = nil
	}
	l.responses.Store(0)
	l.arrived.Store(0)
	l.ended.Store(0)
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
