// Package task runs background work: periodic tasks, which a timer starts, and durable tasks, which are rows in the
// database that survive any process.
//
// A periodic task runs in every process or, guarded by a lease, in one. Durable tasks are queued by any process and
// worked on by the process the option run_background_tasks_on names, with retries; what a task saves of its progress is
// there at the next attempt, so that it resumes and does not begin anew.
package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Task is a Periodic or a Durable task.
type Task interface {
	// TaskName is the task's unique name.
	TaskName() string
	validate() error
}

// Scope says which processes run a periodic task.
type Scope uint8

// The scopes.
const (
	// OneProcess runs it in the process that holds the task's lease, among those that run background tasks.
	OneProcess Scope = iota
	// EveryProcess runs it in each process on its own.
	EveryProcess
)

// Periodic is work that a timer starts.
type Periodic struct {
	// Name is unique among a process's tasks, and the name of the lease ("task/<name>"). Required.
	Name string
	// Every is the time from one start to the next; a run that takes longer delays the next. Required.
	Every time.Duration
	// Jitter spreads starts at random over this time, so that processes do not run in step. Defaults to a tenth of Every.
	Jitter time.Duration
	// Scope says which processes run it. Defaults to OneProcess.
	Scope Scope
	// AtStart runs it at once when the process starts (or wins the lease), instead of after Every.
	AtStart bool
	// Timeout bounds one run. Defaults to none.
	Timeout time.Duration
	// Run does the work. An error is logged and counted; the next run comes as usual. A panic is an error. Required.
	Run func(ctx context.Context) error
}

// TaskName returns Name.
func (p Periodic) TaskName() string { return p.Name }

func (p Periodic) validate() error {
	var errs []error
	if p.Name == "" {
		errs = append(errs, errors.New("periodic task: Name is required"))
	}
	if p.Every <= 0 {
		errs = append(errs, fmt.Errorf("periodic task %q: Every must be positive", p.Name))
	}
	if p.Jitter < 0 || p.Timeout < 0 {
		errs = append(errs, fmt.Errorf("periodic task %q: Jitter and Timeout must not be negative", p.Name))
	}
	if p.Run == nil {
		errs = append(errs, fmt.Errorf("periodic task %q: Run is required", p.Name))
	}
	return errors.Join(errs...)
}

// DefaultMaxAttempts is how often a durable task is tried that says nothing else.
const DefaultMaxAttempts = 25

// Durable is work that is queued in the database.
type Durable struct {
	// Name is unique among the cluster's durable tasks; queued rows carry it. Two or more letters, digits and any of
	// _ - . / : are allowed. Required.
	Name string
	// MaxAttempts is how often the work is tried before it counts as failed. Defaults to DefaultMaxAttempts. Attempts
	// are spaced by the fourth power of their number, in seconds.
	MaxAttempts int
	// Timeout bounds one attempt. Defaults to none: the work ends with the process and is resumed by the next.
	Timeout time.Duration
	// Work does one attempt. An error is kept with the job, which is tried again; Cancel(err) gives up at once. A job may
	// be worked on again after it succeeded, if the process died at that moment: work must be repeatable. Required.
	Work func(ctx context.Context, job *Job) error
}

// TaskName returns Name.
func (d Durable) TaskName() string { return d.Name }

// durableName is what the queue can store.
var durableName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./:-]+$`)

func (d Durable) validate() error {
	var errs []error
	if d.Name == "" {
		errs = append(errs, errors.New("durable task: Name is required"))
	} else if !durableName.MatchString(d.Name) {
		errs = append(errs, fmt.Errorf("durable task %q: Name must be two or more letters, digits and any of _ - . / :", d.Name))
	}
	if d.MaxAttempts < 0 || d.Timeout < 0 {
		errs = append(errs, fmt.Errorf("durable task %q: MaxAttempts and Timeout must not be negative", d.Name))
	}
	if d.Work == nil {
		errs = append(errs, fmt.Errorf("durable task %q: Work is required", d.Name))
	}
	return errors.Join(errs...)
}

// Job is one attempt at a queued durable task.
type Job struct {
	// ID is the job's number.
	ID int64
	// Attempt counts from 1.
	Attempt int
	// Args is what Enqueue was given.
	Args json.RawMessage
	// Progress is what SaveProgress stored last, in this or an earlier attempt, or nil.
	Progress json.RawMessage

	save func(ctx context.Context, progress json.RawMessage) error
}

// Decode reads Args into v.
func (j *Job) Decode(v any) error {
	if err := json.Unmarshal(j.Args, v); err != nil {
		return fmt.Errorf("decode arguments of job %d: %w", j.ID, err)
	}
	return nil
}

// SaveProgress stores where the work stands, for the next attempt to go on from and for Status to show. It must encode
// to JSON.
func (j *Job) SaveProgress(ctx context.Context, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode progress of job %d: %w", j.ID, err)
	}
	if err := j.save(ctx, b); err != nil {
		return fmt.Errorf("save progress of job %d: %w", j.ID, err)
	}
	j.Progress = b
	return nil
}

// State is where a job stands.
type State string

// The states of a job.
const (
	Queued    State = "queued"    // waits for a process
	Scheduled State = "scheduled" // waits for its time, or for its next attempt
	Running   State = "running"
	Completed State = "completed"
	Failed    State = "failed"    // out of attempts, or given up
	Cancelled State = "cancelled" // by Runner.Cancel
)

// Status describes a job.
type Status struct {
	// ID is the job's number.
	ID int64
	// Name is the task's name.
	Name string
	// State is where it stands.
	State State
	// Attempt is the number of attempts begun.
	Attempt int
	// Args is what Enqueue was given.
	Args json.RawMessage
	// Progress is what was saved last, or nil.
	Progress json.RawMessage
	// LastError is the error of the last failed attempt, or "".
	LastError string
	// CreatedTS, StartedTS and FinishedTS are milliseconds since the epoch, 0 for not yet.
	CreatedTS, StartedTS, FinishedTS int64
}

// EnqueueOptions are choices of one Enqueue.
type EnqueueOptions struct {
	// UniqueKey, where set, makes Enqueue return the job of the same name and key that is not finished yet, if there is
	// one, instead of queueing another.
	UniqueKey string
	// After delays the first attempt.
	After time.Duration
}

// ErrNotFound is returned for a job that does not exist (any more: finished jobs are removed after a day, failed ones
// after a week).
var ErrNotFound = errors.New("job not found")
