package homeserver

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/embedded"
)

// database is an open database and, where none is configured, the server behind it.
type database struct {
	*storage.DB
	server *embedded.Server
}

// openDatabase connects to the configured database, or starts the embedded one, waits until it answers and sees to
// the schema: the main process migrates, workers wait until it has. report is told what is waited for.
func openDatabase(ctx context.Context, cfg *config.Config, log zerolog.Logger, report func(err error, next time.Duration)) (_ *database, err error) {
	d := &database{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	conn := cfg.ConnString()
	if conn == "" {
		if cfg.IsWorker() {
			return d, cfg.ErrorAt("database", errors.New("a worker shares the main process's database and there is none in the configuration"))
		}
		d.server, err = embedded.Start(ctx, embedded.Config{Dir: filepath.Join(cfg.DataDir, "postgres"), Log: log})
		if err != nil {
			return d, err
		}
		conn = d.server.ConnString()
	}
	sc := storage.Config{ConnString: conn, ApplicationName: "weft-" + cfg.InstanceName()}
	if cfg.Database != nil {
		sc.MaxConns, sc.MinIdleConns = int32(cfg.Database.Args.CPMax), int32(cfg.Database.Args.CPMin)
	}
	if d.DB, err = storage.Open(ctx, sc); err != nil {
		return d, cfg.ErrorAt("database.args", err)
	}
	if err := d.WaitReady(ctx, report); err != nil {
		return d, cfg.ErrorAt("database.args", err)
	}
	if cfg.IsWorker() {
		return d, storage.WaitSchema(ctx, d.DB, report)
	}
	return d, Migrate(ctx, d.DB)
}

func (d *database) close() error {
	if d.DB != nil {
		d.DB.Close()
	}
	if d.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), DefaultDrainTimeout)
	defer cancel()
	return d.server.Stop(ctx)
}

// Migrate brings a database's schema, the task queue's included, up to date. Several processes may call it at once.
func Migrate(ctx context.Context, db *storage.DB) error {
	if err := storage.Migrate(ctx, db); err != nil {
		return err
	}
	return task.Migrate(ctx, db.Pool)
}
