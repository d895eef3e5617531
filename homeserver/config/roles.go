package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// MainName is the instance name of the main process, in streams and in stream_writers.
const MainName = "master"

// mainInMap is what instance_map calls the main process.
const mainInMap = "main"

// apps are the worker applications by their plain names, with what each runs as.
var apps = map[string]string{
	"homeserver":        "homeserver",
	"generic_worker":    "generic_worker",
	"pusher":            "pusher",
	"appservice":        "appservice",
	"federation_sender": "federation_sender",
	"media_repository":  "media_repository",
	"user_dir":          "user_dir",
	"frontend_proxy":    "frontend_proxy",
	// Synapse's older names of what generic_worker does now.
	"client_reader":     "generic_worker",
	"event_creator":     "generic_worker",
	"federation_reader": "generic_worker",
	"synchrotron":       "generic_worker",
	// This server's own.
	"event_persister": "event_persister",
	"router":          "router",
}

// AppName returns what the process runs, without Synapse's "synapse.app." before it and with historical names replaced
// by "generic_worker". The main process is "homeserver". A name that is none of Synapse's is returned as it is: a
// downstream program names its own workers.
func (c *Config) AppName() string {
	if c.App == "" {
		return "homeserver"
	}
	name := strings.TrimPrefix(c.App, "synapse.app.")
	if canonical, ok := apps[name]; ok {
		return canonical
	}
	return name
}

// CheckApp returns an error, one line, unless the process runs one of the given applications. A program calls it with
// what it is.
func (c *Config) CheckApp(accepted ...string) error {
	if slices.Contains(accepted, c.AppName()) {
		return nil
	}
	got := c.App
	if got == "" {
		got = "no worker_app"
	}
	return c.errAt("worker_app", "expected %s, got %s", strings.Join(accepted, " or "), got)
}

// IsWorker reports whether the process is not main.
func (c *Config) IsWorker() bool { return c.AppName() != "homeserver" }

// InstanceName returns the process's name in streams and logs: worker_name, worker_app where that is missing, "master" for
// the main process.
func (c *Config) InstanceName() string {
	switch {
	case !c.IsWorker():
		return MainName
	case c.Name != "":
		return c.Name
	}
	return c.App
}

// ActiveListeners returns the sockets of this process.
func (c *Config) ActiveListeners() []Listener {
	if c.IsWorker() {
		return c.WorkerListeners
	}
	return c.Listeners
}

// ActiveLogConfig returns the path of this process's log configuration, or "".
func (c *Config) ActiveLogConfig() string {
	if c.IsWorker() {
		return c.WorkerLogConfig
	}
	return c.LogConfig
}

// ActivePIDFile returns the path of this process's pid file, or "".
func (c *Config) ActivePIDFile() string {
	if c.IsWorker() {
		return c.WorkerPIDFile
	}
	return c.PIDFile
}

// RunsBackgroundTasks reports whether this process runs background tasks: the one run_background_tasks_on names, or main.
func (c *Config) RunsBackgroundTasks() bool {
	on := c.RunBackgroundTasksOn
	if on == "" || on == mainInMap {
		on = MainName
	}
	if c.IsWorker() && c.Name == "" {
		return false // an unnamed worker cannot be meant
	}
	return c.InstanceName() == on
}

// UpdatesUserDirectory reports whether this process keeps the user directory: the one update_user_directory_from_worker
// names, else, with update_user_directory, main or a worker that runs user_dir.
func (c *Config) UpdatesUserDirectory() bool {
	if on := c.UpdateUserDirectoryFromWorker; on != "" {
		return c.InstanceName() == mainAsMaster(on)
	}
	return c.UpdateUserDirectory && (!c.IsWorker() || c.AppName() == "user_dir")
}

// RunsPushers reports whether this process sends push notifications: it is a pusher, or one that pusher_instances names,
// or main where that names nobody and start_pushers is not off.
func (c *Config) RunsPushers() bool {
	switch {
	case c.AppName() == "pusher":
		return true
	case len(c.PusherInstances) > 0:
		return slices.ContainsFunc(c.PusherInstances, func(n string) bool { return mainAsMaster(n) == c.InstanceName() })
	}
	return !c.IsWorker() && c.StartPushers
}

// SendsFederation reports whether this process sends to other servers: it is a federation_sender, or one that
// federation_sender_instances names, or main where that names nobody and send_federation is not off.
func (c *Config) SendsFederation() bool {
	switch {
	case c.AppName() == "federation_sender":
		return true
	case len(c.FederationSenderInstances) > 0:
		return slices.ContainsFunc(c.FederationSenderInstances, func(n string) bool { return mainAsMaster(n) == c.InstanceName() })
	}
	return !c.IsWorker() && c.SendFederation
}

// Writers returns the instances that write a stream, by the name stream_writers has for it ("events", "typing"). It is
// main where nothing else is said.
func (c *Config) Writers(stream string) []string {
	for _, w := range c.StreamWriters.all() {
		if w.stream == stream && len(w.names) > 0 {
			out := make([]string, len(w.names))
			for i, n := range w.names {
				out[i] = mainAsMaster(n)
			}
			return out
		}
	}
	return []string{MainName}
}

// Streams returns the names stream_writers may have.
func (c *Config) Streams() []string {
	var out []string
	for _, w := range c.StreamWriters.all() {
		out = append(out, w.stream)
	}
	return out
}

// Instances returns where each process's HTTP replication listener is, by instance name: instance_map, and the older
// worker_replication_host for main.
func (c *Config) Instances() map[string]Instance {
	out := make(map[string]Instance, len(c.InstanceMap)+1)
	if c.WorkerReplicationHost != "" && c.WorkerReplicationHTTPPort != 0 {
		out[MainName] = Instance{Host: c.WorkerReplicationHost, Port: c.WorkerReplicationHTTPPort, TLS: c.WorkerReplicationHTTPTLS}
	}
	for name, inst := range c.InstanceMap {
		out[mainAsMaster(name)] = inst
	}
	return out
}

// URL returns the address as "http://host:port", "https://host:port" or "unix:/path".
func (i Instance) URL() string {
	if i.Path != "" {
		return "unix:" + i.Path
	}
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(i.Host, strconv.Itoa(i.Port))}
	if i.TLS {
		u.Scheme = "https"
	}
	return u.String()
}

// TCPRelay returns host and port of main's TCP relay, "" where Redis is used or nothing is said of a relay.
func (c *Config) TCPRelay() string {
	if c.Redis.Enabled || c.WorkerReplicationPort == 0 || !c.IsWorker() {
		return ""
	}
	host := c.WorkerReplicationHost
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, strconv.Itoa(c.WorkerReplicationPort))
}

// PresenceEnabled returns the presence mode, the older use_presence included.
func (c *Config) PresenceEnabled() PresenceMode {
	if c.UsePresence != nil && !*c.UsePresence {
		return PresenceOff
	}
	return c.Presence.Enabled
}

// ConnString returns the PostgreSQL connection string of the database, or "" for the embedded one. It holds the password.
func (c *Config) ConnString() string {
	if c.Database == nil {
		return ""
	}
	a := &c.Database.Args
	var b strings.Builder
	put := func(key, value string) {
		if value == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(key + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'")
	}
	put("user", a.User)
	put("password", a.Password.Reveal())
	name := a.DBName
	if name == "" {
		name = a.DatabaseName
	}
	put("dbname", name)
	put("host", a.Host)
	put("port", string(a.Port))
	put("sslmode", a.SSLMode)
	put("sslrootcert", a.SSLRootCert)
	put("sslcert", a.SSLCert)
	put("sslkey", a.SSLKey)
	put("sslpassword", a.SSLPassword.Reveal())
	put("passfile", a.PassFile)
	put("service", a.Service)
	put("servicefile", a.ServiceFile)
	put("target_session_attrs", a.TargetSessionAttrs)
	put("options", a.Options)
	if a.ConnectTimeout > 0 {
		put("connect_timeout", strconv.Itoa(a.ConnectTimeout))
	}
	if a.ApplicationName != "" {
		put("application_name", a.ApplicationName)
	}
	return b.String()
}

// BaseURL returns public_baseurl or its default, with a slash at the end.
func (c *Config) BaseURL() string {
	if c.PublicBaseURL != "" {
		return c.PublicBaseURL
	}
	return "https://" + c.ServerName + "/"
}

type streamWriter struct {
	stream string
	names  Names
	single bool // one writer at most
}

func (w *StreamWriters) all() []streamWriter {
	return []streamWriter{
		{"events", w.Events, false},
		{"typing", w.Typing, true},
		{"to_device", w.ToDevice, true},
		{"account_data", w.AccountData, true},
		{"receipts", w.Receipts, false},
		{"presence", w.Presence, true},
		{"push_rules", w.PushRules, true},
		{"device_lists", w.DeviceLists, false},
		{"thread_subscriptions", w.ThreadSubscriptions, false},
		{"quarantined_media_changes", w.QuarantinedMediaChanges, false},
	}
}

func mainAsMaster(name string) string {
	if name == mainInMap {
		return MainName
	}
	return name
}

// normalize makes older forms of options look like newer ones.
func (c *Config) normalize() {
	if c.PublicBaseURL != "" && !strings.HasSuffix(c.PublicBaseURL, "/") {
		c.PublicBaseURL += "/"
	}
	if c.LimitProfileRequests {
		c.RequireAuthForProfileRequests = true
	}
	if _, set := c.position["listeners"]; !set && !c.IsWorker() && len(c.Listeners) == 0 {
		c.Listeners = []Listener{{
			Port: 8008, Type: "http", BindAddresses: []string{"127.0.0.1", "::1"},
			Resources: []ListenerResource{{Names: []string{"client", "federation"}}},
		}}
	}
	if c.SigningKeyPath == "" && c.SigningKey == "" {
		c.SigningKeyPath = fmt.Sprintf("%s/%s.signing.key", strings.TrimSuffix(c.DataDir, "/"), c.ServerName)
	}
}
