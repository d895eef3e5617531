package main

import (
	"context"
	"io"
)

// restartCommand stops everything selected, then starts it. A broken configuration stops nothing: it is read first.
func restartCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	workers, err := selection("restart", args, stderr)
	if err != nil {
		return err
	}
	if err := stopAll(ctx, workers, stdout); err != nil {
		return err
	}
	return startAll(ctx, workers, stdout)
}
