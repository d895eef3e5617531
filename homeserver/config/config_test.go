package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// write writes files name, content, name, content... and returns their paths.
func write(t testing.TB, files ...string) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.WriteFile(p, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

func load(t testing.TB, files ...string) (*Config, error) {
	t.Helper()
	return Load(write(t, files...)...)
}

const shared = `
server_name: example.com
listeners:
  # The HTTP replication port
  - port: 9093
    bind_address: '127.0.0.1'
    type: http
    resources:
     - names: [replication]
redis:
    enabled: true
`

const worker = `
worker_app: synapse.app.generic_worker
worker_name: worker1

# The replication listener on the main synapse process.
worker_replication_host: 127.0.0.1
worker_replication_http_port: 9093

worker_listeners:
 - type: http
   port: 8083
   resources:
     - names:
       - client
       - federation

worker_log_config: /home/matrix/synapse/config/worker1_log_config.yaml
`

// The example of the workers' documentation, as it stands there.
func TestDocumentedWorker(t *testing.T) {
	t.Parallel()
	c, err := load(t, "homeserver.yaml", shared, "worker1.yaml", worker)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.InstanceName(); got != "worker1" {
		t.Errorf("InstanceName = %q", got)
	}
	if got := c.AppName(); got != "generic_worker" {
		t.Errorf("AppName = %q", got)
	}
	ls := c.ActiveListeners()
	if len(ls) != 1 || ls[0].Port != 8083 || !slices.Equal(ls[0].Names(), []string{"client", "federation"}) {
		t.Errorf("ActiveListeners = %+v", ls)
	}
	if got := c.Instances()[MainName].URL(); got != "http://127.0.0.1:9093" {
		t.Errorf("main is at %q", got)
	}
	if c.ActiveLogConfig() != "/home/matrix/synapse/config/worker1_log_config.yaml" {
		t.Errorf("ActiveLogConfig = %q", c.ActiveLogConfig())
	}
	if w := c.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %+v", w)
	}
	main, err := load(t, "homeserver.yaml", shared)
	if err != nil {
		t.Fatal(err)
	}
	if main.IsWorker() || main.InstanceName() != "master" || !main.RunsBackgroundTasks() || c.RunsBackgroundTasks() {
		t.Error("the shared file alone should be the main process, with the background tasks")
	}
	if got := main.Listeners[0].Addresses(); !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("Addresses = %q", got)
	}
}

func TestLaterFileReplacesWholeOption(t *testing.T) {
	t.Parallel()
	c, err := load(t,
		"a.yaml", "server_name: a.example\nredis: {enabled: true, host: one, port: 1000}\nrc_message: {per_second: 5, burst_count: 50}\n",
		"b.yaml", "redis: {enabled: true, host: two}\nrc_message: {per_second: 7}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Redis.Host != "two" || c.Redis.Port != 6379 {
		t.Errorf("redis = %+v, want host two and the default port", c.Redis)
	}
	if c.RCMessage != (Rate{7, 10}) {
		t.Errorf("rc_message = %+v, want 7 and the default burst", c.RCMessage)
	}
}

func TestDirectoryOfFiles(t *testing.T) {
	t.Parallel()
	p := write(t, "10-a.yaml", "server_name: a.example\n", "20-b.yaml", "server_name: b.example\n", "note.txt", "not yaml: [")
	c, err := Load(filepath.Dir(p[0]))
	if err != nil {
		t.Fatal(err)
	}
	if c.ServerName != "b.example" || len(c.Sources()) != 2 {
		t.Errorf("server_name = %q from %v", c.ServerName, c.Sources())
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	c, err := load(t, "h.yaml", `
server_name: "example.com:8448"
public_baseurl: https://matrix.example.com
presence: {enabled: untracked}
use_presence: yes
default_room_version: 10
session_lifetime: 1d
redaction_retention_period: 28d
refreshable_access_token_lifetime: 300000
max_upload_size: 100M
max_image_pixels: 33554432
event_cache_size: 20K
federation: {client_timeout: 90s}
federation_client_minimum_tls_version: 1.3
password_config:
  enabled: only_for_reauth
  pepper: "pep"
  policy: {enabled: true, minimum_length: 15}
listeners:
  - path: /run/x.sock
    mode: 660
    type: http
    resources: [{names: [client], compress: true}]
  - port: 8448
    tls: true
    type: http
    bind_addresses: ['::', '0.0.0.0']
    resources: [{names: [client, federation]}]
tls_certificate_path: /c.pem
tls_private_key_path: /k.pem
instance_map:
  main: {host: localhost, port: 9093}
  w1: {path: /run/w1.sock}
  w2: {host: "::1", port: 9001, tls: true}
stream_writers:
  events: [w1, w2]
  typing: w1
redis: {enabled: true, password: 12345}
database:
  name: psycopg2
  args: {user: u, password: "p'w\\d", dbname: synapse, host: db, port: 5433, cp_min: 5, cp_max: 20, sslmode: require}
rc_login: {address: {per_second: 1, burst_count: 9}}
rc_admin_redaction: {per_second: 1, burst_count: 50}
room_list_publication_rules: [{action: allow, user_id: "@a:*"}]
extra_well_known_client_content: {a: [1, 2.5, yes, {b: null}]}
trusted_key_servers: [{server_name: matrix.org, verify_keys: {"ed25519:auto": abc}}]
turn_shared_secret: &s "turn secret"
form_secret: *s
app_service_config_files: []
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name      string
		got, want any
	}{
		{"server_name", c.ServerName, "example.com:8448"},
		{"public_baseurl gets its slash", c.BaseURL(), "https://matrix.example.com/"},
		{"presence", c.PresenceEnabled(), PresenceUntracked},
		{"default_room_version", c.DefaultRoomVersion, "10"},
		{"days", c.SessionLifetime, 24 * time.Hour},
		{"days", c.RedactionRetentionPeriod, 28 * 24 * time.Hour},
		{"milliseconds", c.RefreshableAccessTokenLifetime, 5 * time.Minute},
		{"size", c.MaxUploadSize, Size(100 << 20)},
		{"bytes", c.MaxImagePixels, Size(32 << 20)},
		{"size", c.EventCacheSize, Size(20 << 10)},
		{"client_timeout", c.Federation.ClientTimeout, 90 * time.Second},
		{"default beside a set key", c.Federation.MaxShortRetries, 3},
		{"minimum tls", c.FederationClientMinimumTLSVersion, StringOrInt("1.3")},
		{"password mode", c.PasswordConfig.Enabled, PasswordOnlyReauth},
		{"policy", c.PasswordConfig.Policy.MinimumLength, 15},
		{"mode is octal", c.Listeners[0].Mode, FileMode(0o660)},
		{"compress", c.Listeners[0].Resources[0].Compress, true},
		{"unix sockets believe the proxy", c.Listeners[0].Forwarded(), true},
		{"ports do not", c.Listeners[1].Forwarded(), false},
		{"writers", c.Writers("events"), []string{"w1", "w2"}},
		{"one writer", c.Writers("typing"), []string{"w1"}},
		{"main writes the rest", c.Writers("receipts"), []string{"master"}},
		{"main is master", c.Instances()["master"].URL(), "http://localhost:9093"},
		{"unix instance", c.Instances()["w1"].URL(), "unix:/run/w1.sock"},
		{"tls instance", c.Instances()["w2"].URL(), "https://[::1]:9001"},
		{"numeric password", c.Redis.Password.Reveal(), "12345"},
		{"conn string", c.ConnString(), `user='u' password='p\'w\\d' dbname='synapse' host='db' port='5433' sslmode='require'`},
		{"cp_max", c.Database.Args.CPMax, 20},
		{"rc_login.address", c.RCLogin.Address, Rate{1, 9}},
		{"rc_login.account keeps its default", c.RCLogin.Account, Rate{0.003, 5}},
		{"rc_admin_redaction", *c.RCAdminRedaction, Rate{1, 50}},
		{"rule defaults", c.RoomListPublicationRules[0], DirectoryRule{"@a:*", "*", "*", "allow"}},
		{"alias", c.FormSecret.Reveal(), "turn secret"},
		{"any", c.ExtraWellKnownClientContent, map[string]any{"a": []any{int64(1), 2.5, true, map[string]any{"b": nil}}}},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestHistoricalApps(t *testing.T) {
	t.Parallel()
	for app, want := range map[string]string{
		"synapse.app.homeserver":        "homeserver",
		"synapse.app.generic_worker":    "generic_worker",
		"generic_worker":                "generic_worker",
		"synapse.app.client_reader":     "generic_worker",
		"synapse.app.event_creator":     "generic_worker",
		"synapse.app.federation_reader": "generic_worker",
		"synapse.app.synchrotron":       "generic_worker",
		"synapse.app.frontend_proxy":    "frontend_proxy",
		"synapse.app.pusher":            "pusher",
		"synapse.app.user_dir":          "user_dir",
		"event_persister":               "event_persister",
		"my_own_worker":                 "my_own_worker",
	} {
		c := Default()
		c.App = app
		if got := c.AppName(); got != want {
			t.Errorf("AppName of %s = %s, want %s", app, got, want)
		}
	}
}

// Each case is a configuration with mistakes, and every line of the error it gives. FILE stands for the last file.
func TestProblems(t *testing.T) {
	t.Parallel()
	mainWithRedis := "server_name: x.org\nredis: {enabled: true}\ninstance_map: {main: {host: localhost, port: 9093}, w1: {host: localhost, port: 9101}}\n"
	for _, tc := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"empty", []string{"h.yaml", ""}, []string{"FILE: server_name: is required"}},
		{"all at once", []string{"h.yaml", "server_name: x.org\nredis:\n  port: abc\nlisteners: 5\nbcrypt_rounds: [1]\nmax_upload_size: 5X\nsession_lifetime: soon\nenable_registration: maybe\n"}, []string{
			`FILE:3: redis.port: expected an integer, got "abc"`,
			`FILE:4: listeners: expected a list, got 5`,
			`FILE:5: bcrypt_rounds: expected an integer, got a list`,
			`FILE:6: max_upload_size: expected a size like 512K, 50M, 1G or a number of bytes, got "5X"`,
			`FILE:7: session_lifetime: expected a duration like 30s, 5m, 2h, 1d, 1w, 1y or a number of milliseconds, got "soon"`,
			`FILE:8: enable_registration: expected true or false, got "maybe"`,
		}},
		{"not yaml", []string{"h.yaml", "server_name: x.org\nfoo: [1\nform_secret: hunter2\n"}, []string{`FILE:3: not valid YAML: ',' or ']' must be specified`}},
		{"not a mapping", []string{"h.yaml", "- a\n"}, []string{"FILE:1: expected options (name: value), got a list"}},
		{"bad server name", []string{"h.yaml", "server_name: 'x org'\n"}, []string{"FILE:1: server_name: invalid identifier: server name has a host that is no DNS name and no IP literal"}},
		{"sqlite", []string{"h.yaml", "server_name: x.org\ndatabase:\n  name: sqlite3\n  args: {database: /homeserver.db}\n"}, []string{
			"FILE:3: database.name: SQLite is not supported; this server needs PostgreSQL: use psycopg2, or leave the option database out for an embedded PostgreSQL",
		}},
		{"listener", []string{"h.yaml", "server_name: x.org\nlisteners:\n- port: 70000\n  type: http\n- type: http\n- port: 8008\n  type: htp\n- port: 8009\n  type: http\n  tls: true\n  resources: [{names: [client, cleint]}]\n- port: 8009\n  type: http\n- path: /s\n  mode: 999\n  type: http\n"}, []string{
			"FILE:15: listeners[5].mode: expected a permission in octal like 660, got 999",
		}},
		{"listener rules", []string{"h.yaml", "server_name: x.org\nlisteners:\n- port: 70000\n  type: http\n- type: http\n- port: 8008\n  type: htp\n- port: 8009\n  type: http\n  tls: true\n  resources: [{names: [client, cleint]}]\n- port: 8009\n  type: http\n"}, []string{
			"FILE:3: listeners[0].port: expected 1 to 65535, got 70000",
			"FILE:5: listeners[1].port: is required (or path, for a unix socket)",
			`FILE:7: listeners[2].type: expected http, metrics or replication, got "htp"`,
			"FILE:10: listeners[3].tls: needs tls_certificate_path and tls_private_key_path",
			`FILE:11: listeners[3].resources[0].names[1]: unknown resource "cleint"; there are client, federation, keys, media, openid, replication, metrics, health, consent, static, webclient`,
			"FILE:12: listeners[4]: listens on [::]:8009 as listeners[3] does",
			"FILE:12: listeners[4]: listens on 0.0.0.0:8009 as listeners[3] does",
		}},
		{"unknown stream", []string{"h.yaml", mainWithRedis + "stream_writers: {evnets: w1}\n"}, []string{
			"FILE:4: stream_writers.evnets: unknown stream; the streams are events, typing, to_device, account_data, receipts, presence, push_rules, device_lists, thread_subscriptions and quarantined_media_changes",
		}},
		{"writer without instance", []string{"h.yaml", mainWithRedis + "stream_writers:\n  events: [w1, w2]\n"}, []string{`FILE:5: stream_writers.events: "w2" is not in instance_map`}},
		{"two typing writers", []string{"h.yaml", mainWithRedis + "stream_writers:\n  typing: [w1, main]\n"}, []string{"FILE:5: stream_writers.typing: takes one writer, got 2"}},
		{"writer without redis", []string{"h.yaml", "server_name: x.org\ninstance_map: {w1: {host: localhost, port: 9101}}\nstream_writers: {typing: w1}\n"}, []string{
			"FILE:3: stream_writers.typing: needs Redis: set redis.enabled to true",
		}},
		{"writer without listener", []string{"h.yaml", mainWithRedis + "stream_writers: {typing: w1}\n", "w.yaml", "worker_app: generic_worker\nworker_name: w1\nworker_listeners: [{port: 8083, type: http, resources: [{names: [client]}]}]\n"}, []string{
			"FILE:3: worker_listeners: a writer (stream_writers.typing) needs an http listener with the resource replication",
		}},
		{"writer without name", []string{"h.yaml", "server_name: x.org\nredis: {enabled: true}\ninstance_map: {main: {host: h, port: 1}, generic_worker: {host: h, port: 2}}\nstream_writers: {typing: generic_worker}\n", "w.yaml", "worker_app: generic_worker\nworker_listeners: [{port: 8083, type: http, resources: [{names: [replication]}]}]\n"}, []string{
			"FILE: worker_name: is required for a process that stream_writers.typing names",
		}},
		{"wrong app", []string{"h.yaml", mainWithRedis, "w.yaml", "worker_app: synapse.app.generic_wroker\nworker_name: w1\n"}, []string{
			`FILE:1: worker_app: unknown application "synapse.app.generic_wroker"`,
		}},
		{"worker without redis", []string{"h.yaml", "server_name: x.org\n", "w.yaml", "worker_app: generic_worker\nworker_name: w9\n"}, []string{
			"FILE: redis.enabled: workers need Redis: set redis.enabled to true (or, for the old TCP relay, worker_replication_port)",
			"FILE: instance_map.main: is required: where main's HTTP replication listener is (or worker_replication_host and worker_replication_http_port)",
		}},
		{"worker named as main", []string{"h.yaml", mainWithRedis, "w.yaml", "worker_app: generic_worker\nworker_name: master\n"}, []string{
			`FILE:2: worker_name: "master" is the name of the main process`,
		}},
		{"proxy without main", []string{"h.yaml", mainWithRedis, "w.yaml", "worker_app: synapse.app.frontend_proxy\nworker_name: p\n"}, []string{
			"FILE: worker_main_http_uri: is required for frontend_proxy: the base URI of the main process",
		}},
		{"open registration", []string{"h.yaml", "server_name: x.org\nenable_registration: true\n"}, []string{
			"FILE:2: enable_registration: open registration without verification draws abuse; ask for a captcha, an email address or a token, or set enable_registration_without_verification: true",
		}},
		{"rates", []string{"h.yaml", "server_name: x.org\nrc_message: {per_second: -1}\nrc_login:\n  account: {burst_count: -5}\nrc_joins: {local: 7}\n"}, []string{
			"FILE:5: rc_joins.local: expected a mapping, got 7",
		}},
		{"rate rules", []string{"h.yaml", "server_name: x.org\nrc_message: {per_second: -1}\nrc_login:\n  account: {burst_count: -5}\n"}, []string{
			"FILE:2: rc_message.per_second: must not be negative",
			"FILE:4: rc_login.account.burst_count: must not be negative",
		}},
		{"room version", []string{"h.yaml", "server_name: x.org\ndefault_room_version: '13'\n"}, []string{`FILE:2: default_room_version: expected a room version from 1 to 12, got "13"`}},
		{"instance map", []string{"h.yaml", "server_name: x.org\ninstance_map:\n  a: {port: 5}\n  b: {host: h}\n  c: {path: /x, port: 1}\n"}, []string{
			"FILE:3: instance_map.a.host: is required (or path, for a unix socket)",
			"FILE:4: instance_map.b.port: expected 1 to 65535, got 0",
			"FILE:5: instance_map.c: has both path and host or port; an instance is at either",
		}},
		{"missing secret file", []string{"h.yaml", "server_name: x.org\nform_secret_path: /does/not/exist\nmacaroon_secret_key: a\nmacaroon_secret_key_path: b\n"}, []string{
			"FILE:2: form_secret_path: cannot be read: open /does/not/exist: no such file or directory",
			"FILE:4: macaroon_secret_key_path: must not be set beside macaroon_secret_key",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			paths := write(t, tc.files...)
			_, err := Load(paths...)
			if err == nil {
				t.Fatal("loaded without an error")
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), paths[len(paths)-1], "FILE"), "\n")
			slices.Sort(got)
			want := slices.Clone(tc.want)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrorsAreTyped(t *testing.T) {
	t.Parallel()
	_, err := load(t, "h.yaml", "server_name: x.org\nredis: {port: x}\n")
	var e *Error
	if !errors.As(err, &e) || e.Option != "redis.port" || e.Line != 2 {
		t.Errorf("got %#v", e)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	c, err := load(t, "h.yaml", `server_name: x.org
report_stats: false
enable_regsitration: true
oidc_providers: []
redis: {enabled: false, colour: blue}
gc_thresholds: [1, 2, 3]
listeners:
- {port: 9093, type: http, bind_addresses: ['0.0.0.0'], resources: [{names: [replication]}]}
media_store_path: /m
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.Warnings() {
		got = append(got, fmt.Sprintf("%d %s: %s", w.Line, w.Option, w.Message))
	}
	want := []string{
		"2 report_stats: has no effect: no statistics are sent",
		"3 enable_regsitration: unknown option",
		"4 oidc_providers: not yet served",
		"5 redis.colour: unknown option",
		"6 gc_thresholds: has no effect: not Python",
		"8 listeners[0]: a replication listener on 0.0.0.0 may be reachable from outside; it must never be public",
		"9 media_store_path: not yet served",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	c, err := load(t, "h.yaml", "server_name: x.org\nform_secret: hunter2\ndatabase: {name: psycopg2, args: {password: hunter2}}\nredis: {password: hunter2}\n")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(b), fmt.Sprintf("%v %+v %#v %s %q", c.FormSecret, c.Redis, c.Database.Args, c.FormSecret, c.FormSecret)} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("a secret is shown: %s", text)
		}
	}
	_, err = load(t, "h.yaml", "server_name: x.org\nform_secret: [hunter2]\nregistration_shared_secret: {a: hunter2}\n")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error shows a secret: %v", err)
	}
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	p := write(t, "secret", "s3cret\n")
	c, err := load(t, "h.yaml", "server_name: x.org\nmacaroon_secret_key_path: "+p[0]+"\nredis: {password_path: "+p[0]+"}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.MacaroonSecretKey.Reveal() != "s3cret" || c.Redis.Password.Reveal() != "s3cret" {
		t.Errorf("secrets: %q %q", c.MacaroonSecretKey.Reveal(), c.Redis.Password.Reveal())
	}
}

func TestLoadArgs(t *testing.T) {
	t.Parallel()
	p := write(t, "h.yaml", "server_name: x.org\n", "w.yaml", "pid_file: /x\n")
	for _, args := range [][]string{
		{"-c", p[0], "-c", p[1]},
		{"--config-path", p[0], "--config-path=" + p[1]},
		{"-c" + p[0], "-c=" + p[1]},
	} {
		c, err := LoadArgs(args, os.Stderr)
		if err != nil || c.ServerName != "x.org" || c.PIDFile != "/x" {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, args := range [][]string{nil, {"-c"}, {"--nope"}, {"-c", "/does/not/exist"}} {
		if _, err := LoadArgs(args, os.Stderr); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want a one-line error", args, err)
		}
	}
	var help strings.Builder
	if _, err := LoadArgs([]string{"-h"}, &help); !errors.Is(err, ErrHelp) || !strings.Contains(help.String(), "--config-path") {
		t.Errorf("help: %v %q", err, help.String())
	}
}

func TestCheckApp(t *testing.T) {
	t.Parallel()
	c, err := load(t, "h.yaml", shared, "w.yaml", worker)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckApp("generic_worker"); err != nil {
		t.Error(err)
	}
	err = c.CheckApp("event_persister")
	if err == nil || !strings.HasSuffix(err.Error(), "w.yaml:2: worker_app: expected event_persister, got synapse.app.generic_worker") {
		t.Errorf("got %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(shared + worker)
	f.Add("server_name: x\na: &a {b: *a}\n<<: *a\nlisteners: [*a]")
	f.Add("rc_login: {address: !!str 5}\nretention: {purge_jobs: [{interval: 99999999999999y}]}\nlisteners: [{mode: -1}]")
	f.Add("? [a]\n: b\n")
	f.Add("extra_well_known_client_content: &x\n  a: *x\n")
	f.Fuzz(func(t *testing.T, src string) {
		p := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(p, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(p)
		if err == nil && c.ServerName == "" {
			t.Error("loaded without a server name")
		}
	})
}
