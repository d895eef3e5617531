package writer

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// Publisher announces the rows of the events stream that this process writes; *replication.Publisher is one.
type Publisher interface {
	// Publish announces committed rows and the writer's position, without blocking.
	Publish(position int64, rows ...replication.Row[*streams.EventRow]) error
	// Doubt has followers look in the database for rows up to token, instead of relying on those that are published.
	Doubt(token int64)
}

// Config holds what a Writer needs.
type Config struct {
	// DB is the database. Required.
	DB *storage.DB
	// Store is told of each event before its sender is answered. Required.
	Store *store.Store
	// Signer is the server's signing key. Required.
	Signer event.Signer
	// Writers says which process owns which room, as writers of the "events" stream. Defaults to this process being the
	// only one.
	Writers *replication.Writers
	// RPC carries what belongs to other processes, and serves what they send here. Required with several writers or
	// where this process writes no rooms.
	RPC *rpc.Node
	// IDs numbers the events this process writes. Nil in a process that writes none: everything is handed on.
	IDs *storage.StreamIDs
	// BackfillIDs numbers events without a place in the stream (StoreOutliers), as a writer of the "backfill" stream. Nil
	// in a process that stores none.
	BackfillIDs *storage.StreamIDs
	// Notifier says whom events notify. Defaults to nobody being notified.
	Notifier Notifier
	// Publisher announces what is written. Defaults to none.
	Publisher Publisher
	// WriterNames caches the names of writers. Defaults to a cache of its own.
	WriterNames *storage.Writers
	// BatchEvents bounds the events of one transaction. Defaults to 1,000.
	BatchEvents int
	// BatchBytes bounds the JSON of the events of one transaction. Defaults to 8 MiB.
	BatchBytes int
	// IdleLanes bounds the rooms whose head and auth state stay in memory while nobody writes to them. Defaults to
	// 2,000.
	IdleLanes int
	// IdleConnection is how long the writer keeps its database connection while there is nothing to write. Defaults to
	// 1 minute.
	IdleConnection time.Duration
	// RequestTimeout bounds a request whose context has no deadline. Defaults to 60 seconds.
	RequestTimeout time.Duration
	// DrainTimeout bounds how long Run goes on with requests that are under way once its context is done. Defaults to
	// 10 seconds.
	DrainTimeout time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.BatchEvents, 1000)
	def(&c.BatchBytes, 8<<20)
	def(&c.IdleLanes, 2000)
	dur := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	dur(&c.IdleConnection, time.Minute)
	dur(&c.RequestTimeout, time.Minute)
	dur(&c.DrainTimeout, 10*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.WriterNames == nil {
		c.WriterNames = storage.NewWriters()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.DB == nil {
		errs = append(errs, errors.New("DB is required"))
	}
	if c.Store == nil {
		errs = append(errs, errors.New("Store is required"))
	}
	if c.Signer.ServerName == "" || len(c.Signer.Key) == 0 || c.Signer.KeyID == "" {
		errs = append(errs, errors.New("Signer is required"))
	}
	if c.IDs == nil && c.RPC == nil {
		errs = append(errs, errors.New("RPC is required in a process that writes no rooms"))
	}
	if c.BatchEvents < 1 || c.BatchBytes < 1 || c.IdleLanes < 0 {
		errs = append(errs, errors.New("BatchEvents and BatchBytes must be positive, IdleLanes not negative"))
	}
	return errors.Join(errs...)
}

// Writer writes the events of the rooms that belong to this process and hands those of other rooms to their owners.
// It is safe for concurrent use. Until Run is called, and after it returns, requests for own rooms wait or are refused.
type Writer struct {
	cfg       Config
	committer *committer
	roomNIDs  roomNIDs
	created   atomic.Int64 // the origin_server_ts of the last room made here

	mu          sync.Mutex
	lanes       map[string]*lane
	idle        *list.List // lanes without work, least recently used first
	outstanding int        // requests accepted and not answered
	closing     bool
	drained     chan struct{} // closed when closing and nothing is outstanding
	runnable    []*lane       // lanes with work, to be started by Run
	wake        chan struct{}
}

// New checks the configuration and, with an RPC node, registers the methods by which other processes reach this one. It
// does no I/O.
func New(cfg Config) (*Writer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("new event writer: %w", err)
	}
	w := &Writer{
		cfg: cfg, lanes: make(map[string]*lane), idle: list.New(),
		drained: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	w.committer = newCommitter(w)
	if cfg.RPC != nil {
		w.register(cfg.RPC)
	}
	return w, nil
}

// Instance is the name of this process.
func (w *Writer) Instance() string {
	if w.cfg.Writers == nil {
		return replication.MainInstance
	}
	return w.cfg.Writers.Instance()
}

// Name is the component's name in logs and errors.
func (w *Writer) Name() string { return "event_writer" }

// owner returns the instance that owns a room, and whether that is this process.
func (w *Writer) owner(roomID string) (string, bool) {
	if w.cfg.Writers == nil {
		return w.Instance(), true
	}
	o := w.cfg.Writers.Owner(eventsStream, roomID)
	return o, o == w.Instance() && w.cfg.IDs != nil
}

// Run commits what is sent until ctx is done and everything accepted before that is answered. It returns nil after a
// clean drain; an error if the drain took longer than Config.DrainTimeout, or if another process has taken over as the
// writer of this name.
func (w *Writer) Run(ctx context.Context) error {
	if w.cfg.IDs == nil {
		<-ctx.Done()
		return nil
	}
	// Requests that were accepted go on when ctx ends.
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var wg sync.WaitGroup
	failed := make(chan error, 1)
	wg.Go(func() {
		if err := w.committer.run(work); err != nil {
			failed <- err
		}
	})
	wg.Go(func() { w.startLanes(work, &wg) })
	var err error
	select {
	case <-ctx.Done():
		err = w.drain()
	case err = <-failed:
		w.close()
	}
	stop(errShuttingDown)
	wg.Wait()
	select {
	case e := <-failed:
		err = errors.Join(err, e)
	default:
	}
	w.failAll(errShuttingDown)
	return err
}

// startLanes starts a goroutine for each lane that gets work.
func (w *Writer) startLanes(ctx context.Context, wg *sync.WaitGroup) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		lanes := w.runnable
		w.runnable = nil
		w.mu.Unlock()
		for _, l := range lanes {
			wg.Go(func() { l.run(ctx) })
		}
	}
}

func (w *Writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return
	}
	w.closing = true
	if w.outstanding == 0 {
		close(w.drained)
	}
}

func (w *Writer) drain() error {
	w.close()
	t := time.NewTimer(w.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-w.drained:
		return nil
	case <-t.C:
		w.mu.Lock()
		n := w.outstanding
		w.mu.Unlock()
		return fmt.Errorf("drain event writer: %d requests unanswered after %s", n, w.cfg.DrainTimeout)
	}
}

// failAll answers the requests that are left when Run ends without having drained.
func (w *Writer) failAll(err error) {
	w.mu.Lock()
	lanes := make([]*lane, 0, len(w.lanes))
	for _, l := range w.lanes {
		lanes = append(lanes, l)
	}
	w.mu.Unlock()
	for _, l := range lanes {
		l.failAll(err)
	}
}

var errShuttingDown = mxerr.Unknown.WithStatus(503).WithMessage("The server is shutting down")

// submit hands requests to the lane of their room.
func (w *Writer) submit(roomID string, reqs []*request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return errShuttingDown
	}
	l := w.lanes[roomID]
	if l == nil {
		l = newLane(w, roomID)
		w.lanes[roomID] = l
	}
	if l.idle != nil {
		w.idle.Remove(l.idle)
		l.idle = nil
	}
	w.outstanding += len(reqs)
	l.users += len(reqs)
	if l.push(reqs) {
		w.runnable = append(w.runnable, l)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// answered says that a request of l has its answer.
func (w *Writer) answered(l *lane, n int) {
	if n == 0 {
		return // deliver found nothing to answer; the lane may be idle already
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outstanding -= n
	l.users -= n
	if l.users == 0 {
		l.idle = w.idle.PushBack(l)
		for w.idle.Len() > w.cfg.IdleLanes {
			old := w.idle.Remove(w.idle.Front()).(*lane)
			old.idle = nil
			delete(w.lanes, old.roomID)
		}
	}
	if w.closing && w.outstanding == 0 {
		close(w.drained)
	}
}
