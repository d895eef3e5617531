package task

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-im/weft/homeserver/lease"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// leases keeps leases in the test's database.
type leases struct{ db *storage.DB }

func (s leases) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (int64, bool, error) {
	got, err := storage.AcquireLeases(ctx, s.db, holder, []string{name}, ttl)
	if err != nil || len(got) == 0 {
		return 0, false, err
	}
	return got[0].Token, true, nil
}

func (s leases) RenewLease(ctx context.Context, name, holder string, token int64, ttl time.Duration) (bool, error) {
	got, err := storage.RenewLeases(ctx, s.db, []storage.Lease{{Name: name, Holder: holder, Token: token}}, ttl)
	return len(got) == 1, err
}

func (s leases) ReleaseLease(ctx context.Context, name, holder string, token int64) error {
	return storage.ReleaseLeases(ctx, s.db, []storage.Lease{{Name: name, Holder: holder, Token: token}})
}

// database returns a database with the queue's tables.
func database(t *testing.T) *storage.DB {
	t.Helper()
	db := storagetest.New(t)
	if err := Migrate(t.Context(), db.Pool); err != nil {
		t.Fatal(err)
	}
	return db
}

// runner starts a runner until the test, or stop, ends it.
func runner(t *testing.T, db *storage.DB, instance string, background bool, tasks ...Task) (r *Runner, stop func()) {
	t.Helper()
	m, err := lease.New(lease.Config{Store: leases{db}, Holder: instance, TTL: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	r, err = New(Config{Instance: instance, Tasks: tasks, RunsBackground: background, Leases: m, Pool: db.Pool, PollInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run of %s: %v", instance, err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

// eventually waits for a job to be in a state.
func eventually(t *testing.T, r *Runner, id int64, want State) *Status {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := r.Status(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if s.State == want {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("job is %+v, want state %s", s, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestDurable(t *testing.T) {
	t.Parallel()
	db := database(t)
	type in struct{ N int }
	tasks := []Task{
		Durable{Name: "double", Work: func(ctx context.Context, j *Job) error {
			var v in
			if err := j.Decode(&v); err != nil {
				return err
			}
			return j.SaveProgress(ctx, v.N*2)
		}},
		Durable{Name: "hopeless", Work: func(context.Context, *Job) error { return GiveUp(errors.New("no use")) }},
		Durable{Name: "once", MaxAttempts: 1, Work: func(context.Context, *Job) error { return errors.New("failed") }},
		Durable{Name: "panics", MaxAttempts: 1, Work: func(context.Context, *Job) error { panic("ouch") }},
		Durable{Name: "again", Work: func(context.Context, *Job) error { return errors.New("later") }},
		Durable{Name: "waits", Work: func(ctx context.Context, _ *Job) error { <-ctx.Done(); return ctx.Err() }},
	}
	worker, _ := runner(t, db, "background", true, tasks...)
	// Another process queues: it runs none, and knows no tasks.
	other, _ := runner(t, db, "other", false)
	queue := func(name string, arguments any, opts EnqueueOptions) int64 {
		t.Helper()
		id, err := other.Enqueue(t.Context(), name, arguments, opts)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := queue("double", in{21}, EnqueueOptions{})
	s := eventually(t, other, id, Completed)
	if string(s.Progress) != "42" || s.Attempt != 1 || s.Name != "double" || s.FinishedTS < s.StartedTS || s.CreatedTS == 0 {
		t.Errorf("status %+v", s)
	}
	if diff := cmp.Diff(`{"N": 21}`, string(s.Args)); diff != "" {
		var a, b in
		_ = json.Unmarshal(s.Args, &a)
		if b.N = 21; a != b {
			t.Errorf("args: %s", s.Args)
		}
	}
	for name, want := range map[string]string{"hopeless": "no use", "once": "failed", "panics": "panic: ouch"} {
		s := eventually(t, other, queue(name, nil, EnqueueOptions{}), Failed)
		if !strings.Contains(s.LastError, want) || s.Attempt != 1 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	s = eventually(t, other, queue("again", nil, EnqueueOptions{}), Scheduled)
	if s.Attempt < 1 || !strings.Contains(s.LastError, "later") {
		t.Errorf("retry: %+v", s)
	}
	// One unfinished job for each key.
	first := queue("waits", nil, EnqueueOptions{UniqueKey: "k"})
	if again := queue("waits", nil, EnqueueOptions{UniqueKey: "k"}); again != first {
		t.Errorf("unique key gave jobs %d and %d", first, again)
	}
	if third := queue("waits", nil, EnqueueOptions{UniqueKey: "l"}); third == first {
		t.Error("another key gave the same job")
	}
	eventually(t, other, first, Running)
	if err := other.Cancel(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	eventually(t, worker, first, Cancelled)
	if again := queue("waits", nil, EnqueueOptions{UniqueKey: "k", After: time.Hour}); again == first {
		t.Error("the key of a cancelled job is still taken")
	}
	if _, err := other.Status(t.Context(), 1<<40); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown job: %v", err)
	}
	if err := other.Cancel(t.Context(), 1<<40); !errors.Is(err, ErrNotFound) {
		t.Errorf("cancel of an unknown job: %v", err)
	}
	// In a transaction: there if it commits.
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	txID, err := other.EnqueueTx(t.Context(), tx, "double", in{1}, EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Status(t.Context(), txID); !errors.Is(err, ErrNotFound) {
		t.Errorf("job of a transaction that was rolled back: %v", err)
	}
}

// A task saves its progress, its process is stopped, and the process that takes over goes on from there, in the same
// attempt.
func TestResume(t *testing.T) {
	t.Parallel()
	db := database(t)
	var blocked atomic.Bool
	reached := make(chan struct{}, 1)
	var starts sync.Map
	count := Durable{Name: "count", Work: func(ctx context.Context, j *Job) error {
		n := 0
		if j.Progress != nil {
			if err := json.Unmarshal(j.Progress, &n); err != nil {
				return err
			}
		}
		starts.Store(n, true)
		for ; n < 10; n++ {
			if err := j.SaveProgress(ctx, n); err != nil {
				return err
			}
			if n == 5 && blocked.CompareAndSwap(false, true) {
				reached <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			}
		}
		return j.SaveProgress(ctx, n)
	}}
	a, stopA := runner(t, db, "a", true, count)
	id, err := a.Enqueue(t.Context(), "count", nil, EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-reached:
	case <-time.After(20 * time.Second):
		t.Fatal("the task was not begun")
	}
	b, _ := runner(t, db, "b", true, count) // a standby
	stopA()
	s := eventually(t, b, id, Completed)
	if string(s.Progress) != "10" || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
	var got []int
	starts.Range(func(k, _ any) bool { got = append(got, k.(int)); return true })
	if len(got) != 2 || got[0]+got[1] != 5 {
		t.Errorf("the task began at %v, want 0 and 5", got)
	}
}

// A killed process leaves its job running; the next one takes it up as soon as it works on the queue.
func TestOrphan(t *testing.T) {
	t.Parallel()
	db := database(t)
	a, stop := runner(t, db, "a", false)
	id, err := a.Enqueue(t.Context(), "job", nil, EnqueueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := db.Pool.Exec(t.Context(), `UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = '{gone}' WHERE id = $1`, id); err != nil {
		t.Fatal(err)
	}
	b, _ := runner(t, db, "b", true, Durable{Name: "job", Work: func(context.Context, *Job) error { return nil }})
	if s := eventually(t, b, id, Completed); s.Attempt != 2 {
		t.Errorf("status %+v", s)
	}
}

func TestPeriodic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mine, all, failures atomic.Int32
		reg := prometheus.NewRegistry()
		r, err := New(Config{Instance: "x", Registerer: reg, Tasks: []Task{
			Periodic{Name: "all", Every: time.Minute, Scope: EveryProcess, Run: func(context.Context) error { all.Add(1); return nil }},
			Periodic{Name: "start", Every: time.Hour, AtStart: true, Scope: EveryProcess, Run: func(context.Context) error { failures.Add(1); panic("x") }},
			Periodic{Name: "one", Every: time.Minute, Run: func(context.Context) error { mine.Add(1); return nil }},
			Periodic{Name: "slow", Every: time.Minute, Scope: EveryProcess, Timeout: time.Second, Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		if failures.Load() != 1 {
			t.Errorf("AtStart ran %d times", failures.Load())
		}
		time.Sleep(100*time.Minute + 30*time.Second)
		if n := all.Load(); n < 90 || n > 112 {
			t.Errorf("%d runs in 100 minutes, want about 100", n)
		}
		if mine.Load() != 0 {
			t.Error("a process that does not run background tasks ran one")
		}
		if failures.Load() != 2 {
			t.Errorf("a task that panics ran %d times, want 2", failures.Load())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPeriodicInOneProcess(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	ran := make(chan string, 1000)
	one := func(who string) Task {
		return Periodic{Name: "one", Every: 10 * time.Millisecond, AtStart: true, Run: func(context.Context) error {
			ran <- who
			return nil
		}}
	}
	_, stopA := runner(t, db, "a", true, one("a"))
	if got := <-ran; got != "a" {
		t.Fatalf("%s ran", got)
	}
	runner(t, db, "b", true, one("b"))
	for range 20 {
		if got := <-ran; got != "a" {
			t.Fatalf("%s ran while a holds the lease", got)
		}
	}
	stopA()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case got := <-ran:
			if got == "b" {
				return
			}
		case <-timeout:
			t.Fatal("the standby did not take over")
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	run := func(context.Context) error { return nil }
	work := func(context.Context, *Job) error { return nil }
	for want, cfg := range map[string]Config{
		"Instance is required":     {},
		"Every must be positive":   {Instance: "x", Tasks: []Task{Periodic{Name: "a", Run: run}}},
		"Run is required":          {Instance: "x", Tasks: []Task{Periodic{Name: "a", Every: 1}}},
		"Name is required":         {Instance: "x", Tasks: []Task{Durable{Work: work}}},
		"Work is required":         {Instance: "x", Tasks: []Task{Durable{Name: "aa"}}},
		`task "aa" is there twice`: {Instance: "x", Tasks: []Task{Periodic{Name: "aa", Every: 1, Run: run, Scope: EveryProcess}, Durable{Name: "aa", Work: work}}},
		"durable tasks need Pool":  {Instance: "x", Tasks: []Task{Durable{Name: "aa", Work: work}}},
		"needs Leases":             {Instance: "x", RunsBackground: true, Tasks: []Task{Periodic{Name: "a", Every: 1, Run: run}}},
		"Name must be two or more": {Instance: "x", Tasks: []Task{Durable{Name: "a", Work: work}}},
		"must not be negative":     {Instance: "x", MaxWorkers: -1},
		"Jitter and Timeout must":  {Instance: "x", Tasks: []Task{Periodic{Name: "a", Every: 1, Jitter: -1, Run: run}}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	r, err := New(Config{Instance: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Enqueue(t.Context(), "a", nil, EnqueueOptions{}); err == nil {
		t.Error("Enqueue without a Pool worked")
	}
}
