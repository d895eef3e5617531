package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/weft-im/weft/examples/internal/bench"
)

// benchCommand starts clusters of the programs that stand beside this one, puts load on them and prints what it cost.
func benchCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("bench", "[--quick] [--json] [--profile DIR] [SCENARIO]...", stderr)
	quick := fs.Bool("quick", false, "try everything in a few seconds; the figures say little")
	asJSON := fs.Bool("json", false, "print JSON")
	profiles := fs.String("profile", "", "write CPU profiles of all processes into `DIR`, for go tool pprof")
	usage := fs.Usage
	fs.Usage = func() {
		usage()
		_, _ = fmt.Fprint(stderr, `
Each scenario starts a homeserver of its own, with a private PostgreSQL and Redis in a temporary directory, from
the programs that stand beside weftctl, and takes it down again. A figure with a target is marked as met or MISSED.

CPU time is that of all processes of the homeserver, PostgreSQL's and Redis's included, as /proc tells it, and not
that of the clients that make the load. It is set against what pgbench costs on the same PostgreSQL in the same run:
64 clients that insert single rows of an event's size, the CPU time of pgbench and of PostgreSQL together. Ratios
hold on a busy machine too; rates and latencies do not.

Scenarios (all, without any):
`)
		for _, s := range bench.Scenarios() {
			_, _ = fmt.Fprintf(stderr, "  %-14s %s\n", s.Name, s.Summary)
		}
	}
	scenarios, err := parse(fs, args)
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	cfg := bench.Full()
	if *quick {
		cfg = bench.Quick()
	}
	cfg.BinDir, cfg.ProfileDir, cfg.Progress = filepath.Dir(executable), *profiles, stderr
	report, err := bench.Run(ctx, cfg, scenarios...)
	write := report.WriteText
	if *asJSON {
		write = report.WriteJSON
	}
	return errors.Join(write(stdout), err)
}
