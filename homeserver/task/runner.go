package task

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/lease"
)

// Config configures a Runner.
type Config struct {
	// Instance is the process's name. Required.
	Instance string
	// Tasks are the tasks. Names must be unique.
	Tasks []Task
	// RunsBackground says that this process is among those that run background tasks: it takes part in tasks of scope
	// OneProcess and works on durable ones. A process without it runs tasks of scope EveryProcess and queues durable ones.
	RunsBackground bool
	// Leases guards tasks of scope OneProcess and the queue. Required where RunsBackground is set and there is a durable
	// task or one of that scope.
	Leases *lease.Manager
	// Pool is the database durable tasks are queued in; see Migrate. Required for Enqueue, Status and Cancel, and where
	// there are durable tasks.
	Pool *pgxpool.Pool
	// MaxWorkers is the number of durable tasks worked on at once. Defaults to 10.
	MaxWorkers int
	// PollInterval is how often the queue is looked at in case a notification was lost. Defaults to 30 seconds.
	PollInterval time.Duration
	// Log defaults to silence.
	Log zerolog.Logger
	// Registerer takes metrics of runs. Defaults to none.
	Registerer prometheus.Registerer
}

// Runner runs tasks. It is a homeserver.Component.
type Runner struct {
	cfg      Config
	log      zerolog.Logger
	periodic []Periodic
	durable  map[string]Durable
	queue    *queue
	runs     *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// New returns a Runner. It does no I/O.
func New(cfg Config) (*Runner, error) {
	var errs []error
	if cfg.Instance == "" {
		errs = append(errs, errors.New("Instance is required"))
	}
	if cfg.MaxWorkers < 0 || cfg.PollInterval < 0 {
		errs = append(errs, errors.New("MaxWorkers and PollInterval must not be negative"))
	}
	if cfg.MaxWorkers == 0 {
		cfg.MaxWorkers = 10
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 30 * time.Second
	}
	r := &Runner{cfg: cfg, log: cfg.Log.With().Str("component", "tasks").Logger(), durable: map[string]Durable{}}
	names := map[string]bool{}
	for _, t := range cfg.Tasks {
		if err := t.validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		if names[t.TaskName()] {
			errs = append(errs, fmt.Errorf("task %q is there twice", t.TaskName()))
		}
		names[t.TaskName()] = true
		switch t := t.(type) {
		case Periodic:
			if t.Scope == OneProcess && cfg.RunsBackground && cfg.Leases == nil {
				errs = append(errs, fmt.Errorf("task %q runs in one process and needs Leases", t.Name))
			}
			if t.Jitter == 0 {
				t.Jitter = t.Every / 10
			}
			r.periodic = append(r.periodic, t)
		case Durable:
			if t.MaxAttempts == 0 {
				t.MaxAttempts = DefaultMaxAttempts
			}
			r.durable[t.Name] = t
		}
	}
	if len(r.durable) > 0 && cfg.Pool == nil {
		errs = append(errs, errors.New("durable tasks need Pool"))
	}
	if len(r.durable) > 0 && cfg.RunsBackground && cfg.Leases == nil {
		errs = append(errs, errors.New("a process that works on durable tasks needs Leases"))
	}
	if cfg.Registerer != nil {
		r.runs = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_task_runs_total",
			Help: "Runs of background tasks, by task and result (ok, error).",
		}, []string{"task", "result"})
		r.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "weft_task_duration_seconds",
			Help:    "Time a run of a background task took.",
			Buckets: []float64{.001, .01, .1, 1, 10, 60, 600, 3600},
		}, []string{"task"})
		errs = append(errs, cfg.Registerer.Register(r.runs), cfg.Registerer.Register(r.duration))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("task runner: %w", err)
	}
	if cfg.Pool != nil {
		r.queue = newQueue(r)
	}
	return r, nil
}

// Name returns "tasks".
func (r *Runner) Name() string { return "tasks" }

// Run runs the tasks until ctx ends and runs in progress have returned.
func (r *Runner) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, t := range r.periodic {
		switch {
		case t.Scope == EveryProcess:
			wg.Go(func() { r.every(ctx, t) })
		case r.cfg.RunsBackground:
			wg.Go(func() {
				err := r.cfg.Leases.Hold(ctx, "task/"+t.Name, func(ctx context.Context, _ int64) error {
					r.every(ctx, t)
					return nil
				})
				if err != nil {
					r.log.Error().Err(err).Str("task", t.Name).Msg("task ended")
				}
			})
		}
	}
	var err error
	if r.cfg.RunsBackground && len(r.durable) > 0 {
		err = r.queue.run(ctx)
	}
	wg.Wait()
	return err
}

// every starts t again and again until ctx ends.
func (r *Runner) every(ctx context.Context, t Periodic) {
	wait := jittered(t)
	if t.AtStart {
		wait = 0
	}
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		began := time.Now()
		err := r.once(ctx, t.Name, t.Timeout, t.Run)
		if err != nil && ctx.Err() == nil {
			r.log.Error().Err(err).Str("task", t.Name).Msg("task failed")
		}
		wait = max(jittered(t)-time.Since(began), 0)
	}
}

// once makes one run: timed, counted, and safe from panics.
func (r *Runner) once(ctx context.Context, name string, timeout time.Duration, run func(context.Context) error) (err error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	log := r.log.With().Str("task", name).Logger()
	ctx = log.WithContext(ctx)
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if r.runs != nil {
			result := "ok"
			if err != nil {
				result = "error"
			}
			r.runs.WithLabelValues(name, result).Inc()
			r.duration.WithLabelValues(name).Observe(time.Since(began).Seconds())
		}
	}()
	return run(ctx)
}

func jittered(t Periodic) time.Duration {
	if t.Jitter <= 0 {
		return t.Every
	}
	return t.Every + rand.N(t.Jitter) - t.Jitter/2
}
