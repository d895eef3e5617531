package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"github.com/rs/zerolog"
)

// Migrate brings the tables of the queue up to date. The process that migrates the rest of the database calls it, under
// the same lock.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: quiet(zerolog.Nop())})
	if err != nil {
		return fmt.Errorf("migrate task queue: %w", err)
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate task queue: %w", err)
	}
	return nil
}

// queue is the durable side of a Runner, on river.
//
// Its worker runs under a lease, so that one process works on the queue. That is what makes resuming quick: a job found
// running by a worker that has just begun belongs to a process that is gone, and is taken up at once.
type queue struct {
	r        *Runner
	pool     *pgxpool.Pool
	once     sync.Once
	inserter *river.Client[pgx.Tx]
	err      error
}

func newQueue(r *Runner) *queue { return &queue{r: r, pool: r.cfg.Pool} }

// leaseName is the lease of the queue's worker.
const leaseName = "task/queue"

// args is what river stores for a job.
type args struct {
	name string
	// Args is what Enqueue was given.
	Args json.RawMessage `json:"args,omitempty"`
	// Key is EnqueueOptions.UniqueKey.
	Key string `json:"key,omitempty" river:"unique"`
}

// Kind implements river.JobArgs.
func (a args) Kind() string { return a.name }

// unfinished are the states in which a unique key is taken.
var unfinished = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable,
	rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// client returns the client that queues and looks up, made at its first use.
func (q *queue) client() (*river.Client[pgx.Tx], error) {
	q.once.Do(func() {
		q.inserter, q.err = river.NewClient(riverpgxv5.New(q.pool), &river.Config{Logger: quiet(q.r.log)})
	})
	return q.inserter, q.err
}

// Enqueue queues a durable task with arguments, which must encode to JSON, and returns the job's number. Any process may
// queue any task; name must be one some process works on.
func (r *Runner) Enqueue(ctx context.Context, name string, arguments any, opts EnqueueOptions) (int64, error) {
	return r.enqueue(ctx, nil, name, arguments, opts)
}

// EnqueueTx is Enqueue in a transaction: the job is there if and only if it commits.
func (r *Runner) EnqueueTx(ctx context.Context, tx pgx.Tx, name string, arguments any, opts EnqueueOptions) (int64, error) {
	return r.enqueue(ctx, tx, name, arguments, opts)
}

func (r *Runner) enqueue(ctx context.Context, tx pgx.Tx, name string, arguments any, opts EnqueueOptions) (int64, error) {
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("queue task %q: %w", name, err) }
	if r.queue == nil {
		return fail(errNoPool)
	}
	c, err := r.queue.client()
	if err != nil {
		return fail(err)
	}
	a := args{name: name, Key: opts.UniqueKey}
	if arguments != nil {
		if a.Args, err = json.Marshal(arguments); err != nil {
			return fail(err)
		}
	}
	io := &river.InsertOpts{MaxAttempts: DefaultMaxAttempts}
	if d, ok := r.durable[name]; ok {
		io.MaxAttempts = d.MaxAttempts
	}
	if opts.UniqueKey != "" {
		io.UniqueOpts = river.UniqueOpts{ByArgs: true, ByState: unfinished}
	}
	if opts.After > 0 {
		io.ScheduledAt = time.Now().Add(opts.After)
	}
	var res *rivertype.JobInsertResult
	if tx != nil {
		res, err = c.InsertTx(ctx, tx, a, io)
	} else {
		res, err = c.Insert(ctx, a, io)
	}
	if err != nil {
		return fail(err)
	}
	return res.Job.ID, nil
}

var errNoPool = errors.New("the task runner has no Pool")

// Status returns how a job stands, or ErrNotFound.
func (r *Runner) Status(ctx context.Context, id int64) (*Status, error) {
	if r.queue == nil {
		return nil, errNoPool
	}
	c, err := r.queue.client()
	if err != nil {
		return nil, err
	}
	row, err := c.JobGet(ctx, id)
	if errors.Is(err, rivertype.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("look up job %d: %w", id, err)
	}
	return status(row), nil
}

// Cancel gives a job up: one that waits never starts, one that runs has its context ended. ErrNotFound where there is no
// such job; a finished one is left as it is.
func (r *Runner) Cancel(ctx context.Context, id int64) error {
	if r.queue == nil {
		return errNoPool
	}
	c, err := r.queue.client()
	if err != nil {
		return err
	}
	if _, err := c.JobCancel(ctx, id); errors.Is(err, rivertype.ErrNotFound) {
		return ErrNotFound
	} else if err != nil {
		return fmt.Errorf("cancel job %d: %w", id, err)
	}
	return nil
}

// GiveUp wraps an error of Durable.Work that no further attempt can mend.
func GiveUp(err error) error { return river.JobCancel(err) }

func status(row *rivertype.JobRow) *Status {
	s := &Status{
		ID:        row.ID,
		Name:      row.Kind,
		Attempt:   row.Attempt,
		Args:      decodeArgs(row.EncodedArgs),
		Progress:  progressOf(row),
		CreatedTS: row.CreatedAt.UnixMilli(),
	}
	if row.AttemptedAt != nil {
		s.StartedTS = row.AttemptedAt.UnixMilli()
	}
	if row.FinalizedAt != nil {
		s.FinishedTS = row.FinalizedAt.UnixMilli()
	}
	if n := len(row.Errors); n > 0 {
		s.LastError = row.Errors[n-1].Error
	}
	switch row.State {
	case rivertype.JobStateRunning:
		s.State = Running
	case rivertype.JobStateCompleted:
		s.State = Completed
	case rivertype.JobStateCancelled:
		s.State = Cancelled
		if s.LastError != "" && s.LastError != rivertype.ErrJobCancelledRemotely.Error() { // GiveUp
			s.State = Failed
		}
	case rivertype.JobStateDiscarded:
		s.State = Failed
	case rivertype.JobStateScheduled, rivertype.JobStateRetryable:
		s.State = Scheduled
	default:
		s.State = Queued
	}
	return s
}

func decodeArgs(b []byte) json.RawMessage {
	var a args
	if json.Unmarshal(b, &a) != nil {
		return nil
	}
	return a.Args
}

// progressOf is what SaveProgress stored: river's "output" of the job.
func progressOf(row *rivertype.JobRow) json.RawMessage {
	out := row.Output()
	if len(out) == 0 {
		return nil
	}
	return json.RawMessage(out)
}

// run works on the queue while this process holds its lease, until ctx ends.
func (q *queue) run(ctx context.Context) error {
	return q.r.cfg.Leases.Hold(ctx, leaseName, func(ctx context.Context, _ int64) error {
		for {
			err := q.work(ctx)
			if ctx.Err() != nil {
				return nil
			}
			q.r.log.Warn().Err(err).Msg("task queue stopped; trying again")
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(5 * time.Second):
			}
		}
	})
}

// A sequential scan is avoided by river's partial index on state; as many rows as there were workers.
const resumeOrphansSQL = `
UPDATE river_job SET state = 'available', scheduled_at = now(), max_attempts = greatest(max_attempts, attempt + 1)
WHERE state = 'running'`

// work runs river's worker until ctx ends or it cannot go on.
func (q *queue) work(ctx context.Context) error {
	if _, err := q.pool.Exec(ctx, resumeOrphansSQL); err != nil {
		return fmt.Errorf("take up jobs of a process that is gone: %w", err)
	}
	workers := river.NewWorkers()
	for _, d := range q.r.durable {
		river.AddWorkerArgs(workers, args{name: d.Name}, &worker{q: q, task: d})
	}
	c, err := river.NewClient(riverpgxv5.New(q.pool), &river.Config{
		FetchPollInterval: q.r.cfg.PollInterval,
		JobTimeout:        -1,
		Logger:            quiet(q.r.log),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: q.r.cfg.MaxWorkers}},
		// The lease tells orphans; age does not: some work takes a day.
		RescueStuckJobsAfter: math.MaxInt64 / 4,
		Workers:              workers,
	})
	if err != nil {
		return fmt.Errorf("make task queue worker: %w", err)
	}
	// The client's context is not ctx: its end would leave jobs without a chance to save how they ended.
	base := context.WithoutCancel(ctx)
	if err := c.Start(base); err != nil {
		return fmt.Errorf("start task queue worker: %w", err)
	}
	select {
	case <-ctx.Done():
	case <-c.Stopped():
		return errors.New("task queue worker stopped")
	}
	if err := c.StopAndCancel(base); err != nil {
		return fmt.Errorf("stop task queue worker: %w", err)
	}
	return nil
}

// worker does one kind of job.
type worker struct {
	river.WorkerDefaults[args]
	q    *queue
	task Durable
}

// Timeout implements river.Worker: -1 is none.
func (w *worker) Timeout(*river.Job[args]) time.Duration { return -1 }

// Work implements river.Worker.
func (w *worker) Work(ctx context.Context, rj *river.Job[args]) error {
	job := &Job{ID: rj.ID, Attempt: rj.Attempt, Args: rj.Args.Args, Progress: progressOf(rj.JobRow)}
	c, err := w.q.client()
	if err != nil {
		return err
	}
	job.save = func(ctx context.Context, progress json.RawMessage) error {
		_, err := c.JobUpdate(ctx, rj.ID, &river.JobUpdateParams{Output: progress})
		return err
	}
	err = w.q.r.once(ctx, w.task.Name, w.task.Timeout, func(ctx context.Context) error { return w.task.Work(ctx, job) })
	if err != nil {
		if ctx.Err() != nil {
			// The process stops, the lease has gone, or the job was cancelled. The first two are not failures: the attempt
			// does not count, and the job waits for whoever takes over.
			if _, cancelled := errors.AsType[*rivertype.JobCancelError](context.Cause(ctx)); !cancelled {
				return river.JobSnooze(0)
			}
		}
		w.q.r.log.Warn().Err(err).Str("task", w.task.Name).Int64("job_id", rj.ID).Int("attempt", rj.Attempt).Msg("task attempt failed")
		if rj.Attempt >= w.task.MaxAttempts { // who queued it may not have known the task
			return river.JobCancel(err)
		}
	}
	return err
}
