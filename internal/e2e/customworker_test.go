package e2e

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-im/weft/homeserver/cluster"
)

const customWorkerDir = "../../examples/custom_worker"

// The downstream program is a module of its own, whose go.mod is up to date with ours; two of it run beside the main
// process, follow each other, and keep what they have written.
func TestCustomWorker(t *testing.T) {
	t.Parallel()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "custom_worker"), ".")
	build.Dir = customWorkerDir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s(go.mod is behind: run go mod tidy in examples/custom_worker)", err, out)
	}
	url, dir := startCluster(t, cluster.Topology{
		Processes: []cluster.Process{
			{App: cluster.AppHomeserver},
			{Name: "board1", App: "custom_worker"},
			{Name: "board2", App: "custom_worker"},
		},
		Options: cluster.Default().Options,
	})
	ctx := t.Context()
	alice := newAPI(t, url).register(ctx, "alice")
	at := func(name string) *person { return alice.at(newAPI(t, "unix:"+filepath.Join(dir, "run", name+".sock"))) }
	notes := func(p *person) (texts []string) {
		var out struct {
			Notes []struct {
				UserID string `json:"user_id"`
				Text   string `json:"text"`
			} `json:"notes"`
		}
		p.must(ctx, "GET", notesPath, p.token, nil, &out)
		for _, n := range out.Notes {
			texts = append(texts, strings.TrimSuffix(n.UserID, ":localhost")+": "+n.Text)
		}
		return texts
	}

	board1, board2 := at("board1"), at("board2")
	board1.must(ctx, "POST", notesPath, alice.token, map[string]any{"text": "the loom is free"}, nil)
	if got := notes(board1); !slices.Equal(got, []string{"@alice: the loom is free"}) {
		t.Errorf("after the answer the same worker shows %q", got)
	}
	board2.must(ctx, "POST", notesPath, alice.token, map[string]any{"text": "I take it", "user_id": "@bob:localhost"}, nil)
	both := []string{"@alice: I take it", "@alice: the loom is free"}
	for _, p := range []*person{board1, board2} {
		waitFor(ctx, t, "both notes", func() bool { return slices.Equal(slices.Sorted(slices.Values(notes(p))), both) })
	}

	for name, tc := range map[string]struct {
		token string
		body  any
		want  int
	}{
		"no token":   {"", map[string]any{"text": "x"}, http.StatusUnauthorized},
		"no text":    {alice.token, map[string]any{}, http.StatusBadRequest},
		"wrong type": {alice.token, map[string]any{"text": 1}, http.StatusBadRequest},
		"no object":  {alice.token, []string{"text"}, http.StatusBadRequest},
	} {
		if f := board1.do(ctx, "POST", notesPath, tc.token, tc.body, nil); f == nil || f.status != tc.want {
			t.Errorf("%s: got %+v, want %d", name, f, tc.want)
		}
	}

	killProcess(t, dir, "board2")
	waitFor(ctx, t, "board2 has read the notes again", func() bool {
		f := board2.do(ctx, "GET", notesPath, alice.token, nil, nil)
		return f == nil && len(notes(board2)) == 2
	})
}

const notesPath = "/_matrix/client/unstable/org.example.notes/notes"
