package replication

import (
	"context"
	"errors"
)

// WriterMode says which processes write a stream.
type WriterMode uint8

const (
	// SingleWriter streams have exactly one writer: the instance that stream_writers
	// names, else the main process.
	SingleWriter WriterMode = iota
	// ShardedWriters streams have one or more writers; each key (a room, a destination)
	// belongs to one of them.
	ShardedWriters
	// MainWriter streams are always written by the main process.
	MainWriter
	// EveryProcess streams are written by all processes.
	EveryProcess
)

// StreamInfo is what is known of a stream without its row type.
type StreamInfo struct {
	// Name is the stream's name on the wire, such as "receipts".
	Name string
	// Mode says who writes it.
	Mode WriterMode
	// WritersKey is the option under stream_writers that names its writers. Defaults to
	// Name. Streams written together share one: "backfill" is written by the "events"
	// writers.
	WritersKey string
	// InMemory says that its rows are not in the database: missed ones come from the
	// writer's memory, and are gone when that restarts.
	InMemory bool
}

// Stream is the declaration of a stream: its name, its rows and who writes it. Declare
// each once, as a value, and hand it to Follow and NewPublisher.
type Stream[R any] struct {
	StreamInfo
	// Codec turns rows into JSON and back. Defaults to JSONCodec[R].
	Codec Codec[R]
}

// Info returns the part of the declaration that does not depend on the row type.
func (s Stream[R]) Info() StreamInfo { return s.StreamInfo }

func (s Stream[R]) codec() Codec[R] {
	if s.Codec == nil {
		return JSONCodec[R]()
	}
	return s.Codec
}

// Row is a row of a stream with its token: its place in the writer's order. Several rows
// may share one token; they then form a batch that is handed out whole.
type Row[R any] struct {
	Token int64
	Value R
}

// Update is a run of rows of one writer, in token order. Rows with the same token are
// never split over two updates.
type Update[R any] struct {
	// Writer is the instance that wrote the rows.
	Writer string
	// Rows are the rows; never empty. They are shared between handlers: do not change them.
	Rows []Row[R]
	// Token is the position of the writer once the update is handled; at least that of
	// the last row.
	Token int64
	// CaughtUp says that the rows were read from the source after a gap or a start and may
	// therefore be late, rather than delivered as they happened.
	CaughtUp bool
}

// Source reads rows that a follower missed: those of writer with after < token <= upTo, in
// token order. It returns the token up to which the answer is complete in reached; when
// that is below upTo, because about limit rows were found, it is asked again from there.
// Rows with one token must be returned together, so limit may be exceeded. A source that
// can no longer tell (an in-memory log that was trimmed or restarted) returns ErrRowsGone.
// It is called by one goroutine at a time for each stream.
type Source[R any] func(ctx context.Context, writer string, after, upTo int64, limit int) (rows []Row[R], reached int64, err error)

// ErrRowsGone is returned by a Source that no longer has the rows asked for. The follower
// then tells its gap handlers and goes on behind the gap.
var ErrRowsGone = errors.New("stream rows are no longer available")
