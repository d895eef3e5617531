package homeservertest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/storage/storagetest"
)

// Worker is a worker of a Cluster.
type Worker struct {
	// Name is the worker's name. Required.
	Name string
	// App is what it runs. Defaults to "generic_worker".
	App string
	// Streams are the streams it writes ("events", "typing").
	Streams []string
	// Configure changes the worker's configuration before it is opened. Optional.
	Configure func(cfg *config.Config)
}

// ClusterConfig says what processes to start.
type ClusterConfig struct {
	// ServerName is the server's name. Defaults to "test".
	ServerName string
	// Workers are the processes beside main. Without any, main is alone and there is no bus.
	Workers []Worker
	// Parts makes a process of its core: which groups it serves, which tasks it runs. Required. It is called for each
	// process; core.Config tells them apart.
	Parts func(core *homeserver.Core) homeserver.Config
	// Federate connects the processes with other servers. Defaults to not.
	Federate homeserver.Federate
	// Configure changes what all processes share before they are opened. Optional.
	Configure func(cfg *config.Config)
	// RedisAddr is a Redis, host:port, to use instead of one in the test binary.
	RedisAddr string
	// ConnString is a database to use instead of a new one, as storagetest.NewConnString returns.
	ConnString string
}

// Cluster is the processes of one homeserver in a test: main, and its workers, with one database and one Redis.
type Cluster struct {
	cfg       ClusterConfig
	conn      string
	redis     string
	dir       string
	processes map[string]*Process
	cores     map[string]*homeserver.Core
	closed    map[*homeserver.Core]bool
	order     []string
}

// NewCluster starts the processes and waits until all are ready. Registration is open, passwords are hashed at the
// lowest cost, and there are no rate limits; Configure may say otherwise.
func NewCluster(tb testing.TB, cfg ClusterConfig) *Cluster {
	tb.Helper()
	// Sockets have short paths; those of TB.TempDir are long.
	dir, err := os.MkdirTemp("", "weft")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &Cluster{
		cfg: cfg, dir: dir, processes: map[string]*Process{}, cores: map[string]*homeserver.Core{},
		closed: map[*homeserver.Core]bool{}, conn: cfg.ConnString, redis: cfg.RedisAddr,
	}
	if c.conn == "" {
		c.conn = storagetest.NewConnString(tb)
	}
	if c.redis == "" && len(cfg.Workers) > 0 {
		c.redis = miniredis.RunT(tb).Addr()
	}
	c.launch(tb, config.MainName)
	for _, w := range cfg.Workers {
		c.launch(tb, w.Name)
	}
	for _, name := range c.order {
		c.processes[name].waitReady(tb)
	}
	return c
}

// Main returns the main process.
func (c *Cluster) Main() *Process { return c.processes[config.MainName] }

// Process returns a process by its name.
func (c *Cluster) Process(name string) *Process { return c.processes[name] }

// Core returns the core of a process by its name.
func (c *Cluster) Core(name string) *homeserver.Core { return c.cores[name] }

// Names returns the names of the processes, main first.
func (c *Cluster) Names() []string { return c.order }

// ConnString returns the connection string of the cluster's database.
func (c *Cluster) ConnString() string { return c.conn }

// RedisAddr returns the address of the cluster's Redis, "" where main is alone.
func (c *Cluster) RedisAddr() string { return c.redis }

// Restart stops a process, starts it again and waits until it is ready.
func (c *Cluster) Restart(tb testing.TB, name string) *Process {
	tb.Helper()
	if err := c.Stop(name); err != nil {
		tb.Fatalf("stop %s: %v", name, err)
	}
	c.launch(tb, name)
	c.processes[name].waitReady(tb)
	return c.processes[name]
}

// Stop drains a process and closes its core.
func (c *Cluster) Stop(name string) error {
	if err := c.processes[name].Stop(); err != nil {
		return err
	}
	return c.close(c.cores[name])
}

func (c *Cluster) close(core *homeserver.Core) error {
	if c.closed[core] {
		return nil
	}
	c.closed[core] = true
	return core.Close()
}

// launch opens the core of a process and starts it.
func (c *Cluster) launch(tb testing.TB, name string) {
	tb.Helper()
	cfg := c.config(tb, name)
	if err := cfg.Validate(); err != nil {
		tb.Fatalf("configuration of %s: %v", name, err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	core, err := homeserver.OpenCore(ctx, cfg, c.cfg.Federate)
	if err != nil {
		tb.Fatalf("open %s: %v", name, err)
	}
	tb.Cleanup(func() { // runs after the process's own, which drains it
		if err := c.close(core); err != nil {
			tb.Errorf("close %s: %v", name, err)
		}
	})
	if c.cores[name] == nil {
		c.order = append(c.order, name)
	}
	c.cores[name] = core
	c.processes[name] = launch(tb, c.cfg.Parts(core))
}

// config returns the configuration of a process.
func (c *Cluster) config(tb testing.TB, name string) *config.Config {
	tb.Helper()
	cfg := config.Default()
	cfg.ServerName = cmp.Or(c.cfg.ServerName, "test")
	cfg.DataDir = c.dir
	cfg.SigningKeyPath = filepath.Join(c.dir, "signing.key")
	cfg.LogConfig, cfg.WorkerLogConfig = c.logConfig(tb), c.logConfig(tb)
	cfg.Database = c.database(tb)
	cfg.EnableRegistration, cfg.EnableRegistrationWithoutVerification = true, true
	cfg.BcryptRounds = 4
	cfg.RateLimitsOptions = unlimited()
	cfg.WorkerReplicationSecret = "test"
	socket := func(name string) string { return filepath.Join(c.dir, name+".sock") }
	client := listener("client", "federation", "keys", "openid", "media")
	private := config.Listener{Type: "http", Path: socket(name), Resources: []config.ListenerResource{{Names: []string{"replication"}}}}
	if len(c.cfg.Workers) > 0 {
		host, port := splitAddr(tb, c.redis)
		cfg.Redis.Enabled, cfg.Redis.Host, cfg.Redis.Port = true, host, port
		cfg.InstanceMap = map[string]config.Instance{"main": {Path: socket(config.MainName)}}
	}
	writers := map[string]*config.Names{
		"events": &cfg.StreamWriters.Events, "typing": &cfg.StreamWriters.Typing, "to_device": &cfg.StreamWriters.ToDevice,
		"account_data": &cfg.StreamWriters.AccountData, "receipts": &cfg.StreamWriters.Receipts,
		"presence": &cfg.StreamWriters.Presence, "push_rules": &cfg.StreamWriters.PushRules,
		"device_lists": &cfg.StreamWriters.DeviceLists, "thread_subscriptions": &cfg.StreamWriters.ThreadSubscriptions,
		"quarantined_media_changes": &cfg.StreamWriters.QuarantinedMediaChanges,
	}
	var self *Worker
	for i := range c.cfg.Workers {
		w := &c.cfg.Workers[i]
		cfg.InstanceMap[w.Name] = config.Instance{Path: socket(w.Name)}
		for _, s := range w.Streams {
			names, ok := writers[s]
			if !ok {
				tb.Fatalf("worker %s: unknown stream %s", w.Name, s)
			}
			*names = append(*names, w.Name)
		}
		if w.Name == name {
			self = w
		}
	}
	if c.cfg.Configure != nil {
		c.cfg.Configure(cfg)
	}
	if self == nil {
		cfg.Listeners = []config.Listener{client, private}
		return cfg
	}
	cfg.App, cfg.Name = cmp.Or(self.App, "generic_worker"), self.Name
	cfg.WorkerListeners = []config.Listener{client, private}
	if self.Configure != nil {
		self.Configure(cfg)
	}
	return cfg
}

// logConfig silences the processes but for errors, which go to the test binary's standard error.
func (c *Cluster) logConfig(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(c.dir, "log.yaml")
	src := "version: 1\nhandlers: {console: {class: logging.StreamHandler}}\nroot: {level: ERROR, handlers: [console]}\n"
	if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// database takes a connection string apart into the options of the database.
func (c *Cluster) database(tb testing.TB) *config.DatabaseConfig {
	tb.Helper()
	pc, err := pgconn.ParseConfig(c.conn)
	if err != nil {
		tb.Fatal(err)
	}
	return &config.DatabaseConfig{Name: "psycopg2", Args: config.DatabaseArgs{
		User: pc.User, Password: config.Secret(pc.Password), DBName: pc.Database, Host: pc.Host,
		Port: config.StringOrInt(fmt.Sprint(pc.Port)), SSLMode: "prefer", CPMax: 6,
	}}
}

func splitAddr(tb testing.TB, addr string) (host string, port int) {
	tb.Helper()
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i] == ':' {
			n, err := strconv.Atoi(addr[i+1:])
			if err != nil {
				break
			}
			return addr[:i], n
		}
	}
	tb.Fatalf("expected host:port, got %q", addr)
	return "", 0
}

// unlimited are rates no test reaches.
func unlimited() config.RateLimitsOptions {
	r := config.Rate{PerSecond: 1e6, BurstCount: 1e6}
	return config.RateLimitsOptions{
		RCMessage: r, RCRegistration: r, RCRegistrationTokenValidity: r,
		RCLogin: config.LoginRates{Address: r, Account: r, FailedAttempts: r},
		RCJoins: config.JoinRates{Local: r, Remote: r}, RCJoinsPerRoom: r, RCThreepidValidation: r,
		RCInvites:          config.InviteRates{PerRoom: r, PerUser: r, PerIssuer: r},
		RCThirdPartyInvite: r, RCMediaCreate: r, RCPresence: config.PresenceRates{PerUser: r},
		RCFederation:             config.FederationRates{WindowSize: 1000, SleepLimit: 1e6, SleepDelay: 1, RejectLimit: 1e6, Concurrent: 1000},
		RCDelayedEventManagement: r, RCReports: r, RCRoomCreation: r, RCKeyRequests: r,
	}
}
