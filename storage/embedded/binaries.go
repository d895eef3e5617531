package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// minVersion is the oldest PostgreSQL release that the storage package's SQL
// runs on.
const minVersion = 13

// ErrNoBinaries says that no usable PostgreSQL is installed on the machine.
var ErrNoBinaries = errors.New("no PostgreSQL server found: install version 13 or later " +
	"(Debian and Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql) " +
	"or name a database in the configuration")

// Binaries is an installed PostgreSQL.
type Binaries struct {
	// Dir holds initdb and postgres.
	Dir string
	// Version is the major version: 15.
	Version int
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// FindBinaries looks for a PostgreSQL server of version 13 or later on PATH, where
// pg_config says, and where distributions put it. A version that is not zero is
// the only one that will do; otherwise the newest is taken. The error is
// [ErrNoBinaries], or says what was found instead.
func FindBinaries(ctx context.Context, version int) (Binaries, error) {
	var dirs []string
	if p, err := exec.LookPath("postgres"); err == nil {
		// Distributions link single binaries into PATH; the rest is where the
		// link points to.
		if real, err := filepath.EvalSymlinks(p); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
		dirs = append(dirs, filepath.Dir(p))
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/lib/postgresql*/bin",
		"/usr/libexec/postgresql*",
		"/usr/pgsql-*/bin",
		"/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return Binaries{}, fmt.Errorf("look for PostgreSQL in %s: %w", pattern, err)
		}
		dirs = append(dirs, found...)
	}
	best, seen := Binaries{}, map[string]bool{}
	var others []string
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		b, err := binariesIn(ctx, dir)
		switch {
		case err != nil:
		case b.Version < minVersion || version != 0 && b.Version != version:
			others = append(others, strconv.Itoa(b.Version))
		case b.Version > best.Version:
			best = b
		}
		if version != 0 && best.Version == version {
			break
		}
	}
	if best.Dir != "" {
		return best, nil
	}
	if version != 0 {
		return Binaries{}, fmt.Errorf("the data was made by PostgreSQL %d, which is not installed (found: %s)", version, orNone(others))
	}
	if len(others) > 0 {
		return Binaries{}, fmt.Errorf("%w (found only version %s)", ErrNoBinaries, strings.Join(others, ", "))
	}
	return Binaries{}, ErrNoBinaries
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// binariesIn returns the PostgreSQL in dir, which must hold a server and initdb.
func binariesIn(ctx context.Context, dir string) (Binaries, error) {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return Binaries{}, err
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("ask PostgreSQL in %s for its version: %w", dir, err)
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return Binaries{}, fmt.Errorf("ask PostgreSQL in %s for its version: it says %q", dir, out)
	}
	version, err := strconv.Atoi(string(match[1]))
	if err != nil {
		return Binaries{}, err
	}
	return Binaries{Dir: dir, Version: version}, nil
}
