package task

import (
	"log/slog"

	"github.com/rs/zerolog"
)

// quiet returns a logger for river that passes on warnings and errors.
func quiet(log zerolog.Logger) *slog.Logger {
	return slog.New(zerolog.NewSlogHandler(log.Level(max(log.GetLevel(), zerolog.WarnLevel))))
}
