package replication

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// MainInstance is the name of the main process.
const MainInstance = "master"

// WritersConfig is what decides who writes which stream.
type WritersConfig struct {
	// Instance is the name of this process. Defaults to MainInstance.
	Instance string
	// Instances are the names in instance_map; the main process is always added.
	Instances []string
	// StreamWriters is the option stream_writers: writers by stream.
	StreamWriters map[string][]string
	// Streams are the declared streams. Those of StandardStreams are always known.
	Streams []StreamInfo
	// FederationSenders are the instances of federation_sender_instances, among which the
	// keys (destinations) of the "federation" stream are divided for Owner. The stream's
	// rows are still written by the main process. Defaults to the main process.
	FederationSenders []string
}

// Writers knows which instance writes which stream. It is immutable.
//
// Correctness must never rest on it: while a change of configuration spreads, two
// processes may disagree about an owner.
type Writers struct {
	instance string
	all      []string // every instance, sorted
	streams  map[string]StreamInfo
	writers  map[string][]string // by stream name
	shards   map[string][]string // by stream name, where keys are divided among others than the writers
}

// StandardStreams are the streams of the replication protocol with Synapse's names and
// writers.
func StandardStreams() []StreamInfo {
	return []StreamInfo{
		{Name: "account_data"},
		{Name: "backfill", Mode: ShardedWriters, WritersKey: "events"},
		{Name: "caches", Mode: EveryProcess},
		{Name: "device_lists", Mode: ShardedWriters},
		{Name: "events", Mode: ShardedWriters},
		{Name: "federation", Mode: MainWriter, InMemory: true},
		{Name: "presence", InMemory: true},
		{Name: "presence_federation", WritersKey: "presence", InMemory: true},
		{Name: "push_rules"},
		{Name: "pushers", Mode: MainWriter},
		{Name: "quarantined_media", Mode: ShardedWriters, WritersKey: "quarantined_media_changes"},
		{Name: "receipts", Mode: ShardedWriters},
		{Name: "sticky_events", Mode: ShardedWriters, WritersKey: "events"},
		{Name: "thread_subscriptions", Mode: ShardedWriters},
		{Name: "to_device"},
		{Name: "typing", InMemory: true},
		{Name: "un_partial_stated_event", Mode: MainWriter},
		{Name: "un_partial_stated_room", Mode: MainWriter},
	}
}

// NewWriters checks the configuration and builds the registry. The error joins every
// problem found, each naming the option it is in.
func NewWriters(cfg WritersConfig) (*Writers, error) {
	w := &Writers{
		instance: cfg.Instance,
		streams:  make(map[string]StreamInfo),
		writers:  make(map[string][]string),
		shards:   make(map[string][]string),
	}
	if w.instance == "" {
		w.instance = MainInstance
	}
	w.all = append(w.all, MainInstance)
	w.all = append(w.all, cfg.Instances...)
	sort.Strings(w.all)
	w.all = slices.Compact(w.all)

	var errs []error
	keys := make(map[string]bool) // stream_writers key → several writers allowed
	for _, s := range slices.Concat(StandardStreams(), cfg.Streams) {
		if s.WritersKey == "" {
			s.WritersKey = s.Name
		}
		if !validWord(s.Name) {
			errs = append(errs, fmt.Errorf("stream name %q is empty or has a space in it", s.Name))
			continue
		}
		w.streams[s.Name] = s
	}
	for _, s := range w.streams {
		if s.Mode == SingleWriter || s.Mode == ShardedWriters {
			several, seen := keys[s.WritersKey]
			keys[s.WritersKey] = s.Mode == ShardedWriters && (several || !seen)
		}
	}
	for _, name := range w.all {
		if !validWord(name) {
			errs = append(errs, fmt.Errorf("instance_map: name %q is empty or has a space in it", name))
		}
	}
	if !validWord(w.instance) {
		errs = append(errs, fmt.Errorf("worker_name: %q is empty or has a space in it", w.instance))
	}
	for key, names := range cfg.StreamWriters {
		several, ok := keys[key]
		if !ok {
			errs = append(errs, fmt.Errorf("stream_writers.%s: unknown stream, expected one of: %s", key, strings.Join(sortedKeys(keys), ", ")))
			continue
		}
		if len(names) > 1 && !several {
			errs = append(errs, fmt.Errorf("stream_writers.%s: %d writers (%s), expected one", key, len(names), strings.Join(names, ", ")))
		}
		errs = append(errs, w.checkNames("stream_writers."+key, names)...)
	}
	errs = append(errs, w.checkNames("federation_sender_instances", cfg.FederationSenders)...)
	if len(errs) > 0 {
		sort.Slice(errs, func(i, j int) bool { return errs[i].Error() < errs[j].Error() })
		return nil, errors.Join(errs...)
	}

	for name, s := range w.streams {
		switch s.Mode {
		case EveryProcess:
			w.writers[name] = w.all
		case MainWriter:
			w.writers[name] = []string{MainInstance}
		default:
			names := slices.Clone(cfg.StreamWriters[s.WritersKey])
			if len(names) == 0 {
				names = []string{MainInstance}
			}
			sort.Strings(names)
			w.writers[name] = names
		}
	}
	if len(cfg.FederationSenders) > 0 {
		senders := slices.Clone(cfg.FederationSenders)
		sort.Strings(senders)
		w.shards["federation"] = senders
	}
	return w, nil
}

func (w *Writers) checkNames(option string, names []string) (errs []error) {
	seen := make(map[string]bool)
	for _, n := range names {
		if seen[n] {
			errs = append(errs, fmt.Errorf("%s: %q is listed twice", option, n))
			continue
		}
		seen[n] = true
		if _, ok := slices.BinarySearch(w.all, n); !ok {
			errs = append(errs, fmt.Errorf("%s: %q is not in instance_map", option, n))
		}
	}
	return errs
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Instance is the name of this process.
func (w *Writers) Instance() string { return w.instance }

// Instances are the names of all processes that can be called, sorted; the main process
// is one of them.
func (w *Writers) Instances() []string { return slices.Clone(w.all) }

// Streams returns the known streams, sorted by name.
func (w *Writers) Streams() []StreamInfo {
	out := make([]StreamInfo, 0, len(w.streams))
	for _, s := range w.streams {
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Of returns the instances that write a stream, sorted. An unknown stream is written by
// the main process.
func (w *Writers) Of(stream string) []string {
	if names, ok := w.writers[stream]; ok {
		return slices.Clone(names)
	}
	return []string{MainInstance}
}

// Writes reports whether this process writes the stream, or some shard of it.
func (w *Writers) Writes(stream string) bool { return slices.Contains(w.Of(stream), w.instance) }

// Owner returns the instance that a key of a stream belongs to: the writer to hand an
// event of a room to ("events" by room id), the sender of a destination ("federation" by
// server name). Streams with one writer ignore the key; of a stream that every process
// writes the owner is this process.
func (w *Writers) Owner(stream, key string) string {
	if w.streams[stream].Mode == EveryProcess {
		return w.instance
	}
	if names, ok := w.shards[stream]; ok {
		return Rendezvous(names, key)
	}
	names, ok := w.writers[stream]
	if !ok {
		return MainInstance
	}
	return Rendezvous(names, key)
}

// IsLocal reports whether the key of the stream belongs to this process.
func (w *Writers) IsLocal(stream, key string) bool { return w.Owner(stream, key) == w.instance }

// Rendezvous picks the name that key belongs to, by highest random weight: all processes
// agree whatever the order of the names, keys spread evenly, and when a name joins or
// leaves only the keys that it gains or had move. It returns "" when there are no names.
func Rendezvous(names []string, key string) string {
	if len(names) == 1 {
		return names[0]
	}
	var best string
	var bestWeight uint64
	for i, n := range names {
		weight := mix(fnv1a(fnv1a(fnvOffset, n), "\x00"), key)
		if i == 0 || weight > bestWeight || (weight == bestWeight && n < best) {
			best, bestWeight = n, weight
		}
	}
	return best
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func fnv1a(h uint64, s string) uint64 {
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}

// mix finishes the hash so that names which differ in their last byte only still give
// independent weights; FNV alone leaves them correlated.
func mix(h uint64, key string) uint64 {
	h = fnv1a(h, key)
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// validWord reports whether s can stand as a word of a replication line.
func validWord(s string) bool {
	return s != "" && !strings.ContainsAny(s, " \t\r\n")
}
