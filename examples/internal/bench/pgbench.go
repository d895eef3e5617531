package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// rowBytes is the size of the rows that pgbench inserts: that of a message's row.
const rowBytes = 760

// insertCost is what pgbench measured.
type insertCost struct {
	// rate is in inserts a second, from 64 clients.
	rate float64
	// cpu is of one insert, pgbench and PostgreSQL together.
	cpu time.Duration
}

var (
	pgbenchCount = regexp.MustCompile(`transactions actually processed: (\d+)`)
	pgbenchRate  = regexp.MustCompile(`tps = ([0-9.]+)`)
)

// pgbench inserts single rows into a table of its own for a while.
func (i *instance) pgbench(ctx context.Context, d time.Duration) (insertCost, error) {
	bin, err := exec.LookPath("pgbench")
	if err != nil {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
		if len(found) == 0 {
			return insertCost{}, errors.New("pgbench is not installed; it comes with PostgreSQL")
		}
		bin = found[len(found)-1]
	}
	conn, err := pgx.Connect(ctx, i.database)
	if err != nil {
		return insertCost{}, fmt.Errorf("pgbench: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `DROP TABLE IF EXISTS pgbench_rows; CREATE TABLE pgbench_rows (id bigserial PRIMARY KEY, data bytea NOT NULL)`); err != nil {
		return insertCost{}, fmt.Errorf("pgbench: %w", err)
	}
	script := filepath.Join(i.dir, "insert.sql")
	sql := fmt.Sprintf("INSERT INTO pgbench_rows (data) VALUES (decode(repeat('ab', %d), 'hex'));\n", rowBytes)
	if err := os.WriteFile(script, []byte(sql), 0o600); err != nil {
		return insertCost{}, fmt.Errorf("pgbench: %w", err)
	}
	cmd := exec.CommandContext(ctx, bin, "-n", "-c", "64", "-j", "2", "-T", strconv.Itoa(max(1, int(d.Seconds()))), "-M", "prepared", "-f", script, i.database)
	var out []byte
	spent, _, err := i.spent(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return insertCost{}, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	n, rate := number(pgbenchCount, out), number(pgbenchRate, out)
	if n == 0 || rate == 0 {
		return insertCost{}, fmt.Errorf("pgbench: no result in %s", out)
	}
	cpu := spent[postgresName] + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return insertCost{rate: rate, cpu: time.Duration(float64(cpu) / n)}, nil
}

func number(re *regexp.Regexp, text []byte) float64 {
	m := re.FindSubmatch(text)
	if m == nil {
		return 0
	}
	f, _ := strconv.ParseFloat(string(m[1]), 64)
	return f
}
