package tcpbus

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weft-im/weft/replication/wire"
)

const (
	// pingEvery is how long a side is silent before it sends PING.
	pingEvery = 10 * time.Second
	// silence is how long a peer that pings may be silent.
	silence = 3*pingEvery + 5*time.Second
	// settle is how long rows without a position line are held for one to come. Our own
	// senders always send one, so only strangers wait for this.
	settle = 100 * time.Millisecond
	// maxLine bounds a line.
	maxLine = 16 << 20
	// writeTimeout bounds one write to a connection.
	writeTimeout = 10 * time.Second
)

// assembler puts lines together to messages.
type assembler struct {
	serverName string
	emit       func(channel, message string)

	stream, writer string // of the rows that are held
	rows           strings.Builder
}

// line takes in a line without its end.
func (a *assembler) line(line string) {
	if row, ok, err := wire.ParseRData(line); ok && err == nil {
		if a.rows.Len() > 0 && (row.Stream != a.stream || row.Instance != a.writer || a.rows.Len() > maxLine) {
			a.flush()
		}
		if a.rows.Len() > 0 {
			a.rows.WriteByte('\n')
		}
		// Cloned, since both are parts of a row that would be kept alive by them.
		if a.rows.Len() == 0 {
			a.stream, a.writer = strings.Clone(row.Stream), strings.Clone(row.Instance)
		}
		a.rows.WriteString(line)
		return
	}
	if pos, ok, err := wire.ParsePosition(line); ok && err == nil &&
		a.rows.Len() > 0 && pos.Stream == a.stream && pos.Instance == a.writer {
		a.rows.WriteByte('\n')
		a.rows.WriteString(line)
		a.flush()
		return
	}
	a.flush()
	if channel, ok := wire.LineChannel(a.serverName, line); ok {
		a.emit(channel, line)
	}
}

// pending reports whether rows are held.
func (a *assembler) pending() bool { return a.rows.Len() > 0 }

// flush gives out the rows that are held.
func (a *assembler) flush() {
	if a.rows.Len() == 0 {
		return
	}
	message := a.rows.String()
	a.rows = strings.Builder{}
	a.emit(wire.StreamChannel(a.serverName, a.stream), message)
}

var (
	errLineTooLong = fmt.Errorf("line is longer than %d bytes", maxLine)
	errSilent      = errors.New("peer fell silent")
)

// lineReader reads lines from a connection and uses the waiting time between them.
type lineReader struct {
	conn net.Conn
	buf  *bufio.Reader
	part []byte // of a line whose end has not come

	heard     time.Time
	mustPing  bool // the peer has pinged once, so it must go on
	lastWrite func() time.Time
	ping      func() error
}

func newLineReader(conn net.Conn) *lineReader {
	return &lineReader{conn: conn, buf: bufio.NewReaderSize(conn, 32<<10), heard: time.Now()}
}

// next returns the next line without its end. When none comes for a moment it calls idle,
// if idle is not nil, and goes on waiting.
func (r *lineReader) next(pending func() bool, idle func()) (string, error) {
	for {
		if r.buf.Buffered() == 0 {
			wait := pingEvery
			if pending != nil && pending() && len(r.part) == 0 {
				wait = settle
			}
			if err := r.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
				return "", err
			}
		}
		chunk, err := r.buf.ReadSlice('\n')
		if len(chunk) > 0 {
			r.heard = time.Now()
		}
		switch {
		case err == nil:
			var line string
			if len(r.part) > 0 {
				line = string(append(r.part, chunk...))
				r.part = nil
			} else {
				line = string(chunk)
			}
			line = strings.TrimRight(line, "\r\n")
			if strings.HasPrefix(line, "PING") {
				r.mustPing = true
			}
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull), errors.Is(err, os.ErrDeadlineExceeded):
			r.part = append(r.part, chunk...)
			if len(r.part) > maxLine {
				return "", errLineTooLong
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
		default:
			return "", err
		}
		if r.mustPing && time.Since(r.heard) > silence {
			return "", errSilent
		}
		if idle != nil && len(r.part) == 0 {
			idle()
		}
		if time.Since(r.lastWrite()) >= pingEvery {
			if err := r.ping(); err != nil {
				return "", err
			}
		}
	}
}

func pingLine() string {
	return "PING " + strconv.FormatInt(time.Now().UnixMilli(), 10) + "\n"
}

// lineWriter writes whole texts to a connection.
type lineWriter struct {
	conn net.Conn
	mu   sync.Mutex
	last time.Time
}

func (w *lineWriter) write(text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = time.Now()
	if err := w.conn.SetWriteDeadline(w.last.Add(writeTimeout)); err != nil {
		return err
	}
	_, err := w.conn.Write([]byte(text))
	return err
}

func (w *lineWriter) lastWrite() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}
