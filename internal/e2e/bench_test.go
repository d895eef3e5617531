package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// weftctl bench measures clusters. Its figures are for `make bench`; here they only have to be there.
func TestBench(t *testing.T) {
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "weftctl"), "bench", "--quick", "--json", "send-cluster", "poll", "start")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // as Output returns it
			t.Fatalf("%v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var report struct {
		Figures []struct {
			Scenario, Name string
			Value          float64
			Target         *float64
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var names []string
	for _, f := range report.Figures {
		names = append(names, f.Scenario+": "+f.Name)
		if f.Value < 0 {
			t.Errorf("%s: %s is %v", f.Scenario, f.Name, f.Value)
		}
	}
	for _, want := range []string{
		"send-cluster: pgbench, inserts", "send-cluster: CPU of a send, router", "send-cluster: CPU of a send, postgresql",
		"send-cluster: CPU of a send, redis", "send-cluster: CPU of a send / of a pgbench insert",
		"poll: CPU of a delivery", "poll: delivery p99 / lone send p50", "poll: rows of events read from the database",
		"start: start to ready, median",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("no figure %q in %q", want, names)
		}
	}
}
