package tcpbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/wire"
)

// ClientConfig configures a Client.
type ClientConfig struct {
	// Address is the relay's host:port, or the path of its unix socket. Required.
	Address string
	// ServerName is the server's name; a relay of another one is refused. Required.
	ServerName string
	// Name is the name of this process, as the relay's log shows it. Defaults to "worker".
	Name string
	// DialTimeout bounds one attempt to connect. Defaults to 5 seconds.
	DialTimeout time.Duration
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

// Client is a replication.Bus over the main process's Server. It holds one connection for
// what it publishes and one for each subscription.
type Client struct {
	cfg    ClientConfig
	log    zerolog.Logger
	closed chan struct{}

	mu      sync.Mutex // held while writing, which keeps messages whole and in order
	pub     *pubConn
	tryNext time.Time
	failed  error
	readers sync.WaitGroup
}

// Delays between attempts to connect.
const (
	firstRetry = 50 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// NewClient checks the configuration. It does no I/O.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Name == "" {
		cfg.Name = "worker"
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	var errs []error
	if cfg.ServerName == "" || strings.ContainsAny(cfg.ServerName, " \t\r\n") {
		errs = append(errs, fmt.Errorf("ServerName %q is empty or has a space in it", cfg.ServerName))
	}
	if strings.ContainsAny(cfg.Name, "\r\n") {
		errs = append(errs, errors.New("Name has a line break in it"))
	}
	if !strings.HasPrefix(cfg.Address, "/") {
		if _, _, err := net.SplitHostPort(cfg.Address); err != nil {
			errs = append(errs, fmt.Errorf("Address: %w", err))
		}
	}
	if cfg.DialTimeout < 0 {
		errs = append(errs, errors.New("DialTimeout is negative"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("tcp replication: %w", errors.Join(errs...))
	}
	return &Client{cfg: cfg, log: cfg.Log.With().Str("component", "tcp_replication").Logger(), closed: make(chan struct{})}, nil
}

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// dial connects, checks whom it reached and says who we are and what we want.
func (c *Client) dial(ctx context.Context, streams []string) (net.Conn, *lineReader, *lineWriter, error) {
	network := "tcp"
	if strings.HasPrefix(c.cfg.Address, "/") {
		network = "unix"
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, c.cfg.Address)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("connect to replication relay: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	out := &lineWriter{conn: conn, last: time.Now()}
	in := newLineReader(conn)
	in.lastWrite = out.lastWrite
	in.ping = func() error { return out.write(pingLine()) }
	err = c.greet(in, out, streams)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, nil, nil, fmt.Errorf("greet replication relay at %s: %w", c.cfg.Address, err)
	}
	return conn, in, out, nil
}

// greet returns once the relay has begun to pass on the streams.
func (c *Client) greet(in *lineReader, out *lineWriter, streams []string) error {
	want, err := wire.Format(wire.Replicate{Streams: streams})
	if err != nil {
		return err
	}
	// The ping tells the relay that it may expect more of them.
	if err := out.write("NAME " + c.cfg.Name + "\n" + pingLine() + want + "\n"); err != nil {
		return err
	}
	for {
		line, err := in.next(nil, nil)
		if err != nil {
			return err
		}
		if line == want {
			return nil
		}
		switch cmd, _ := wire.Parse(line); cmd := cmd.(type) {
		case wire.Server:
			if cmd.ServerName != c.cfg.ServerName {
				return fmt.Errorf("it is the relay of %s, not of %s", cmd.ServerName, c.cfg.ServerName)
			}
		case wire.Error:
			return fmt.Errorf("it says: %s", cmd.Text)
		}
	}
}

// pubConn is the connection that messages are published on.
type pubConn struct {
	conn net.Conn
	out  *lineWriter
}

// Publish implements replication.Bus. It returns once the message is on its way to the
// relay.
func (c *Client) Publish(ctx context.Context, channel, message string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed() {
		return replication.ErrBusClosed
	}
	if c.pub == nil {
		if err := c.openPub(ctx); err != nil {
			return err
		}
	}
	if err := c.pub.out.write(message + "\n"); err != nil {
		c.pub.conn.Close()
		c.pub = nil
		return fmt.Errorf("publish to replication relay: %w", err)
	}
	return nil
}

// openPub opens the connection for publishing. c.mu is held.
func (c *Client) openPub(ctx context.Context) error {
	if time.Now().Before(c.tryNext) {
		return fmt.Errorf("%w: %w", replication.ErrNotConnected, c.failed)
	}
	conn, in, out, err := c.dial(ctx, []string{"-"})
	if err != nil {
		c.failed, c.tryNext = err, time.Now().Add(firstRetry/2)
		return fmt.Errorf("%w: %w", replication.ErrNotConnected, err)
	}
	p := &pubConn{conn, out}
	c.pub = p
	c.readers.Go(func() {
		// Nothing comes but pings and complaints; the end of the connection is the news.
		for {
			line, err := in.next(nil, nil)
			if err != nil {
				break
			}
			if text, ok := strings.CutPrefix(line, "ERROR "); ok {
				c.log.Warn().Str("reason", text).Msg("the replication relay reports an error")
			}
		}
		conn.Close()
		c.mu.Lock()
		if c.pub == p {
			c.pub = nil
		}
		c.mu.Unlock()
	})
	return nil
}

// Subscribe implements replication.Bus.
func (c *Client) Subscribe(ctx context.Context, channels []string, sub replication.Subscriber) error {
	wanted := make(map[string]bool, len(channels))
	streams := []string{}
	for _, ch := range channels {
		wanted[ch] = true
		if ch == c.cfg.ServerName {
			continue
		}
		stream, ok := strings.CutPrefix(ch, c.cfg.ServerName+"/")
		if !ok {
			return fmt.Errorf("channel %q is not one of server %s", ch, c.cfg.ServerName)
		}
		streams = append(streams, stream)
	}
	if len(streams) == 0 {
		// An empty list would mean everything; this name no stream has.
		streams = []string{"-", "-"}
	}
	delay := firstRetry
	for {
		worked, err := c.subscribe(ctx, streams, wanted, sub)
		if c.isClosed() {
			return replication.ErrBusClosed
		}
		if ctx.Err() != nil {
			return nil
		}
		sub.Disconnected(err)
		if worked {
			delay = firstRetry
		}
		select {
		case <-time.After(delay/2 + rand.N(delay/2+1)):
		case <-ctx.Done():
			return nil
		case <-c.closed:
			return replication.ErrBusClosed
		}
		delay = min(2*delay, maxRetry)
	}
}

// subscribe delivers messages until the connection breaks or ctx is done.
func (c *Client) subscribe(ctx context.Context, streams []string, wanted map[string]bool, sub replication.Subscriber) (worked bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, in, _, err := c.dial(ctx, streams)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sub.Connected()
	asm := &assembler{serverName: c.cfg.ServerName, emit: func(channel, message string) {
		if wanted[channel] && ctx.Err() == nil {
			sub.Message(channel, message)
		}
	}}
	for {
		line, err := in.next(asm.pending, asm.flush)
		if err != nil {
			return true, err
		}
		switch name, _, _ := strings.Cut(line, " "); name {
		case "", "PING", "SERVER", "NAME":
		case "ERROR":
			c.log.Warn().Str("reason", line).Msg("the replication relay reports an error")
		default:
			asm.line(line)
		}
	}
}

// Close implements replication.Bus.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.isClosed() {
		close(c.closed)
	}
	if c.pub != nil {
		c.pub.conn.Close()
		c.pub = nil
	}
	c.mu.Unlock()
	c.readers.Wait()
	return nil
}
