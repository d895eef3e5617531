package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weft-im/weft"

// below says what each top-level folder may import of ours. Everything may
// import itself and internal/; examples/ may import everything.
var below = map[string][]string{
	"internal":    {},
	"storage":     {},
	"replication": {},
	"homeserver":  {"storage", "replication"},
	"clientapi":   {"homeserver", "storage", "replication"},
	"federation":  {"homeserver", "storage", "replication"},
	"media":       {"homeserver", "storage", "replication"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

func topFolder(importPath string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
	top, _, _ := strings.Cut(rest, "/")
	return top
}

func TestImportsOnlyPointDown(t *testing.T) {
	pkgs := listPackages(t)
	if len(pkgs) < 2 {
		t.Fatalf("found %d packages, so nothing was checked", len(pkgs))
	}
	for _, p := range pkgs {
		folder := topFolder(p.ImportPath)
		if folder == "examples" {
			continue
		}
		allowed, known := below[folder]
		if !known {
			t.Errorf("%s stands in a top-level folder the design does not have", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module+"/") {
				continue
			}
			if to := topFolder(imp); to != folder && to != "internal" && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: imports only point down", p.ImportPath, imp)
			}
		}
	}
}

// The event model is pure, so that anybody can use it without the rest.
func TestEventModelStandsAlone(t *testing.T) {
	for _, p := range listPackages(t) {
		if p.ImportPath != module+"/homeserver/event" {
			continue
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module) || imp == "net" || imp == "net/http" || imp == "os" {
				t.Errorf("homeserver/event imports %s: it does no I/O and knows no other part", imp)
			}
		}
		return
	}
	t.Fatal("homeserver/event not found")
}
