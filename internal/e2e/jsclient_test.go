package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// jsAgent is a person at a matrix-js-sdk client under Node.
type jsAgent struct {
	t       *testing.T
	stdin   io.WriteCloser
	lines   chan map[string]any
	pending []map[string]any
	nextID  int
}

// installJS installs the SDK and the Node release it asks for, from the lock file, and returns the directory.
func installJS(t *testing.T) string {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("npm is not installed")
		}
		t.Skip("npm is not installed")
	}
	// Kept between runs: the SDK weighs 200 MB.
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "weft-e2e-jsclient")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	changed := false
	for _, name := range []string{"package.json", "package-lock.json", "agent.mjs"} {
		data, err := os.ReadFile(filepath.Join("jsclient", name))
		if err != nil {
			t.Fatal(err)
		}
		old, _ := os.ReadFile(filepath.Join(dir, name))
		if string(old) != string(data) {
			changed = changed || name != "agent.mjs"
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "node", "bin", "node")); err != nil || changed {
		cmd := exec.CommandContext(t.Context(), npm, "ci")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("install matrix-js-sdk: %v\n%s", err, out)
		}
	}
	return dir
}

func startJSAgent(t *testing.T, baseURL string) *jsAgent {
	t.Helper()
	dir := installJS(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "node_modules", "node", "bin", "node"), "agent.mjs", baseURL)
	cmd.Dir = dir
	var stderr tail
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &jsAgent{t: t, stdin: stdin, lines: make(chan map[string]any, 1024)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(a.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			var m map[string]any
			if err := json.Unmarshal(s.Bytes(), &m); err == nil {
				a.lines <- m
			}
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		cancel()
		go func() {
			for range a.lines { // unblock the reader
			}
		}()
		<-read
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("matrix-js-sdk:\n%s", stderr.String())
		}
	})
	return a
}

// call runs a command and returns its result.
func (a *jsAgent) call(command string, args map[string]any) map[string]any {
	a.t.Helper()
	a.nextID++
	line, err := json.Marshal(map[string]any{"id": a.nextID, "command": command, "args": args})
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.stdin.Write(append(line, '\n')); err != nil {
		a.t.Fatalf("js %s: %v", command, err)
	}
	id := float64(a.nextID)
	m := a.wait("reply to "+command+" #"+strconv.Itoa(a.nextID), func(m map[string]any) bool { return m["id"] == id })
	if m["error"] != nil {
		a.t.Fatalf("js %s: %v %v", command, m["errcode"], m["error"])
	}
	result, _ := m["result"].(map[string]any)
	return result
}

// wait returns the first message, of those not yet returned, that match accepts.
func (a *jsAgent) wait(what string, match func(m map[string]any) bool) map[string]any {
	a.t.Helper()
	for i, m := range a.pending {
		if match(m) {
			a.pending = append(a.pending[:i], a.pending[i+1:]...)
			return m
		}
	}
	deadline := time.After(30 * time.Second)
	for {
		select {
		case m, ok := <-a.lines:
			if !ok {
				a.t.Fatalf("js client ended while it waited for %s", what)
			}
			if match(m) {
				return m
			}
			a.pending = append(a.pending, m)
		case <-deadline:
			a.t.Fatalf("js client saw no %s; it saw %v", what, a.pending)
		}
	}
}

func (a *jsAgent) waitEvent(kind string, fields map[string]any) map[string]any {
	a.t.Helper()
	return a.wait(kind+" "+toJSON(fields), func(m map[string]any) bool {
		if m["event"] != kind {
			return false
		}
		for k, v := range fields {
			if m[k] != v {
				return false
			}
		}
		return true
	})
}

func toJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// tail keeps the end of what is written to it.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 16 << 10
	t.buf = append(t.buf, p...)
	if len(t.buf) > most {
		t.buf = t.buf[len(t.buf)-most:]
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.buf) }
