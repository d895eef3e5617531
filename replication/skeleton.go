package replication

import "context"

// Client connects a process to the streams of its server: it hands out the rows of the
// streams the process follows, publishes those it writes, and passes commands. One per
// process. Set it up with Follow, NewPublisher and OnCommand, then call Run.
type Client struct{ cfg Config }

// NewClient checks the configuration. It does no I/O and starts nothing.
func NewClient(cfg Config) (*Client, error) { return &Client{cfg: cfg}, nil }

// Run connects, follows and publishes until ctx is done; then it sends what was published
// before and returns nil, or an error when that took longer than Config.DrainTimeout.
func (c *Client) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Ready is closed when the process has connected to the bus and every followed stream has
// been caught up with the writers that answered.
func (c *Client) Ready() <-chan struct{} { return nil }

// Instance is the name of this process.
func (c *Client) Instance() string { return c.cfg.Instance }

// Connected reports whether the bus is connected now. A process without a bus always is.
func (c *Client) Connected() bool { return false }

// Position is how far the handlers of a stream have come; the zero Position for a stream
// that is not followed. A row at or below it has been handled by every handler.
func (c *Client) Position(stream string) Position { return Position{} }

// WaitFor blocks until the handlers have seen everything that writer wrote up to token. It
// returns a *WaitError when ctx or Config.WaitTimeout ends the wait.
func (c *Client) WaitFor(ctx context.Context, stream, writer string, token int64) error { return nil }

// WaitForPosition blocks until the handlers have seen everything that pos covers.
func (c *Client) WaitForPosition(ctx context.Context, stream string, pos Position) error { return nil }

// Observe tells that a writer is known, from a trusted place such as the database, to have
// reached token; rows that were missed are then caught up.
func (c *Client) Observe(stream, writer string, token int64) {}

// Send sends a command to the other processes. It does not wait; commands are hints and
// may be lost.
func (c *Client) Send(cmd Command) error { return nil }

// Snapshot returns the state of each stream, sorted by name, for metrics and weftctl ps.
func (c *Client) Snapshot() []StreamStatus { return nil }

// OnCommand calls fn for each command of type C that arrives, one at a time and in order
// of arrival. Commands that name this instance as their sender are left out; of others a
// process sees those it sent itself too. Returns ErrStarted after Run.
func OnCommand[C Command](c *Client, fn func(ctx context.Context, cmd C)) error { return nil }

// Follower hands out the rows of one stream. See Follow.
type Follower[R any] struct{ c *Client }

// Follow makes the client follow a stream. There is one follower a stream: a second call
// returns the same one, and may add a Source, From or OnGap where the first gave none.
// Returns ErrStarted after Run.
func Follow[R any](c *Client, s Stream[R], cfg FollowConfig[R]) (*Follower[R], error) {
	return &Follower[R]{c}, nil
}

// Handle adds a handler. All handlers of a stream run one after another on the stream's
// goroutine, in the order they were added; each sees every row once, in order per writer.
// The position moves on when the last has returned. A handler added while the client runs
// starts with the next update. ctx is done when Run is.
func (f *Follower[R]) Handle(fn func(ctx context.Context, u Update[R])) {}

// Position is Client.Position of the stream.
func (f *Follower[R]) Position() Position { return Position{} }

// WaitFor is Client.WaitFor of the stream.
func (f *Follower[R]) WaitFor(ctx context.Context, writer string, token int64) error { return nil }

// Publisher publishes the rows that this process writes to one stream. See NewPublisher.
type Publisher[R any] struct{ c *Client }

// NewPublisher makes the client publish a stream on behalf of this instance. Followers of
// the stream in this process get its rows directly. There is one publisher a stream.
// Returns ErrStarted after Run.
func NewPublisher[R any](c *Client, s Stream[R], cfg PublisherConfig) (*Publisher[R], error) {
	return &Publisher[R]{c}, nil
}

// Publish announces committed rows, and that this writer stands at position: everything of
// its own at or below it is committed and published, in this call or before, and nothing
// is in flight. Rows above position are kept and sent, in order, once a later call moves
// it past them, so concurrent transactions may publish in the order they happen to commit.
// A position below an earlier one changes nothing. It never blocks and needs no bus to be
// up. A row at or below a position announced before is an error: followers would not look
// at it.
func (p *Publisher[R]) Publish(position int64, rows ...Row[R]) error { return nil }

// Advance announces that this writer stands at position, without rows.
func (p *Publisher[R]) Advance(position int64) {}

// Position is the position last announced.
func (p *Publisher[R]) Position() int64 { return 0 }
