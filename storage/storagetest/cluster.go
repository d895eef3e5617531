package storagetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/embedded"
)

// settings give up durability: a test's database does not outlive the test.
func settings() map[string]string {
	return map[string]string{
		"fsync":              "off",
		"synchronous_commit": "off",
		"full_page_writes":   "off",
		"autovacuum":         "off",
		"max_connections":    "600",
		"shared_buffers":     "128MB",
		"checkpoint_timeout": "1d",
		"max_wal_size":       "4GB",
	}
}

// connectAdmin connects to the server on which test databases are made, which
// is started when it does not run.
func connectAdmin(ctx context.Context) (*pgx.Conn, error) {
	if u := os.Getenv(EnvURL); u != "" {
		return pgx.Connect(ctx, u)
	}
	dir := clusterDir()
	connString, err := embedded.ConnString(dir)
	if err != nil {
		return nil, err
	}
	// The usual case costs no more than the connection.
	if conn, err := pgx.Connect(ctx, connString); err == nil {
		return conn, nil
	}
	bin, err := embedded.FindBinaries(ctx, 0)
	if err != nil {
		return nil, err
	}
	// The server may be just stopping because it was idle for long.
	err = errors.New("server is stopping")
	for attempt := 0; attempt < 3 && err != nil; attempt++ {
		var server *embedded.Server
		if server, err = embedded.Start(ctx, embedded.Config{Dir: dir, BinDir: bin.Dir, Settings: settings(), Detached: true}); err != nil {
			return nil, err
		}
		if err = stopWhenIdle(bin, dir, connString); err != nil {
			return nil, errors.Join(err, server.Stop(ctx))
		}
		var conn *pgx.Conn
		if conn, err = pgx.Connect(ctx, connString); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// clusterDir returns the private server's directory: one for each user,
// installed PostgreSQL and set of settings.
func clusterDir() string {
	h := sha256.New()
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		fmt.Fprintln(h, path)
	}
	set := settings()
	for _, k := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintln(h, k, set[k])
	}
	name := fmt.Sprintf("weft-storagetest-%d-%s", os.Geteuid(), hex.EncodeToString(h.Sum(nil)[:4]))
	return filepath.Join(os.TempDir(), name)
}

// idleScript stops the server when ten minutes have passed without a client. Two
// of them do no harm.
const idleScript = `
idle=0
while [ $idle -lt 20 ]; do
	sleep 30
	n=$("$1/psql" "$2" -XAtc "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()") || exit 0
	if [ "$n" = 0 ]; then idle=$((idle + 1)); else idle=0; fi
done
read -r pid < "$3/data/postmaster.pid" && kill -INT "$pid"
`

// stopWhenIdle starts the process that ends the server: the test processes come
// and go and none of them knows that it is the last.
func stopWhenIdle(bin embedded.Binaries, dir, connString string) error {
	psql := bin.Dir
	if _, err := os.Stat(filepath.Join(psql, "psql")); err != nil {
		found, err := exec.LookPath("psql")
		if err != nil {
			// A server without its client: it stays.
			return nil
		}
		psql = filepath.Dir(found)
	}
	cmd := exec.Command("/bin/sh", "-c", idleScript, "sh", psql, connString, dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("watch over the test server: %w", err)
	}
	return cmd.Process.Release()
}

// template returns the name of the migrated template database, which is made
// when it is missing.
func template(ctx context.Context, admin *pgx.Conn, hash string) (string, error) {
	name := "weft_template_" + hash
	var exists bool
	const existsSQL = `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`
	if err := admin.QueryRow(ctx, existsSQL, name).Scan(&exists); err != nil || exists {
		return name, err
	}
	const lockKey = 0x7765_6674_7465_7374
	if _, err := admin.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(lockKey)); err != nil {
		return "", err
	}
	defer admin.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(lockKey)) //nolint:errcheck // the connection ends soon
	if err := admin.QueryRow(ctx, existsSQL, name).Scan(&exists); err != nil || exists {
		return name, err
	}
	if err := dropForgotten(ctx, admin); err != nil {
		return "", err
	}
	// It gets its name when it is finished, so that a half-made one is never
	// taken for it.
	building := databaseName()
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+building+" TEMPLATE template0"); err != nil {
		return "", err
	}
	if err := migrateTemplate(ctx, withDatabase(admin.Config(), building)); err != nil {
		_, e := admin.Exec(ctx, "DROP DATABASE "+building+" WITH (FORCE)")
		return "", errors.Join(err, e)
	}
	_, err := admin.Exec(ctx, "ALTER DATABASE "+building+" RENAME TO "+name)
	return name, err
}

func migrateTemplate(ctx context.Context, connString string) error {
	db, err := storage.Open(ctx, storage.Config{ConnString: connString, ApplicationName: "weft test template"})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := storage.Migrate(ctx, db); err != nil {
		return err
	}
	// Planner statistics, since nothing vacuums the clones.
	_, err = db.Exec(ctx, `VACUUM (ANALYZE)`)
	return err
}

// dropForgotten removes databases of tests that were killed, and templates of
// earlier migrations that nothing clones now.
func dropForgotten(ctx context.Context, admin *pgx.Conn) error {
	rows, err := admin.Query(ctx, `
SELECT datname, coalesce((pg_stat_file('base/' || oid || '/PG_VERSION', true)).modification < now() - interval '1 day', false)
FROM pg_database WHERE datname LIKE 'weft\_test\_%' OR datname LIKE 'weft\_template\_%'`)
	if err != nil {
		return err
	}
	type database struct {
		Name string
		Old  bool
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[database])
	if err != nil {
		return err
	}
	for _, d := range found {
		drop := d.Old
		if stamp, _, ok := strings.Cut(strings.TrimPrefix(d.Name, databasePrefix), "_"); ok && strings.HasPrefix(d.Name, databasePrefix) {
			made, err := strconv.ParseInt(stamp, 10, 64)
			drop = err == nil && time.Since(time.Unix(made, 0)) > 2*time.Hour
		}
		if !drop {
			continue
		}
		if _, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+d.Name+" WITH (FORCE)"); err != nil {
			return err
		}
	}
	return nil
}

// withDatabase returns the connection string of another database on the server
// of config.
func withDatabase(config *pgx.ConnConfig, database string) string {
	u := url.URL{Scheme: "postgres", Path: "/" + database}
	if config.Password != "" {
		u.User = url.UserPassword(config.User, config.Password)
	} else {
		u.User = url.User(config.User)
	}
	q := url.Values{}
	if strings.HasPrefix(config.Host, "/") {
		q.Set("host", config.Host)
		q.Set("port", strconv.Itoa(int(config.Port)))
	} else {
		u.Host = fmt.Sprintf("%s:%d", config.Host, config.Port)
	}
	if config.TLSConfig == nil {
		q.Set("sslmode", "disable")
	}
	u.RawQuery = q.Encode()
	return u.String()
}
