package streams

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// WriterConfig is what a Writer is made of.
type WriterConfig[R any] struct {
	// DB is the database. Required.
	DB *storage.DB
	// IDs numbers the rows of this instance. Required.
	IDs *storage.StreamIDs
	// Client announces them. It must not run yet. Required.
	Client *replication.Client
	// Stream is the stream. Required.
	Stream replication.Stream[R]
	// Source reads this stream's rows back from the database, as it does for followers. Required.
	Source replication.Source[R]
}

// Writer writes rows of a stream that lives in the database: numbers them, stores them together with the position in one
// transaction, and announces them after the commit. It is safe for concurrent use.
type Writer[R any] struct {
	cfg       WriterConfig[R]
	publisher *replication.Publisher[R]

	mu sync.Mutex
	// unsettled are numbers of commits that were not answered and whose fate could not be found out either, because the
	// database stayed away. They hold the position back until a later Write finds it out.
	unsettled []*storage.IDs
}

// NewWriter makes cfg.Client publish the stream. It does no I/O.
func NewWriter[R any](cfg WriterConfig[R]) (*Writer[R], error) {
	if cfg.IDs == nil {
		return nil, fmt.Errorf("write stream %s: a process that writes it needs ids for its rows", cfg.Stream.Name)
	}
	publisher, err := replication.NewPublisher(cfg.Client, cfg.Stream, replication.PublisherConfig{
		Position: cfg.IDs.Position(), OnForeignPosition: cfg.IDs.Advance,
	})
	if err != nil {
		return nil, err
	}
	return &Writer[R]{cfg: cfg, publisher: publisher}, nil
}

// Write runs fn in a transaction with n numbers for rows, in ascending order, and the number of the writing instance for
// their writer_nid column. fn stores the rows and returns those it stored; when it returns none, no number is used and
// nothing is announced. fn must be repeatable. Its errors are returned as they are.
//
// When the connection breaks during the commit, Write finds out whether the transaction took place; it fails only if it
// did not, or if it cannot tell in a minute. Followers then look in the database which rows there are.
func (w *Writer[R]) Write(ctx context.Context, n int, fn func(ctx context.Context, tx *storage.Tx, ids []int64, writer storage.WriterNID) ([]replication.Row[R], error)) error {
	const attempts = 5
	if err := w.settleOld(ctx); err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		ids, err := w.cfg.IDs.Take(ctx, n, 0)
		if err != nil {
			return fmt.Errorf("take stream ids: %w", err)
		}
		var rows []replication.Row[R]
		err = storage.InTx(ctx, w.cfg.DB, storage.TxOptions{Attempts: 1}, func(ctx context.Context, tx *storage.Tx) error {
			var err error
			if rows, err = fn(ctx, tx, ids.All(), w.cfg.IDs.Writer()); err != nil || len(rows) == 0 {
				return err
			}
			return w.cfg.IDs.WritePosition(ctx, tx, ids)
		})
		if len(rows) > 0 && err != nil && uncertain(err) {
			return w.settle(ctx, ids, err)
		}
		if err == nil && len(rows) > 0 {
			// The publisher keeps the rows while the numbers hold the position back. Were they given back first, a
			// transaction beside this one could announce a position above rows that are not published yet.
			err = w.publish(rows)
			ids.Done()
			w.publisher.Advance(w.cfg.IDs.Position())
			return err
		}
		ids.Done()
		w.publisher.Advance(w.cfg.IDs.Position())
		if err == nil || attempt == attempts || !storage.IsRetryable(err) {
			return err
		}
		select {
		case <-time.After(time.Duration(attempt) * 5 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (w *Writer[R]) publish(rows []replication.Row[R]) error {
	if err := w.publisher.Publish(0, rows...); err != nil {
		return fmt.Errorf("publish stream rows: %w", err)
	}
	return nil
}

// uncertain reports whether a transaction that failed with err may have been committed after all: the connection broke,
// or the caller went away while it waited for the answer.
func uncertain(err error) bool {
	return storage.IsTransient(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// settle finds out what became of a transaction whose commit was not answered.
func (w *Writer[R]) settle(ctx context.Context, ids *storage.IDs, cause error) error {
	// The numbers hold back the position of the stream until this is known, so it goes on without the caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	// Resolve lets the position go. What it passes then may be there or not, so followers read it from the database.
	all := ids.All()
	w.publisher.Doubt(all[len(all)-1])
	if err := w.cfg.IDs.Resolve(ctx, ids); err != nil {
		if !errors.Is(err, storage.ErrWriterReplaced) {
			w.mu.Lock()
			w.unsettled = append(w.unsettled, ids)
			w.mu.Unlock()
		}
		return errors.Join(cause, fmt.Errorf("settle an unanswered commit: %w", err))
	}
	defer func() { w.publisher.Advance(w.cfg.IDs.Position()) }()
	stored, _, err := w.cfg.Source(ctx, w.cfg.Client.Instance(), all[0]-1, all[len(all)-1], len(all))
	if err != nil {
		return errors.Join(cause, fmt.Errorf("settle an unanswered commit: %w", err))
	}
	if len(stored) == 0 {
		return cause
	}
	return nil
}

// settleOld lets go of the position where an earlier commit still holds it.
func (w *Writer[R]) settleOld(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.unsettled) == 0 {
		return nil
	}
	if err := w.cfg.IDs.Resolve(ctx, w.unsettled...); err != nil {
		return fmt.Errorf("settle unanswered commits: %w", err)
	}
	w.unsettled = nil
	w.publisher.Advance(w.cfg.IDs.Position())
	return nil
}
