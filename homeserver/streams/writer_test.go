package streams_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type row = replication.Row[streams.CachesRow]

// kit writes the caches stream in the main process and follows it in both.
type kit struct {
	cluster *streamstest.Cluster
	ids     *storage.StreamIDs
	writer  *streams.Writer[streams.CachesRow]

	mu    sync.Mutex
	heard map[string][]string // by process
}

func newKit(t *testing.T) *kit {
	t.Helper()
	k := &kit{cluster: streamstest.New(t, nil, "worker"), heard: make(map[string][]string)}
	main := k.cluster.Processes[0]
	source := func(ctx context.Context, writer string, after, upTo int64, limit int) ([]row, int64, error) {
		found, _, err := storage.GetCacheInvalidations(ctx, main.DB, writer, after, upTo, limit)
		var rows []row
		for _, f := range found {
			rows = append(rows, row{Token: f.StreamID, Value: streams.CachesRow{CacheFunc: f.CacheFunc}})
		}
		return rows, upTo, err
	}
	for _, p := range k.cluster.Processes {
		f, err := replication.Follow(p.Client, streams.Caches(), replication.FollowConfig[streams.CachesRow]{Source: source})
		if err != nil {
			t.Fatal(err)
		}
		f.Handle(func(_ context.Context, u replication.Update[streams.CachesRow]) {
			k.mu.Lock()
			defer k.mu.Unlock()
			for _, r := range u.Rows {
				k.heard[p.Name] = append(k.heard[p.Name], r.Value.CacheFunc)
			}
		})
	}
	k.ids = main.IDs(t, "caches")
	var err error
	k.writer, err = streams.NewWriter(streams.WriterConfig[streams.CachesRow]{
		DB: main.DB, IDs: k.ids, Client: main.Client, Stream: streams.Caches(), Source: source,
	})
	if err != nil {
		t.Fatal(err)
	}
	k.cluster.Start(t)
	return k
}

// write stores one row of the given name; before, if set, runs between storing and committing it.
func (k *kit) write(ctx context.Context, name string, before func() error) error {
	return k.writer.Write(ctx, 1, func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]row, error) {
		r := storage.CacheInvalidation{StreamID: ids[0], WriterNID: writer, CacheFunc: name, TS: 1}
		if err := storage.InsertCacheInvalidations(ctx, tx, []storage.CacheInvalidation{r}); err != nil {
			return nil, err
		}
		rows := []row{{Token: ids[0], Value: streams.CachesRow{CacheFunc: name}}}
		if before != nil {
			return rows, before()
		}
		return rows, nil
	})
}

func (k *kit) settle(t *testing.T) {
	t.Helper()
	for _, p := range k.cluster.Processes {
		if err := p.Client.WaitFor(t.Context(), "caches", "master", k.ids.Position()); err != nil {
			t.Fatal(err)
		}
	}
}

// However many write at once, everybody hears each row once and the position ends above all of them.
func TestManyWritersAtOnce(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	const n = 60
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := k.write(t.Context(), fmt.Sprint(i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	k.settle(t)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.cluster.Processes {
		seen := make(map[string]int)
		for _, name := range k.heard[p.Name] {
			seen[name]++
		}
		for i := range n {
			if seen[fmt.Sprint(i)] != 1 {
				t.Errorf("%s heard row %d %d times", p.Name, i, seen[fmt.Sprint(i)])
			}
		}
	}
	var last int64
	if err := k.cluster.DB.QueryRow(t.Context(), `SELECT max(stream_id) FROM cache_invalidations`).Scan(&last); err != nil {
		t.Fatal(err)
	}
	if k.ids.Position() < last {
		t.Errorf("position %d is below row %d", k.ids.Position(), last)
	}
}

// A transaction that fails, for whatever reason, must not hold the stream up.
func TestFailuresDoNotHoldTheStreamUp(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for name, tc := range map[string]struct {
		run  func(k *kit) error
		want error
	}{
		"refused": {func(k *kit) error {
			return k.write(t.Context(), "lost", func() error { return refused })
		}, refused},
		"caller goes away before the commit": {func(k *kit) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			return k.write(ctx, "lost", func() error { cancel(); return nil })
		}, context.Canceled},
		"nothing to write": {func(k *kit) error {
			return k.writer.Write(t.Context(), 3, func(context.Context, *storage.Tx, []int64, storage.WriterNID) ([]row, error) { return nil, nil })
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			if err := tc.run(k); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if err := k.write(t.Context(), "kept", nil); err != nil {
				t.Fatal(err)
			}
			k.settle(t)
			var stored []string
			if err := k.cluster.DB.QueryRow(t.Context(), `SELECT array_agg(cache_func) FROM cache_invalidations`).Scan(&stored); err != nil {
				t.Fatal(err)
			}
			if len(stored) != 1 || stored[0] != "kept" {
				t.Errorf("stored are %v", stored)
			}
			k.mu.Lock()
			defer k.mu.Unlock()
			for _, p := range k.cluster.Processes {
				heard := k.heard[p.Name]
				if len(heard) == 0 || heard[len(heard)-1] != "kept" {
					t.Errorf("%s heard %v", p.Name, heard)
				}
			}
		})
	}
}

// A connection that breaks during the commit leaves the outcome open; Write finds out that nothing was stored.
func TestAConnectionThatBreaksDuringTheCommit(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	// A trigger that runs as part of the commit ends the session. To the client that looks like
	// any commit that was not answered.
	ctx := t.Context()
	_, err := k.cluster.DB.Exec(ctx, `
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON cache_invalidations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
WHEN (NEW.cache_func = 'lost') EXECUTE FUNCTION cut();`)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.write(ctx, "lost", nil); err == nil {
		t.Error("a transaction that the server ended before its commit was said to have succeeded")
	}
	if err := k.write(ctx, "kept", nil); err != nil {
		t.Fatal(err)
	}
	k.settle(t)
	var stored []string
	if err := k.cluster.DB.QueryRow(ctx, `SELECT array_agg(cache_func) FROM cache_invalidations`).Scan(&stored); err != nil || len(stored) != 1 {
		t.Errorf("stored are %v, %v", stored, err)
	}
}
