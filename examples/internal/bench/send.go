package bench

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/cluster"
)

// senders is the number of people who send at once, each into a room of their own: as many as pgbench has clients.
const senders = 64

// send measures what sending a message costs: 64 clients, each of which sends its next message when the last is answered.
func send(ctx context.Context, cfg Config, r *Report, scenario string, processes []cluster.Process, target float64) (err error) {
	i, err := startInstance(ctx, cfg, processes)
	if err != nil {
		return err
	}
	defer func() { err = i.end(err) }()
	users, err := register(ctx, i.url, "sender", senders)
	defer closeAll(users)
	if err != nil {
		return err
	}
	rooms := make([]string, len(users))
	err = forEach(ctx, len(users), func(ctx context.Context, k int) (err error) {
		rooms[k], err = users[k].createRoom(ctx)
		return err
	})
	if err != nil {
		return err
	}
	insert, err := i.pgbench(ctx, cfg.Baseline)
	if err != nil {
		return err
	}
	r.add(scenario, "pgbench, inserts", insert.rate, "1/s")
	r.add(scenario, "pgbench, CPU of an insert", milliseconds(insert.cpu), "ms")

	if _, err := sendAll(ctx, users, rooms, "warm", cfg.Sends/10); err != nil { // caches, connections, prepared statements
		return err
	}
	var took []time.Duration
	spent, elapsed, err := i.measure(ctx, cfg, scenario, func() (err error) {
		took, err = sendAll(ctx, users, rooms, "send", cfg.Sends)
		return err
	})
	if err != nil {
		return err
	}
	n := float64(len(took))
	r.add(scenario, "events", n/elapsed.Seconds(), "1/s")
	r.add(scenario, "latency, p50", milliseconds(quantile(took, .5)), "ms")
	r.add(scenario, "latency, p99", milliseconds(quantile(took, .99)), "ms")
	for _, name := range slices.Sorted(maps.Keys(spent)) {
		r.add(scenario, "CPU of a send, "+name, milliseconds(spent[name])/n, "ms")
	}
	r.add(scenario, "CPU of a send", milliseconds(spent.total())/n, "ms")
	r.addTarget(scenario, "CPU of a send / of a pgbench insert", float64(spent.total())/n/float64(insert.cpu), "", target)
	return nil
}

// sendAll has every user send into their own room until n messages are sent, and returns how long each took.
func sendAll(ctx context.Context, users []*client, rooms []string, name string, n int) ([]time.Duration, error) {
	var next atomic.Int64
	took := make([][]time.Duration, len(users))
	g, ctx := errgroup.WithContext(ctx)
	for k, u := range users {
		g.Go(func() error {
			for {
				m := next.Add(1)
				if m > int64(n) {
					return nil
				}
				start := time.Now()
				if _, err := u.do(ctx, http.MethodPut, sayPath(rooms[k], name+strconv.FormatInt(m, 10)), message(start)); err != nil {
					return fmt.Errorf("send message %d: %w", m, err)
				}
				took[k] = append(took[k], time.Since(start))
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(took...), nil
}
