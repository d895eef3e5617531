package rpc

import (
	"fmt"
	"testing"
	"time"
)

func TestResultsAreForgotten(t *testing.T) {
	t.Parallel()
	r := newResults(time.Hour, 10)
	for i := range 5000 {
		id := fmt.Sprint(i)
		res, first := r.begin(id)
		if !first {
			t.Fatalf("result %d was there already", i)
		}
		r.end(id, res)
	}
	if len(r.byID) != 10 {
		t.Errorf("%d results are kept, want 10", len(r.byID))
	}
	if len(r.order) > 4096 {
		t.Errorf("the order of %d results is kept", len(r.order))
	}
	if _, first := r.begin("4999"); first {
		t.Error("the newest result was forgotten")
	}
	if _, first := r.begin("0"); !first {
		t.Error("the oldest result was kept")
	}

	r = newResults(-time.Second, 10)
	res, _ := r.begin("a")
	r.end("a", res)
	res, _ = r.begin("b")
	r.end("b", res)
	if _, first := r.begin("a"); !first {
		t.Error("an expired result was kept")
	}
}

func FuzzSplitPath(f *testing.F) {
	f.Add("/_synapse/replication/send_event/a/b")
	f.Add("/_synapse/replication//")
	f.Fuzz(func(t *testing.T, path string) {
		name, id, ok := splitPath(path)
		if ok && (name == "" || id == "") {
			t.Errorf("splitPath(%q) = %q, %q", path, name, id)
		}
	})
}
