package storage

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// ErrWriterReplaced says that another process writes the stream under the same
// instance name: it was started later and this one must stop writing. Nothing
// of the transaction took place.
var ErrWriterReplaced = errors.New("replaced by another process of the same instance name")

// ErrWriterRenewed says that the transaction was queued before
// [StreamIDs.Resolve] cut off unfinished work. Nothing of it took place; it may
// be run again with new ids ([IsRetryable]).
var ErrWriterRenewed = errors.New("stream writer was renewed meanwhile")

// StreamIDsConfig says which stream an allocator numbers.
type StreamIDsConfig struct {
	// DB is the database. Required.
	DB *DB
	// Stream is the stream's name, made by the SQL function create_stream in a
	// migration or by [CreateStream]. Required.
	Stream string
	// Instance is the name of the instance that writes. Required.
	Instance string
	// MaxIDSQL, if set, is a statement that returns the greatest id among the
	// stream's rows, 0 for none. With it a sequence that was restored to a point
	// behind the rows is found and moved on.
	MaxIDSQL string
}

// StreamIDs hands out the ids of one stream's rows to one of its writers; other
// instances write the same stream with allocators of their own. See the
// package's file streamids.go for the rules. It is safe for concurrent use.
type StreamIDs struct{}

// IDs are ids in the hands of a transaction: ascending, not always adjacent.
// They hold the writer's position back until Done (or [StreamIDs.Resolve]).
type IDs struct {
	ids []int64
}

// OpenStreamIDs takes over as the stream's writer of that name. It waits for
// transactions of a previous process of that name to end and has later ones
// fail with [ErrWriterReplaced], so that from its return on the position is
// exact.
func OpenStreamIDs(ctx context.Context, cfg StreamIDsConfig) (*StreamIDs, error) {
	return nil, errors.ErrUnsupported
}

// Take returns the next n ids, all greater than after. It needs no round trip
// while reserved ids last: see [StreamIDs.QueueReserve].
func (s *StreamIDs) Take(ctx context.Context, n int, after int64) (*IDs, error) {
	return nil, errors.ErrUnsupported
}

// All returns the ids. The slice must not be changed.
func (ids *IDs) All() []int64 { return ids.ids }

// Done says that the transaction which had the ids has ended, committed or
// certainly not. When that is unknown call [StreamIDs.Resolve]. Calling Done
// again does nothing.
func (ids *IDs) Done() {}

// QueuePosition appends to b the statement that every transaction with rows of
// the stream must hold: it records the position that is true once ids are
// committed, and fails the transaction with [ErrWriterReplaced] or
// [ErrWriterRenewed] when this allocator no longer is the writer. It returns no
// rows.
func (s *StreamIDs) QueuePosition(b *pgx.Batch, ids *IDs) {}

// WritePosition runs what [StreamIDs.QueuePosition] queues.
func (s *StreamIDs) WritePosition(ctx context.Context, tx Querier, ids *IDs) error { return nil }

// QueueReserve appends to b, when fewer than n ids are left, a statement that
// reserves at least n, and takes them in when the batch's results are read. A
// busy writer calls it with the size of its last batch, so that Take never has
// to ask.
func (s *StreamIDs) QueueReserve(b *pgx.Batch, n int) {}

// Resolve ends uncertainty: when the connection broke during a commit, the rows
// of ids may be there, may never be, or may still appear. Resolve waits until
// the transaction is certain to have ended, has any that is not there yet fail
// with [ErrWriterRenewed], and marks ids as done. Then the caller looks whether
// its rows are there. It keeps trying while the database is away, until ctx
// ends.
func (s *StreamIDs) Resolve(ctx context.Context, ids *IDs) error { return nil }

// Position returns the position below which, itself included, no row of this
// writer is in flight or will be written. It never goes back.
func (s *StreamIDs) Position() int64 { return 0 }

// Advance is told a position of another writer of the stream. Ids at or below
// it that this writer has reserved and not used are given up, so that an idle
// writer's position moves along. It returns the own position.
func (s *StreamIDs) Advance(seen int64) int64 { return 0 }

// Changed returns a channel that is closed when the position next moves.
func (s *StreamIDs) Changed() <-chan struct{} { return nil }

// Writer returns the writer's number, for the writer_nid column of its rows.
func (s *StreamIDs) Writer() WriterNID { return 0 }

// Epoch returns the stream's current epoch: see [StreamEpochs].
func (s *StreamIDs) Epoch() int32 { return 0 }

// CreateStream makes a stream and its sequence where missing. The base streams
// are made by the migrations; this is for streams of downstream programs.
func CreateStream(ctx context.Context, q Querier, stream string) error { return nil }

// StreamEpoch is one life of a stream. A stream starts a new one when its
// database was restored to an earlier point, or might have been (copied,
// failed over).
type StreamEpoch struct {
	// Epoch is a random number from 1 up.
	Epoch int32 `db:"epoch"`
	// StartPosition is the greatest position that the life before had recorded
	// when this one began.
	StartPosition int64 `db:"start_position"`
	// StartedTS is when, in milliseconds since the epoch.
	StartedTS int64 `db:"started_ts"`
	// Reason says why, for people.
	Reason string `db:"reason"`
}

// StreamEpochs are a stream's lives, the current one last.
type StreamEpochs []StreamEpoch

// Current returns the current epoch, 0 when there is none.
func (es StreamEpochs) Current() int32 {
	if len(es) == 0 {
		return 0
	}
	return es[len(es)-1].Epoch
}

// Valid tells whether a position that was given out in the given epoch means
// the same now: the epoch is the current one, or the position lies before the
// point up to which all later lives share its history.
func (es StreamEpochs) Valid(epoch int32, position int64) bool {
	for i, e := range es {
		if e.Epoch != epoch {
			continue
		}
		for _, later := range es[i+1:] {
			if position > later.StartPosition {
				return false
			}
		}
		return true
	}
	return false
}

// StreamPosition is how far one writer of a stream has come in the database.
type StreamPosition struct {
	Writer    string    `db:"name"`
	WriterNID WriterNID `db:"writer_nid"`
	Position  int64     `db:"position"`
}

// StreamState is what the database knows of a stream.
type StreamState struct {
	Stream    string
	Epochs    StreamEpochs
	Positions []StreamPosition
}

// GetStreams returns the states of the named streams, in that order, in one
// round trip. A stream that does not exist has no epochs.
func GetStreams(ctx context.Context, q Querier, streams []string) ([]StreamState, error) {
	return nil, errors.ErrUnsupported
}
