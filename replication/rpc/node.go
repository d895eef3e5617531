package rpc

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Address is where an instance can be called: an entry of instance_map.
type Address struct {
	// Host and Port are a TCP address.
	Host string
	Port int
	// TLS says that the port speaks TLS.
	TLS bool
	// Path is a unix socket, used instead of Host and Port when set.
	Path string
}

// Config configures a Node.
type Config struct {
	// Instance is the name of this process; calls to it are plain function calls.
	// Defaults to "master".
	Instance string
	// Instances tells where the others are, as instance_map does.
	Instances map[string]Address
	// Secret is worker_replication_secret. Without one, Handler refuses callers that come
	// neither from loopback nor over a unix socket.
	Secret string
	// TLSClient, if set, is how certificates of instances with TLS are checked. Defaults to
	// the roots of the machine.
	TLSClient *tls.Config
	// HTTP2 sends all calls to an instance over one connection. The default is HTTP/1.1
	// with as many connections, kept open, as there are calls at once: a call then costs
	// about a third less CPU. Handler speaks both.
	HTTP2 bool
	// Timeout bounds a call whose context has no deadline. Defaults to 60 seconds.
	Timeout time.Duration
	// RetryFor bounds how long a call is tried again after its connection broke or could
	// not be made. Defaults to 10 seconds.
	RetryFor time.Duration
	// ResultTTL is how long results are kept for retries; it should be above the callers'
	// RetryFor. Defaults to 1 minute.
	ResultTTL time.Duration
	// MaxResults bounds the results that are kept; the oldest go first.
	// Defaults to 65536.
	MaxResults int
	// MaxBodyBytes bounds requests and replies. Defaults to 64 MiB.
	MaxBodyBytes int64
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

// Node is one process's end of the calls between processes: the methods it serves and the
// connections to the others. Safe for concurrent use.
type Node struct {
	cfg    Config
	log    zerolog.Logger
	bearer string   // Authorization header that we send, or ""
	secret [32]byte // hash of the one we expect
	boot   string   // names this run of the process
	peers  map[string]*peer

	mu      sync.RWMutex
	methods map[string]*registered

	results results
}

// New checks the configuration. It does no I/O; connections open with the first call.
func New(cfg Config) (*Node, error) {
	if cfg.Instance == "" {
		cfg.Instance = "master"
	}
	var errs []error
	for name, d := range map[string]*time.Duration{"Timeout": &cfg.Timeout, "RetryFor": &cfg.RetryFor, "ResultTTL": &cfg.ResultTTL} {
		if *d < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", name))
		}
	}
	setDefault(&cfg.Timeout, 60*time.Second)
	setDefault(&cfg.RetryFor, 10*time.Second)
	setDefault(&cfg.ResultTTL, time.Minute)
	setDefault(&cfg.MaxResults, 65536)
	setDefault(&cfg.MaxBodyBytes, 64<<20)
	if cfg.MaxResults < 0 || cfg.MaxBodyBytes < 0 {
		errs = append(errs, errors.New("MaxResults or MaxBodyBytes is negative"))
	}
	n := &Node{
		cfg:     cfg,
		log:     cfg.Log.With().Str("component", "rpc").Logger(),
		boot:    newID(),
		peers:   make(map[string]*peer),
		methods: make(map[string]*registered),
		results: newResults(cfg.ResultTTL, cfg.MaxResults),
	}
	if cfg.Secret != "" {
		n.bearer = "Bearer " + cfg.Secret
		n.secret = sha256.Sum256([]byte(n.bearer))
	}
	for name, a := range cfg.Instances {
		p, err := newPeer(a, cfg.TLSClient, cfg.HTTP2)
		if err != nil {
			errs = append(errs, fmt.Errorf("instance_map.%s: %w", name, err))
			continue
		}
		n.peers[name] = p
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("rpc: %w", errors.Join(errs...))
	}
	return n, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Instance is the name of this process.
func (n *Node) Instance() string { return n.cfg.Instance }

// Close closes the connections that no call is using. It never fails.
func (n *Node) Close() error {
	for _, p := range n.peers {
		p.transport.CloseIdleConnections()
	}
	return nil
}

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
