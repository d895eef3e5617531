package arch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The worker in README.md compiles, and is as short as a first look should be.
func TestWorkerInReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	code, _, ok := strings.Cut(rest, "```")
	if !ok || !strings.HasPrefix(code, "package main\n") {
		t.Fatal("README.md has no worker")
	}
	if n := strings.Count(code, "\n"); n > 40 {
		t.Errorf("the worker has %d lines, more than 40", n)
	}
	path := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", path).CombinedOutput(); err != nil {
		t.Errorf("the worker does not compile: %v\n%s", err, out)
	}
}
