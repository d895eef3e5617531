package sender

import (
	"context"
	"time"

	"github.com/weft-im/weft/storage"
)

// journal notes in the database how far destinations have come. What is to be noted while a statement runs goes into the
// next one, together.
type journal struct {
	db     storage.Querier
	writes chan journalWrite
}

type journalWrite struct {
	cursor storage.OutboundCursor
	done   chan error
}

// maxJournalBatch is the most destinations of one statement.
const maxJournalBatch = 1000

func newJournal(db storage.Querier) *journal {
	return &journal{db: db, writes: make(chan journalWrite)}
}

// put waits until a cursor is noted. A destination has one call under way at most.
func (j *journal) put(ctx context.Context, c storage.OutboundCursor) error {
	w := journalWrite{cursor: c, done: make(chan error, 1)}
	select {
	case j.writes <- w:
		return <-w.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// journalTimeout bounds a statement.
const journalTimeout = 30 * time.Second

func (j *journal) run(ctx context.Context) {
	for {
		var batch []journalWrite
		select {
		case w := <-j.writes:
			batch = append(batch, w)
		case <-ctx.Done():
			return
		}
	more:
		for len(batch) < maxJournalBatch {
			select {
			case w := <-j.writes:
				batch = append(batch, w)
			default:
				break more
			}
		}
		cursors := make([]storage.OutboundCursor, len(batch))
		for i, w := range batch {
			cursors[i] = w.cursor
		}
		err := j.write(ctx, cursors)
		for _, w := range batch {
			w.done <- err
		}
	}
}

func (j *journal) write(ctx context.Context, cursors []storage.OutboundCursor) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTimeout)
	defer cancel()
	return storage.PutOutboundCursors(ctx, j.db, cursors)
}
