package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/storage"
)

// migrateCommand brings the schema up to date, as the main process does when it starts: for those who want it done
// before they stop the old version.
func migrateCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("migrate", "-c FILE [-c FILE]...", stderr)
	paths := configFlag(fs)
	if err := noArguments(fs, args); err != nil {
		return err
	}
	if len(*paths) == 0 {
		return usageError("no configuration: give one or more -c FILE")
	}
	cfg, err := config.Load(*paths...)
	if err != nil {
		return err
	}
	conn := cfg.ConnString()
	if conn == "" {
		return errors.New("migrate: the configuration names no database; the main process migrates the one it starts itself")
	}
	db, err := storage.Open(ctx, storage.Config{ConnString: conn, ApplicationName: "weftctl"})
	if err != nil {
		return fmt.Errorf("database.args: %w", err)
	}
	defer db.Close()
	if err := homeserver.Migrate(ctx, db); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, "the schema is up to date")
	return err
}
