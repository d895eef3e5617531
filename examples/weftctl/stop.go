package main

import (
	"context"
	"errors"
	"io"
	"slices"
)

// stopCommand stops workers first and the main process last, so that nothing they need goes before them.
func stopCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	workers, err := selection("stop", args, stderr)
	if err != nil {
		return err
	}
	return stopAll(ctx, workers, stdout)
}

func stopAll(ctx context.Context, workers []worker, stdout io.Writer) error {
	var errs []error
	for _, w := range slices.Backward(workers) {
		errs = append(errs, w.stop(ctx, stdout))
	}
	return errors.Join(errs...)
}
