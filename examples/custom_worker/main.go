// Command custom_worker is a worker that somebody else wrote, in a module of its own: a notice board for the server's
// users. It has one stream, one endpoint group and one task; run as many of it as you like beside the other workers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

const (
	streamName = "org.example.notes"
	path       = "/_matrix/client/unstable/org.example.notes/notes"
	table      = `SELECT pg_advisory_xact_lock(hashtext('notes')); CREATE TABLE IF NOT EXISTS notes (id bigint PRIMARY KEY, writer_nid bigint, user_id text, text text, at timestamptz DEFAULT now())`
)

// note is a row of the stream, and what clients see.
type note struct {
	UserID string `json:"user_id"`
	Text   string `json:"text"`
}

// board keeps all notes in memory: each worker follows what the others write.
type board struct {
	core   *homeserver.Core
	writer *streams.Writer[note]
	mu     sync.Mutex
	notes  []note
}

func newBoard(ctx context.Context, core *homeserver.Core) (*board, error) {
	b := &board{core: core}
	if _, err := core.DB.Exec(ctx, table); err != nil {
		return nil, fmt.Errorf("make table: %w", err)
	}
	if err := storage.CreateStream(ctx, core.DB, streamName); err != nil {
		return nil, err
	}
	me := core.Config.InstanceName()
	ids, err := storage.OpenStreamIDs(ctx, storage.StreamIDsConfig{DB: core.DB, Stream: streamName, Instance: me})
	if err != nil {
		return nil, err
	}
	stream := replication.Stream[note]{StreamInfo: replication.StreamInfo{Name: streamName, Mode: replication.EveryProcess}}
	// From the beginning: what is there already is read as if it had been missed.
	follower, err := replication.Follow(core.Replication, stream, replication.FollowConfig[note]{Source: b.missed})
	if err != nil {
		return nil, err
	}
	follower.Handle(func(_ context.Context, u replication.Update[note]) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, row := range u.Rows {
			b.notes = append(b.notes, row.Value)
		}
	})
	b.writer, err = streams.NewWriter(streams.WriterConfig[note]{DB: core.DB, IDs: ids, Client: core.Replication, Stream: stream, Source: b.missed})
	return b, err
}

// missed reads the rows of a writer that this process has not heard of.
func (b *board) missed(ctx context.Context, writer string, after, upTo int64, _ int) ([]replication.Row[note], int64, error) {
	rows, err := b.core.DB.Query(ctx, `SELECT id, user_id, text FROM notes JOIN writers USING (writer_nid)
		WHERE name = $1 AND id > $2 AND id <= $3 ORDER BY id`, writer, after, upTo)
	if err != nil {
		return nil, 0, err
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r replication.Row[note], err error) {
		return r, row.Scan(&r.Token, &r.Value.UserID, &r.Value.Text)
	})
	return found, upTo, err
}

func (b *board) post(ctx context.Context, r *homeserver.Request) (any, error) {
	var n note
	if err := r.Decode(&n); err != nil {
		return nil, err
	}
	if n.UserID = r.UserID(); n.Text == "" {
		return nil, mxerr.BadJSON.WithMessage("text is missing")
	}
	var id int64
	err := b.writer.Write(ctx, 1, func(ctx context.Context, tx *storage.Tx, ids []int64, me storage.WriterNID) ([]replication.Row[note], error) {
		id = ids[0]
		_, err := tx.Exec(ctx, `INSERT INTO notes (id, writer_nid, user_id, text) VALUES ($1, $2, $3, $4)`, id, me, n.UserID, n.Text)
		return []replication.Row[note]{{Token: id, Value: n}}, err
	})
	if err != nil {
		return nil, err
	}
	return nil, b.core.Replication.WaitFor(ctx, streamName, b.core.Config.InstanceName(), id) // the next GET shows it
}

func (b *board) list(context.Context, *homeserver.Request) (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return map[string]any{"notes": append([]note{}, b.notes...)}, nil
}

func run(ctx context.Context, cfg *config.Config) error {
	core, err := homeserver.OpenCore(ctx, cfg, nil)
	if err != nil {
		return err
	}
	defer core.Close()
	b, err := newBoard(ctx, core)
	if err != nil {
		return err
	}
	group := homeserver.Group{Name: "notes", Endpoints: []homeserver.Endpoint{
		{Method: "POST", Path: path, Auth: homeserver.AuthUser, Limit: "rc_message", Handle: b.post},
		{Method: "GET", Path: path, Auth: homeserver.AuthUser, Handle: b.list},
	}}
	expire := homeserver.Periodic{Name: "notes_expiry", Every: time.Hour, AtStart: true, Run: func(ctx context.Context) error {
		_, err := core.DB.Exec(ctx, `DELETE FROM notes WHERE at < now() - interval '1 year'`)
		return err
	}}
	process := core.Process([]homeserver.Group{group}, expire)
	process.Background.RunsBackground = true // one of these workers runs the task
	hs, err := homeserver.New(process)
	if err != nil {
		return err
	}
	return hs.Run(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, homeserver.MustLoad("custom_worker")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
