package homeserver

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/storage/storagetest"
)

// A mistake in database.args that waiting cannot mend ends the start at once, with the option in the message.
func TestOpenDatabaseThatIsMissing(t *testing.T) {
	t.Parallel()
	c, err := pgx.ParseConfig(storagetest.NewConnString(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Database = &config.DatabaseConfig{Name: "psycopg2", Args: config.DatabaseArgs{
		User: c.User, Password: config.Secret(c.Password), Host: c.Host, Port: config.StringOrInt(strconv.Itoa(int(c.Port))),
		DBName: "weft_no_such_database",
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	d, err := openDatabase(ctx, cfg, zerolog.Nop(), func(err error, _ time.Duration) { t.Errorf("it waits, for: %v", err) })
	if err == nil {
		_ = d.close()
		t.Fatal("a database that does not exist was opened")
	}
	if !strings.Contains(err.Error(), "database.args") || !strings.Contains(err.Error(), "weft_no_such_database") {
		t.Errorf("the error names neither option nor database: %v", err)
	}
}
