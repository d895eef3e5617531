// Package redisbus is a replication bus over Redis publish/subscribe, for servers of
// several processes.
//
// Each process holds one connection that publishes and one that subscribes. Commands are
// published on the channel named after the server and the rows of a stream on
// <server name>/<stream>, so `redis-cli psubscribe 'example.com*'` shows all there is.
// A message holds one line of the replication protocol or more: rows together with the
// position they lead to.
//
// Redis forgets a message as soon as it is sent. What a process misses while its
// connection is down it reads from the database afterwards, so Redis needs no persistence,
// may be restarted at any time, and may be shared with others and with other servers.
package redisbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/replication"
)

// Config says how to reach Redis. The fields follow the options under redis.
type Config struct {
	// Addrs are host:port addresses, or paths of unix sockets. With Sentinel they are the
	// sentinels', with Cluster some of the nodes'. Defaults to localhost:6379.
	Addrs []string
	// Username and Password authenticate. Default to none.
	Username string
	Password string
	// DB is the number of the database. Publish/subscribe ignores it, but Redis refuses a
	// wrong one, which tells of a mistake early. Defaults to 0.
	DB int
	// TLS, if set, encrypts the connections.
	TLS *tls.Config
	// SentinelMaster is the name of the master that the sentinels watch; set, Addrs are
	// sentinels.
	SentinelMaster string
	// SentinelUsername and SentinelPassword authenticate to the sentinels. Default to none.
	SentinelUsername string
	SentinelPassword string
	// SentinelTLS, if set, encrypts the connections to the sentinels.
	SentinelTLS *tls.Config
	// Cluster says that Addrs are nodes of a Redis Cluster.
	Cluster bool
	// DialTimeout bounds one attempt to connect. Defaults to 5 seconds.
	DialTimeout time.Duration
	// ClientName is shown by CLIENT LIST. Defaults to "weft".
	ClientName string
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

// Bus is a replication.Bus over Redis.
type Bus struct {
	cfg    Config
	opt    rueidis.ClientOption
	log    zerolog.Logger
	closed chan struct{}

	mu      sync.Mutex
	client  rueidis.Client
	failed  error     // why the last attempt to connect failed
	tryNext time.Time // earliest time of the next one
}

// Delays between attempts to connect.
const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Bus, error) {
	if len(cfg.Addrs) == 0 {
		cfg.Addrs = []string{"localhost:6379"}
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	if cfg.ClientName == "" {
		cfg.ClientName = "weft"
	}
	var errs []error
	if cfg.Cluster && cfg.SentinelMaster != "" {
		errs = append(errs, errors.New("Cluster and SentinelMaster exclude each other"))
	}
	if cfg.Cluster && cfg.DB != 0 {
		errs = append(errs, fmt.Errorf("DB is %d, but a cluster has only database 0", cfg.DB))
	}
	if !cfg.Cluster && cfg.SentinelMaster == "" && len(cfg.Addrs) > 1 {
		errs = append(errs, errors.New("several Addrs need Cluster or SentinelMaster"))
	}
	if cfg.DB < 0 {
		errs = append(errs, fmt.Errorf("DB is %d", cfg.DB))
	}
	if cfg.DialTimeout < 0 {
		errs = append(errs, errors.New("DialTimeout is negative"))
	}
	for _, a := range cfg.Addrs {
		if strings.HasPrefix(a, "/") {
			continue
		}
		if _, _, err := net.SplitHostPort(a); err != nil {
			errs = append(errs, fmt.Errorf("address %q: %w", a, err))
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("redis: %w", errors.Join(errs...))
	}
	b := &Bus{
		cfg: cfg, closed: make(chan struct{}),
		log: cfg.Log.With().Str("component", "redis").Logger(),
		opt: rueidis.ClientOption{
			InitAddress:       cfg.Addrs,
			Username:          cfg.Username,
			Password:          cfg.Password,
			SelectDB:          cfg.DB,
			TLSConfig:         cfg.TLS,
			ClientName:        cfg.ClientName,
			DialCtxFn:         dial,
			DisableCache:      true,
			DisableRetry:      true,
			ForceSingleClient: !cfg.Cluster,
			// One connection publishes, so that messages keep their order.
			PipelineMultiplex: -1,
			// The defaults serve caches: half a MiB each way for each connection.
			ReadBufferEachConn:  32 << 10,
			WriteBufferEachConn: 32 << 10,
			RingScaleEachConn:   8,
			BlockingPoolSize:    8,
			// Idle connections are pinged this often; more would keep idle processes busy.
			Dialer:           net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 10 * time.Second},
			ConnWriteTimeout: 10 * time.Second,
			Sentinel: rueidis.SentinelOption{
				MasterSet: cfg.SentinelMaster, Username: cfg.SentinelUsername, Password: cfg.SentinelPassword,
				TLSConfig: cfg.SentinelTLS, ClientName: cfg.ClientName,
				Dialer: net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 10 * time.Second},
			},
		},
	}
	return b, nil
}

// dial connects to a TCP address or a unix socket.
func dial(ctx context.Context, addr string, d *net.Dialer, tlsConfig *tls.Config) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	if tlsConfig != nil {
		return (&tls.Dialer{NetDialer: d, Config: tlsConfig}).DialContext(ctx, network, addr)
	}
	return d.DialContext(ctx, network, addr)
}

// connect returns the client, making it if there is none. After a failure it does not try
// again for a moment, so that publishing stays cheap while Redis is away.
func (b *Bus) connect() (rueidis.Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
		return nil, replication.ErrBusClosed
	default:
	}
	if b.client != nil {
		return b.client, nil
	}
	if time.Now().Before(b.tryNext) {
		return nil, fmt.Errorf("%w: %w", replication.ErrNotConnected, b.failed)
	}
	client, err := rueidis.NewClient(b.opt)
	if err != nil {
		b.failed = fmt.Errorf("connect to redis at %s: %w", strings.Join(b.cfg.Addrs, ", "), err)
		b.tryNext = time.Now().Add(firstRetry / 2)
		return nil, fmt.Errorf("%w: %w", replication.ErrNotConnected, b.failed)
	}
	b.client = client
	return client, nil
}

// Ping connects if need be and reports whether Redis answers.
func (b *Bus) Ping(ctx context.Context) error {
	client, err := b.connect()
	if err != nil {
		return err
	}
	if err := client.Do(ctx, client.B().Ping().Build()).Error(); err != nil {
		return fmt.Errorf("ping redis: %w", err)
	}
	return nil
}

// Publish implements replication.Bus. It returns once Redis has taken the message; messages
// of several goroutines share round trips.
func (b *Bus) Publish(ctx context.Context, channel, message string) error {
	client, err := b.connect()
	if err != nil {
		return err
	}
	var cmd rueidis.Completed
	if b.cfg.Cluster {
		// With the channel as key all messages of a channel go through one node, which
		// keeps their order; a node passes them on to the others.
		cmd = client.B().Arbitrary("PUBLISH").Keys(channel).Args(message).Build()
	} else {
		cmd = client.B().Publish().Channel(channel).Message(message).Build()
	}
	if err := client.Do(ctx, cmd).Error(); err != nil {
		select {
		case <-b.closed:
			return replication.ErrBusClosed
		default:
		}
		return fmt.Errorf("publish on redis: %w", err)
	}
	return nil
}

// Subscribe implements replication.Bus. It tries to connect until ctx is done: a wrong
// password or address can be put right while it runs.
func (b *Bus) Subscribe(ctx context.Context, channels []string, sub replication.Subscriber) error {
	delay := firstRetry
	for {
		worked, err := b.subscribe(ctx, channels, sub)
		select {
		case <-b.closed:
			return replication.ErrBusClosed
		default:
		}
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("connection closed")
		}
		sub.Disconnected(err)
		if worked {
			delay = firstRetry
		}
		select {
		case <-time.After(delay/2 + rand.N(delay/2+1)):
		case <-ctx.Done():
			return nil
		case <-b.closed:
			return replication.ErrBusClosed
		}
		delay = min(2*delay, maxRetry)
	}
}

// subscribe delivers messages until the connection breaks or ctx is done. worked says
// whether the subscription took effect.
func (b *Bus) subscribe(ctx context.Context, channels []string, sub replication.Subscriber) (worked bool, err error) {
	client, err := b.connect()
	if err != nil {
		return false, err
	}
	conn, _ := client.Dedicate()
	// Closing the connection ends the hooks; putting it back in the pool instead would
	// leave its subscriptions in force.
	defer conn.Close()
	want := int64(len(channels))
	broken := conn.SetPubSubHooks(rueidis.PubSubHooks{
		OnSubscription: func(s rueidis.PubSubSubscription) {
			if s.Kind == "subscribe" && s.Count == want && !worked {
				worked = true
				sub.Connected()
			}
		},
		OnMessage: func(m rueidis.PubSubMessage) { sub.Message(m.Channel, m.Message) },
	})
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case <-ctx.Done():
			conn.Close()
		case <-b.closed:
			conn.Close()
		case <-stopped:
		}
	}()
	subErr := conn.Do(ctx, conn.B().Subscribe().Channel(channels...).Build()).Error()
	if subErr != nil {
		conn.Close()
	}
	// The channel is closed once no hook will be called any more.
	for e := range broken {
		err = e
	}
	if subErr != nil {
		err = subErr
	}
	return worked, err
}

// Close implements replication.Bus.
func (b *Bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
		return nil
	default:
	}
	close(b.closed)
	if b.client != nil {
		b.client.Close()
	}
	return nil
}
