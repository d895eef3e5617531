package replication_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-im/weft/replication"
)

func TestWriters(t *testing.T) {
	t.Parallel()
	w, err := replication.NewWriters(replication.WritersConfig{
		Instance:  "p1",
		Instances: []string{"p1", "p2", "typing1", "master"},
		StreamWriters: map[string][]string{
			"events": {"p2", "p1"},
			"typing": {"typing1"},
		},
		Streams:           []replication.StreamInfo{{Name: "my_stream"}, {Name: "my_shards", Mode: replication.ShardedWriters, WritersKey: "events"}},
		FederationSenders: []string{"typing1", "p1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]string{
		"events": "p1 p2", "backfill": "p1 p2", "my_shards": "p1 p2", "typing": "typing1", "receipts": "master", "my_stream": "master",
		"federation": "master", "pushers": "master", "caches": "master p1 p2 typing1", "never declared": "master",
	} {
		if got := strings.Join(w.Of(stream), " "); got != want {
			t.Errorf("writers of %s are %q, want %q", stream, got, want)
		}
	}
	for _, tc := range []struct {
		stream, want string
	}{{"typing", "typing1"}, {"receipts", "master"}, {"caches", "p1"}, {"never declared", "master"}} {
		if got := w.Owner(tc.stream, "!r:x"); got != tc.want {
			t.Errorf("owner of %s is %s, want %s", tc.stream, got, tc.want)
		}
	}
	if !w.Writes("events") || !w.Writes("caches") || w.Writes("typing") || w.Writes("pushers") {
		t.Error("Writes does not tell what p1 writes")
	}
	seen := make(map[string]bool)
	for i := range 100 {
		room := fmt.Sprintf("!%d:x", i)
		seen[w.Owner("events", room)] = true
		if w.IsLocal("events", room) != (w.Owner("events", room) == "p1") {
			t.Errorf("IsLocal and Owner disagree about %s", room)
		}
		if w.Owner("events", room) != w.Owner("backfill", room) {
			t.Errorf("events and backfill of %s have different owners", room)
		}
		if o := w.Owner("federation", room); o != "typing1" && o != "p1" {
			t.Errorf("destination %s belongs to %s", room, o)
		}
	}
	if len(seen) != 2 {
		t.Errorf("100 rooms are all with %v", seen)
	}
}

func TestWritersErrors(t *testing.T) {
	t.Parallel()
	_, err := replication.NewWriters(replication.WritersConfig{
		Instance:  "a b",
		Instances: []string{"p1", "p2", "x y"},
		StreamWriters: map[string][]string{
			"evnts":      {"p1"},
			"events":     {"p1", "p1"},
			"typing":     {"p1", "p2"},
			"receipts":   {"p3"},
			"federation": {"p1"},
			"caches":     {"p1"},
		},
		Streams:           []replication.StreamInfo{{Name: "a b"}},
		FederationSenders: []string{"p4"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`stream_writers.evnts: unknown stream`, `stream_writers.events: "p1" is listed twice`, "stream_writers.typing: 2 writers (p1, p2), expected one",
		`stream_writers.receipts: "p3" is not in instance_map`, "stream_writers.federation: unknown stream", "stream_writers.caches: unknown stream",
		`federation_sender_instances: "p4" is not in instance_map`, `worker_name: "a b"`, `instance_map: name "x y"`, `stream name "a b"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if w, err := replication.NewWriters(replication.WritersConfig{}); err != nil || w.Instance() != "master" || !w.IsLocal("events", "!r:x") {
		t.Errorf("without configuration main does not write everything: %v", err)
	}
}

func TestRendezvous(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,4}[0-9]{0,2}`), 1, 8, rapid.ID[string]).Draw(t, "names")
		key := rapid.String().Draw(t, "key")
		owner := replication.Rendezvous(names, key)
		if !slices.Contains(names, owner) {
			t.Fatalf("owner %q is none of %q", owner, names)
		}
		shuffled := rapid.Permutation(names).Draw(t, "shuffled")
		if got := replication.Rendezvous(shuffled, key); got != owner {
			t.Fatalf("owner is %q or %q, as the order is", owner, got)
		}
		// Removing another name moves nothing.
		for i, n := range names {
			if n != owner {
				if got := replication.Rendezvous(slices.Delete(slices.Clone(names), i, i+1), key); got != owner {
					t.Fatalf("without %q the key moves from %q to %q", n, owner, got)
				}
			}
		}
	})
	if replication.Rendezvous(nil, "x") != "" {
		t.Error("nobody owns a key")
	}
}

func TestRendezvousIsEven(t *testing.T) {
	t.Parallel()
	names := []string{"event_persister1", "event_persister2", "event_persister3", "event_persister4"}
	count := make(map[string]int)
	const keys = 20000
	for i := range keys {
		count[replication.Rendezvous(names, fmt.Sprintf("!room%d:example.com", i))]++
	}
	for _, n := range names {
		if c := count[n]; c < keys/4*9/10 || c > keys/4*11/10 {
			t.Errorf("%s has %d of %d keys, want about a quarter", n, c, keys)
		}
	}
}

func TestArrayCodec(t *testing.T) {
	t.Parallel()
	type row struct {
		RoomID  string
		UserIDs []string
		TS      int64
		skipped int
	}
	c := replication.MustArrayCodec[row]()
	in := row{"!r:x", []string{"@a:x"}, 5, 0}
	b, err := c.AppendRow([]byte("x "), in)
	if want := `x ["!r:x",["@a:x"],5]`; err != nil || string(b) != want {
		t.Errorf("got %q, %v, want %q", b, err, want)
	}
	for text, want := range map[string]row{
		`["!r:x",["@a:x"],5]`: in, `["!r:x",["@a:x"],5,"later"]`: in, `["!r:x"]`: {RoomID: "!r:x"}, `[]`: {},
	} {
		if got, err := c.DecodeRow([]byte(text)); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s was read as %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{`null`, `{}`, `"x"`, `[1]`, `["a","b"]`, `[`, ``} {
		if got, err := c.DecodeRow([]byte(text)); err == nil {
			t.Errorf("%s was read as %v", text, got)
		}
	}
	if _, err := replication.ArrayCodec[string](); err == nil {
		t.Error("a string has fields")
	}
}
