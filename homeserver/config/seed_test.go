package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// seedCase sets one option, rightly and wrongly.
type seedCase struct {
	// shared and worker are the files: the worker's is empty where the option is of the shared one. BAD stands for what
	// bad replaces.
	shared, worker string
	// option is the option's name where it is not the seed's.
	option string
	// good and bad are values; of a bad one the error must name the option (or fault, where the fault shows elsewhere).
	good, bad, fault string
	// read returns what good became, want what it should be.
	read func(c *Config) any
	want any
}

const (
	seedMain   = "server_name: a.test\n"
	seedShared = seedMain + "redis: {enabled: true}\ninstance_map: {main: {host: h, port: 9093}, w: {host: h, port: 9101}, x: {host: h, port: 9102}}\n"
	seedWorker = "worker_app: generic_worker\nworker_name: w\n"
	// seedWriter can be written to by others.
	seedWriter = seedWorker + "worker_listeners: [{port: 9101, type: http, resources: [{names: [replication]}]}]\n"
)

func seedCases() map[string]seedCase {
	listener := func(rest string) string { return seedMain + "listeners:\n- {" + rest + "}\n" }
	return map[string]seedCase{
		"listeners": {
			shared: seedMain + "listeners: BAD\n", good: "[{port: 8008, type: http}]", bad: "5",
			read: func(c *Config) any { return len(c.ActiveListeners()) }, want: 1,
		},
		"listeners[].port": {
			shared: listener("type: http, port: BAD"), good: "8008", bad: "70000", option: "listeners[0].port",
			read: func(c *Config) any { return c.Listeners[0].Port }, want: 8008,
		},
		"listeners[].bind_address": {
			shared: listener("type: http, port: 8008, bind_address: BAD"), good: "127.0.0.1", bad: "[1]", option: "listeners[0].bind_address",
			read: func(c *Config) any { return c.Listeners[0].Addresses()[0] }, want: "127.0.0.1",
		},
		"listeners[].type": {
			shared: listener("port: 8008, type: BAD"), good: "metrics", bad: "htp", option: "listeners[0].type",
			read: func(c *Config) any { return c.Listeners[0].Type }, want: "metrics",
		},
		"listeners[].resources[].names": {
			shared: listener("port: 8008, type: http, resources: [{names: BAD}]"), good: "[client, federation, media, replication, consent, keys, metrics, openid, static, webclient]",
			bad: "[cleint]", option: "listeners[0].resources[0].names[0]",
			read: func(c *Config) any { return len(c.Listeners[0].Names()) }, want: 10,
		},
		"resource replication": {
			shared: listener("port: 8008, type: http, resources: [{names: [BAD]}]"), good: "replication", bad: "replicate", option: "listeners[0].resources[0].names[0]",
			read: func(c *Config) any { return c.Listeners[0].Addresses() }, want: []string{"127.0.0.1"},
		},
		"redis.enabled":  {shared: seedMain + "redis: {enabled: BAD}\n", good: "true", bad: "maybe", read: func(c *Config) any { return c.Redis.Enabled }, want: true},
		"redis.host":     {shared: seedMain + "redis: {host: BAD}\n", good: "r.test", bad: "[]", read: func(c *Config) any { return c.Redis.Host }, want: "r.test"},
		"redis.port":     {shared: seedMain + "redis: {port: BAD}\n", good: "6380", bad: "high", read: func(c *Config) any { return c.Redis.Port }, want: 6380},
		"redis.password": {shared: seedMain + "redis: {password: BAD}\n", good: "secret", bad: "{}", read: func(c *Config) any { return c.Redis.Password.Reveal() }, want: "secret"},
		"worker_app": {
			shared: seedShared, worker: "worker_name: w\nworker_app: BAD\n", good: "synapse.app.generic_worker", bad: "synapse.app.none",
			read: func(c *Config) any { return c.AppName() }, want: "generic_worker",
		},
		"worker_name": {
			shared: seedShared, worker: "worker_app: generic_worker\nworker_name: BAD\n", good: "w", bad: "master",
			read: func(c *Config) any { return c.InstanceName() }, want: "w",
		},
		"worker_replication_host": {
			shared: seedMain + "redis: {enabled: true}\n", worker: seedWorker + "worker_replication_http_port: 9093\nworker_replication_host: BAD\n", good: "m.test", bad: "[]",
			read: func(c *Config) any { return c.Instances()[MainName].URL() }, want: "http://m.test:9093",
		},
		"worker_replication_http_port": {
			shared: seedMain + "redis: {enabled: true}\n", worker: seedWorker + "worker_replication_host: m.test\nworker_replication_http_port: BAD\n", good: "9093", bad: "x",
			read: func(c *Config) any { return c.Instances()[MainName].URL() }, want: "http://m.test:9093",
		},
		"worker_listeners": {
			shared: seedShared, worker: seedWorker + "worker_listeners: BAD\n", good: "[]", bad: "{}",
			read: func(c *Config) any { return len(c.ActiveListeners()) }, want: 0,
		},
		"worker_listeners resource client":     seedResource("client"),
		"worker_listeners resource federation": seedResource("federation"),
		"worker_listeners resource media":      seedResource("media"),
		"worker_log_config": {
			shared: seedShared, worker: seedWorker + "worker_log_config: BAD\n", good: "/log.yaml", bad: "[]",
			read: func(c *Config) any { return c.ActiveLogConfig() }, want: "/log.yaml",
		},
		"synctl worker_pid_file": {
			shared: seedShared, worker: seedWorker + "worker_pid_file: BAD\n", good: "/w.pid", bad: "[]", option: "worker_pid_file",
			read: func(c *Config) any { return c.ActivePIDFile() }, want: "/w.pid",
		},
		"worker_daemonize": {
			shared: seedShared, worker: seedWorker + "worker_daemonize: BAD\n", good: "true", bad: "maybe",
			read: func(c *Config) any { return c.WorkerDaemonize }, want: true,
		},
		"instance_map": {
			shared: seedMain + "instance_map: BAD\n", good: "{w: {host: h, port: 9101}}", bad: "[]",
			read: func(c *Config) any { return c.Instances()["w"].URL() }, want: "http://h:9101",
		},
		"instance_map.<name>.host": {
			shared: seedMain + "instance_map: {w: {port: 9101, host: BAD}}\n", good: "h", bad: "''", option: "instance_map.w.host",
			read: func(c *Config) any { return c.Instances()["w"].URL() }, want: "http://h:9101",
		},
		"instance_map.<name>.port": {
			shared: seedMain + "instance_map: {w: {host: h, port: BAD}}\n", good: "9101", bad: "0", option: "instance_map.w.port",
			read: func(c *Config) any { return c.Instances()["w"].URL() }, want: "http://h:9101",
		},
		"stream_writers": {
			shared: seedShared + "stream_writers: BAD\n", good: "{typing: w}", bad: "{evnets: w}", fault: "stream_writers.evnets",
			read: func(c *Config) any { return c.Writers("receipts") }, want: []string{MainName},
		},
		"stream_writers.events (single)": {
			shared: seedShared + "stream_writers: {events: BAD}\n", worker: seedWriter, good: "w", bad: "y", option: "stream_writers.events",
			read: func(c *Config) any { return c.Writers("events") }, want: []string{"w"},
		},
		"stream_writers.events (list)": {
			shared: seedShared + "stream_writers: {events: BAD}\n", worker: seedWriter, good: "[w, x]", bad: "[w, y]", option: "stream_writers.events",
			read: func(c *Config) any { return c.Writers("events") }, want: []string{"w", "x"},
		},
		"stream_writers.typing": {
			shared: seedShared + "stream_writers: {typing: BAD}\n", good: "w", bad: "[w, x]",
			read: func(c *Config) any { return c.Writers("typing") }, want: []string{"w"},
		},
		"run_background_tasks_on": {
			shared: seedShared + "run_background_tasks_on: BAD\n", worker: seedWorker, good: "w", bad: "[w]",
			read: func(c *Config) any { return c.RunsBackgroundTasks() }, want: true,
		},
		"start_pushers":      seedSwitch("start_pushers", func(c *Config) bool { return c.StartPushers }),
		"notify_appservices": seedSwitch("notify_appservices", func(c *Config) bool { return c.NotifyAppservices }),
		"send_federation":    seedSwitch("send_federation", func(c *Config) bool { return c.SendFederation }),
		"federation_sender_instances": {
			shared: seedShared + "federation_sender_instances: BAD\n", good: "[w, x]", bad: "{}",
			read: func(c *Config) any { return c.FederationSenderInstances }, want: []string{"w", "x"},
		},
		"enable_media_repo": seedSwitch("enable_media_repo", func(c *Config) bool { return c.EnableMediaRepo }),
		"media_instance_running_background_jobs": {
			shared: seedShared + "media_instance_running_background_jobs: BAD\n", good: "w", bad: "[w]",
			read: func(c *Config) any { return c.MediaInstanceRunningBackgroundJobs }, want: "w",
		},
		"update_user_directory": seedSwitch("update_user_directory", func(c *Config) bool { return c.UpdateUserDirectory }),
		"use_presence": {
			shared: seedMain + "use_presence: BAD\n", good: "false", bad: "maybe",
			read: func(c *Config) any { return *c.UsePresence }, want: false,
		},
		"worker_main_http_uri": {
			shared: seedShared, worker: "worker_app: synapse.app.frontend_proxy\nworker_name: w\nworker_main_http_uri: BAD\n", good: "http://m.test:8008", bad: "[]",
			read: func(c *Config) any { return c.WorkerMainHTTPURI }, want: "http://m.test:8008",
		},
		"worker_replication_port": {
			shared: seedMain, worker: seedWorker + "worker_replication_host: m.test\nworker_replication_http_port: 9093\nworker_replication_port: BAD\n", good: "9092", bad: "x",
			read: func(c *Config) any { return c.TCPRelay() }, want: "m.test:9092",
		},
	}
}

// seedSwitch is an option of the shared file that is on unless it is switched off.
func seedSwitch(name string, read func(c *Config) bool) seedCase {
	return seedCase{
		shared: seedMain + name + ": BAD\n", good: "false", bad: "maybe",
		read: func(c *Config) any { return [2]bool{read(Default()), read(c)} }, want: [2]bool{true, false},
	}
}

// seedResource is a resource of a worker's listener.
func seedResource(name string) seedCase {
	return seedCase{
		shared: seedShared, worker: seedWorker + "worker_listeners: [{port: 8083, type: http, resources: [{names: [BAD]}]}]\n",
		good: name, bad: "x" + name, option: "worker_listeners[0].resources[0].names[0]",
		read: func(c *Config) any { return c.ActiveListeners()[0].Names() }, want: []string{name},
	}
}

// Every option of the document that Weft grew from is read into its field, a wrong value of it is an error that names it,
// and one that nothing serves yet is reported.
func TestSeedOptions(t *testing.T) {
	t.Parallel()
	cases := seedCases()
	for _, name := range seedOptions(t) {
		tc, ok := cases[name]
		if !ok {
			t.Errorf("no case for %s", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := func(value string) []string {
				out := []string{"homeserver.yaml", strings.Replace(tc.shared, "BAD", value, 1)}
				if tc.worker != "" {
					out = append(out, "worker.yaml", strings.Replace(tc.worker, "BAD", value, 1))
				}
				return out
			}
			option := tc.option
			if option == "" {
				option = name
			}
			c, err := load(t, files(tc.good)...)
			if err != nil {
				t.Fatalf("a good value: %v", err)
			}
			if got := tc.read(c); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("read as %#v, want %#v", got, tc.want)
			}
			var warnings []string
			for _, w := range c.Warnings() {
				if w.Option == option {
					warnings = append(warnings, w.Message)
				}
			}
			var want []string
			if later(option) {
				want = []string{"not yet served"}
			}
			if !slices.Equal(warnings, want) {
				t.Errorf("warnings %q, want %q", warnings, want)
			}
			fault := tc.fault
			if fault == "" {
				fault = option
			}
			if _, err := load(t, files(tc.bad)...); err == nil || !strings.Contains(err.Error(), ": "+fault+": ") {
				t.Errorf("the value %s gives %v, want an error that names %s", tc.bad, err, fault)
			}
		})
	}
	if len(cases) != len(seedOptions(t)) {
		t.Errorf("%d cases for %d options", len(cases), len(seedOptions(t)))
	}
}

// later reports whether the field of a top-level option is tagged so.
func later(option string) bool {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if f.Tag.Get("yaml") == option {
			return f.Tag.Get("later") != ""
		}
	}
	return false
}

// seedOptions are the options of the seed list: the first column of the rows of kind option. Where the list itself is at
// hand, what is copied here must be all of it.
func seedOptions(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "seed-options.txt"))
	if err != nil {
		t.Fatal(err)
	}
	options := strings.Split(strings.TrimSpace(string(data)), "\n")
	if list, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "spec", "seed-config.tsv")); err == nil {
		var all []string
		for line := range strings.Lines(string(list)) {
			if f := strings.Split(line, "\t"); len(f) > 1 && f[1] == "option" {
				all = append(all, f[0])
			}
		}
		if !slices.Equal(all, options) {
			t.Errorf("testdata/seed-options.txt is not the list's: %q, want %q", options, all)
		}
	}
	return options
}
