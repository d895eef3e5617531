package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/storage/embedded"
)

// backends are the servers that the cluster runs for its processes because none are configured. One that ends by itself
// is started again: the processes wait for it meanwhile, as they do for servers that others run.
type backends struct {
	dir      string
	log      zerolog.Logger
	fork     *forker
	postgres *embedded.Server // nil where a database is configured
	redis    *redisServer     // nil where a Redis is configured or none is needed
	socket   string           // of redis

	stopKeeping context.CancelFunc
	keeping     sync.WaitGroup
}

// startBackends starts what the topology does not bring and fills in where it is.
func (s *Supervisor) startBackends(ctx context.Context) (_ *backends, err error) {
	b := &backends{dir: s.cfg.Dir, log: s.log, fork: newForker(), stopKeeping: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop())
		}
	}()
	if _, ok := s.cfg.Topology.Options["database"]; !ok && s.cfg.DatabaseArgs == nil {
		if b.postgres, err = b.startPostgres(ctx); err != nil {
			return b, err
		}
		if s.cfg.DatabaseArgs, err = databaseArgs(b.postgres.ConnString()); err != nil {
			return b, err
		}
	}
	if _, ok := s.cfg.Topology.Options["redis"]; !ok && s.cfg.Redis == nil && len(s.cfg.Topology.Processes) > 1 {
		if b.socket, err = redisSocket(s.cfg); err != nil {
			return b, err
		}
		if b.redis, err = b.startRedis(ctx); err != nil {
			return b, err
		}
		s.cfg.Redis = map[string]any{"enabled": true, "path": b.socket}
	}
	b.keep(ctx)
	return b, nil
}

func (b *backends) startPostgres(ctx context.Context) (*embedded.Server, error) {
	return embedded.Start(ctx, embedded.Config{Dir: filepath.Join(b.dir, "postgres"), Log: b.log})
}

func (b *backends) startRedis(ctx context.Context) (*redisServer, error) {
	return startRedis(ctx, b.fork, filepath.Join(b.dir, "redis"), b.socket)
}

// databaseArgs turns a connection string into database.args.
func databaseArgs(conn string) (map[string]any, error) {
	c, err := pgx.ParseConfig(conn)
	if err != nil {
		return nil, fmt.Errorf("read connection string of the private PostgreSQL: %w", err)
	}
	args := map[string]any{"host": c.Host, "port": int(c.Port), "user": c.User, "dbname": c.Database, "cp_min": 1, "cp_max": 10}
	if c.Password != "" {
		args["password"] = c.Password
	}
	return args, nil
}

// keep starts again what ends by itself, until stop.
func (b *backends) keep(ctx context.Context) {
	// The servers outlive ctx: the processes that stop then still need them.
	ctx, b.stopKeeping = context.WithCancel(context.WithoutCancel(ctx))
	if b.postgres != nil {
		b.keeping.Go(func() {
			for ended(ctx, b.postgres.Done()) {
				b.log.Warn().Str("component", "postgres").Msg("the private PostgreSQL has ended, starting it again")
				// It has to be let go of, so that the next one can have its directory.
				if err := b.postgres.Stop(ctx); err != nil {
					b.log.Warn().Str("component", "postgres").Err(err).Msg("end of the private PostgreSQL not clean")
				}
				b.retry(ctx, "postgres", func() (err error) {
					server, err := b.startPostgres(ctx)
					if err == nil {
						b.postgres = server
					}
					return err
				})
			}
		})
	}
	if b.redis != nil {
		b.keeping.Go(func() {
			for ended(ctx, b.redis.exited) {
				b.log.Warn().Str("component", "redis").Msg("the private Redis has ended, starting it again")
				b.retry(ctx, "redis", func() (err error) {
					server, err := b.startRedis(ctx)
					if err == nil {
						b.redis = server
					}
					return err
				})
			}
		})
	}
}

// ended waits for a server to end by itself. It returns false when ctx is done first.
func ended[T any](ctx context.Context, end <-chan T) bool {
	select {
	case <-end:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// retry starts a server, again and again until it succeeds or ctx is done.
func (b *backends) retry(ctx context.Context, name string, start func() error) {
	const minBackoff, maxBackoff = 100 * time.Millisecond, 10 * time.Second
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := start()
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			b.log.Error().Str("component", name).Err(err).Dur("retry_after_ms", backoff).Msg("cannot start the private server")
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the servers in bounded time, also when the caller's context has ended.
//
//nolint:contextcheck // see above
func (b *backends) stop() error {
	b.stopKeeping()
	b.keeping.Wait()
	if b.redis != nil {
		b.redis.stop()
	}
	b.fork.close()
	if b.postgres == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return b.postgres.Stop(ctx)
}
