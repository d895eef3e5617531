package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Publisher publishes the rows that this process writes to one stream. See NewPublisher.
// Safe for concurrent use.
type Publisher[R any] struct {
	n         *node[R]
	onForeign func(int64) int64
	rowPrefix string // "RDATA stream instance "
	posPrefix string // "POSITION stream instance "
	wake      chan struct{}
	position  atomic.Int64
	sent      atomic.Int64
	seen      atomic.Int64 // highest foreign token

	mu       sync.Mutex
	held     []Row[R] // above the position, sorted by token
	lostTo   int64    // rows up to here may not all be in held
	out      []outChunk
	outBytes int
	announce bool      // repeat the position even when nothing is new
	lastIdle time.Time // when an idle position was last announced
	lazy     bool      // an idle position waits for its turn
}

// outChunk is a message in the making: the rows in (prev, token].
type outChunk struct {
	prev, token int64
	lines       []byte
}

const (
	// chunkBytes is where a message is closed and the next begun.
	chunkBytes = 128 << 10
	// heldRows bounds the rows kept back behind a transaction in flight.
	heldRows = 65536
	// publishTimeout bounds how long the bus may take over one message.
	publishTimeout = 5 * time.Second
	// firstHeartbeat is the time after which a writer repeats its position once it has
	// fallen silent, if Config.Heartbeat is not shorter.
	firstHeartbeat = time.Second
)

// NewPublisher makes the client publish a stream on behalf of this instance. Followers of
// the stream in this process get its rows directly. There is one publisher a stream: a
// second call is an error. Returns ErrStarted after Run.
//
// A writer of a stream with several must announce itself before it takes its first id,
// which it does by starting the client before it starts to write.
func NewPublisher[R any](c *Client, s Stream[R], cfg PublisherConfig) (*Publisher[R], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := nodeOf(c, s)
	if err != nil {
		return nil, fmt.Errorf("publish stream %s: %w", s.Name, err)
	}
	if n.pub != nil {
		return nil, fmt.Errorf("publish stream %s: it has a publisher already", s.Name)
	}
	p := &Publisher[R]{
		n: n, onForeign: cfg.OnForeignPosition,
		rowPrefix: "RDATA " + s.Name + " " + c.cfg.Instance + " ",
		posPrefix: "POSITION " + s.Name + " " + c.cfg.Instance + " ",
		wake:      make(chan struct{}, 1),
	}
	p.position.Store(max(cfg.Position, 0))
	n.pub = p
	if n.follow != nil {
		n.selfAt(p.position.Load())
	}
	return p, nil
}

// Position is the position last announced.
func (p *Publisher[R]) Position() int64 { return p.position.Load() }

// Advance announces that this writer stands at position, without rows of its own. Rows
// kept back below it are sent. A position below an earlier one changes nothing.
func (p *Publisher[R]) Advance(position int64) {
	// Without rows there is nothing that Publish could refuse, and rows that cannot be
	// encoded were reported to whoever published them.
	_ = p.Publish(position)
}

// Publish announces committed rows, and that this writer stands at position: everything of
// its own at or below it is committed and published, in this call or before, and nothing
// is in flight. Rows above position are kept and sent, in order, once a later call moves
// it past them, so concurrent transactions may publish in the order they happen to commit.
// A position below an earlier one changes nothing. It never blocks and needs no bus to be
// up. Rows of one token must come in one call.
//
// An id is in flight until its rows were handed to Publish: whoever counts the ids in
// flight must not forget one before, or OnForeignPosition moves the position past rows
// that nobody has been told of.
//
// A row at or below a position announced before is an error, and nothing is published:
// followers would not look at it. So is a row that cannot be encoded, but then followers
// elsewhere read the rows from their source.
func (p *Publisher[R]) Publish(position int64, rows ...Row[R]) error {
	p.mu.Lock()
	at := p.position.Load()
	for _, r := range rows {
		if r.Token <= at {
			p.mu.Unlock()
			return fmt.Errorf("publish row %d of stream %s: the writer has announced %d already", r.Token, p.n.s.Name, at)
		}
	}
	p.hold(rows)
	err := p.advance(at, position)
	p.mu.Unlock()
	if position > at {
		p.signal()
	}
	return err
}

// Doubt tells that rows at or below token may have been committed without anybody knowing,
// as when the connection broke in the commit. Followers then read from their source when
// the position passes token, instead of relying on what is published. Call it while the
// ids are still in flight; publishing the rows afterwards does no harm.
func (p *Publisher[R]) Doubt(token int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lostTo = max(p.lostTo, token)
}

// hold keeps rows until the position has passed them.
func (p *Publisher[R]) hold(rows []Row[R]) {
	if len(rows) == 0 {
		return
	}
	if len(p.held)+len(rows) > heldRows {
		// A transaction hangs while others go on. Followers can read these rows later.
		for _, r := range p.held {
			p.lostTo = max(p.lostTo, r.Token)
		}
		for _, r := range rows {
			p.lostTo = max(p.lostTo, r.Token)
		}
		p.held = nil
		return
	}
	p.held = append(p.held, rows...)
	for i := max(len(p.held)-len(rows), 1); i < len(p.held); i++ {
		if p.held[i].Token < p.held[i-1].Token {
			sort.SliceStable(p.held, func(a, b int) bool { return p.held[a].Token < p.held[b].Token })
			return
		}
	}
}

// advance moves the position from at to position and hands on the rows between.
func (p *Publisher[R]) advance(at, position int64) error {
	if position <= at {
		return nil
	}
	cut := sort.Search(len(p.held), func(i int) bool { return p.held[i].Token > position })
	rows := p.held[:cut:cut]
	p.held = p.held[cut:]
	if len(p.held) == 0 {
		p.held = nil
	}
	prev := at
	if p.lostTo > at {
		// Which rows are missing is not known, so everything up to here counts as such.
		rows, prev = nil, position
	}
	p.position.Store(position)
	if p.n.follow != nil {
		p.n.in.push(inboxItem[R]{writer: p.n.c.cfg.Instance, prev: prev, token: position, rows: rows})
	}
	if p.n.c.cfg.Bus == nil {
		return nil
	}
	return p.queue(prev, position, rows)
}

// queue appends the rows to what is to be sent.
func (p *Publisher[R]) queue(prev, position int64, rows []Row[R]) error {
	if p.outBytes > p.n.c.cfg.SendQueueBytes {
		p.out, p.outBytes = append(p.out[:0], outChunk{prev: position, token: position}), 0
		return nil
	}
	var err error
	for i := 0; i < len(rows); {
		token := rows[i].Token
		end := i + 1
		for end < len(rows) && rows[end].Token == token {
			end++
		}
		c := p.chunk(prev)
		n := len(c.lines)
		if c.lines, err = p.appendRows(c.lines, rows[i:end]); err != nil {
			c.lines = c.lines[:0]
			p.out = append(p.out[:0], outChunk{prev: position, token: position})
			return fmt.Errorf("encode row %d of stream %s: %w", token, p.n.s.Name, err)
		}
		p.outBytes += len(c.lines) - n
		c.token, prev, i = token, token, end
	}
	if prev < position {
		p.chunk(prev).token = position
	}
	return nil
}

// chunk returns the message that rows after prev go to: the last one while it follows on
// and has room.
func (p *Publisher[R]) chunk(prev int64) *outChunk {
	if k := len(p.out); k > 0 && p.out[k-1].token == prev && len(p.out[k-1].lines) < chunkBytes {
		return &p.out[k-1]
	}
	p.out = append(p.out, outChunk{prev: prev, token: prev})
	return &p.out[len(p.out)-1]
}

// appendRows appends the RDATA lines of rows that share a token; only the last carries it.
func (p *Publisher[R]) appendRows(dst []byte, rows []Row[R]) ([]byte, error) {
	for i, r := range rows {
		dst = append(dst, p.rowPrefix...)
		if i < len(rows)-1 {
			dst = append(dst, "batch"...)
		} else {
			dst = strconv.AppendInt(dst, r.Token, 10)
		}
		dst = append(dst, ' ')
		n := len(dst)
		var err error
		if dst, err = p.n.codec.AppendRow(dst, r.Value); err != nil {
			return dst, err
		}
		if len(dst) == n {
			return dst, errors.New("codec wrote nothing")
		}
		if row := dst[n:]; bytes.ContainsAny(row, "\r\n") {
			// In JSON a line break can only be white space between values.
			for i, b := range row {
				if b == '\n' || b == '\r' {
					row[i] = ' '
				}
			}
		}
		dst = append(dst, '\n')
	}
	return dst, nil
}

func (p *Publisher[R]) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// repeat has the position sent although nothing is new.
func (p *Publisher[R]) repeat() {
	p.mu.Lock()
	p.announce = true
	p.mu.Unlock()
	p.signal()
}

// foreign takes in that another writer of the stream has reached token, so that an idle
// writer follows.
func (p *Publisher[R]) foreign(token int64) {
	if p.onForeign == nil || token <= p.seen.Load() {
		return
	}
	p.seen.Store(token)
	if token <= p.position.Load() {
		return
	}
	own := p.onForeign(token)
	p.mu.Lock()
	at := p.position.Load()
	if own <= at {
		p.mu.Unlock()
		return
	}
	_ = p.advance(at, own) // rows that cannot be encoded were reported to their publisher
	now, every := time.Now(), p.n.c.cfg.IdleAnnounce
	wait := p.lastIdle.Add(every).Sub(now)
	if wait > 0 {
		if !p.lazy {
			p.lazy = true
			time.AfterFunc(wait, p.idle)
		}
		p.mu.Unlock()
		return
	}
	p.lastIdle = now
	p.mu.Unlock()
	p.signal()
}

// idle sends the idle positions that were put together.
func (p *Publisher[R]) idle() {
	p.mu.Lock()
	p.lazy = false
	p.lastIdle = time.Now()
	p.mu.Unlock()
	p.signal()
}

// run sends until stop is closed and then what is left. ctx bounds the sending itself.
func (p *Publisher[R]) run(ctx context.Context, stop <-chan struct{}) error {
	heartbeat := p.n.c.cfg.Heartbeat
	silence := min(firstHeartbeat, heartbeat)
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case <-p.wake:
			if p.flush(ctx) {
				silence = min(firstHeartbeat, heartbeat)
				timer.Reset(silence)
			}
		case <-timer.C:
			p.mu.Lock()
			p.announce = true
			p.mu.Unlock()
			p.flush(ctx)
			// A stream on which nothing happens needs reminding less and less often.
			if silence < heartbeat {
				silence = heartbeat
			} else {
				silence = min(2*silence, 8*heartbeat)
			}
			timer.Reset(silence)
		case <-stop:
			p.flush(ctx)
			p.mu.Lock()
			left := len(p.out)
			p.mu.Unlock()
			if left > 0 {
				return fmt.Errorf("stream %s: %d messages not sent", p.n.s.Name, left)
			}
			return nil
		}
	}
}

// flush sends what is queued, and reports whether there was anything new in it.
func (p *Publisher[R]) flush(ctx context.Context) (news bool) {
	for {
		p.mu.Lock()
		out := p.out
		if len(out) == 0 && p.announce {
			at := p.position.Load()
			out = []outChunk{{prev: at, token: at}}
		} else if len(out) > 0 {
			news = true
		}
		p.out, p.outBytes, p.announce = nil, 0, false
		p.mu.Unlock()
		if len(out) == 0 {
			return news
		}
		for i, c := range out {
			if err := p.send(ctx, c); err != nil {
				p.failed(ctx, err, out[i:])
				return news
			}
		}
	}
}

// send publishes one message: rows, and the position that ends them.
func (p *Publisher[R]) send(ctx context.Context, c outChunk) error {
	b := append(c.lines, p.posPrefix...)
	b = strconv.AppendInt(b, c.prev, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, c.token, 10)
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := p.n.c.cfg.Bus.Publish(ctx, p.n.channel(), string(b)); err != nil {
		return err
	}
	p.sent.Add(1)
	return nil
}

// failed drops what could not be sent: the position is enough for followers to read the
// rows from their source. It is sent when the bus is back, which Connected tells, or after
// a moment where only this message failed.
func (p *Publisher[R]) failed(ctx context.Context, err error, out []outChunk) {
	p.n.c.log.Debug().Err(err).Str("stream", p.n.s.Name).Int("count", len(out)).Msg("cannot publish")
	if ctx.Err() != nil {
		p.mu.Lock()
		p.out = append(out, p.out...)
		p.mu.Unlock()
		return
	}
	time.AfterFunc(firstHeartbeat/2, p.repeat)
}
