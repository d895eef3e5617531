package tcpbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/wire"
)

// ServerConfig configures a Server.
type ServerConfig struct {
	// ServerName is the server's name. Required.
	ServerName string
	// Addresses are host:port addresses, or paths of unix sockets, to listen on while the
	// process is subscribed. Defaults to none: call Serve.
	Addresses []string
	// MaxQueuedBytes bounds what waits to be written to one connection, which is closed
	// when it needs more. Defaults to 16 MiB.
	MaxQueuedBytes int
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

// Server is the main process's end of the bus: a replication.Bus for the process itself,
// and the server that the other processes connect to.
type Server struct {
	cfg   ServerConfig
	log   zerolog.Logger
	local *replication.LocalBus

	listening atomic.Bool // on cfg.Addresses

	mu        sync.Mutex
	conns     map[*serverConn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool
}

// NewServer checks the configuration. It does no I/O.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.ServerName == "" || strings.ContainsAny(cfg.ServerName, " \t\r\n") {
		return nil, fmt.Errorf("tcp replication: ServerName %q is empty or has a space in it", cfg.ServerName)
	}
	if cfg.MaxQueuedBytes < 0 {
		return nil, errors.New("tcp replication: MaxQueuedBytes is negative")
	}
	if cfg.MaxQueuedBytes == 0 {
		cfg.MaxQueuedBytes = 16 << 20
	}
	return &Server{
		cfg: cfg, log: cfg.Log.With().Str("component", "relay").Logger(),
		local: replication.NewLocalBus(),
		conns: make(map[*serverConn]struct{}), listeners: make(map[net.Listener]struct{}),
	}, nil
}

// Publish implements replication.Bus.
func (s *Server) Publish(ctx context.Context, channel, message string) error {
	if err := s.local.Publish(ctx, channel, message); err != nil {
		return err
	}
	s.broadcast(nil, channel, message)
	return nil
}

// Subscribe implements replication.Bus for the process that has the relay. The first
// subscription listens on Config.Addresses until it ends; it returns an error when that is
// not possible.
func (s *Server) Subscribe(ctx context.Context, channels []string, sub replication.Subscriber) error {
	if len(s.cfg.Addresses) == 0 || !s.listening.CompareAndSwap(false, true) {
		return s.local.Subscribe(ctx, channels, sub)
	}
	defer s.listening.Store(false)
	var listeners []net.Listener
	for _, a := range s.cfg.Addresses {
		network := "tcp"
		if strings.HasPrefix(a, "/") {
			network = "unix"
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, network, a)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return fmt.Errorf("listen for replication connections: %w", err)
		}
		listeners = append(listeners, l)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error { return s.Serve(ctx, l) })
	}
	group.Go(func() error { return s.local.Subscribe(ctx, channels, sub) })
	return group.Wait()
}

// Close implements replication.Bus. It closes all connections and ends Serve.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.conn.Close()
	}
	s.mu.Unlock()
	return s.local.Close()
}

// Serve accepts connections on l until ctx is done or the relay is closed, and returns nil
// then, with all connections and l closed. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.mu.Lock()
	s.listeners[l] = struct{}{}
	closed := s.closed
	s.mu.Unlock()
	if closed {
		l.Close()
	}
	var conns sync.WaitGroup
	defer conns.Wait()
	closeAll := func() {
		l.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l)
		for c := range s.conns {
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
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
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
			s.log.Warn().Err(err).Msg("cannot accept a replication connection")
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		c := &serverConn{s: s, conn: conn, listener: l, wake: make(chan struct{}, 1), gone: make(chan struct{})}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		gone := s.closed || ctx.Err() != nil
		s.mu.Unlock()
		if gone {
			conn.Close()
		}
		conns.Go(c.serve)
	}
}

// broadcast sends a message to all connections that want it, but not to from.
func (s *Server) broadcast(from *serverConn, channel, message string) {
	stream := strings.TrimPrefix(strings.TrimPrefix(channel, s.cfg.ServerName), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c != from {
			c.offer(stream, message)
		}
	}
}

// serverConn is one connection to the relay.
type serverConn struct {
	s        *Server
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
func (c *serverConn) offer(stream, message string) {
	c.mu.Lock()
	wanted := c.started && !c.nothing && (stream == "" || c.streams == nil || c.streams[stream])
	c.mu.Unlock()
	if wanted {
		c.queueText(message)
	}
}

// queueText queues lines to be written.
func (c *serverConn) queueText(lines string) {
	c.mu.Lock()
	if len(c.queue)+len(lines) > c.s.cfg.MaxQueuedBytes {
		c.mu.Unlock()
		c.s.log.Warn().Str("instance", c.name).Msg("closed a replication connection that is too slow")
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
func (c *serverConn) write() {
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
func (c *serverConn) serve() {
	var writer sync.WaitGroup
	writer.Go(c.write)
	c.queueText("SERVER " + c.s.cfg.ServerName)
	err := c.read()
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	c.conn.Close()
	close(c.gone)
	writer.Wait()
	c.s.log.Debug().Err(err).Str("instance", c.name).Msg("replication connection closed")
}

func (c *serverConn) read() error {
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
	asm := &assembler{serverName: c.s.cfg.ServerName, emit: c.relay}
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
			c.s.log.Warn().Str("instance", c.name).Str("reason", cmd.Text).Msg("a process reports a replication error")
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
func (c *serverConn) relay(channel, message string) {
	// The local bus only fails when the relay is closed, and then so is this connection.
	_ = c.s.local.Publish(context.Background(), channel, message)
	c.s.broadcast(c, channel, message)
}

// replicate starts or limits the flow to this connection.
func (c *serverConn) replicate(cmd wire.Replicate, line string) {
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
	c.relay(c.s.cfg.ServerName, "REPLICATE")
}

func (c *serverConn) named(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name = name
}
