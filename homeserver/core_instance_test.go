package homeserver

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/storage/storagetest"
)

func TestOneProcessForEachName(t *testing.T) {
	t.Parallel()
	db := storagetest.New(t)
	a, err := claimInstance(t.Context(), db, "worker1", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	other, err := claimInstance(t.Context(), db, "worker2", zerolog.Nop())
	if err != nil {
		t.Fatalf("another name: %v", err)
	}
	defer other.close()
	if err := (&instanceClaim{db: db, name: "worker1"}).take(t.Context()); !errors.Is(err, errInstanceTaken) {
		t.Fatalf("the same name: %v", err)
	}
	// PostgreSQL drops the connection: the claim is taken again.
	pid := a.conn.PgConn().PID()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	if _, err := db.Pool.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, pid); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		var holders int
		err := db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::int::oid AND pid <> $2
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, instanceLockClass, pid).Scan(&holders)
		if err != nil {
			t.Fatal(err)
		}
		if holders == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the claim was not taken again")
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	a.close()
	// A name that was given up is free.
	b, err := claimInstance(t.Context(), db, "worker1", zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	b.close()
}
