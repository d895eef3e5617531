package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
)

// Config configures a Client.
type Config struct {
	// ServerName is the server's name, which the channels are named after. Required.
	ServerName string
	// Instance is the unique name of this process. Defaults to MainInstance.
	Instance string
	// Bus connects the process with the others. Defaults to none: the process is alone,
	// and streams run inside it only.
	Bus Bus
	// Writers, if set, tells which writers to expect for each stream, so that the floor of
	// a position is known before all of them have been heard of.
	Writers *Writers
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
	// QueueSize bounds the updates of one stream that wait for its handlers. When it is
	// full the rest is read from the stream's source later. Defaults to 4096.
	QueueSize int
	// SendQueueBytes bounds what waits to be published on one stream. When it is full the
	// rows are dropped and the followers read them from the source. Defaults to 4 MiB.
	SendQueueBytes int
	// CatchUpLimit is the number of rows asked from a source at once. Defaults to 500.
	CatchUpLimit int
	// WaitTimeout bounds WaitFor where the context has no earlier deadline.
	// Defaults to 10 seconds.
	WaitTimeout time.Duration
	// Heartbeat is the time after which a writer repeats its position when nothing else
	// was sent, so that even a lost last message is noticed. Defaults to 30 seconds.
	Heartbeat time.Duration
	// IdleAnnounce is the shortest time between two positions that an idle writer
	// announces because others advance. Defaults to 100 milliseconds.
	IdleAnnounce time.Duration
	// DrainTimeout bounds how long Run goes on sending what was published once its context
	// is done. Defaults to 5 seconds.
	DrainTimeout time.Duration
}

// WaitError says that a stream did not reach a position in time.
type WaitError struct {
	Stream string
	Writer string // the writer that is behind
	Want   int64
	Have   int64
	Err    error // why the wait ended: the context's error, or ErrNotFollowed
}

// Error implements error.
func (e *WaitError) Error() string {
	return fmt.Sprintf("wait for stream %s of %s to reach %d (at %d): %v", e.Stream, e.Writer, e.Want, e.Have, e.Err)
}

// Unwrap returns why the wait ended.
func (e *WaitError) Unwrap() error { return e.Err }

// ErrNotFollowed says that the process does not follow the stream it was asked about.
var ErrNotFollowed = errors.New("stream is not followed by this process")

// ErrStarted is returned by Follow, NewPublisher and OnCommand once Run was called.
var ErrStarted = errors.New("replication client has started already")

// FollowConfig says how a process follows a stream.
type FollowConfig[R any] struct {
	// Source reads missed rows. Without one a gap is reported to OnGap and passed over.
	Source Source[R]
	// From is the position to start from: rows after it are handed out. Read it from the
	// database before the caches are filled that the rows will invalidate.
	From Position
	// FromNow starts each writer at the position first heard of instead of From: earlier
	// rows are not wanted.
	FromNow bool
	// OnGap is called, in order with the rows, when the rows of writer in (after, upTo]
	// cannot be had any more; whatever was derived from the stream must be thrown away.
	OnGap func(ctx context.Context, writer string, after, upTo int64)
}

// PublisherConfig says where a writer stands.
type PublisherConfig struct {
	// Position is the token up to which everything this instance wrote is committed, and
	// nothing is in flight.
	Position int64
	// OnForeignPosition, if set, is called when another writer of the stream is seen at a
	// token above this writer's position. It returns the position of this writer
	// afterwards: an idle one gives back the ids it has reserved and returns token (so
	// that it never takes an id at or below it any more); a busy one returns where it
	// stands. It must not block and may be called from several goroutines.
	OnForeignPosition func(token int64) (position int64)
}

// StreamStatus is the state of one stream in this process, as Client.Snapshot gives it.
type StreamStatus struct {
	Stream   string
	Followed bool     // rows are handed to handlers here
	Written  bool     // this process has a publisher
	Position Position // what the handlers have seen
	Writers  []WriterStatus
	Queued   int   // updates waiting for the handlers
	Rows     int64 // rows handed out since start
	CatchUps int64 // times that missed rows were read from the source
	Gaps     int64 // times that rows were gone for good
	Ignored  int64 // rows that came again and were not handed out twice
	Dropped  int64 // messages that were dropped, to be caught up, because a queue was full
	Sent     int64 // messages published
}

// WriterStatus is how far one writer of a stream has got and been followed.
type WriterStatus struct {
	Writer    string
	Position  int64         // handled here
	Announced int64         // the highest token heard of
	Lag       int64         // Announced - Position
	LagTime   time.Duration // how long the process has been behind; 0 when it is level
}
