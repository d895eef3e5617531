// Command weftctl is the operator's tool: it lists routes, checks configurations, registers accounts, migrates the
// database, shows what a cluster does, and starts and stops sets of workers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// command is a subcommand. It writes its result to stdout, and returns what went wrong.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

func commands() []command {
	return []command{
		{"routes", "list the endpoints, or write a reverse proxy's configuration from them", routesCommand},
		{"config", "config check -c FILE...: print every problem of a configuration", configCommand},
		{"register", "register an account with the shared secret", registerCommand},
		{"migrate", "bring the database's schema up to date", migrateCommand},
		{"ps", "list the processes of the cluster in WEFT_DIR", psCommand},
		{"start", "start the main process, or workers", startCommand},
		{"bench", "measure what a homeserver costs, and compare it with its targets", benchCommand},
		{"stop", "stop the main process, or workers", stopCommand},
		{"restart", "stop and start the main process, or workers", restartCommand},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0, 1 for what failed, 2 for a command line that makes no sense.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name != args[0] {
				continue
			}
			err := c.run(ctx, args[1:], stdout, stderr)
			var usage usageError
			switch {
			case err == nil || errors.Is(err, flag.ErrHelp):
				return 0
			case errors.As(err, &usage):
				_, _ = fmt.Fprintf(stderr, "weftctl %s: %v; try -h\n", c.name, err)
				return 2
			default:
				_, _ = fmt.Fprintln(stderr, err)
				return 1
			}
		}
	}
	_, _ = fmt.Fprintln(stderr, "Usage: weftctl COMMAND [-h]")
	for _, c := range commands() {
		_, _ = fmt.Fprintf(stderr, "  %-9s %s\n", c.name, c.summary)
	}
	return 2
}
