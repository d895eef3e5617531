package event

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"maps"
	"testing"
	"time"
)

// best returns the least time that one call of each function takes. They run by turns in short batches, so that
// whatever else the machine does hits them alike, and the best batch is one that nothing hit.
func best(t *testing.T, batch int, fs ...func()) []time.Duration {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector slows everything down, but not alike")
	}
	least := make([]time.Duration, len(fs))
	for round := range 60 {
		for i, f := range fs {
			start := time.Now()
			for range batch {
				f()
			}
			if d := time.Since(start) / time.Duration(batch); round == 0 || d < least[i] {
				least[i] = d
			}
		}
	}
	return least
}

func TestLoadSpeed(t *testing.T) {
	e := message1K(t)
	d := best(t, 200, func() {
		if _, err := Load(e.Version(), e.ID(), e.JSON()); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("loading %d bytes takes %v", len(e.JSON()), d[0])
	if d[0] > 5*time.Microsecond {
		t.Errorf("loading %d bytes takes %v, want at most 5µs", len(e.JSON()), d[0])
	}
}

func TestParseSpeed(t *testing.T) {
	e := message1K(t)
	keys := fixedKey{ownSigner("a").Key.Public().(ed25519.PublicKey)}
	// Not as other servers send it, but allowed.
	var spaced bytes.Buffer
	if err := json.Indent(&spaced, e.JSON(), "", " "); err != nil {
		t.Fatal(err)
	}
	floor := cryptoFloor(t, e)
	var ratio float64
	for range 5 { // a busy machine gets more than one chance
		d := best(t, 25, floor, func() { parseAndVerify(t, e, e.JSON(), keys) }, func() { parseAndVerify(t, e, spaced.Bytes(), keys) })
		ratio = float64(d[1]) / float64(d[0])
		t.Logf("hashes and one signature check take %v; with parsing %.2f times as long, %.2f times if not canonical", d[0], ratio, float64(d[2])/float64(d[0]))
		if ratio <= 1.2 {
			return
		}
	}
	t.Errorf("parsing takes %.2f times as long as hashes and signature alone, want at most 1.2", ratio)
}

func TestBuildSpeed(t *testing.T) {
	e := message1K(t)
	d := Draft{
		RoomID: e.RoomID(), Sender: e.Sender(), Type: e.Type(), Content: e.Content(), PrevEvents: e.PrevEvents(),
		AuthEvents: e.AuthEvents(), Depth: e.Depth(), OriginServerTS: e.OriginServerTS(),
	}
	s := ownSigner("a")
	message := e.appendRedacted(nil, false)
	took := best(t, 25, func() { ed25519.Sign(s.Key, message) }, func() {
		if _, err := Build(e.Version(), d, s); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("building takes %v, of which signing is %v", took[1], took[0])
	if took[1] > 60*time.Microsecond {
		t.Errorf("building takes %v, want at most 60µs", took[1])
	}
}

// TestResolveSpeed resolves the same fork in a room of 100 members and one of 3,000.
func TestResolveSpeed(t *testing.T) {
	v := version(t, "11")
	resolve := func(members int) func() {
		f := forkRoom(t, v, members, 5, 10)
		src := knownDifference(t, f)
		return func() {
			if _, err := ResolveConflict(context.Background(), v, f.conflict, src); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := best(t, 5, resolve(100), resolve(3000))
	t.Logf("a fork of 23 differences takes %v in a room of 100 members, %v in one of 3,000", d[0], d[1])
	if d[1] > 2*d[0] {
		t.Errorf("a fork takes %v in a room of 100 members, but %v in one of 3,000", d[0], d[1])
	}
}

// fixedDifference is a source that knows the answers about auth chains beforehand, as an index does.
type fixedDifference struct {
	*MapSource
	difference, subgraph []string
}

func (s fixedDifference) AuthChainDifference(context.Context, [][]string) ([]string, error) {
	return s.difference, nil
}

func (s fixedDifference) ConflictedSubgraph(context.Context, []string) ([]string, error) {
	return s.subgraph, nil
}

func knownDifference(t testing.TB, f fork) fixedDifference {
	t.Helper()
	var sets [][]string
	ids := map[string]bool{}
	for _, s := range f.conflict.Sets {
		var set []string
		for id := range maps.Values(s) {
			set = append(set, id)
			ids[id] = true
		}
		sets = append(sets, set)
	}
	src := fixedDifference{MapSource: f.source.MapSource}
	var err error
	if src.difference, err = f.source.AuthChainDifference(context.Background(), sets); err != nil {
		t.Fatal(err)
	}
	var conflicted []string
	for id := range ids {
		conflicted = append(conflicted, id)
	}
	if src.subgraph, err = f.source.ConflictedSubgraph(context.Background(), conflicted); err != nil {
		t.Fatal(err)
	}
	return src
}
