package sender

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// Transport sends transactions. *federation.Client does.
type Transport interface {
	// SendTransaction returns the results by event id. Its errors are those of federation.Client.
	SendTransaction(ctx context.Context, server, txnID string, t *federation.Transaction) (map[string]federation.PDUResult, error)
	// RetryAt is when a server that does not answer is to be tried again, the zero time for one that may be tried now.
	RetryAt(ctx context.Context, server string) (time.Time, error)
}

// Config is what a Sender is made of.
type Config struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// Instance is the unique name of this process. Required.
	Instance string
	// DB keeps what is owed to whom. Required.
	DB storage.Querier
	// Store knows events, and the servers in rooms. It must follow the events stream already. Required.
	Store *store.Store
	// Replication follows the streams. It must not run yet. Required.
	Replication *replication.Client
	// WriterIDs numbers the writers of the events stream. Required.
	WriterIDs replication.WriterIDs
	// Transport reaches the other servers. Required.
	Transport Transport
	// MissedEDUs reads rows of the federation stream that were missed. *outbox.Outbox does. Without it they are passed over.
	MissedEDUs replication.Source[streams.FederationRow]

	// MaxInFlight bounds the transactions that are under way at once, half of it those to servers that have not answered
	// yet since this process started: many that are dead do not keep the living waiting. Defaults to 2048.
	MaxInFlight int
	// CatchUpPerRoom is the number of events of a room up to which a server that was out of reach is sent all; of more it
	// is sent the newest. Defaults to 50.
	CatchUpPerRoom int
	// ReceiptsPerSecond is how many transactions a second may be made for the receipts of one room: where there are many
	// servers, receipts wait for each other. Defaults to 50.
	ReceiptsPerSecond int
	// Renew is how often this process says that it is alive. One that has not said so three times is taken to be gone.
	// Defaults to 5 seconds.
	Renew time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log defaults to silence.
	Log zerolog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 2048
	}
	if c.CatchUpPerRoom <= 0 {
		c.CatchUpPerRoom = 50
	}
	if c.ReceiptsPerSecond <= 0 {
		c.ReceiptsPerSecond = 50
	}
	if c.Renew <= 0 {
		c.Renew = 5 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func (c *Config) validate() error {
	var errs []error
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"ServerName", c.ServerName == ""},
		{"Instance", c.Instance == ""},
		{"DB", c.DB == nil},
		{"Store", c.Store == nil},
		{"Replication", c.Replication == nil},
		{"WriterIDs", c.WriterIDs == nil},
		{"Transport", c.Transport == nil},
	} {
		if f.missing {
			errs = append(errs, errors.New(f.name+" is required"))
		}
	}
	return errors.Join(errs...)
}

// Sender sends to the destinations that are its share. It is safe for concurrent use.
type Sender struct {
	cfg     Config
	log     zerolog.Logger
	journal *journal
	pdus    memo.Cache[storage.EventNID, *pdu]
	ids     *txnIDs
	shared  memo.Cache[string, sharedServers]
	comings atomic.Int64 // counts changes of who is in which room

	// Places for transactions under way, to servers that have answered and to those that have not.
	proven, unproven chan struct{}

	scans chan struct{} // has room for one: the backlog of destinations is to be looked for
	work  sync.WaitGroup

	mu           sync.Mutex
	ctx          context.Context //nolint:containedctx // that of Run, for the goroutines of destinations; nil while there is none
	senders      []string
	destinations map[string]*destination
	scanned      bool // nothing was owed to destinations that are not in the map, when this was last looked for
	typing       typingRooms
	flushing     map[string]bool // rooms whose receipts are to be sent in a while
}

// stream is the stream that has the events.
const eventsStream = "events"

// New makes a Sender and has it follow the streams. It does no I/O.
func New(cfg Config) (*Sender, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("federation sender: %w", err)
	}
	s := &Sender{
		cfg: cfg, log: cfg.Log.With().Str("component", "federation_sender").Logger(),
		journal: newJournal(cfg.DB), pdus: newPDUs(), ids: newTxnIDs(cfg.Now()),
		proven: make(chan struct{}, (cfg.MaxInFlight+1)/2), unproven: make(chan struct{}, (cfg.MaxInFlight+1)/2),
		scans: make(chan struct{}, 1), destinations: make(map[string]*destination), typing: make(typingRooms),
		flushing: make(map[string]bool), shared: newSharedServers(),
	}
	events, err := replication.Follow(cfg.Replication, streams.Events(), replication.FollowConfig[*streams.EventRow]{
		OnGap: func(_ context.Context, writer string, _, upTo int64) { s.miss(writer, storage.EventNID(upTo)) },
	})
	if err != nil {
		return nil, fmt.Errorf("federation sender: %w", err)
	}
	events.Handle(s.onEvents)
	if err := s.followEphemeral(); err != nil {
		return nil, fmt.Errorf("federation sender: %w", err)
	}
	return s, nil
}

// Name implements homeserver.Component.
func (s *Sender) Name() string { return "federation_sender" }

// Run sends until ctx is done. What is under way then is finished.
func (s *Sender) Run(ctx context.Context) error {
	journal, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	var last errgroup.Group
	last.Go(func() error { s.journal.run(journal); return nil })
	var g errgroup.Group
	g.Go(func() error { s.share(ctx); return nil })
	g.Go(func() error { s.scan(ctx); return nil })
	g.Go(func() error { s.keepTyping(ctx); return nil })
	g.Go(func() error { s.keepHouse(ctx); return nil })
	_ = g.Wait()

	s.mu.Lock()
	s.ctx = nil
	for _, d := range s.destinations {
		d.unpark()
	}
	s.mu.Unlock()
	s.work.Wait()
	stop()
	_ = last.Wait()
	return nil
}

// Wake has a destination tried that was thought to be out of reach: its server has made itself heard. It returns at once.
func (s *Sender) Wake(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.destinations[server]; d != nil && d.parked != nil {
		d.unpark()
		s.start(d)
	}
}

// Senders are those among whom the destinations are divided, as far as this one has heard, sorted.
func (s *Sender) Senders() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.senders)
}

// destination returns the destination of a name, made if need be. s.mu is held.
func (s *Sender) destination(name string) *destination {
	d := s.destinations[name]
	if d == nil {
		d = &destination{name: name, mine: s.isMine(name), scanned: s.scanned, perRoom: everything}
		s.destinations[name] = d
	}
	return d
}

// start has a destination sent what waits for it, unless that is being done. s.mu is held.
func (s *Sender) start(d *destination) {
	if s.ctx != nil && !d.running && d.ready() && d.waiting() {
		s.launch(d)
	}
}

// launch gives a destination a goroutine. s.mu is held, and s.ctx is set.
func (s *Sender) launch(d *destination) {
	d.running = true
	s.work.Add(1)
	go s.send(s.ctx, d)
}
