package homeserver

import (
	"errors"
	"io"
	"os"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/ratelimit"
)

// MustLoad reads the configuration the command line names (-c FILE, repeated), checks that the process is to run one of
// the given worker applications (any, where none is given), and returns it. It is for main functions: what is wrong goes
// to standard error, one line a problem, and the program exits with status 1.
func MustLoad(apps ...string) *config.Config {
	cfg, err := config.LoadArgs(os.Args[1:], os.Stdout)
	if err == nil && len(apps) > 0 {
		err = cfg.CheckApp(apps...)
	}
	switch {
	case errors.Is(err, config.ErrHelp):
		os.Exit(0)
	case err != nil:
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	return cfg
}

// OpenLog opens the process's log as its log configuration says (standard error, JSON, level info where it has none) and
// logs the configuration's warnings: options nobody knows, serves yet, or has a use for.
func OpenLog(cfg *config.Config) (zerolog.Logger, io.Closer, error) {
	settings, err := config.ReadLogConfig(cfg.ActiveLogConfig())
	if err != nil {
		return zerolog.Nop(), nil, err
	}
	log, closer, err := settings.Open(os.Stdout, os.Stderr)
	if err != nil {
		return zerolog.Nop(), nil, err
	}
	for _, warnings := range [][]config.Warning{cfg.Warnings(), settings.Warnings} {
		for _, w := range warnings {
			log.Warn().Str("instance", cfg.InstanceName()).Str("file", w.File).Int("line", w.Line).Str("option", w.Option).
				Str("reason", w.Message).Msg("configuration")
		}
	}
	return log, closer, nil
}

// ProcessConfig returns what a configuration says of a process: its name, listeners, certificates, rate limits, pid file
// and service manager. Groups, components, tasks and authenticators are the program's to add.
func ProcessConfig(cfg *config.Config, log zerolog.Logger) Config {
	return Config{
		Instance:           cfg.InstanceName(),
		Listeners:          cfg.ActiveListeners(),
		TLSCertificatePath: cfg.TLSCertificatePath,
		TLSPrivateKeyPath:  cfg.TLSPrivateKeyPath,
		ImpliedResources:   !cfg.IsWorker(),
		Limits:             ratelimit.New(ratelimit.Config{Limits: ratelimit.Limits(&cfg.RateLimitsOptions)}),
		Log:                log,
		PIDFile:            cfg.ActivePIDFile(),
		NotifySocket:       os.Getenv("NOTIFY_SOCKET"),
	}
}
