package writer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// BenchmarkSend writes messages to rooms from many concurrent senders and reports the rate, and what share it is of the
// rate at which pgbench inserts single rows of the same size into the same server, in the same run.
func BenchmarkSend(b *testing.B) {
	pg := storagetest.NewServer(b, map[string]string{"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"})
	db, err := storage.Open(b.Context(), storage.Config{ConnString: pg.ConnString()})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	in := start(b, db, "w1")
	base := pgbench(b, pg.ConnString(), db)
	for _, rooms := range []int{64, 1} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			ids := make([]string, rooms)
			for i := range ids {
				ids[i] = in.create("12").RoomID
			}
			const senders = 512
			before := db.Counts()
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for i := range senders {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						d := message(alice, fmt.Sprintf("message %d: %s", n, filler))
						d.DeviceID, d.TxnID = "DEVICE", strconv.FormatInt(n, 10)+"-"+strconv.Itoa(b.N)
						if _, err := in.Send(context.Background(), ids[i%rooms], d); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			rate := float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "events/s")
			b.ReportMetric(rate/base, "of-pgbench")
			b.ReportMetric(float64(b.N)/float64(db.Counts().Sub(before).RoundTrips), "events/commit")
		})
	}
}

const filler = "some words of a usual length, as people write them in rooms"

// BenchmarkCreateRoom makes rooms one after the other.
func BenchmarkCreateRoom(b *testing.B) {
	in := start(b, storagetest.New(b), "w1")
	for b.Loop() {
		if _, err := in.tryCreate(b.Context(), "12"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoundTrip sends one message at a time: what a lone sender waits for.
func BenchmarkRoundTrip(b *testing.B) {
	in := start(b, storagetest.New(b), "w1")
	room := in.create("12").RoomID
	for b.Loop() {
		if _, err := in.Send(b.Context(), room, writer.Draft{Type: "m.room.message", Sender: alice, Content: content(`{"body":"hi"}`)}); err != nil {
			b.Fatal(err)
		}
	}
}

// pgbench returns the rate at which 64 clients insert rows of the size of an event, with a primary key, each in a
// transaction.
func pgbench(b *testing.B, connString string, db *storage.DB) float64 {
	b.Helper()
	bin, err := exec.LookPath("pgbench")
	if err != nil {
		b.Skip("pgbench is not installed")
	}
	if _, err := db.Exec(b.Context(), `CREATE TABLE IF NOT EXISTS pgbench_rows (id bigserial PRIMARY KEY, data bytea NOT NULL)`); err != nil {
		b.Fatal(err)
	}
	script := filepath.Join(b.TempDir(), "insert.sql")
	sql := fmt.Sprintf("INSERT INTO pgbench_rows (data) VALUES (decode(repeat('ab', %d), 'hex'));\n", 760)
	if err := os.WriteFile(script, []byte(sql), 0o600); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command(bin, "-n", "-c", "64", "-j", "2", "-T", "3", "-M", "prepared", "-f", script, connString).CombinedOutput()
	if err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	m := regexp.MustCompile(`tps = ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		b.Fatalf("pgbench gave no rate:\n%s", out)
	}
	rate, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("pgbench: %.0f inserts a second", rate)
	return rate
}
