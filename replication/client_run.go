package replication

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/replication/wire"
)

// Client connects a process to the streams of its server: it hands out the rows of the
// streams the process follows, publishes those it writes, and passes commands. One per
// process. Set it up with Follow, NewPublisher and OnCommand, then call Run. Safe for
// concurrent use.
type Client struct {
	cfg   Config
	log   zerolog.Logger
	ready chan struct{}

	mu       sync.Mutex
	started  bool
	nodes    map[string]streamNode                            // fixed once started
	commands map[string][]func(context.Context, wire.Command) // by name; fixed once started

	readyOnce sync.Once
	connected atomic.Bool
	lastErr   atomic.Pointer[error]
	askedAt   atomic.Int64 // unix ns of the last REPLICATE

	inCommands  chan wire.Command
	outCommands chan outCommand
}

type outCommand struct{ channel, line string }

// streamNode is a node without its row type.
type streamNode interface {
	run(ctx context.Context)
	send(ctx context.Context, stop <-chan struct{}) error
	push(message string)
	reset()
	repeat()
	observe(writer string, token int64)
	tracker() *tracker // nil when the stream is not followed
	channel() string
	status(now time.Time) StreamStatus
}

const (
	// commandQueue bounds the commands that wait in either direction; they are hints, and
	// those above it are dropped.
	commandQueue = 4096
	// patience is how long WaitFor waits before it asks the writers where they stand.
	patience = 200 * time.Millisecond
)

// NewClient checks the configuration. It does no I/O and starts nothing.
func NewClient(cfg Config) (*Client, error) {
	if cfg.Instance == "" {
		cfg.Instance = MainInstance
	}
	var errs []error
	if !validWord(cfg.ServerName) {
		errs = append(errs, fmt.Errorf("ServerName %q is empty or has a space in it", cfg.ServerName))
	}
	if !validWord(cfg.Instance) {
		errs = append(errs, fmt.Errorf("Instance %q has a space in it", cfg.Instance))
	}
	if cfg.Writers != nil && cfg.Writers.Instance() != cfg.Instance {
		errs = append(errs, fmt.Errorf("Instance is %q but Writers was built for %q", cfg.Instance, cfg.Writers.Instance()))
	}
	setInt := func(name string, v *int, def int) {
		if *v < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", name))
		}
		if *v == 0 {
			*v = def
		}
	}
	setDuration := func(name string, v *time.Duration, def time.Duration) {
		if *v < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", name))
		}
		if *v == 0 {
			*v = def
		}
	}
	setInt("QueueSize", &cfg.QueueSize, 4096)
	setInt("SendQueueBytes", &cfg.SendQueueBytes, 4<<20)
	setInt("CatchUpLimit", &cfg.CatchUpLimit, 500)
	setDuration("WaitTimeout", &cfg.WaitTimeout, 10*time.Second)
	setDuration("Heartbeat", &cfg.Heartbeat, 30*time.Second)
	setDuration("IdleAnnounce", &cfg.IdleAnnounce, 100*time.Millisecond)
	setDuration("DrainTimeout", &cfg.DrainTimeout, 5*time.Second)
	if len(errs) > 0 {
		return nil, fmt.Errorf("replication client: %w", errors.Join(errs...))
	}
	return &Client{
		cfg:         cfg,
		log:         cfg.Log.With().Str("component", "replication").Logger(),
		ready:       make(chan struct{}),
		nodes:       make(map[string]streamNode),
		commands:    make(map[string][]func(context.Context, wire.Command)),
		inCommands:  make(chan wire.Command, commandQueue),
		outCommands: make(chan outCommand, commandQueue),
	}, nil
}

// Name is the component's name in logs and errors.
func (c *Client) Name() string { return "replication" }

// Instance is the name of this process.
func (c *Client) Instance() string { return c.cfg.Instance }

// Ready is closed when the process has first connected to the bus, and so will notice what
// is written from then on. Without a bus it is closed when Run is called.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Connected reports whether the bus is connected now. A process without a bus is while Run
// runs.
func (c *Client) Connected() bool { return c.connected.Load() }

// Check returns nil while the bus is connected, and otherwise why it is not: ErrNotConnected, with
// the reason of the last attempt. The client keeps trying.
func (c *Client) Check(context.Context) error {
	if c.connected.Load() {
		return nil
	}
	err := c.lastErr.Load()
	switch {
	case err == nil:
		return ErrNotConnected
	case errors.Is(*err, ErrNotConnected):
		return *err
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, *err)
}

// Position is how far the handlers of a stream have come; the zero Position for a stream
// that is not followed. A row at or below it has been handled by every handler.
func (c *Client) Position(stream string) Position {
	if t := c.tracker(stream); t != nil {
		return t.position()
	}
	return Position{}
}

func (c *Client) node(stream string) streamNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[stream]
}

func (c *Client) tracker(stream string) *tracker {
	if n := c.node(stream); n != nil {
		return n.tracker()
	}
	return nil
}

// WaitFor blocks until the handlers have seen everything that writer wrote up to token, or
// Config.WaitTimeout or ctx ends the wait with a *WaitError.
func (c *Client) WaitFor(ctx context.Context, stream, writer string, token int64) error {
	t := c.tracker(stream)
	if t == nil {
		return &WaitError{Stream: stream, Writer: writer, Want: token, Err: ErrNotFollowed}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.WaitTimeout)
	defer cancel()
	return t.waitFor(ctx, writer, token, patience, c.ask)
}

// WaitForPosition blocks until the handlers have seen everything that pos covers, or
// Config.WaitTimeout or ctx ends the wait with a *WaitError.
func (c *Client) WaitForPosition(ctx context.Context, stream string, pos Position) error {
	t := c.tracker(stream)
	if t == nil {
		return &WaitError{Stream: stream, Want: pos.Max(), Err: ErrNotFollowed}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.WaitTimeout)
	defer cancel()
	return t.waitForPosition(ctx, pos, patience, c.ask)
}

// Observe tells that a writer is known, from a trusted place such as the database, to have
// committed everything up to token: what was missed of it is then caught up. It never
// blocks. It is of use where a writer died between its commit and telling of it.
func (c *Client) Observe(stream, writer string, token int64) {
	if n := c.node(stream); n != nil {
		n.observe(writer, token)
	}
}

// Snapshot returns the state of each stream, sorted by name, for metrics and weftctl ps.
func (c *Client) Snapshot() []StreamStatus {
	c.mu.Lock()
	nodes := make([]streamNode, 0, len(c.nodes))
	for _, n := range c.nodes {
		nodes = append(nodes, n)
	}
	c.mu.Unlock()
	now := time.Now()
	out := make([]StreamStatus, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n.status(now))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Stream < out[j].Stream })
	return out
}

// Run connects, follows and publishes until ctx is done; then it sends what was published
// before and returns nil, or an error when that took longer than Config.DrainTimeout. It
// also returns an error when the bus says that it can never work. Call it once.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.started {
		c.mu.Unlock()
		return ErrStarted
	}
	c.started = true
	c.mu.Unlock()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// What was published is still sent after ctx is done, so sending, and the connection
	// that some buses send over, have a context that ends later.
	sendCtx, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()

	var receivers, senders, bus sync.WaitGroup
	var failMu sync.Mutex
	var fails []error
	fail := func(err error) {
		failMu.Lock()
		fails = append(fails, err)
		failMu.Unlock()
	}
	for _, n := range c.nodes {
		receivers.Go(func() { n.run(ctx) })
		if c.cfg.Bus != nil {
			senders.Go(func() {
				if err := n.send(sendCtx, ctx.Done()); err != nil {
					fail(err)
				}
			})
		}
	}
	receivers.Go(func() { c.runCommands(ctx) })
	if c.cfg.Bus == nil {
		c.connected.Store(true)
		c.readyOnce.Do(func() { close(c.ready) })
	} else {
		senders.Go(func() { c.sendCommands(sendCtx, ctx.Done()) })
		bus.Go(func() {
			err := c.cfg.Bus.Subscribe(sendCtx, c.channels(), c.subscriber())
			if ctx.Err() == nil {
				if err == nil {
					err = errors.New("subscription ended")
				}
				fail(fmt.Errorf("replication bus: %w", err))
				stop()
			}
		})
	}

	<-ctx.Done()
	drain := time.AfterFunc(c.cfg.DrainTimeout, stopSending)
	senders.Wait()
	drain.Stop()
	stopSending()
	bus.Wait()
	receivers.Wait()
	c.connected.Store(false)
	return errors.Join(fails...)
}

// channels are those that this process needs, and no others.
func (c *Client) channels() []string {
	list := []string{c.cfg.ServerName}
	if len(c.commands[wire.UserIP{}.Name()]) > 0 {
		list = append(list, wire.Channel(c.cfg.ServerName, wire.UserIP{}))
	}
	for _, n := range c.nodes {
		list = append(list, n.channel())
	}
	sort.Strings(list)
	return list
}

// ask has the writers say where they stand, at most five times a second.
func (c *Client) ask() {
	now := time.Now().UnixNano()
	last := c.askedAt.Load()
	if c.cfg.Bus == nil || now-last < int64(patience) || !c.askedAt.CompareAndSwap(last, now) {
		return
	}
	_ = c.enqueue(wire.Replicate{}) // a constant, which has a wire form
}

// subscriber is what the bus calls.
func (c *Client) subscriber() Subscriber {
	byChannel := make(map[string]streamNode, len(c.nodes))
	for _, n := range c.nodes {
		byChannel[n.channel()] = n
	}
	return &subscriber{c, byChannel}
}

type subscriber struct {
	c     *Client
	nodes map[string]streamNode // by channel
}

// Connected implements Subscriber: what was missed meanwhile is found out by asking, and
// what others missed of us by telling.
func (s *subscriber) Connected() {
	c := s.c
	c.connected.Store(true)
	c.askedAt.Store(time.Now().UnixNano())
	_ = c.enqueue(wire.Replicate{}) // a constant, which has a wire form
	for _, n := range s.nodes {
		n.reset()
		n.repeat()
	}
	c.readyOnce.Do(func() { close(c.ready) })
	c.log.Info().Msg("connected to the replication bus")
}

// Disconnected implements Subscriber.
func (s *subscriber) Disconnected(err error) {
	s.c.connected.Store(false)
	if err != nil {
		s.c.lastErr.Store(&err)
	}
	s.c.log.Warn().Err(err).Msg("replication bus is interrupted")
}

// Message implements Subscriber.
func (s *subscriber) Message(channel, message string) {
	if n, ok := s.nodes[channel]; ok {
		n.push(message)
		return
	}
	for line := range strings.Lines(message) {
		cmd, err := wire.Parse(line)
		if err != nil {
			s.c.log.Debug().Err(err).Msg("passed over a replication command")
			continue
		}
		s.c.command(cmd)
	}
}

// command takes in a command from the bus.
func (c *Client) command(cmd wire.Command) {
	switch cmd := cmd.(type) {
	case wire.Replicate:
		for _, n := range c.nodes {
			n.repeat()
		}
		return
	case wire.UserSync:
		if cmd.InstanceID == c.cfg.Instance {
			return
		}
	case wire.ClearUserSync:
		if cmd.InstanceID == c.cfg.Instance {
			return
		}
	case wire.FederationAck:
		if cmd.Instance == c.cfg.Instance {
			return
		}
	case wire.LockReleased:
		if cmd.Instance == c.cfg.Instance {
			return
		}
	}
	if len(c.commands[cmd.Name()]) == 0 {
		return
	}
	select {
	case c.inCommands <- cmd:
	default:
		c.log.Warn().Str("command", cmd.Name()).Msg("dropped a replication command: its handlers are too slow")
	}
}

// runCommands runs the command handlers until ctx is done.
func (c *Client) runCommands(ctx context.Context) {
	for {
		select {
		case cmd := <-c.inCommands:
			for _, fn := range c.commands[cmd.Name()] {
				fn(ctx, cmd)
			}
		case <-ctx.Done():
			return
		}
	}
}

// OnCommand calls fn for each command of type C that arrives, one command at a time and in
// order of arrival. Commands that name this instance as their sender are left out; of
// others a process sees those it sent itself too. Returns ErrStarted after Run.
func OnCommand[C Command](c *Client, fn func(ctx context.Context, cmd C)) error {
	var zero C
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started {
		return ErrStarted
	}
	c.commands[zero.Name()] = append(c.commands[zero.Name()], func(ctx context.Context, cmd wire.Command) {
		if typed, ok := cmd.(C); ok {
			fn(ctx, typed)
		}
	})
	return nil
}

// Send sends a command to the other processes. It does not wait: commands are hints and may
// be lost. An error means that the command cannot be written as a line.
func (c *Client) Send(cmd Command) error {
	if c.cfg.Bus == nil {
		if _, err := wire.Format(cmd); err != nil {
			return err
		}
		c.command(cmd)
		return nil
	}
	return c.enqueue(cmd)
}

func (c *Client) enqueue(cmd wire.Command) error {
	line, err := wire.Format(cmd)
	if err != nil {
		return err
	}
	select {
	case c.outCommands <- outCommand{wire.Channel(c.cfg.ServerName, cmd), line}:
	default:
		c.log.Warn().Str("command", cmd.Name()).Msg("dropped a replication command: the bus is too slow")
	}
	return nil
}

// sendCommands sends until stop is closed, and then what is left.
func (c *Client) sendCommands(ctx context.Context, stop <-chan struct{}) {
	send := func(o outCommand) {
		ctx, cancel := context.WithTimeout(ctx, publishTimeout)
		defer cancel()
		if err := c.cfg.Bus.Publish(ctx, o.channel, o.line); err != nil {
			c.log.Debug().Err(err).Msg("cannot send a replication command")
		}
	}
	for {
		select {
		case o := <-c.outCommands:
			send(o)
		case <-stop:
			for {
				select {
				case o := <-c.outCommands:
					send(o)
				default:
					return
				}
			}
		}
	}
}
