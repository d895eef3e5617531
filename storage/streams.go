package storage

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CreateStream makes a stream and the sequence of its ids where they are
// missing. The streams of this module are made by its migrations; this is for
// those of other programs. The database's user must be allowed to make
// sequences.
func CreateStream(ctx context.Context, q Querier, stream string) error {
	if _, err := q.Exec(ctx, `SELECT create_stream($1)`, stream); err != nil {
		return fmt.Errorf("create stream %q: %w", stream, TranslateError(err))
	}
	return nil
}

// StreamEpoch is one life of a stream. A stream begins a new one when its
// database was restored to an earlier point, or may have been: copied, failed
// over.
type StreamEpoch struct {
	// Epoch is a random number from 1 up.
	Epoch int32 `db:"epoch"`
	// StartPosition is the greatest position that was recorded when it began:
	// up to there it shares the history of the life before.
	StartPosition int64 `db:"start_position"`
	// StartedTS is when, in milliseconds since the epoch of Unix.
	StartedTS int64 `db:"started_ts"`
	// Reason says why, for people.
	Reason string `db:"reason"`
}

// StreamEpochs are a stream's lives, the current one last.
type StreamEpochs []StreamEpoch

// Current returns the current epoch, 0 when there is none.
func (es StreamEpochs) Current() int32 {
	if len(es) == 0 {
		return 0
	}
	return es[len(es)-1].Epoch
}

// Valid tells whether a position that was given out in the given epoch means the
// same now: the epoch is the current one, or the position lies where all later
// ones share its history. A position that is not valid was lost with the data,
// and whoever holds it has to start over.
func (es StreamEpochs) Valid(epoch int32, position int64) bool {
	for i, e := range es {
		if e.Epoch != epoch {
			continue
		}
		for _, later := range es[i+1:] {
			if position > later.StartPosition {
				return false
			}
		}
		return true
	}
	return false
}

// StreamPosition is how far one writer of a stream has come, as far as the
// database knows: an idle writer may be further.
type StreamPosition struct {
	// Writer is the instance's name.
	Writer string `db:"name"`
	// WriterNID is its number.
	WriterNID WriterNID `db:"writer_nid"`
	// Position is the position up to which its rows are settled.
	Position int64 `db:"position"`
}

// StreamState is what the database knows of a stream.
type StreamState struct {
	// Stream is its name.
	Stream string
	// Epochs are its lives, the current one last; empty when there is no such
	// stream.
	Epochs StreamEpochs
	// Positions are its writers' positions, by name. Writers that left the
	// deployment are among them.
	Positions []StreamPosition
}

// By primary key: the few lives of as many streams as are asked for.
const streamEpochsSQL = `
SELECT stream, epoch, start_position, started_ts, reason FROM stream_epochs
WHERE stream = ANY ($1) ORDER BY stream, epoch_seq`

// By primary key: a row for each writer of the streams that are asked for.
const streamPositionsSQL = `
SELECT p.stream, w.name, p.writer_nid, p.position FROM stream_positions p JOIN writers w USING (writer_nid)
WHERE p.stream = ANY ($1) ORDER BY p.stream, w.name`

// GetStreams returns the states of the named streams, in that order, in one
// round trip.
func GetStreams(ctx context.Context, q Querier, streams []string) ([]StreamState, error) {
	index := make(map[string]int, len(streams))
	states := make([]StreamState, len(streams))
	for i, name := range streams {
		index[name], states[i].Stream = i, name
	}
	b := &pgx.Batch{}
	b.Queue(streamEpochsSQL, streams).Query(func(rows pgx.Rows) error {
		type row struct {
			Stream string `db:"stream"`
			StreamEpoch
		}
		epochs, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
		for _, e := range epochs {
			s := &states[index[e.Stream]]
			s.Epochs = append(s.Epochs, e.StreamEpoch)
		}
		return err
	})
	b.Queue(streamPositionsSQL, streams).Query(func(rows pgx.Rows) error {
		type row struct {
			Stream string `db:"stream"`
			StreamPosition
		}
		positions, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
		for _, p := range positions {
			s := &states[index[p.Stream]]
			s.Positions = append(s.Positions, p.StreamPosition)
		}
		return err
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("read positions of streams %q: %w", streams, TranslateError(err))
	}
	return states, nil
}
