package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
)

// Names that every embedded server has.
const (
	// Database is the database that [Start] makes.
	Database = "weft"
	// User is its owner and the cluster's superuser.
	User = "weft"
)

// Config says where the server lives and how it runs.
type Config struct {
	// Dir holds the server's data, its log and, where the path is short enough,
	// its socket. It is made when missing. Required.
	Dir string
	// BinDir holds initdb and postgres. Defaults to what [FindBinaries] finds.
	BinDir string
	// Settings are added to the server's settings and override the defaults:
	// {"shared_buffers": "1GB"}.
	Settings map[string]string
	// Detached has the server outlive the process, and Start on a directory
	// whose server runs already return that one. For test kits; such a server is
	// stopped with Stop or by signal.
	Detached bool
	// Log is told when the server starts and stops. The zero value is silent.
	Log zerolog.Logger
}

// defaultSettings suit a laptop: small, durable, and reachable only through the
// socket.
func defaultSettings(socketDir string) map[string]string {
	return map[string]string{
		"listen_addresses":                "",
		"unix_socket_directories":         socketDir,
		"unix_socket_permissions":         "0700",
		"max_connections":                 "200",
		"shared_buffers":                  "128MB",
		"wal_level":                       "minimal",
		"max_wal_senders":                 "0",
		"max_wal_size":                    "1GB",
		"checkpoint_timeout":              "15min",
		"random_page_cost":                "1.1",
		"jit":                             "off",
		"max_parallel_workers_per_gather": "0",
		"huge_pages":                      "off",
		"logging_collector":               "off",
		"log_destination":                 "stderr",
		"log_line_prefix":                 "%m [%p] ",
		"log_checkpoints":                 "off",
	}
}

// Server is a running PostgreSQL server.
type Server struct {
	dir     paths
	log     zerolog.Logger
	lock    *os.File // nil when detached
	process *process
}

type paths struct {
	dir, data, log, socket string
}

// maxSocketDir is the longest directory whose socket's path the kernel takes:
// 107 bytes on Linux, 103 elsewhere, less "/.s.PGSQL.5432".
const maxSocketDir = 103 - len("/.s.PGSQL.5432")

func pathsOf(dir string) (paths, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return paths{}, err
	}
	p := paths{dir: dir, data: filepath.Join(dir, "data"), log: filepath.Join(dir, "postgres.log"), socket: filepath.Join(dir, "socket")}
	if len(p.socket) > maxSocketDir || strings.ContainsAny(p.socket, `,"`) {
		sum := sha256.Sum256([]byte(dir))
		p.socket = filepath.Join(os.TempDir(), "weft-"+hex.EncodeToString(sum[:6]))
	}
	return p, nil
}

// ConnString returns the connection string of the server whose directory is
// dir, running or not.
func ConnString(dir string) (string, error) {
	p, err := pathsOf(dir)
	if err != nil {
		return "", fmt.Errorf("embedded PostgreSQL: %w", err)
	}
	return p.connString(Database), nil
}

func (p paths) connString(database string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(p.socket)
	return fmt.Sprintf("host='%s' port=5432 user=%s dbname=%s sslmode=disable", quoted, User, database)
}

// Start starts the server, after making its data the first time, and returns
// when it accepts connections. Errors are one line that says what to do.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded PostgreSQL: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Dir == "" {
		return nil, errors.New("no directory given")
	}
	p, err := pathsOf(cfg.Dir)
	if err != nil {
		return nil, err
	}
	who, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, p.dir, cfg.Detached)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: p, log: cfg.Log, lock: lock}
	defer func() {
		if err != nil || cfg.Detached {
			lock.Close()
			s.lock = nil
		}
	}()
	if cfg.Detached {
		if pid := runningServer(p.data); pid != 0 {
			s.process = &process{pid: pid, data: p.data}
			return s, s.process.waitReady(ctx, p)
		}
	}
	bin, err := chooseBinaries(ctx, cfg.BinDir, p.data)
	if err != nil {
		return nil, err
	}
	if err := stopOrphan(ctx, p.data); err != nil {
		return nil, err
	}
	settings := defaultSettings(p.socket)
	maps.Copy(settings, cfg.Settings)
	if err := initialise(ctx, bin, p, who, settings["fsync"] == "off"); err != nil {
		return nil, err
	}
	if err := makeSocketDir(p.socket, who); err != nil {
		return nil, err
	}
	began := time.Now()
	args := []string{"-D", p.data}
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", k+"="+settings[k])
	}
	attr := who.sysProcAttr(p.data)
	if cfg.Detached {
		attr.Setsid, attr.Setpgid = true, false
	} else {
		dieWithParent(attr)
	}
	if s.process, err = startUntilReady(ctx, filepath.Join(bin.Dir, "postgres"), args, attr, p); err != nil {
		return nil, err
	}
	if err := makeDatabase(ctx, p); err != nil {
		return nil, errors.Join(err, s.process.stop(context.WithoutCancel(ctx)))
	}
	s.log.Info().Str("dir", p.dir).Int("version", bin.Version).Dur("duration_ms", time.Since(began)).Msg("embedded PostgreSQL started")
	return s, nil
}

// lockDir takes the lock that says whose server it is. The kernel gives it back
// when the process dies.
func lockDir(ctx context.Context, dir string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || !wait {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("another process runs the server in %s", dir)
			}
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if err := pause(ctx); err != nil {
			f.Close()
			return nil, fmt.Errorf("wait for the lock on %s: %w", dir, err)
		}
	}
}

func pause(ctx context.Context) error {
	t := time.NewTimer(5 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// chooseBinaries returns the PostgreSQL that can read the data, or the newest
// when there is none yet.
func chooseBinaries(ctx context.Context, binDir, data string) (Binaries, error) {
	made := 0
	if v, err := os.ReadFile(filepath.Join(data, "PG_VERSION")); err == nil {
		if made, err = strconv.Atoi(strings.TrimSpace(string(v))); err != nil {
			return Binaries{}, fmt.Errorf("%s is not the data of PostgreSQL 13 or later", data)
		}
	}
	if binDir == "" {
		return FindBinaries(ctx, made)
	}
	b, err := binariesIn(ctx, binDir)
	if err == nil && made != 0 && b.Version != made {
		err = fmt.Errorf("the data was made by PostgreSQL %d, the binaries in %s are of version %d", made, binDir, b.Version)
	}
	return b, err
}

func makeSocketDir(dir string, who *account) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	mine := ok && (int(st.Uid) == os.Geteuid() || who != nil && st.Uid == who.uid)
	// In a shared temporary directory someone else might have made it first.
	if !info.IsDir() || !mine {
		return fmt.Errorf("socket directory %s belongs to someone else", dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	return who.own(dir)
}

// makeDatabase makes the database where it is missing.
func makeDatabase(ctx context.Context, p paths) error {
	conn, err := pgx.Connect(ctx, p.connString("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, Database).Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, `CREATE DATABASE `+Database)
	return err
}

// ConnString returns the connection string of the server's [Database].
func (s *Server) ConnString() string { return s.dir.connString(Database) }

// Done is closed when the server has ended, whether it was asked to or not. It
// is nil when the server is detached.
func (s *Server) Done() <-chan struct{} { return s.process.done }

// Stop shuts the server down, ending its connections, and waits for it. When
// ctx ends first, the server is stopped without a checkpoint and recovers at its
// next start.
func (s *Server) Stop(ctx context.Context) error {
	defer s.unlock()
	if err := s.process.stop(ctx); err != nil {
		return fmt.Errorf("stop embedded PostgreSQL: %w", err)
	}
	s.log.Info().Str("dir", s.dir.dir).Msg("embedded PostgreSQL stopped")
	return nil
}

// Kill ends the server as a crash does, for tests of what happens then.
func (s *Server) Kill() error {
	defer s.unlock()
	if err := s.process.kill(); err != nil {
		return fmt.Errorf("kill embedded PostgreSQL: %w", err)
	}
	return nil
}

func (s *Server) unlock() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
}
