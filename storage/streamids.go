package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
)

// ErrWriterReplaced says that another process writes the stream under the same
// instance name: it was started later and this one must stop writing. Nothing
// of the transaction took place.
var ErrWriterReplaced = errors.New("replaced by another process of the same instance name")

// ErrWriterRenewed says that the transaction was queued before
// [StreamIDs.Resolve] cut off unfinished work. Nothing of it took place; it may
// be run again with new ids ([IsRetryable]).
var ErrWriterRenewed = errors.New("stream writer was renewed meanwhile")

// StreamIDsConfig says which stream an allocator numbers.
type StreamIDsConfig struct {
	// DB is the database. Required.
	DB *DB
	// Stream is the stream's name, made by the SQL function create_stream in a
	// migration or by [CreateStream]. Required.
	Stream string
	// Instance is the name of the instance that writes. Required.
	Instance string
	// MaxIDSQL, if set, is a statement that returns the greatest id among the
	// stream's rows, 0 for none. With it a sequence that was restored to a point
	// behind the rows is found and moved on.
	MaxIDSQL string
	// Writers caches the instance's number. Defaults to a cache of its own.
	Writers *Writers
}

// StreamIDs hands out the ids of a stream's rows to one of the stream's writers;
// other instances write the same stream with allocators of their own. It is safe
// for concurrent use.
//
// Ids are reserved in blocks from a sequence in the database and handed out in
// ascending order from memory. A transaction that writes rows goes like this:
//
//	ids, err := s.Take(ctx, n, after)    // no round trip while reserved ids last
//	b := &pgx.Batch{}
//	b.Queue(insert rows with ids)
//	s.QueuePosition(b, ids)              // fence, and the position once committed
//	s.QueueReserve(b, n)                 // the ids of the next transaction
//	err = db.SendBatch(ctx, b).Close()   // one transaction, one round trip
//	switch {
//	case IsTransient(err):               // committed or not? unknown
//		s.Resolve(ctx, ids)              // settles it; then look for the rows
//	default:
//		ids.Done()
//	}
//
// What holds, also when a process is killed at any point and another is started
// under its name, when connections break and when the server restarts:
//
//   - No id is used twice.
//   - Once [StreamIDs.Position] has returned p, no row of this writer with an id
//     of p or less appears or disappears.
//   - The position in the database is one that holds in that sense.
//
// The second holds over processes because every transaction says its position
// under a lock that a successor waits for, and from then on fails unless its
// process is still the writer.
type StreamIDs struct {
	db       *DB
	stream   string
	writer   WriterNID
	owner    [16]byte
	lockID   int32
	sequence string
	size     int64 // of a block
	epoch    int32

	mu         sync.Mutex
	generation int32
	blocks     []block // reserved and not handed out, ascending
	last       int64   // the last id handed out or given up
	inFlight   []*IDs  // ascending by first id
	position   int64
	changed    chan struct{} // nil until somebody asks
}

// block is a range of reserved ids, both ends included.
type block struct{ first, last int64 }

// IDs are ids in the hands of a transaction: ascending, not always adjacent.
// They hold the writer's position back until Done or [StreamIDs.Resolve].
type IDs struct {
	s    *StreamIDs
	ids  []int64
	done bool // guarded by s.mu
}

const takeStreamWriterSQL = `
SELECT lock_id, generation, "position", block_size, epoch, id_sequence FROM take_stream_writer($1, $2, $3, $4)`

// OpenStreamIDs takes over as the stream's writer of that name. It waits for
// transactions of a previous process of that name to end and has later ones
// fail with [ErrWriterReplaced]. Where the stream's ids are found to be behind
// its rows, they are moved on and the stream begins a new epoch. It returns
// [ErrNotFound] when there is no such stream.
func OpenStreamIDs(ctx context.Context, cfg StreamIDsConfig) (*StreamIDs, error) {
	s := &StreamIDs{db: cfg.DB, stream: cfg.Stream}
	// Never fails: see its documentation.
	_, _ = rand.Read(s.owner[:])
	fail := func(err error) (*StreamIDs, error) {
		return nil, fmt.Errorf("become writer %q of stream %q: %w", cfg.Instance, cfg.Stream, TranslateError(err))
	}
	if cfg.Writers == nil {
		cfg.Writers = NewWriters()
	}
	var err error
	if s.writer, err = cfg.Writers.Intern(ctx, cfg.DB, cfg.Instance); err != nil {
		return fail(err)
	}
	maxID := int64(0)
	if cfg.MaxIDSQL != "" {
		if err := cfg.DB.QueryRow(ctx, cfg.MaxIDSQL).Scan(&maxID); err != nil {
			return fail(fmt.Errorf("find the greatest id: %w", err))
		}
	}
	err = cfg.DB.QueryRow(ctx, takeStreamWriterSQL, s.stream, s.writer, s.owner, maxID).
		Scan(&s.lockID, &s.generation, &s.position, &s.size, &s.epoch, &s.sequence)
	if err != nil {
		return fail(err)
	}
	s.last = s.position
	return s, nil
}

// Take returns the next n ids, all greater than after. Ids up to after that this
// writer had reserved are given up. It asks the database only when the reserved
// ids do not suffice: see [StreamIDs.QueueReserve].
func (s *StreamIDs) Take(ctx context.Context, n int, after int64) (*IDs, error) {
	for {
		ids := s.take(n, after)
		if ids != nil {
			return ids, nil
		}
		if err := s.reserve(ctx, n, after); err != nil {
			return nil, fmt.Errorf("reserve %d ids of stream %q: %w", n, s.stream, TranslateError(err))
		}
	}
}

// take returns nil when too few ids are reserved.
func (s *StreamIDs) take(n int, after int64) *IDs {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after > s.last {
		s.giveUp(after)
	}
	if s.left() < int64(n) {
		return nil
	}
	ids := &IDs{s: s, ids: make([]int64, 0, n)}
	for len(ids.ids) < n {
		b := &s.blocks[0]
		for b.first <= b.last && len(ids.ids) < n {
			ids.ids = append(ids.ids, b.first)
			b.first++
		}
		if b.first > b.last {
			s.blocks = s.blocks[1:]
		}
	}
	if n > 0 {
		s.last = ids.ids[n-1]
		s.inFlight = append(s.inFlight, ids)
	}
	return ids
}

// left counts the ids that are reserved and not handed out.
func (s *StreamIDs) left() (n int64) {
	for _, b := range s.blocks {
		n += b.last - b.first + 1
	}
	return n
}

// giveUp drops reserved ids up to limit, which none handed out later will be.
func (s *StreamIDs) giveUp(limit int64) {
	s.last = limit
	kept := s.blocks[:0]
	for _, b := range s.blocks {
		if b.first = max(b.first, limit+1); b.first <= b.last {
			kept = append(kept, b)
		}
	}
	s.blocks = kept
}

const reserveIDsSQL = `SELECT nextval($1::text::regclass) FROM generate_series(1, $2)`

func (s *StreamIDs) reserve(ctx context.Context, n int, after int64) error {
	rows, err := s.db.Query(ctx, reserveIDsSQL, s.sequence, s.blocksFor(n))
	if err != nil {
		return err
	}
	starts, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	s.mu.Lock()
	limit := max(s.last, after)
	s.mu.Unlock()
	if slices.Max(starts)+s.size-1 <= limit {
		// The sequence gives what was given before: the server lost its end.
		_, err := s.db.Exec(ctx, `SELECT repair_stream_ids($1, $2)`, s.stream, limit)
		return err
	}
	s.add(starts)
	return nil
}

func (s *StreamIDs) blocksFor(n int) int64 { return max(1, (int64(n)+s.size-1)/s.size) }

// add takes in blocks. They may come late: then those ids are dropped that lie
// at or below what this writer has promised to be past.
func (s *StreamIDs) add(starts []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, first := range starts {
		b := block{first: max(first, s.last+1), last: first + s.size - 1}
		if b.first > b.last {
			continue
		}
		if k := len(s.blocks); k > 0 && s.blocks[k-1].last+1 == b.first {
			s.blocks[k-1].last = b.last
			continue
		}
		s.blocks = append(s.blocks, b)
	}
	slices.SortFunc(s.blocks, func(a, b block) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
}

// QueueReserve appends to b, when fewer than n ids are left, a statement that
// reserves at least n; they are there once the batch's results are closed. A
// busy writer calls it with the size of its batches, so that Take never has to
// ask. Its results must be left to BatchResults.Close, so it comes last.
func (s *StreamIDs) QueueReserve(b *pgx.Batch, n int) {
	s.mu.Lock()
	left := s.left()
	s.mu.Unlock()
	if left >= int64(n) {
		return
	}
	b.Queue(reserveIDsSQL, s.sequence, s.blocksFor(n)).Query(func(rows pgx.Rows) error {
		starts, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		s.add(starts)
		return nil
	})
}

// All returns the ids. The slice must not be changed.
func (ids *IDs) All() []int64 { return ids.ids }

// Done says that the transaction which had the ids has ended: it committed, or
// certainly never will. When that is unknown, call [StreamIDs.Resolve]. Calling
// Done again does nothing.
func (ids *IDs) Done() {
	ids.s.mu.Lock()
	defer ids.s.mu.Unlock()
	ids.s.finish(ids)
}

func (s *StreamIDs) finish(ids *IDs) {
	if ids.done || len(ids.ids) == 0 {
		return
	}
	ids.done = true
	if i := slices.Index(s.inFlight, ids); i >= 0 {
		s.inFlight = slices.Delete(s.inFlight, i, i+1)
	}
	s.move()
}

// positionWithout returns the position that holds once the given ids are done.
func (s *StreamIDs) positionWithout(done []*IDs) int64 {
	for _, f := range s.inFlight {
		if !slices.Contains(done, f) {
			return f.ids[0] - 1
		}
	}
	return s.last
}

// move publishes the position where it has changed.
func (s *StreamIDs) move() {
	p := s.positionWithout(nil)
	if p <= s.position {
		return
	}
	s.position = p
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// PositionAfter is what [StreamIDs.Position] will be at least once ids are Done.
// With it a writer can announce its rows together with the position they lead to
// while the ids still hold that position back; were they Done first, somebody
// else could announce a position above rows that nobody was told of.
func (s *StreamIDs) PositionAfter(ids ...*IDs) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.position, s.positionWithout(ids))
}

// Position returns the position up to which, itself included, this writer's rows
// are settled: none is in flight, none will be written. It never goes back.
func (s *StreamIDs) Position() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position
}

// Advance is told a position of another writer of the stream, and returns the
// own one. Reserved ids up to the position seen are given up, so that the
// position of an idle writer moves along.
func (s *StreamIDs) Advance(seen int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen > s.last {
		s.giveUp(seen)
		s.move()
	}
	return s.position
}

// Changed returns a channel that is closed when the position next moves. To miss
// nothing, ask for the channel before the position.
func (s *StreamIDs) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// Stream returns the stream's name.
func (s *StreamIDs) Stream() string { return s.stream }

// Writer returns the writer's number, for the writer_nid column of its rows.
func (s *StreamIDs) Writer() WriterNID { return s.writer }

// Epoch returns the epoch of the stream when the allocator was opened: see
// [StreamEpochs].
func (s *StreamIDs) Epoch() int32 { return s.epoch }

// By primary key; one row. The row's values are looked at under its lock, so a
// successor that came first is seen, and one that comes after waits.
const setStreamPositionSQL = `
UPDATE stream_positions SET position =
    CASE WHEN owner = $3 AND generation = $4 THEN greatest(position, $5) ELSE stream_writer_lost(stream, writer_nid, owner <> $3) END
WHERE stream = $1 AND writer_nid = $2`

// By primary key; one row.
const advanceStreamPositionSQL = `SELECT advance_stream_position($1, $2, $6, $3, $4, $5)`

// positionStatement returns the statement that says the position which is true
// once ids are done.
func (s *StreamIDs) positionStatement(ids []*IDs) (sql string, args []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	args = []any{s.stream, s.writer, s.owner, s.generation, s.positionWithout(ids)}
	for _, f := range s.inFlight {
		if !slices.Contains(ids, f) {
			// Costs more, and does not wait for the other transaction's end.
			return advanceStreamPositionSQL, append(args, s.lockID)
		}
	}
	return setStreamPositionSQL, args
}

// QueuePosition appends to b the statement that every transaction with rows of
// the stream must hold: it records the position that is true once the
// transaction, which has the given ids, is committed, and fails it with
// [ErrWriterReplaced] or [ErrWriterRenewed] when this allocator is no longer the
// writer. It returns no rows of interest. It stands as late in the transaction
// as may be: it holds up transactions of this writer that begin meanwhile.
func (s *StreamIDs) QueuePosition(b *pgx.Batch, ids ...*IDs) {
	sql, args := s.positionStatement(ids)
	b.Queue(sql, args...)
}

// WritePosition runs what [StreamIDs.QueuePosition] queues.
func (s *StreamIDs) WritePosition(ctx context.Context, tx Querier, ids ...*IDs) error {
	sql, args := s.positionStatement(ids)
	if _, err := tx.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("write position of stream %q: %w", s.stream, TranslateError(err))
	}
	return nil
}

// Resolve ends uncertainty: when a connection broke during a commit, the rows of
// ids may be there, or never be, or still appear. Resolve waits until the
// transaction has ended, has one that has not come to the server yet fail, and
// marks ids as done. From then on what the database shows is final, and the
// caller looks whether its rows are there.
//
// Resolve keeps trying while the database is away, until ctx ends. Transactions
// of this allocator that are under way elsewhere may fail with
// [ErrWriterRenewed]. The error is [ErrWriterReplaced] when another process has
// taken over; then, too, the fate of the rows is final.
func (s *StreamIDs) Resolve(ctx context.Context, ids ...*IDs) error {
	var generation int32
	err := Retry(ctx, RetryPolicy{}, func(ctx context.Context) error {
		return TranslateError(s.db.QueryRow(ctx, `SELECT renew_stream_writer($1, $2, $3, $4)`,
			s.stream, s.writer, s.lockID, s.owner).Scan(&generation))
	})
	if err != nil && !errors.Is(err, ErrWriterReplaced) {
		return fmt.Errorf("settle transactions of stream %q: %w", s.stream, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		// The position stays where it is: it is the other process's now.
		return fmt.Errorf("settle transactions of stream %q: %w", s.stream, err)
	}
	s.generation = max(s.generation, generation)
	for _, i := range ids {
		s.finish(i)
	}
	return nil
}
