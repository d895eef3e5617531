package homeserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/redisbus"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/replication/tcpbus"
	"github.com/weft-im/weft/storage"
)

// openReplication makes what ties the process to the others: the registry of writers, the calls, the bus and the client
// that follows streams over it.
func (c *Core) openReplication(ctx context.Context) error {
	cfg := c.Config
	var err error
	if c.Writers, err = openWriters(cfg); err != nil {
		return err
	}
	names := storage.NewWriters()
	for _, instance := range c.Writers.Instances() {
		if _, err := names.Intern(ctx, c.DB, instance); err != nil {
			return err
		}
	}
	ids := token.NewWriters(c.DB)
	if err := ids.Load(ctx); err != nil {
		return err
	}
	c.WriterIDs = ids
	if c.RPC, err = openRPC(cfg, c.Log); err != nil {
		return cfg.ErrorAt("instance_map", err)
	}
	bus, err := openBus(cfg, c.Log)
	if err != nil {
		return cfg.ErrorAt("redis", err)
	}
	c.bus, _ = bus.(io.Closer)
	c.Replication, err = replication.NewClient(replication.Config{
		ServerName: cfg.ServerName, Instance: cfg.InstanceName(), Bus: bus, Writers: c.Writers, Log: c.Log,
	})
	return err
}

// replicationGroup is what other processes and operators ask of this one.
func (c *Core) replicationGroup() Group {
	return Group{
		Name:     "replication",
		Resource: ResourceReplication,
		Endpoints: []Endpoint{
			{Method: http.MethodPost, Path: rpc.PathPrefix + "{call...}", Raw: c.RPC.Handler()},
			{Method: http.MethodGet, Path: "/_weft/status", Handle: c.status},
		},
	}
}

// InstanceStatus is what GET /_weft/status says of a process, for weftctl ps and dashboards.
type InstanceStatus struct {
	Instance string         `json:"instance"`
	App      string         `json:"app"`
	PID      int            `json:"pid"`
	Streams  []StreamStatus `json:"streams"`
}

// StreamStatus is how far a process has followed one stream.
type StreamStatus struct {
	Stream string `json:"stream"`
	// Written says that this process is a writer of the stream.
	Written bool           `json:"written"`
	Writers []WriterStatus `json:"writers"`
}

// WriterStatus is how far one writer of a stream has come, and how far this process has followed it.
type WriterStatus struct {
	Writer    string `json:"writer"`
	Position  int64  `json:"position"`
	Announced int64  `json:"announced"`
	Lag       int64  `json:"lag"`
}

func (c *Core) status(context.Context, *Request) (any, error) {
	s := InstanceStatus{Instance: c.Config.InstanceName(), App: c.Config.AppName(), PID: os.Getpid(), Streams: []StreamStatus{}}
	for _, st := range c.Replication.Snapshot() {
		out := StreamStatus{Stream: st.Stream, Written: st.Written, Writers: []WriterStatus{}}
		for _, w := range st.Writers {
			out.Writers = append(out.Writers, WriterStatus{Writer: w.Writer, Position: w.Position, Announced: w.Announced, Lag: w.Lag})
		}
		s.Streams = append(s.Streams, out)
	}
	return s, nil
}

// openWriters builds the registry of stream writers.
func openWriters(cfg *config.Config) (*replication.Writers, error) {
	streamWriters := make(map[string][]string)
	for _, s := range cfg.Streams() {
		streamWriters[s] = cfg.Writers(s)
	}
	var instances []string
	for name := range cfg.Instances() {
		instances = append(instances, name)
	}
	instances = append(instances, cfg.InstanceName())
	return replication.NewWriters(replication.WritersConfig{
		Instance:          cfg.InstanceName(),
		Instances:         instances,
		StreamWriters:     streamWriters,
		FederationSenders: cfg.FederationSenderInstances,
	})
}

// openRPC builds the process's end of the calls between processes.
func openRPC(cfg *config.Config, log zerolog.Logger) (*rpc.Node, error) {
	addresses := make(map[string]rpc.Address)
	for name, i := range cfg.Instances() {
		addresses[name] = rpc.Address{Host: i.Host, Port: i.Port, TLS: i.TLS, Path: i.Path}
	}
	return rpc.New(rpc.Config{
		Instance:  cfg.InstanceName(),
		Instances: addresses,
		Secret:    cfg.WorkerReplicationSecret.Reveal(),
		Log:       log,
	})
}

// openBus connects to Redis, or to the main process's TCP relay, or to nothing in a process that is alone.
func openBus(cfg *config.Config, log zerolog.Logger) (replication.Bus, error) {
	if cfg.Redis.Enabled {
		rc, err := redisConfig(&cfg.Redis, log)
		if err != nil {
			return nil, err
		}
		return redisbus.New(rc)
	}
	if addr := cfg.TCPRelay(); addr != "" {
		return tcpbus.NewClient(tcpbus.ClientConfig{Address: addr, ServerName: cfg.ServerName, Name: cfg.InstanceName(), Log: log})
	}
	if cfg.IsWorker() {
		return nil, nil
	}
	for _, l := range cfg.ActiveListeners() {
		if l.Type == "replication" {
			var addresses []string
			for _, host := range l.Addresses() {
				addresses = append(addresses, net.JoinHostPort(host, strconv.Itoa(l.Port)))
			}
			return tcpbus.NewServer(tcpbus.ServerConfig{Addresses: addresses, ServerName: cfg.ServerName, Log: log})
		}
	}
	return nil, nil
}

func redisConfig(r *config.Redis, log zerolog.Logger) (redisbus.Config, error) {
	rc := redisbus.Config{
		Addrs:    []string{net.JoinHostPort(r.Host, strconv.Itoa(r.Port))},
		Username: r.Username,
		Password: r.Password.Reveal(),
		DB:       r.DBID,
		Log:      log,
	}
	if r.Path != "" {
		rc.Addrs = []string{r.Path}
	}
	if r.Sentinel != nil {
		rc.Addrs, rc.SentinelMaster = r.Sentinel.Addresses, r.Sentinel.MasterName
		rc.SentinelUsername, rc.SentinelPassword = r.Sentinel.Username, r.Sentinel.Password.Reveal()
	}
	if r.Cluster != nil {
		rc.Addrs, rc.Cluster = r.Cluster.Addresses, true
	}
	if !r.UseTLS {
		return rc, nil
	}
	var err error
	rc.TLS, err = redisTLS(r)
	return rc, err
}

func redisTLS(r *config.Redis) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: r.Host}
	if r.CertificateFile != "" {
		cert, err := tls.LoadX509KeyPair(r.CertificateFile, r.PrivateKeyFile)
		if err != nil {
			return nil, fmt.Errorf("redis.certificate_file: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	files := []string{r.CAFile}
	if r.CAPath != "" {
		inDir, err := filepath.Glob(filepath.Join(r.CAPath, "*"))
		if err != nil {
			return nil, fmt.Errorf("redis.ca_path: %w", err)
		}
		files = append(files, inDir...)
	}
	for _, f := range slices.DeleteFunc(files, func(f string) bool { return f == "" }) {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("redis.ca_file: %w", err)
		}
		if t.RootCAs == nil {
			t.RootCAs = x509.NewCertPool()
		}
		t.RootCAs.AppendCertsFromPEM(pem)
	}
	return t, nil
}

// streamStarts are the positions of the streams in the database at one moment: where followers start from, and what
// caches that are filled later are at least as new as.
func streamStarts(ctx context.Context, db *storage.DB, names []string) (map[string]replication.Position, error) {
	states, err := storage.GetStreams(ctx, db, names)
	if err != nil {
		return nil, fmt.Errorf("read stream positions: %w", err)
	}
	starts := make(map[string]replication.Position, len(states))
	for _, s := range states {
		if len(s.Epochs) == 0 {
			return nil, errors.New("read stream positions: there is no stream " + s.Stream)
		}
		at := make(map[string]int64, len(s.Positions))
		for _, p := range s.Positions {
			at[p.Writer] = p.Position
		}
		starts[s.Stream] = replication.PositionOf(int64(s.Epochs.Current()), at)
	}
	return starts, nil
}
