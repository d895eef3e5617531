package tcpbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/wire"
)

// RelayConfig configures a Relay.
type RelayConfig struct {
	// ServerName is the server's name. Required.
	ServerName string
	// MaxQueuedBytes bounds what waits to be written to one connection, which is closed
	// when it needs more. Defaults to 16 MiB.
	MaxQueuedBytes int
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

// Relay is the main process's end of the bus: a replication.Bus for the process itself,
// and the server that the other processes connect to.
type Relay struct {
	cfg   RelayConfig
	log   zerolog.Logger
	local *replication.LocalBus

	mu        sync.Mutex
	conns     map[*relayConn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool
}

// NewRelay checks the configuration. It does no I/O.
func NewRelay(cfg RelayConfig) (*Relay, error) {
	if cfg.ServerName == "" || strings.ContainsAny(cfg.ServerName, " \t\r\n") {
		return nil, fmt.Errorf("tcp relay: ServerName %q is empty or has a space in it", cfg.ServerName)
	}
	if cfg.MaxQueuedBytes < 0 {
		return nil, errors.New("tcp relay: MaxQueuedBytes is negative")
	}
	if cfg.MaxQueuedBytes == 0 {
		cfg.MaxQueuedBytes = 16 << 20
	}
	return &Relay{
		cfg: cfg, log: cfg.Log.With().Str("component", "relay").Logger(),
		local: replication.NewLocalBus(),
		conns: make(map[*relayConn]struct{}), listeners: make(map[net.Listener]struct{}),
	}, nil
}

// Publish implements replication.Bus.
func (r *Relay) Publish(ctx context.Context, channel, message string) error {
	if err := r.local.Publish(ctx, channel, message); err != nil {
		return err
	}
	r.broadcast(nil, channel, message)
	return nil
}

// Subscribe implements replication.Bus for the process that has the relay.
func (r *Relay) Subscribe(ctx context.Context, channels []string, sub replication.Subscriber) error {
	return r.local.Subscribe(ctx, channels, sub)
}

// Close implements replication.Bus. It closes all connections and ends Serve.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	for l := range r.listeners {
		l.Close()
	}
	for c := range r.conns {
		c.conn.Close()
	}
	r.mu.Unlock()
	return r.local.Close()
}

// Serve accepts connections on l until ctx is done or the relay is closed, and returns nil
// then, with all connections and l closed. It may be called for several listeners.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error {
	r.mu.Lock()
	r.listeners[l] = struct{}{}
	closed := r.closed
	r.mu.Unlock()
	if closed {
		l.Close()
	}
	var conns sync.WaitGroup
	defer conns.Wait()
	closeAll := func() {
		l.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.listeners, l)
		for c := range r.conns {
			if c.listener == l {
				c.conn.Close()
			}
		}
	}
	stop := context.AfterFunc(ctx, closeAll)
	defer func() {
		if stop() {
			closeAll()
		}
	}()
	for {
		conn, err := l.Accept()
		r.mu.Lock()
		closed := r.closed
		r.mu.Unlock()
		if ctx.Err() != nil || closed {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			var temporary interface{ Timeout() bool }
			if errors.Is(err, net.ErrClosed) || !errors.As(err, &temporary) {
				return fmt.Errorf("accept replication connection: %w", err)
			}
			// Out of file descriptors, most likely: others have to close first.
			r.log.Warn().Err(err).Msg("cannot accept a replication connection")
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		c := &relayConn{r: r, conn: conn, listener: l, wake: make(chan struct{}, 1), gone: make(chan struct{})}
		r.mu.Lock()
		r.conns[c] = struct{}{}
		gone := r.closed || ctx.Err() != nil
		r.mu.Unlock()
		if gone {
			conn.Close()
		}
		conns.Go(c.serve)
	}
}

// broadcast sends a message to all connections that want it, but not to from.
func (r *Relay) broadcast(from *relayConn, channel, message string) {
	stream := strings.TrimPrefix(strings.TrimPrefix(channel, r.cfg.ServerName), "/")
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if c != from {
			c.offer(stream, message)
		}
	}
}

// relayConn is one connection to the relay.
type relayConn struct {
	r        *Relay
	conn     net.Conn
	listener net.Listener
	wake     chan struct{}
	gone     chan struct{}

	mu      sync.Mutex
	name    string
	started bool            // the flow has begun
	streams map[string]bool // those that flow; nil is all
	nothing bool            // not even commands
	queue   []byte
	last    time.Time // of the last write
}

// offer queues a message if the connection wants it. stream is "" for commands.
func (c *relayConn) offer(stream, message string) {
	c.mu.Lock()
	wanted := c.started && !c.nothing && (stream == "" || c.streams == nil || c.streams[stream])
	c.mu.Unlock()
	if wanted {
		c.queueText(message)
	}
}

// queueText queues lines to be written.
func (c *relayConn) queueText(lines string) {
	c.mu.Lock()
	if len(c.queue)+len(lines) > c.r.cfg.MaxQueuedBytes {
		c.mu.Unlock()
		c.r.log.Warn().Str("instance", c.name).Msg("closed a replication connection that is too slow")
		c.conn.Close()
		return
	}
	c.queue = append(c.queue, lines...)
	c.queue = append(c.queue, '\n')
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write writes what is queued until the connection is gone.
func (c *relayConn) write() {
	var spare []byte
	for {
		select {
		case <-c.wake:
		case <-c.gone:
			return
		}
		c.mu.Lock()
		out := c.queue
		c.queue = spare[:0]
		c.last = time.Now()
		c.mu.Unlock()
		err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err == nil {
			_, err = c.conn.Write(out)
		}
		if err != nil {
			c.conn.Close()
			return
		}
		if spare = out; cap(spare) > 1<<20 {
			spare = nil
		}
	}
}

// serve reads from the connection until it ends.
func (c *relayConn) serve() {
	var writer sync.WaitGroup
	writer.Go(c.write)
	c.queueText("SERVER " + c.r.cfg.ServerName)
	err := c.read()
	c.r.mu.Lock()
	delete(c.r.conns, c)
	c.r.mu.Unlock()
	c.conn.Close()
	close(c.gone)
	writer.Wait()
	c.r.log.Debug().Err(err).Str("instance", c.name).Msg("replication connection closed")
}

func (c *relayConn) read() error {
	lines := newLineReader(c.conn)
	lines.lastWrite = func() time.Time {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.last
	}
	lines.ping = func() error {
		c.queueText(strings.TrimSuffix(pingLine(), "\n"))
		return nil
	}
	asm := &assembler{serverName: c.r.cfg.ServerName, emit: c.relay}
	for {
		line, err := lines.next(asm.pending, asm.flush)
		if err != nil {
			return err
		}
		if line == "" {
			continue
		}
		name, _, _ := strings.Cut(line, " ")
		switch name {
		case "RDATA", "POSITION":
			asm.line(line)
			continue
		}
		asm.flush()
		cmd, err := wire.Parse(line)
		if err != nil {
			c.queueText("ERROR " + strings.Map(oneLine, err.Error()))
			continue
		}
		switch cmd := cmd.(type) {
		case wire.Ping, wire.Server:
		case wire.ClientName:
			c.named(cmd.Client)
		case wire.Error:
			c.r.log.Warn().Str("instance", c.name).Str("reason", cmd.Text).Msg("a process reports a replication error")
		case wire.Replicate:
			c.replicate(cmd, line)
		default:
			asm.line(line)
		}
	}
}

// oneLine keeps an error text in its line.
func oneLine(r rune) rune {
	if r == '\n' || r == '\r' {
		return ' '
	}
	return r
}

// relay passes a message on.
func (c *relayConn) relay(channel, message string) {
	// The local bus only fails when the relay is closed, and then so is this connection.
	_ = c.r.local.Publish(context.Background(), channel, message)
	c.r.broadcast(c, channel, message)
}

// replicate starts or limits the flow to this connection.
func (c *relayConn) replicate(cmd wire.Replicate, line string) {
	c.mu.Lock()
	c.started = true
	if len(cmd.Streams) > 0 {
		c.nothing = len(cmd.Streams) == 1 && cmd.Streams[0] == "-"
		c.streams = make(map[string]bool, len(cmd.Streams))
		for _, s := range cmd.Streams {
			c.streams[s] = true
		}
	}
	c.mu.Unlock()
	if len(cmd.Streams) > 0 {
		c.queueText(line)
		return
	}
	c.relay(c.r.cfg.ServerName, "REPLICATE")
}

func (c *relayConn) named(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name = name
}
