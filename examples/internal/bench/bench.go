package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Config says how much is measured.
type Config struct {
	// BinDir holds the worker apps. Required.
	BinDir string
	// Baseline is how long pgbench inserts rows.
	Baseline time.Duration
	// Sends is the number of messages of the send scenarios.
	Sends int
	// Pollers is the number of clients that wait for messages, PollRate the number of messages a second, for PollTime.
	Pollers  int
	PollRate int
	PollTime time.Duration
	// CountAfter is how long the count of reads waits for PostgreSQL's backends, which tell of theirs when they have been
	// idle for ten seconds.
	CountAfter time.Duration
	// Rooms is the number of rooms of an initial sync, Syncs how often it is done.
	Rooms, Syncs int
	// Idle is how long idle processes are watched.
	Idle time.Duration
	// ProfileDir takes a CPU profile of each process during each measurement. Defaults to none.
	ProfileDir string
	// Progress is told which scenario runs. Optional.
	Progress io.Writer
}

// Full is the measurement whose figures count: some five minutes.
func Full() Config {
	return Config{
		Baseline: 5 * time.Second, Sends: 20_000, Pollers: 1000, PollRate: 50, PollTime: 20 * time.Second, CountAfter: 11 * time.Second,
		Rooms: 500, Syncs: 10, Idle: time.Minute,
	}
}

// Quick tells in a few seconds that everything can be measured; its figures say little.
func Quick() Config {
	return Config{
		Baseline: time.Second, Sends: 500, Pollers: 20, PollRate: 20, PollTime: time.Second, CountAfter: time.Second,
		Rooms: 10, Syncs: 2, Idle: time.Second,
	}
}

// Scenario is something that can be measured.
type Scenario struct {
	Name, Summary string
	run           func(ctx context.Context, cfg Config, r *Report) error
}

// Scenarios returns all there are, in the order in which they run.
func Scenarios() []Scenario {
	return []Scenario{
		{"send-monolith", "64 clients send messages to a single process", func(ctx context.Context, cfg Config, r *Report) error {
			return send(ctx, cfg, r, "send-monolith", oneProcess(), 8)
		}},
		{"send-cluster", "the same to a router, a generic worker and an event persister over Redis", func(ctx context.Context, cfg Config, r *Report) error {
			return send(ctx, cfg, r, "send-cluster", smallCluster(), 12)
		}},
		{"poll", "1,000 clients wait at two workers for 50 messages a second", poll},
		{"initial-sync", "the first sync of an account in 500 rooms", initialSync},
		{"idle", "memory and CPU time of eight processes that nobody calls", idle},
		{"start", "the time from a process's start to its being ready", start},
	}
}

// Run measures the named scenarios, or all. What was measured before an error is in the report.
func Run(ctx context.Context, cfg Config, names ...string) (*Report, error) {
	r := &Report{}
	if err := Supported(); err != nil {
		return r, err
	}
	var known []string
	for _, s := range Scenarios() {
		known = append(known, s.Name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return r, fmt.Errorf("no scenario %q; there are %s", n, strings.Join(known, ", "))
		}
	}
	for _, s := range Scenarios() {
		if len(names) > 0 && !slices.Contains(names, s.Name) {
			continue
		}
		if cfg.Progress != nil {
			_, _ = fmt.Fprintf(cfg.Progress, "%s: %s\n", s.Name, s.Summary)
		}
		if err := s.run(ctx, cfg, r); err != nil {
			return r, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return r, nil
}

// end stops the instance after a scenario that ended with err.
func (i *instance) end(err error) error { return errors.Join(err, i.stop()) }
