package main

import (
	"context"
	"fmt"
	"io"

	"github.com/weft-im/weft/homeserver/config"
)

// configCommand checks a configuration as a process would read it: each problem is a line of the error, with its file
// and line. Warnings go to stdout and fail nothing.
func configCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("config", "check -c FILE [-c FILE]...", stderr)
	paths := configFlag(fs)
	rest, err := parse(fs, args)
	switch {
	case err != nil:
		return err
	case len(rest) != 1 || rest[0] != "check":
		return usageError("expected: config check -c FILE")
	case len(*paths) == 0:
		return usageError("no configuration: give one or more -c FILE")
	}
	cfg, err := config.Load(*paths...)
	if err != nil {
		return err
	}
	settings, err := config.ReadLogConfig(cfg.ActiveLogConfig())
	if err != nil {
		return err
	}
	for _, w := range append(cfg.Warnings(), settings.Warnings...) {
		if _, err := fmt.Fprintf(stdout, "%s:%d: %s: warning: %s\n", w.File, w.Line, w.Option, w.Message); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(stdout, "%s as %s of %s: no errors\n", cfg.InstanceName(), cfg.AppName(), cfg.ServerName)
	return err
}
