package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-im/weft/replication/wire"
)

// node is one stream in this process: what is followed, published, or both.
type node[R any] struct {
	c     *Client
	s     Stream[R]
	codec Codec[R]
	track *tracker
	in    *inbox[R]

	follow   *FollowConfig[R] // nil when the rows are not wanted here
	pub      *Publisher[R]    // nil when this process does not write the stream
	addMu    sync.Mutex
	handlers atomic.Pointer[[]func(context.Context, Update[R])]

	feeds map[string]*feed // by writer; the stream's goroutine only

	rows, catchUps, gaps, ignored atomic.Int64
}

// feed is what the stream's goroutine keeps of a writer beside its position.
type feed struct {
	raw  []rawRow // rows whose position line has not been read yet
	open int      // how many of them, at the end, have no token yet
	lost bool     // some were dropped, so the rest cannot be used

	// A catch-up that failed is tried again at retryAt, up to target; until then nothing of
	// the writer is handed out.
	target  int64
	retryAt time.Time
	backoff time.Duration
}

type rawRow struct {
	token int64
	json  string
}

// maxOpenRows bounds the rows without a token that are kept for a writer.
const maxOpenRows = 65536

// Follower hands out the rows of one stream. See Follow.
type Follower[R any] struct{ n *node[R] }

// Follow makes the client follow a stream. There is one follower a stream: a second call
// returns the same one, and may add a Source or OnGap where the first gave none; From is
// that of the first call. Returns ErrStarted after Run, and an error when the stream is
// declared with another row type elsewhere.
func Follow[R any](c *Client, s Stream[R], cfg FollowConfig[R]) (*Follower[R], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := nodeOf(c, s)
	if err != nil {
		return nil, fmt.Errorf("follow stream %s: %w", s.Name, err)
	}
	if n.follow == nil {
		n.follow = &cfg
		var expected []string
		if c.cfg.Writers != nil {
			expected = c.cfg.Writers.Of(s.Name)
		}
		n.track.start(cfg.From, cfg.FromNow, expected)
		if n.pub != nil {
			n.selfAt(n.pub.Position())
		}
		return &Follower[R]{n}, nil
	}
	if cfg.Source != nil {
		if n.follow.Source != nil {
			return nil, fmt.Errorf("follow stream %s: it has a source already", s.Name)
		}
		n.follow.Source = cfg.Source
	}
	if cfg.OnGap != nil {
		first, second := n.follow.OnGap, cfg.OnGap
		n.follow.OnGap = func(ctx context.Context, writer string, after, upTo int64) {
			if first != nil {
				first(ctx, writer, after, upTo)
			}
			second(ctx, writer, after, upTo)
		}
	}
	return &Follower[R]{n}, nil
}

// nodeOf returns the client's node for a stream, made if need be. c.mu is held.
func nodeOf[R any](c *Client, s Stream[R]) (*node[R], error) {
	if !validWord(s.Name) {
		return nil, fmt.Errorf("stream name %q is empty or has a space in it", s.Name)
	}
	if c.started {
		return nil, ErrStarted
	}
	if have, ok := c.nodes[s.Name]; ok {
		n, ok := have.(*node[R])
		if !ok {
			return nil, fmt.Errorf("it is declared with another row type elsewhere")
		}
		return n, nil
	}
	n := &node[R]{
		c: c, s: s, codec: s.codec(),
		track: newTracker(s.Name),
		in:    newInbox[R](c.cfg.QueueSize),
		feeds: make(map[string]*feed),
	}
	c.nodes[s.Name] = n
	return n, nil
}

// Handle adds a handler. All handlers of a stream run one after another on the stream's
// goroutine, in the order they were added; each sees every row once, in order per writer.
// The position moves on when the last has returned. A handler added while the client runs
// starts with the next update. ctx is done when Run is.
func (f *Follower[R]) Handle(fn func(ctx context.Context, u Update[R])) {
	f.n.addMu.Lock()
	defer f.n.addMu.Unlock()
	var list []func(context.Context, Update[R])
	if p := f.n.handlers.Load(); p != nil {
		list = slices.Clone(*p)
	}
	list = append(list, fn)
	f.n.handlers.Store(&list)
}

// Position is Client.Position of the stream.
func (f *Follower[R]) Position() Position { return f.n.track.position() }

// WaitFor is Client.WaitFor of the stream.
func (f *Follower[R]) WaitFor(ctx context.Context, writer string, token int64) error {
	return f.n.c.WaitFor(ctx, f.n.s.Name, writer, token)
}

// WaitForPosition is Client.WaitForPosition of the stream.
func (f *Follower[R]) WaitForPosition(ctx context.Context, pos Position) error {
	return f.n.c.WaitForPosition(ctx, f.n.s.Name, pos)
}

// selfAt notes that this instance, as a writer, stands at token.
func (n *node[R]) selfAt(token int64) {
	n.in.push(inboxItem[R]{writer: n.c.cfg.Instance, prev: token, token: token})
}

// run hands out what arrives until ctx is done.
func (n *node[R]) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		items, missed := n.in.take()
		for i := range items {
			if ctx.Err() != nil {
				return
			}
			n.item(ctx, &items[i])
		}
		n.in.done(items)
		for writer, token := range missed {
			n.apply(ctx, writer, token, token, nil, nil)
		}
		if ctx.Err() != nil {
			return
		}
		next := n.retry(ctx)
		var retry <-chan time.Time
		if next > 0 {
			timer.Reset(next)
			retry = timer.C
		}
		select {
		case <-n.in.wake:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// retry tries the catch-ups that failed and are due, and returns the time until the next.
func (n *node[R]) retry(ctx context.Context) time.Duration {
	var next time.Duration
	for writer, f := range n.feeds {
		if f.target == 0 {
			continue
		}
		wait := time.Until(f.retryAt)
		if wait <= 0 {
			target := f.target
			f.target = 0
			if n.catchUp(ctx, writer, target) {
				continue
			}
			wait = time.Until(f.retryAt)
		}
		if next == 0 || wait < next {
			next = max(wait, time.Millisecond)
		}
	}
	return next
}

func (n *node[R]) feed(writer string) *feed {
	f := n.feeds[writer]
	if f == nil {
		f = &feed{}
		n.feeds[writer] = f
	}
	return f
}

// item handles one thing that arrived.
func (n *node[R]) item(ctx context.Context, it *inboxItem[R]) {
	switch {
	case it.reset:
		// The rest of an unfinished batch will not come any more; what follows tells how
		// far the writer is and has the whole batch read from the source.
		for _, f := range n.feeds {
			f.raw, f.open, f.lost = nil, 0, f.lost || len(f.raw) > 0
		}
	case it.message != "":
		n.message(ctx, it.message)
	default:
		n.apply(ctx, it.writer, it.prev, it.token, nil, it.rows)
		if it.writer != n.c.cfg.Instance {
			n.foreign(it.token)
		}
	}
}

// message reads the lines of a message: rows of one writer or more, each run ended by the
// position that they lead to.
func (n *node[R]) message(ctx context.Context, message string) {
	var seen int64
	var last string // the writer whose rows wait for a position line
	for message != "" {
		var line string
		if i := indexNewline(message); i >= 0 {
			line, message = message[:i], message[i+1:]
		} else {
			line, message = message, ""
		}
		if row, ok, err := wire.ParseRData(line); ok {
			if err != nil {
				n.badLine(err)
				continue
			}
			if row.Stream != n.s.Name || row.Instance == n.c.cfg.Instance {
				continue
			}
			if last != "" && last != row.Instance {
				n.unpositioned(ctx, last)
			}
			last = row.Instance
			n.add(row)
			seen = max(seen, row.Token)
			continue
		}
		pos, ok, err := wire.ParsePosition(line)
		if !ok {
			continue
		}
		if err != nil {
			n.badLine(err)
			continue
		}
		if pos.Stream != n.s.Name || pos.Instance == n.c.cfg.Instance {
			n.ownEcho(pos)
			continue
		}
		if last != "" && last != pos.Instance {
			n.unpositioned(ctx, last)
		}
		last = ""
		n.position(ctx, pos)
		seen = max(seen, pos.Token)
	}
	if last != "" {
		n.unpositioned(ctx, last)
	}
	n.foreign(seen)
}

func indexNewline(s string) int {
	for i := 0; i < len(s); i++ {
		if s[i] == '\n' {
			return i
		}
	}
	return -1
}

func (n *node[R]) badLine(err error) {
	n.c.log.Warn().Err(err).Str("stream", n.s.Name).Msg("dropped a malformed replication line")
}

// ownEcho warns when somebody else writes under this instance's name.
func (n *node[R]) ownEcho(pos wire.Position) {
	if n.pub != nil && pos.Stream == n.s.Name && pos.Token > n.pub.Position() {
		n.c.log.Error().Str("stream", n.s.Name).Str("instance", pos.Instance).Int64("position", pos.Token).
			Msg("another process writes this stream under the name of this instance")
	}
}

// add keeps a row until its position line comes.
func (n *node[R]) add(row wire.RData) {
	if n.follow == nil {
		return
	}
	f := n.feed(row.Instance)
	if len(f.raw) >= maxOpenRows {
		f.raw, f.open, f.lost = nil, 0, true
	}
	f.raw = append(f.raw, rawRow{row.Token, row.Row})
	f.open++
	if !row.Batch {
		for i := len(f.raw) - f.open; i < len(f.raw); i++ {
			f.raw[i].token = row.Token
		}
		f.open = 0
	}
}

// position ends a run of rows: they are all that the writer wrote in (Prev, Token].
func (n *node[R]) position(ctx context.Context, pos wire.Position) {
	f := n.feed(pos.Instance)
	raw, prev := f.raw, pos.Prev
	if f.lost || f.open > 0 {
		raw, prev = nil, pos.Token
	}
	f.raw, f.open, f.lost = nil, 0, false
	n.apply(ctx, pos.Instance, prev, pos.Token, raw, nil)
}

// unpositioned hands out rows that came without a position line, as other implementations
// send them: each token is taken to follow the one before. Rows of an open batch stay.
func (n *node[R]) unpositioned(ctx context.Context, writer string) {
	f := n.feed(writer)
	closed := len(f.raw) - f.open
	if closed == 0 {
		return
	}
	raw := f.raw[:closed:closed]
	f.raw = slices.Clone(f.raw[closed:])
	token := raw[closed-1].token
	prev := n.track.have(writer, raw[0].token-1)
	if f.lost {
		raw, prev, f.lost = nil, token, false
	}
	n.apply(ctx, writer, prev, token, raw, nil)
}

// foreign tells the publisher that another writer has reached token.
func (n *node[R]) foreign(token int64) {
	if n.pub != nil && token > 0 {
		n.pub.foreign(token)
	}
}

// apply takes in that the writer went from prev to token with the given rows: raw ones from
// the bus, or rows as they were published here. Rows between what the handlers have seen
// and prev are read from the source first.
func (n *node[R]) apply(ctx context.Context, writer string, prev, token int64, raw []rawRow, rows []Row[R]) {
	if n.follow == nil {
		return
	}
	n.track.announce(writer, token, time.Now)
	f := n.feed(writer)
	if f.target > 0 {
		f.target = max(f.target, token)
		return
	}
	have := n.track.have(writer, prev)
	if token <= have {
		n.ignored.Add(int64(len(raw) + len(rows)))
		return
	}
	if prev > have {
		if !n.catchUp(ctx, writer, prev) {
			f.target = max(f.target, token)
			return
		}
		have = prev
	}
	if len(raw) > 0 {
		var err error
		if rows, err = n.decode(raw, have); err != nil {
			n.c.log.Error().Err(err).Str("stream", n.s.Name).Str("writer", writer).Int64("position", token).
				Msg("cannot read a row from the bus")
			n.catchUp(ctx, writer, token)
			return
		}
	}
	skip := 0
	for skip < len(rows) && rows[skip].Token <= have {
		skip++
	}
	n.ignored.Add(int64(skip))
	n.deliver(ctx, Update[R]{Writer: writer, Rows: rows[skip:], Token: token})
}

// decode reads the rows above have.
func (n *node[R]) decode(raw []rawRow, have int64) ([]Row[R], error) {
	rows := make([]Row[R], 0, len(raw))
	for i, r := range raw {
		if r.token <= have {
			n.ignored.Add(1)
			continue
		}
		if i > 0 && r.token < raw[i-1].token {
			return nil, fmt.Errorf("row %d comes after row %d", r.token, raw[i-1].token)
		}
		v, err := n.codec.DecodeRow([]byte(r.json))
		if err != nil {
			return nil, fmt.Errorf("decode row %d: %w", r.token, err)
		}
		rows = append(rows, Row[R]{Token: r.token, Value: v})
	}
	return rows, nil
}

// deliver runs the handlers and then moves the position on.
func (n *node[R]) deliver(ctx context.Context, u Update[R]) {
	if ctx.Err() != nil {
		return
	}
	if len(u.Rows) > 0 {
		if list := n.handlers.Load(); list != nil {
			for _, fn := range *list {
				fn(ctx, u)
			}
		}
		n.rows.Add(int64(len(u.Rows)))
	}
	n.track.advance(u.Writer, u.Token)
}

// Catch-up delays after a failure.
const (
	firstRetry = 50 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// catchUp reads and hands out what the writer wrote after the point the handlers have
// reached, up to upTo. It returns false when the source failed; it is then tried again
// later.
func (n *node[R]) catchUp(ctx context.Context, writer string, upTo int64) bool {
	f := n.feed(writer)
	for {
		have := n.track.have(writer, upTo)
		if have >= upTo {
			f.backoff = 0
			return true
		}
		if n.follow.Source == nil {
			n.gap(ctx, writer, have, upTo)
			return true
		}
		n.catchUps.Add(1)
		rows, reached, err := n.follow.Source(ctx, writer, have, upTo, n.c.cfg.CatchUpLimit)
		if errors.Is(err, ErrRowsGone) {
			n.gap(ctx, writer, have, upTo)
			return true
		}
		if err == nil && reached <= have {
			err = fmt.Errorf("source stopped at %d", reached)
		}
		if err == nil && !slices.IsSortedFunc(rows, func(a, b Row[R]) int { return compareTokens(a.Token, b.Token) }) {
			err = errors.New("source gave rows out of order")
		}
		if err != nil {
			if ctx.Err() != nil {
				return false
			}
			f.backoff = min(max(2*f.backoff, firstRetry), maxRetry)
			f.retryAt = time.Now().Add(f.backoff/2 + rand.N(f.backoff/2+1))
			f.target = max(f.target, upTo)
			n.c.log.Warn().Err(err).Str("stream", n.s.Name).Str("writer", writer).
				Int64("after", have).Int64("up_to", upTo).Dur("retry_in", f.backoff).
				Msg("cannot read missed rows")
			return false
		}
		reached = min(reached, upTo)
		from, to := 0, len(rows)
		for from < to && rows[from].Token <= have {
			from++
		}
		for from < to && rows[to-1].Token > reached {
			to--
		}
		n.deliver(ctx, Update[R]{Writer: writer, Rows: rows[from:to], Token: reached, CaughtUp: true})
		if ctx.Err() != nil {
			return false
		}
	}
}

func compareTokens(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// gap passes over rows that cannot be had.
func (n *node[R]) gap(ctx context.Context, writer string, after, upTo int64) {
	n.gaps.Add(1)
	if n.follow.OnGap != nil {
		n.follow.OnGap(ctx, writer, after, upTo)
	}
	n.c.log.Debug().Str("stream", n.s.Name).Str("writer", writer).Int64("after", after).Int64("up_to", upTo).
		Msg("passed over rows that are gone")
	n.deliver(ctx, Update[R]{Writer: writer, Token: upTo})
}
