package sync

import (
	"context"
	"errors"
	gosync "sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

const (
	// freshTimeout bounds one query for positions.
	freshTimeout = 10 * time.Second
	// onItsWay is how long a row that is committed may take to arrive before it is read from the database instead.
	onItsWay = 250 * time.Millisecond
)

// freshness brings this process up to what had been committed when a request arrived. The query for that is shared: one
// runs at a time, and requests that arrive while it does share the next.
type freshness struct {
	db      *storage.DB
	client  *replication.Client
	streams []string
	log     zerolog.Logger

	mu      gosync.Mutex
	next    *freshCall
	running bool
}

type freshCall struct {
	done      chan struct{}
	positions []storage.WriterPosition
	err       error
}

func newFreshness(db *storage.DB, client *replication.Client, log zerolog.Logger) *freshness {
	f := &freshness{db: db, client: client, log: log}
	for st := range token.Streams {
		if st != token.Typing { // lives in memory
			f.streams = append(f.streams, st.String())
		}
	}
	return f
}

// wait returns once the handlers of this process have seen everything that was committed before the call.
func (f *freshness) wait(ctx context.Context) error {
	positions, err := f.positions(ctx)
	if err != nil {
		return err
	}
	for _, p := range positions {
		if err := f.reach(ctx, p.Stream, p.Writer, p.Position); err != nil {
			return err
		}
	}
	return nil
}

// reach waits until the handlers have seen what a writer wrote up to id. A writer that cannot be followed in time does not
// fail the request: what the process knows is still true, and the rest comes with a later response.
func (f *freshness) reach(ctx context.Context, stream, writer string, id int64) error {
	if f.client.Position(stream).Covers(writer, id) {
		return nil
	}
	// As a rule the rows are on their way: the writer publishes them right after their commit.
	arriving, cancel := context.WithTimeout(ctx, onItsWay)
	err := f.client.WaitFor(arriving, stream, writer, id)
	cancel()
	if err != nil && arriving.Err() != nil && ctx.Err() == nil {
		f.client.Observe(stream, writer, id)
		err = f.client.WaitFor(ctx, stream, writer, id)
	}
	switch {
	case err == nil, errors.Is(err, replication.ErrNotFollowed):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	f.log.Warn().Err(err).Str("stream", stream).Str("writer", writer).Int64("position", id).Msg("answering /sync without having caught up")
	return nil
}

// waitLocal is wait where this process is the only writer: what it has published is all there is.
func (f *freshness) waitLocal(ctx context.Context) error {
	for st := range token.Streams {
		stream := st.String()
		id, ok := f.client.Published(stream)
		if !ok {
			continue
		}
		if err := f.reach(ctx, stream, f.client.Instance(), id); err != nil {
			return err
		}
	}
	return nil
}

func (f *freshness) positions(ctx context.Context) ([]storage.WriterPosition, error) {
	f.mu.Lock()
	if f.next == nil {
		f.next = &freshCall{done: make(chan struct{})}
	}
	call := f.next
	if !f.running {
		f.running = true
		// The query serves others too, so it does not end with the request that happens to come first.
		go f.run(context.WithoutCancel(ctx))
	}
	f.mu.Unlock()
	select {
	case <-call.done:
		return call.positions, call.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run answers calls until there are none.
func (f *freshness) run(ctx context.Context) {
	for {
		f.mu.Lock()
		call := f.next
		f.next = nil
		if call == nil {
			f.running = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		qctx, cancel := context.WithTimeout(ctx, freshTimeout)
		call.positions, call.err = storage.SyncPositions(qctx, f.db, f.streams)
		cancel()
		close(call.done)
	}
}
