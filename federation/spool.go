package federation

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// spool keeps events in a file of its own, for lists that are too long for the memory. It is written, then read, by one
// goroutine.
type spool struct {
	f *os.File
	w *bufio.Writer
	n int
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "weft-state-*")
	if err != nil {
		return nil, fmt.Errorf("make a file for events: %w", err)
	}
	// It has no name from now on, and is gone when it is closed, however the process ends.
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("make a file for events: %w", err), f.Close())
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 256<<10)}, nil
}

func (s *spool) close() error { return s.f.Close() }

// add appends an event.
func (s *spool) add(e json.RawMessage) error {
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(len(e)))
	if _, err := s.w.Write(size[:]); err != nil {
		return fmt.Errorf("keep event: %w", err)
	}
	if _, err := s.w.Write(e); err != nil {
		return fmt.Errorf("keep event: %w", err)
	}
	s.n++
	return nil
}

// chunks calls fn with all events in their order, at most size at a time.
func (s *spool) chunks(size int, fn func([]json.RawMessage) error) error {
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("keep events: %w", err)
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read events back: %w", err)
	}
	r := bufio.NewReaderSize(s.f, 256<<10)
	for left := s.n; left > 0; {
		part := make([]json.RawMessage, min(left, size))
		for i := range part {
			var length [4]byte
			if _, err := io.ReadFull(r, length[:]); err != nil {
				return fmt.Errorf("read events back: %w", err)
			}
			part[i] = make(json.RawMessage, binary.BigEndian.Uint32(length[:]))
			if _, err := io.ReadFull(r, part[i]); err != nil {
				return fmt.Errorf("read events back: %w", err)
			}
		}
		left -= len(part)
		if err := fn(part); err != nil {
			return err
		}
	}
	return nil
}
