package storage_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// BenchmarkCommitOneRow commits one row at a time over one connection: as it is,
// and as a row of a stream with its position and the reservation of ids.
func BenchmarkCommitOneRow(b *testing.B) {
	ctx := b.Context()
	db := storagetest.New(b)
	if err := storage.CreateStream(ctx, db, "test"); err != nil {
		b.Fatal(err)
	}
	if _, err := db.Exec(ctx, `CREATE TABLE test_rows (id bigint PRIMARY KEY, writer_nid smallint NOT NULL)`); err != nil {
		b.Fatal(err)
	}
	s, err := storage.OpenStreamIDs(ctx, storage.StreamIDsConfig{DB: db, Stream: "test", Instance: "a"})
	if err != nil {
		b.Fatal(err)
	}
	id := int64(0)
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			id--
			if _, err := db.Exec(ctx, `INSERT INTO test_rows VALUES ($1, $2)`, id, s.Writer()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stream", func(b *testing.B) {
		for b.Loop() {
			ids, err := s.Take(ctx, 1, 0)
			if err != nil {
				b.Fatal(err)
			}
			batch := &pgx.Batch{}
			batch.Queue(`INSERT INTO test_rows VALUES ($1, $2)`, ids.All()[0], s.Writer())
			s.QueuePosition(batch, ids)
			s.QueueReserve(batch, 1)
			if err := db.SendBatch(ctx, batch).Close(); err != nil {
				b.Fatal(err)
			}
			ids.Done()
		}
	})
}
