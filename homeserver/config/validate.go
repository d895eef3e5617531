package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-im/weft/homeserver/id"
)

// Validate checks the rules between options. All problems come in one error, each an *[Error]. Load has called it.
func (c *Config) Validate() error {
	return errors.Join(c.problems()...)
}

// checks collects problems.
type checks struct {
	c    *Config
	errs []error
}

func (k *checks) fail(option, format string, args ...any) {
	k.errs = append(k.errs, k.c.errAt(option, format, args...))
}

func (k *checks) warn(option, message string) {
	e := &Error{}
	_ = errors.As(k.c.errAt(option, ""), &e)
	k.c.warnings = append(k.c.warnings, Warning{e.Position, option, message})
}

func (c *Config) problems() []error {
	k := &checks{c: c}
	k.server()
	k.database()
	k.listeners("listeners", c.Listeners)
	k.listeners("worker_listeners", c.WorkerListeners)
	k.redis()
	k.workers()
	k.writers()
	k.rooms()
	k.accounts()
	k.federation()
	k.rates("", reflect.ValueOf(&c.RateLimitsOptions).Elem())
	return k.errs
}

func (k *checks) server() {
	c := k.c
	if c.ServerName == "" {
		k.fail("server_name", "is required")
	} else if err := id.ValidateServerName(c.ServerName); err != nil {
		k.fail("server_name", "%v", err)
	} else if len(c.ServerName) > 230 {
		k.fail("server_name", "must have at most 230 characters, so that user ids fit")
	}
	if c.PublicBaseURL != "" {
		if u, err := url.Parse(c.PublicBaseURL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			k.fail("public_baseurl", "expected a URL like https://matrix.example.org/")
		}
	}
	if c.FilterTimelineLimit < -1 {
		k.fail("filter_timeline_limit", "expected a number, or -1 for no limit")
	}
	for _, list := range []struct {
		option string
		ranges []string
	}{{"ip_range_blacklist", c.IPRangeBlacklist}, {"ip_range_whitelist", c.IPRangeWhitelist}} {
		for i, r := range list.ranges {
			if _, err := netip.ParsePrefix(r); err != nil {
				if _, err := netip.ParseAddr(r); err != nil {
					k.fail(fmt.Sprintf("%s[%d]", list.option, i), "expected an address range like 10.0.0.0/8, got %q", r)
				}
			}
		}
	}
	if c.EventCacheSize < 0 || c.Caches.GlobalFactor < 0 {
		k.fail("caches", "sizes must not be negative")
	}
}

func (k *checks) database() {
	c := k.c
	for name := range c.Databases {
		if c.Databases[name].Name == "sqlite3" {
			k.fail("databases."+name, "SQLite is not supported; this server needs PostgreSQL (leave the option out for an embedded one)")
		}
	}
	if c.Databases != nil && c.Database == nil {
		k.fail("databases", "is not supported; name the one PostgreSQL database in the option database")
	}
	db := c.Database
	if db == nil {
		return
	}
	switch db.Name {
	case "psycopg2", "psycopg", "postgres", "postgresql":
	case "sqlite3":
		k.fail("database.name", "SQLite is not supported; this server needs PostgreSQL: use psycopg2, or leave the option database out for an embedded PostgreSQL")
	case "":
		k.fail("database.name", "is required: psycopg2")
	default:
		k.fail("database.name", "expected psycopg2 (PostgreSQL), got %q", db.Name)
	}
	a := &db.Args
	if a.DBName != "" && a.DatabaseName != "" && a.DBName != a.DatabaseName {
		k.fail("database.args.database", "says something else than dbname")
	}
	for _, p := range strings.Split(string(a.Port), ",") {
		if n, err := strconv.Atoi(p); p != "" && (err != nil || n < 1 || n > 65535) {
			k.fail("database.args.port", "expected a port, got %q", p)
		}
	}
	if !slices.Contains([]string{"", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"}, a.SSLMode) {
		k.fail("database.args.sslmode", "expected disable, allow, prefer, require, verify-ca or verify-full, got %q", a.SSLMode)
	}
	if a.CPMin < 0 || a.CPMax < 0 || a.CPMax > 0 && a.CPMin > a.CPMax {
		k.fail("database.args.cp_min", "expected 0 <= cp_min <= cp_max, got %d and %d", a.CPMin, a.CPMax)
	}
}

var resourceNames = []string{"client", "federation", "keys", "media", "openid", "replication", "metrics", "health", "consent", "static", "webclient"}

func (k *checks) listeners(option string, ls []Listener) {
	c := k.c
	taken := map[string]int{}
	for i := range ls {
		l := &ls[i]
		at := fmt.Sprintf("%s[%d]", option, i)
		switch l.Type {
		case "http", "metrics":
		case "replication":
			if option != "listeners" {
				k.fail(at+".type", "a TCP relay (type replication) runs on the main process only")
			}
		case "manhole":
			k.warn(at, "has no effect: there is no Python console")
			continue
		case "":
			k.fail(at+".type", "is required: http, metrics or replication")
		default:
			k.fail(at+".type", "expected http, metrics or replication, got %q", l.Type)
		}
		_, portSet := c.position[at+".port"]
		switch {
		case l.Path != "" && l.Port != 0:
			k.fail(at, "has both port and path; a listener is either TCP or a unix socket")
		case l.Path != "" && l.TLS:
			k.fail(at+".tls", "a unix socket has no TLS")
		case l.Path == "" && l.Port == 0 && !portSet && len(c.sources) > 0:
			k.fail(at+".port", "is required (or path, for a unix socket)")
		case l.Port < 0 || l.Port > 65535:
			k.fail(at+".port", "expected 1 to 65535, got %d", l.Port)
		}
		if l.Path == "" && l.Type != "" {
			for _, a := range l.Addresses() {
				if _, err := netip.ParseAddr(strings.Trim(a, "[]")); err != nil && a != "localhost" && strings.ContainsAny(a, " /:") {
					k.fail(at+".bind_addresses", "expected an address, got %q", a)
				}
				key := net.JoinHostPort(a, strconv.Itoa(l.Port))
				if j, dup := taken[key]; dup && l.Port != 0 {
					k.fail(at, "listens on %s as %s[%d] does", key, option, j)
				}
				taken[key] = i
			}
			k.exposed(at, l)
		}
		if l.TLS && (c.TLSCertificatePath == "" || c.TLSPrivateKeyPath == "") {
			k.fail(at+".tls", "needs tls_certificate_path and tls_private_key_path")
		}
		for j, r := range l.Resources {
			for n, name := range r.Names {
				if !slices.Contains(resourceNames, name) {
					k.fail(fmt.Sprintf("%s.resources[%d].names[%d]", at, j, n), "unknown resource %q; there are %s", name, strings.Join(resourceNames, ", "))
				}
			}
		}
	}
}

// exposed warns about listeners without a secret that strangers could reach.
func (k *checks) exposed(at string, l *Listener) {
	if !l.Private() || l.Type == "metrics" {
		return
	}
	if names := l.Names(); l.Type == "http" && !slices.Contains(names, "replication") {
		return
	}
	for _, a := range l.Addresses() {
		ip, err := netip.ParseAddr(strings.Trim(a, "[]"))
		if err == nil && (ip.IsUnspecified() || !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast()) {
			k.warn(at, "a replication listener on "+a+" may be reachable from outside; it must never be public")
			return
		}
	}
}

func (k *checks) redis() {
	r := &k.c.Redis
	if !r.Enabled {
		return
	}
	if r.Path == "" && (r.Port < 1 || r.Port > 65535) {
		k.fail("redis.port", "expected 1 to 65535, got %d", r.Port)
	}
	if r.DBID < 0 {
		k.fail("redis.dbid", "must not be negative")
	}
	if r.Sentinel != nil && r.Cluster != nil {
		k.fail("redis.cluster", "must not be set beside redis.sentinel")
	}
	if s := r.Sentinel; s != nil && (s.MasterName == "" || len(s.Addresses) == 0) {
		k.fail("redis.sentinel", "needs master_name and addresses")
	}
	if cl := r.Cluster; cl != nil && len(cl.Addresses) == 0 {
		k.fail("redis.cluster", "needs addresses")
	}
	if (r.CertificateFile == "") != (r.PrivateKeyFile == "") {
		k.fail("redis.certificate_file", "and redis.private_key_file go together")
	}
}

var workerName = regexp.MustCompile(`^[^\s/]+$`)

func (k *checks) workers() {
	c := k.c
	if c.App != "" {
		name := strings.TrimPrefix(c.App, "synapse.app.")
		if _, known := apps[name]; !known && strings.HasPrefix(c.App, "synapse.app.") {
			k.fail("worker_app", "unknown application %q", c.App)
		} else if !workerName.MatchString(name) {
			k.fail("worker_app", "expected the name of an application, got %q", c.App)
		}
	}
	if c.Name != "" && !workerName.MatchString(c.Name) {
		k.fail("worker_name", "must have no spaces and no slashes")
	}
	for name, inst := range c.InstanceMap {
		at := "instance_map." + name
		switch {
		case inst.Path != "" && (inst.Host != "" || inst.Port != 0):
			k.fail(at, "has both path and host or port; an instance is at either")
		case inst.Path == "" && inst.Host == "":
			k.fail(at+".host", "is required (or path, for a unix socket)")
		case inst.Path == "" && (inst.Port < 1 || inst.Port > 65535):
			k.fail(at+".port", "expected 1 to 65535, got %d", inst.Port)
		}
	}
	if !c.IsWorker() {
		if c.Name != "" && c.Name != MainName {
			k.fail("worker_name", "is set without worker_app; the main process has no worker_name")
		}
		return
	}
	if c.Name == MainName || c.Name == mainInMap {
		k.fail("worker_name", "%q is the name of the main process", c.Name)
	}
	if c.AppName() == "router" {
		return // routes requests, and takes no part in replication
	}
	if !c.Redis.Enabled && c.WorkerReplicationPort == 0 {
		k.fail("redis.enabled", "workers need Redis: set redis.enabled to true (or, for the old TCP relay, worker_replication_port)")
	}
	if _, ok := c.Instances()[MainName]; !ok {
		k.fail("instance_map.main", "is required: where main's HTTP replication listener is (or worker_replication_host and worker_replication_http_port)")
	}
	if c.AppName() == "frontend_proxy" && c.WorkerMainHTTPURI == "" {
		k.fail("worker_main_http_uri", "is required for frontend_proxy: the base URI of the main process")
	}
	if u, err := url.Parse(c.WorkerMainHTTPURI); c.WorkerMainHTTPURI != "" && (err != nil || u.Host == "") {
		k.fail("worker_main_http_uri", "expected a URL like http://127.0.0.1:8008")
	}
}

func (k *checks) writers() {
	c := k.c
	instances := c.Instances()
	me := c.InstanceName()
	moved := ""
	mine := ""
	for _, w := range c.StreamWriters.all() {
		at := "stream_writers." + w.stream
		if w.single && len(w.names) > 1 {
			k.fail(at, "takes one writer, got %d", len(w.names))
		}
		seen := map[string]bool{}
		for i, n := range w.names {
			name := mainAsMaster(n)
			if seen[name] {
				k.fail(fmt.Sprintf("%s[%d]", at, i), "%q is there twice", n)
			}
			seen[name] = true
			if name == me {
				mine = at
			}
			if name == MainName {
				continue
			}
			moved = at
			if _, ok := instances[name]; !ok {
				k.fail(at, "%q is not in instance_map", n)
			}
		}
	}
	if moved != "" && !c.Redis.Enabled {
		k.fail(moved, "needs Redis: set redis.enabled to true")
	}
	if mine == "" || !c.IsWorker() {
		return
	}
	if c.Name == "" {
		k.fail("worker_name", "is required for a process that %s names", mine)
	}
	serves := slices.ContainsFunc(c.WorkerListeners, func(l Listener) bool { return slices.Contains(l.Names(), "replication") })
	if !serves {
		k.fail("worker_listeners", "a writer (%s) needs an http listener with the resource replication", mine)
	}
}

func (k *checks) rooms() {
	c := k.c
	if v, err := strconv.Atoi(c.DefaultRoomVersion); err != nil || v < 1 || v > 12 {
		k.fail("default_room_version", "expected a room version from 1 to 12, got %q", c.DefaultRoomVersion)
	}
	if !slices.Contains([]string{"off", "invite", "all"}, c.EncryptionEnabledByDefault) {
		k.fail("encryption_enabled_by_default_for_room_type", "expected off, invite or all, got %q", c.EncryptionEnabledByDefault)
	}
	for _, list := range []struct {
		option string
		rules  []DirectoryRule
	}{{"room_list_publication_rules", c.RoomListPublicationRules}, {"alias_creation_rules", c.AliasCreationRules}} {
		for i, r := range list.rules {
			if r.Action != "allow" && r.Action != "deny" {
				k.fail(fmt.Sprintf("%s[%d].action", list.option, i), "expected allow or deny, got %q", r.Action)
			}
		}
	}
	for preset := range c.DefaultPowerLevelContentOverride {
		if !slices.Contains([]string{"private_chat", "public_chat", "trusted_private_chat"}, preset) {
			k.fail("default_power_level_content_override."+preset, "unknown preset; there are private_chat, public_chat and trusted_private_chat")
		}
	}
	for i, t := range c.RoomPrejoinState.AdditionalEventTypes {
		at := fmt.Sprintf("room_prejoin_state.additional_event_types[%d]", i)
		switch v := t.(type) {
		case string:
		case []any:
			if len(v) == 0 || len(v) > 2 {
				k.fail(at, "expected a type, or a pair of type and state key")
			}
		default:
			k.fail(at, "expected a type, or a pair of type and state key")
		}
	}
}

func (k *checks) accounts() {
	c := k.c
	verified := c.EnableRegistrationCaptcha || c.RegistrationRequiresToken || len(c.RegistrationsRequire3PID) > 0
	if c.EnableRegistration && !verified && !c.EnableRegistrationWithoutVerification {
		k.fail("enable_registration", "open registration without verification draws abuse; ask for a captcha, an email address or a token, or set enable_registration_without_verification: true")
	}
	if c.BcryptRounds < 4 || c.BcryptRounds > 31 {
		k.fail("bcrypt_rounds", "expected 4 to 31, got %d", c.BcryptRounds)
	}
	if p := c.PasswordConfig.Policy; p.MinimumLength < 0 {
		k.fail("password_config.policy.minimum_length", "must not be negative")
	}
	for i, m := range c.RegistrationsRequire3PID {
		if m != "email" && m != "msisdn" {
			k.fail(fmt.Sprintf("registrations_require_3pid[%d]", i), "expected email or msisdn, got %q", m)
		}
	}
	for i, p := range c.AllowedLocal3PIDs {
		if _, err := regexp.Compile(p.Pattern); err != nil {
			k.fail(fmt.Sprintf("allowed_local_3pids[%d].pattern", i), "expected a regular expression: %v", err)
		}
	}
	for _, d := range []struct {
		option string
		value  int64
	}{
		{"session_lifetime", int64(c.SessionLifetime)},
		{"refreshable_access_token_lifetime", int64(c.RefreshableAccessTokenLifetime)},
		{"refresh_token_lifetime", int64(c.RefreshTokenLifetime)},
		{"nonrefreshable_access_token_lifetime", int64(c.NonrefreshableAccessTokenLifetime)},
		{"redaction_retention_period", int64(c.RedactionRetentionPeriod)},
		{"user_ips_max_age", int64(c.UserIPsMaxAge)},
	} {
		if d.value < 0 {
			k.fail(d.option, "must not be negative")
		}
	}
	if c.SessionLifetime > 0 && c.NonrefreshableAccessTokenLifetime > c.SessionLifetime {
		k.fail("nonrefreshable_access_token_lifetime", "must not be longer than session_lifetime")
	}
}

func (k *checks) federation() {
	c := k.c
	for i, s := range c.TrustedKeyServers {
		if err := id.ValidateServerName(s.ServerName); err != nil {
			k.fail(fmt.Sprintf("trusted_key_servers[%d].server_name", i), "%v", err)
		}
	}
	if c.FederationDomainWhitelist != nil {
		for i, s := range *c.FederationDomainWhitelist {
			if err := id.ValidateServerName(s); err != nil {
				k.fail(fmt.Sprintf("federation_domain_whitelist[%d]", i), "%v", err)
			}
		}
	}
	if !slices.Contains([]StringOrInt{"1", "1.0", "1.1", "1.2", "1.3"}, c.FederationClientMinimumTLSVersion) {
		k.fail("federation_client_minimum_tls_version", "expected 1, 1.1, 1.2 or 1.3, got %q", string(c.FederationClientMinimumTLSVersion))
	}
	if c.Federation.DestinationRetryMultiplier < 1 {
		k.fail("federation.destination_retry_multiplier", "expected at least 1")
	}
	if c.SigningKey != "" && k.c.position["signing_key_path"] != (Position{}) {
		k.fail("signing_key", "must not be set beside signing_key_path")
	}
}

// rates checks all rates below v.
func (k *checks) rates(option string, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if r, ok := v.Interface().(Rate); ok {
		if r.PerSecond < 0 {
			k.fail(option+".per_second", "must not be negative")
		}
		if r.BurstCount < 0 {
			k.fail(option+".burst_count", "must not be negative")
		}
		return
	}
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		k.rates(join(option, v.Type().Field(i).Tag.Get("yaml")), v.Field(i))
	}
}
