package federation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/internal/memo"
	"github.com/weft-im/weft/storage"
)

// BackoffConfig says how long to keep away from a server that does not answer.
type BackoffConfig struct {
	// Min is the first wait. Defaults to 10 minutes.
	Min time.Duration
	// Max is the longest wait. Defaults to 7 days.
	Max time.Duration
	// Multiplier is the factor from wait to wait. Defaults to 2.
	Multiplier float64
}

func (c BackoffConfig) withDefaults() BackoffConfig {
	if c.Min <= 0 {
		c.Min = 10 * time.Minute
	}
	if c.Max <= 0 {
		c.Max = 7 * 24 * time.Hour
	}
	if c.Multiplier < 1 {
		c.Multiplier = 2
	}
	return c
}

// BackoffError says that a server was not asked because it did not answer lately.
type BackoffError struct {
	// Destination is the server.
	Destination string
	// RetryAt is when it will be tried again.
	RetryAt time.Time
}

func (e *BackoffError) Error() string {
	return fmt.Sprintf("%s did not answer lately and is not tried before %s", e.Destination, e.RetryAt.UTC().Format(time.RFC3339))
}

// backoffs remembers which servers do not answer. What it knows is in the database, for all processes; each looks there
// again after backoffTTL, and at once when another says that a server is up.
type backoffs struct {
	cfg   BackoffConfig
	db    storage.Querier
	log   zerolog.Logger
	now   func() time.Time
	known memo.Loading[string, knownRetry]
}

// knownRetry is what the database said of a server, and when.
type knownRetry struct {
	storage.DestinationRetry
	read time.Time
}

// backoffTTL is how long a process takes for granted what it knows of a server.
const backoffTTL = time.Minute

func newBackoffs(cfg BackoffConfig, db storage.Querier, log zerolog.Logger) *backoffs {
	return &backoffs{cfg: cfg.withDefaults(), db: db, log: log, now: time.Now, known: memo.NewLoading[string, knownRetry](maxResolutions)}
}

// peek returns what is known without the database.
func (b *backoffs) peek(server string) (knownRetry, bool) {
	d, ok := b.known.GetIfPresent(server)
	return d, ok && b.now().Sub(d.read) < backoffTTL
}

func (b *backoffs) get(ctx context.Context, server string) (knownRetry, error) {
	if d, ok := b.peek(server); ok {
		return d, nil
	}
	b.known.Invalidate(server)
	return b.known.Load(ctx, server, func(ctx context.Context, server string) (knownRetry, error) {
		read := b.now()
		d, err := storage.GetDestinationRetry(ctx, b.db, server)
		return knownRetry{d, read}, err
	})
}

func (b *backoffs) set(server string, d storage.DestinationRetry) {
	b.known.Set(server, knownRetry{d, b.now()})
}

// check returns a *BackoffError if the server is not to be tried yet.
func (b *backoffs) check(ctx context.Context, server string) error {
	d, err := b.get(ctx, server)
	if err != nil {
		return err
	}
	if at := retryAt(d.DestinationRetry); b.now().Before(at) {
		return &BackoffError{Destination: server, RetryAt: at}
	}
	return nil
}

func retryAt(d storage.DestinationRetry) time.Time {
	return time.UnixMilli(d.RetryLastTS + d.RetryIntervalMS)
}

// failed notes that the server did not answer. The wait grows only from one round of attempts to the next.
func (b *backoffs) failed(ctx context.Context, server string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	old, err := b.get(ctx, server)
	if err == nil {
		now := b.now()
		if now.Before(retryAt(old.DestinationRetry)) {
			return
		}
		next := storage.DestinationRetry{FailureTS: old.FailureTS, RetryLastTS: now.UnixMilli()}
		if next.FailureTS == 0 {
			next.FailureTS = next.RetryLastTS
		}
		// Spread, so that not all servers come back to one that was down at the same instant.
		wait := time.Duration(float64(old.RetryIntervalMS) * float64(time.Millisecond) * b.cfg.Multiplier * (0.8 + 0.4*rand.Float64()))
		next.RetryIntervalMS = min(max(wait, b.cfg.Min), b.cfg.Max).Milliseconds()
		if next, err = storage.PutDestinationRetry(ctx, b.db, server, next); err == nil {
			b.set(server, next)
			b.log.Info().Str("destination", server).Time("retry_at", retryAt(next)).Msg("server does not answer")
			return
		}
	}
	b.log.Warn().Err(err).Str("destination", server).Msg("could not note that a server does not answer")
}

// succeeded notes that the server answered, and reports whether it was thought to be down.
func (b *backoffs) succeeded(ctx context.Context, server string) bool {
	if d, ok := b.peek(server); ok && d.FailureTS == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	d, err := b.get(ctx, server)
	if err == nil && d.FailureTS == 0 {
		return false
	}
	cleared := false
	if err == nil {
		cleared, err = storage.ClearDestinationRetry(ctx, b.db, server)
	}
	if err != nil {
		b.log.Warn().Err(err).Str("destination", server).Msg("could not note that a server answers")
		return false
	}
	b.set(server, storage.DestinationRetry{})
	return cleared
}

// forget has the database asked again: another process knows better.
func (b *backoffs) forget(server string) { b.known.Invalidate(server) }
