package storage_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// childURL is set for a child of the test binary that writes a stream until it
// is killed.
const childURL = "WEFT_TEST_WRITER_CHILD"

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		if err := writeForever(url); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
		}
		os.Exit(1)
	}
	storage.SetEmptyDB(openEmpty)
	goleak.VerifyTestMain(m)
}

// newStream makes the stream "test" with a table of rows.
func newStream(t *testing.T, db *storage.DB) {
	t.Helper()
	if err := storage.CreateStream(t.Context(), db, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), `CREATE TABLE test_rows (id bigint PRIMARY KEY, writer_nid smallint NOT NULL)`); err != nil {
		t.Fatal(err)
	}
}

const maxTestID = `SELECT coalesce(max(id), 0) FROM test_rows`

func openIDs(t *testing.T, db *storage.DB, instance string) *storage.StreamIDs {
	t.Helper()
	s, err := storage.OpenStreamIDs(t.Context(), storage.StreamIDsConfig{DB: db, Stream: "test", Instance: instance, MaxIDSQL: maxTestID})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func take(t *testing.T, s *storage.StreamIDs, n int, after int64) *storage.IDs {
	t.Helper()
	ids, err := s.Take(t.Context(), n, after)
	if err != nil {
		t.Fatal(err)
	}
	if got := ids.All(); len(got) != n || !slices.IsSorted(got) || n > 0 && got[0] <= after {
		t.Fatalf("Take(%d, %d) = %d", n, after, got)
	}
	return ids
}

// write commits rows with the ids as one batch, reserves as many again, and
// leaves ids in flight.
func write(ctx context.Context, db *storage.DB, s *storage.StreamIDs, ids *storage.IDs) error {
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO test_rows (id, writer_nid) SELECT id, $2 FROM unnest($1::bigint[]) AS id`, ids.All(), s.Writer())
	s.QueuePosition(b, ids)
	s.QueueReserve(b, len(ids.All()))
	return db.SendBatch(ctx, b).Close()
}

func TestIDsAscendAndAreUniqueOverWriters(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		s := openIDs(t, db, name)
		var mu sync.Mutex
		last := int64(0)
		for range 3 {
			wg.Go(func() {
				for range 30 {
					mu.Lock()
					ids, err := s.Take(t.Context(), 1+rand.IntN(100), 0)
					if err != nil {
						mu.Unlock()
						t.Error(err)
						return
					}
					all := ids.All()
					if !slices.IsSorted(all) || all[0] <= last {
						t.Errorf("ids %d after %d", all, last)
					}
					last = all[len(all)-1]
					mu.Unlock()
					// The primary key refuses what was handed out twice.
					if err := write(t.Context(), db, s, ids); err != nil {
						t.Error(err)
					}
					ids.Done()
				}
			})
		}
	}
	wg.Wait()
}

func TestPositionStopsBelowWhatIsInFlight(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	s := openIDs(t, db, "a")
	if got := s.Position(); got != 0 {
		t.Errorf("position of a new stream = %d", got)
	}
	first, second, third := take(t, s, 3, 0), take(t, s, 2, 0), take(t, s, 1, 0)
	second.Done()
	if got := s.Position(); got != 0 {
		t.Errorf("position = %d while the first ids are in flight", got)
	}
	changed := s.Changed()
	first.Done()
	select {
	case <-changed:
	default:
		t.Error("Changed did not tell that the position moved")
	}
	if got, want := s.Position(), second.All()[1]; got != want {
		t.Errorf("position = %d, want %d: the third is in flight", got, want)
	}
	third.Done()
	third.Done()
	if got, want := s.Position(), third.All()[0]; got != want {
		t.Errorf("position = %d, want %d", got, want)
	}
}

func TestIdleWriterAdvances(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	a, b := openIDs(t, db, "a"), openIDs(t, db, "b")
	take(t, b, 1, 0).Done() // b holds the rest of a block
	for range 10 {
		take(t, a, 20, 0).Done()
	}
	if got := b.Advance(a.Position()); got != a.Position() {
		t.Errorf("idle writer's position = %d after it saw %d", got, a.Position())
	}
	held := take(t, b, 1, 0)
	if held.All()[0] <= a.Position() {
		t.Errorf("id %d at or below the position %d that was promised", held.All()[0], a.Position())
	}
	before := held.All()[0] - 1
	if got := b.Advance(before + 1000); got != before {
		t.Errorf("position = %d with %d in flight", got, held.All()[0])
	}
	held.Done()
	if got := b.Position(); got != before+1000 {
		t.Errorf("position = %d, want %d", got, before+1000)
	}
	// A room that moved from a to b.
	last := take(t, a, 1, 0).All()[0]
	take(t, b, 1, last)
}

func TestBusyWriterNeedsOneRoundTrip(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	s := openIDs(t, db, "a")
	for i := range 20 {
		counts := storagetest.Count(t, db, func() {
			ids := take(t, s, 50, 0)
			if err := write(t.Context(), db, s, ids); err != nil {
				t.Fatal(err)
			}
			ids.Done()
		})
		if i > 0 && counts.RoundTrips != 1 {
			t.Errorf("write %d took %+v", i, counts)
		}
	}
	states, err := storage.GetStreams(t.Context(), db, []string{"test", "none"})
	if err != nil {
		t.Fatal(err)
	}
	if got := states[0].Positions; len(got) != 1 || got[0].Writer != "a" || got[0].Position != s.Position() {
		t.Errorf("positions in the database: %+v, want %d", got, s.Position())
	}
	if got := states[0].Epochs.Current(); got != s.Epoch() || got == 0 {
		t.Errorf("epoch in the database %d, of the allocator %d", got, s.Epoch())
	}
	if len(states[1].Epochs) != 0 {
		t.Errorf("stream that does not exist: %+v", states[1])
	}
}

func TestSuccessorFencesOff(t *testing.T) {
	t.Parallel()
	// A transaction that is alone says its position in another way than one of
	// several.
	for name, alone := range map[string]bool{"alone": true, "one of several": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := storagetest.New(t)
			newStream(t, db)
			old := openIDs(t, db, "a")
			open, late := take(t, old, 1, 0), take(t, old, 1, 0)
			with := []*storage.IDs{open}
			if alone {
				with = append(with, late)
			}

			// A transaction of the old process that has said its position holds the
			// successor up until it ends.
			tx, err := db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `INSERT INTO test_rows VALUES ($1, $2)`, open.All()[0], old.Writer()); err != nil {
				t.Fatal(err)
			}
			if err := old.WritePosition(t.Context(), tx, with...); err != nil {
				t.Fatal(err)
			}
			opened := make(chan *storage.StreamIDs, 1)
			go func() {
				s, err := storage.OpenStreamIDs(context.WithoutCancel(t.Context()), storage.StreamIDsConfig{DB: db, Stream: "test", Instance: "a"})
				if err != nil {
					t.Error(err)
				}
				opened <- s
			}()
			waitForLock(t, db)
			if len(opened) != 0 {
				t.Fatal("the successor did not wait for the open transaction")
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			successor := <-opened
			if p := successor.Position(); p < late.All()[0] {
				t.Errorf("successor's position %d is below ids of the process before it (%d)", p, late.All()[0])
			}
			b := &pgx.Batch{}
			b.Queue(`INSERT INTO test_rows VALUES ($1, $2)`, late.All()[0], old.Writer())
			if alone {
				open.Done()
			}
			old.QueuePosition(b, late)
			if err := storage.TranslateError(db.SendBatch(t.Context(), b).Close()); !errors.Is(err, storage.ErrWriterReplaced) {
				t.Errorf("write of the old process: error %v, want ErrWriterReplaced", err)
			}
			if err := old.Resolve(t.Context(), late); !errors.Is(err, storage.ErrWriterReplaced) {
				t.Errorf("Resolve of the old process: error %v, want ErrWriterReplaced", err)
			}
			var n int
			if err := db.QueryRow(t.Context(), `SELECT count(*) FROM test_rows`).Scan(&n); err != nil || n != 1 {
				t.Errorf("%d rows, error %v; want the one that was committed", n, err)
			}
		})
	}
}

func TestTransactionsInFlightDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	s := openIDs(t, db, "a")
	first, second := take(t, s, 1, 0), take(t, s, 1, 0)
	var txs [2]pgx.Tx
	for i, ids := range []*storage.IDs{second, first} {
		tx, err := db.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WritePosition(t.Context(), tx, ids); err != nil {
			t.Fatal(err)
		}
		txs[i] = tx
	}
	for _, tx := range txs {
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	states, err := storage.GetStreams(t.Context(), db, []string{"test"})
	if err != nil {
		t.Fatal(err)
	}
	// The second says what is true while the first is in flight.
	if got := states[0].Positions[0].Position; got > first.All()[0] {
		t.Errorf("recorded position %d, want at most %d", got, first.All()[0])
	}
}

// waitForLock returns once some session waits for a lock.
func waitForLock(t *testing.T, db *storage.DB) {
	t.Helper()
	for !lockWaited(t, db) {
		continue
	}
}

// lockWaited tells whether some session waits for a lock.
func lockWaited(t *testing.T, db *storage.DB) (waits bool) {
	t.Helper()
	err := db.QueryRow(t.Context(), `
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
	if err != nil {
		t.Fatal(err)
	}
	return waits
}

func TestResolveSettlesALostCommit(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	s := openIDs(t, db, "a")
	lost, other := take(t, s, 1, 0), take(t, s, 1, 0)

	// The server has the transaction, and its client has lost the connection;
	// the server goes on with it.
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WritePosition(t.Context(), tx, lost); err != nil {
		t.Fatal(err)
	}
	// Another transaction was queued before and comes to the server after.
	b := &pgx.Batch{}
	s.QueuePosition(b, other)

	resolved := make(chan error, 1)
	go func() { resolved <- s.Resolve(context.WithoutCancel(t.Context()), lost) }()
	waitForLock(t, db)
	if s.Position() >= lost.All()[0] {
		t.Error("position passed rows that may still appear")
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-resolved; err != nil {
		t.Fatal(err)
	}
	if got := s.Position(); got != lost.All()[0] {
		t.Errorf("position = %d, want %d", got, lost.All()[0])
	}
	if err := storage.TranslateError(db.SendBatch(t.Context(), b).Close()); !storage.IsRetryable(err) {
		t.Errorf("transaction queued before Resolve: error %v, want a retryable one", err)
	}
	if err := write(t.Context(), db, s, other); err != nil {
		t.Errorf("queued again: %v", err)
	}
}

func TestRestoredToAnEarlierPoint(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	s := openIDs(t, db, "a")
	ids := take(t, s, 1000, 0)
	if err := write(t.Context(), db, s, ids); err != nil {
		t.Fatal(err)
	}
	ids.Done()
	before := s.Epoch()
	if again := openIDs(t, db, "b"); again.Epoch() != before {
		t.Errorf("epoch changed from %d to %d without a cause", before, again.Epoch())
	}

	// The sequence is behind: a restore that missed it.
	if _, err := db.Exec(t.Context(), `SELECT setval('test_stream_seq', 1)`); err != nil {
		t.Fatal(err)
	}
	// A process that runs meanwhile does not reuse ids ...
	next := take(t, s, 500, 0)
	if err := write(t.Context(), db, s, next); err != nil {
		t.Fatal(err)
	}
	next.Done()
	if _, err := db.Exec(t.Context(), `SELECT setval('test_stream_seq', 1)`); err != nil {
		t.Fatal(err)
	}
	// ... nor does one that starts.
	restarted := openIDs(t, db, "b")
	if restarted.Epoch() == before || restarted.Epoch() == 0 {
		t.Errorf("epoch %d after a restore, %d before", restarted.Epoch(), before)
	}
	fresh := take(t, restarted, 1, 0)
	if fresh.All()[0] <= next.All()[499] {
		t.Errorf("id %d is used again; the greatest was %d", fresh.All()[0], next.All()[499])
	}
	if err := write(t.Context(), db, restarted, fresh); err != nil {
		t.Fatal(err)
	}

	states, err := storage.GetStreams(t.Context(), db, []string{"test"})
	if err != nil {
		t.Fatal(err)
	}
	epochs := states[0].Epochs
	if !epochs.Valid(before, 500) || epochs.Valid(before, 1<<40) || !epochs.Valid(epochs.Current(), 1<<40) || epochs.Valid(before+1, 0) {
		t.Errorf("epochs %+v: validity of positions is wrong", epochs)
	}
}

func TestCopiedDatabaseStartsNewEpochs(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	newStream(t, db)
	if err := storage.CheckSchema(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	s := openIDs(t, db, "a")
	ids := take(t, s, 10, 0)
	if err := write(t.Context(), db, s, ids); err != nil {
		t.Fatal(err)
	}
	ids.Done()
	// What a restored copy looks like: its notes of where it lies are wrong.
	if _, err := db.Exec(t.Context(), `UPDATE database_identity SET timeline = '000000FF'`); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := storage.CheckSchema(t.Context(), db); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	states, err := storage.GetStreams(t.Context(), db, []string{"test"})
	if err != nil {
		t.Fatal(err)
	}
	epochs := states[0].Epochs
	if len(epochs) != 2 || epochs[1].StartPosition < s.Position() {
		t.Errorf("epochs of a copied database: %+v, want one more that starts at %d or later", epochs, s.Position())
	}
	if !epochs.Valid(s.Epoch(), s.Position()) {
		t.Error("a position from before the copy is not valid")
	}
}

// writeForever writes rows as the instance "a" with several transactions in
// flight, and prints each position before it relies on it.
func writeForever(url string) error {
	ctx := context.Background()
	db, err := storage.Open(ctx, storage.Config{ConnString: url})
	if err != nil {
		return err
	}
	s, err := storage.OpenStreamIDs(ctx, storage.StreamIDsConfig{DB: db, Stream: "test", Instance: "a", MaxIDSQL: maxTestID})
	if err != nil {
		return err
	}
	fmt.Println(s.Position())
	errs := make(chan error)
	for range 4 {
		go func() {
			for {
				ids, err := s.Take(ctx, 1+rand.IntN(40), 0)
				if err == nil {
					err = write(ctx, db, s, ids)
				}
				if err != nil {
					errs <- err
					return
				}
				ids.Done()
				fmt.Println(s.Position())
			}
		}()
	}
	return <-errs
}

func TestKilledWriter(t *testing.T) {
	t.Parallel()
	url := storagetest.NewConnString(t)
	db, err := storage.Open(t.Context(), storage.Config{ConnString: url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	newStream(t, db)

	// What the database showed up to a position when the position was announced.
	type sighting struct {
		position int64
		rows     int
	}
	var sightings []sighting
	look := func(position int64) int {
		var n int
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM test_rows WHERE id <= $1`, position).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	last := int64(0)
	for range 6 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childURL+"="+url)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		stop := 5 + rand.IntN(40)
		sc := bufio.NewScanner(out)
		highest := int64(0)
		for lines := 0; lines < stop && sc.Scan(); lines++ {
			p, err := strconv.ParseInt(sc.Text(), 10, 64)
			if err != nil {
				t.Fatalf("child said %q", sc.Text())
			}
			if lines == 0 && p < last {
				t.Errorf("the process after a kill starts at %d, below %d that was announced", p, last)
			}
			highest = max(highest, p)
			sightings = append(sightings, sighting{p, look(p)})
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // killed
		last = max(last, highest)
	}
	if len(sightings) < 30 {
		t.Fatalf("only %d positions announced", len(sightings))
	}
	// Sessions of killed children may still be at work.
	openIDs(t, db, "a")
	for _, s := range sightings {
		if got := look(s.position); got != s.rows {
			t.Errorf("%d rows up to position %d, %d when it was announced", got, s.position, s.rows)
		}
	}
}

func TestResolveOverARestart(t *testing.T) {
	t.Parallel()
	server := storagetest.NewServer(t, nil)
	db, err := storage.Open(t.Context(), storage.Config{ConnString: server.ConnString()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	newStream(t, db)
	s := openIDs(t, db, "a")
	ids := take(t, s, 1, 0)
	server.Kill(t)
	err = write(t.Context(), db, s, ids)
	if !storage.IsTransient(err) {
		t.Fatalf("write to a killed server: error %v is not transient", err)
	}
	resolved := make(chan error, 1)
	go func() { resolved <- s.Resolve(context.WithoutCancel(t.Context()), ids) }()
	server.Start(t)
	select {
	case err := <-resolved:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Resolve did not return after the server came back")
	}
	var n int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM test_rows`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, error %v", n, err)
	}
	next := take(t, s, 1, 0)
	if err := write(t.Context(), db, s, next); err != nil {
		t.Fatal(err)
	}
}

// Other programs name streams after domains, and several of their processes may make one at the same time.
func TestStreamNames(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	for _, name := range []string{"org.example.notes", "Org.Example.Notes", "org_example_notes", `odd "name"`, "_", strings.Repeat("long", 40)} {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := storage.CreateStream(t.Context(), db, name); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		s, err := storage.OpenStreamIDs(t.Context(), storage.StreamIDsConfig{DB: db, Stream: name, Instance: "master", MaxIDSQL: `SELECT 1000`})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ids, err := s.Take(t.Context(), 100, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if first := ids.All()[0]; first <= 1000 {
			t.Errorf("%s: the first id after 1000 is %d", name, first)
		}
	}
	var sequences int
	if err := db.QueryRow(t.Context(), `SELECT count(DISTINCT id_sequence) - count(*) FROM streams`).Scan(&sequences); err != nil || sequences != 0 {
		t.Errorf("streams share sequences: %d, %v", sequences, err)
	}
}
