package federation

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// jsonScanner walks through a JSON text that is too large to hold, one value at a time. encoding/json's decoder would do,
// but it keeps and scans its buffer again for each value, and has no bound on the size of one.
type jsonScanner struct {
	r *bufio.Reader
	// first says that no key or element of the innermost container was read yet; outer ones have had one.
	first bool
}

func newJSONScanner(r io.Reader) *jsonScanner { return &jsonScanner{r: bufio.NewReaderSize(r, 64<<10)} }

func badJSON(why string) error { return fmt.Errorf("%w: %s", errBadResponse, why) }

// next returns the next byte that is no white space.
func (s *jsonScanner) next() (byte, error) {
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return 0, truncated(err)
		}
		switch c {
		case ' ', '\t', '\n', '\r':
		default:
			return c, nil
		}
	}
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", errBadResponse, io.ErrUnexpectedEOF)
	}
	return err
}

func (s *jsonScanner) open(want byte) error {
	c, err := s.next()
	if err != nil {
		return err
	}
	if c != want {
		return badJSON("expected " + string(rune(want)))
	}
	s.first = true
	return nil
}

func (s *jsonScanner) openObject() error { return s.open('{') }
func (s *jsonScanner) openArray() error  { return s.open('[') }

// more goes to the next member of a container that ends with end.
func (s *jsonScanner) more(end byte) (bool, error) {
	c, err := s.next()
	if err != nil {
		return false, err
	}
	if c == end {
		s.first = false
		return false, nil
	}
	if s.first {
		s.first = false
		return true, s.r.UnreadByte()
	}
	if c != ',' {
		return false, badJSON("expected a comma")
	}
	if c, err = s.next(); err != nil {
		return false, err
	}
	if c == end {
		return false, badJSON("nothing behind a comma")
	}
	return true, s.r.UnreadByte()
}

// element goes to the next element of an array, and reports whether there is one.
func (s *jsonScanner) element() (bool, error) { return s.more(']') }

// maxKey bounds the names of members.
const maxKey = 1 << 10

// key reads the name of the next member of an object, and reports whether there is one.
func (s *jsonScanner) key() (string, bool, error) {
	more, err := s.more('}')
	if err != nil || !more {
		return "", false, err
	}
	raw, err := s.value(maxKey)
	if err != nil {
		return "", false, err
	}
	if raw[0] != '"' {
		return "", false, badJSON("a key is no string")
	}
	c, err := s.next()
	if err != nil {
		return "", false, err
	}
	if c != ':' {
		return "", false, badJSON("no colon behind a key")
	}
	var key string
	if json.Unmarshal(raw, &key) != nil {
		return "", false, badJSON("a key is no string")
	}
	return key, true, nil
}

// null reads null if it comes next.
func (s *jsonScanner) null() bool {
	if c, err := s.next(); err != nil || s.r.UnreadByte() != nil || c != 'n' {
		return false
	}
	b, err := s.r.Peek(4)
	if err != nil || string(b) != "null" {
		return false
	}
	_, err = s.r.Discard(4)
	return err == nil
}

// value reads one value of at most limit bytes, and checks that it is JSON in UTF-8.
func (s *jsonScanner) value(limit int) (json.RawMessage, error) {
	c, err := s.next()
	if err != nil {
		return nil, err
	}
	buf := append(make([]byte, 0, 512), c)
	depth, inString := 0, false
	switch c {
	case '{', '[':
		depth = 1
	case '"':
		inString = true
	default:
		return s.scalar(buf)
	}
	for depth > 0 || inString {
		c, err := s.r.ReadByte()
		if err != nil {
			return nil, truncated(err)
		}
		if len(buf) == limit {
			return nil, badJSON("a value is too long")
		}
		buf = append(buf, c)
		switch {
		case inString && c == '\\':
			if c, err = s.r.ReadByte(); err != nil {
				return nil, truncated(err)
			}
			buf = append(buf, c)
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
	}
	return checked(buf)
}

// scalar reads a number, true, false or null.
func (s *jsonScanner) scalar(buf []byte) (json.RawMessage, error) {
	const longest = 64
	for {
		c, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if c == ',' || c == ']' || c == '}' || c <= ' ' {
			if err := s.r.UnreadByte(); err != nil {
				return nil, err
			}
			break
		}
		if len(buf) == longest {
			return nil, badJSON("a value is too long")
		}
		buf = append(buf, c)
	}
	return checked(buf)
}

func checked(buf []byte) (json.RawMessage, error) {
	if !utf8.Valid(buf) || !gjson.ValidBytes(buf) {
		return nil, badJSON("invalid JSON")
	}
	return buf, nil
}
