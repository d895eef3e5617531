package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// initialise makes the data directory where it is missing. It is built beside
// its place and moved there, so that an initialisation that was cut short is
// done again.
func initialise(ctx context.Context, bin Binaries, p paths, who *account, noSync bool) error {
	if _, err := os.Stat(filepath.Join(p.data, "PG_VERSION")); err == nil {
		return nil
	}
	// initdb may not make directories in one that root owns, but fills one that
	// is empty.
	building := p.data + ".new"
	if err := os.RemoveAll(building); err != nil {
		return err
	}
	if err := os.Mkdir(building, 0o700); err != nil {
		return err
	}
	if err := who.own(building); err != nil {
		return err
	}
	// Byte order for comparisons, on every machine alike, and full Unicode for
	// lower(); where that locale is not known, plain C.
	err := runInitDB(ctx, bin, building, who, noSync, "--lc-collate=C", "--lc-ctype=C.UTF-8")
	if err != nil && strings.Contains(err.Error(), "locale") {
		err = runInitDB(ctx, bin, building, who, noSync)
	}
	if err != nil {
		return err
	}
	return os.Rename(building, p.data)
}

func runInitDB(ctx context.Context, bin Binaries, dir string, who *account, noSync bool, args ...string) error {
	args = append([]string{"-D", dir, "-U", User, "--auth=trust", "--encoding=UTF8", "--locale=C"}, args...)
	if noSync {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin.Dir, "initdb"), args...)
	cmd.Dir = "/"
	cmd.Env = serverEnv()
	cmd.SysProcAttr = who.sysProcAttr(dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %s", failure(out, err))
	}
	return nil
}

// serverEnv is the environment of the server's programs: nothing of PG* or of
// the locale, which would change what they do.
func serverEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// failure returns the line of a program's output that says what went wrong.
func failure(out []byte, err error) string {
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		for _, mark := range []string{"FATAL:", "PANIC:", "error:"} {
			if _, rest, ok := strings.Cut(lines[i], mark); ok {
				return strings.TrimSpace(rest)
			}
		}
	}
	var exit *exec.ExitError
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" && errors.As(err, &exit) {
		return last
	}
	return err.Error()
}
