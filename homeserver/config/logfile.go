package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// reopenCheck is how often a write looks whether the file was moved away (by logrotate, say).
const reopenCheck = 5 * time.Second

// logFile is a file log lines go to. It moves itself aside where the configuration asks for it, and opens anew where
// somebody else has moved it.
type logFile struct {
	out LogOutput
	now func() time.Time

	mu      sync.Mutex
	f       *os.File
	size    int64
	day     string // the day its lines are of
	checked time.Time
}

func openLogFile(out LogOutput) (*logFile, error) {
	l := &logFile{out: out, now: time.Now}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open log file: %w", err)
	}
	return l, nil
}

// open opens the file. The caller holds mu.
func (l *logFile) open() error {
	f, err := os.OpenFile(l.out.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.f, l.size = f, st.Size()
	l.day = l.now().Format(time.DateOnly)
	if l.size > 0 {
		l.day = st.ModTime().Format(time.DateOnly)
	}
	return nil
}

// Write implements io.Writer.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return 0, fs.ErrClosed
	}
	now := l.now()
	switch {
	case l.out.MaxBytes > 0 && l.size > 0 && l.size+int64(len(p)) > l.out.MaxBytes:
		l.rotateNumbered()
	case l.out.Daily && now.Format(time.DateOnly) != l.day:
		l.rotateDaily()
	case now.Sub(l.checked) >= reopenCheck:
		l.checked = now
		if l.moved() {
			_ = l.open() // where that fails, lines go on to the old file
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

func (l *logFile) moved() bool {
	ours, err := l.f.Stat()
	if err != nil {
		return true
	}
	there, err := os.Stat(l.out.File)
	return err != nil || !os.SameFile(ours, there)
}

// rotateNumbered keeps file.1, file.2 and so on, as Python's RotatingFileHandler does. A step that fails is left out:
// a log that goes on in one file is better than none.
func (l *logFile) rotateNumbered() {
	if l.out.Backups > 0 {
		name := func(i int) string { return l.out.File + "." + strconv.Itoa(i) }
		for i := l.out.Backups - 1; i >= 1; i-- {
			_ = os.Rename(name(i), name(i+1))
		}
		_ = os.Rename(l.out.File, name(1))
	} else {
		_ = os.Truncate(l.out.File, 0)
	}
	_ = l.open()
}

// rotateDaily keeps file.2006-01-02, as Python's TimedRotatingFileHandler does.
func (l *logFile) rotateDaily() {
	_ = os.Rename(l.out.File, l.out.File+"."+l.day)
	_ = l.open()
	l.day = l.now().Format(time.DateOnly)
	if l.out.Backups <= 0 {
		return
	}
	old, _ := filepath.Glob(l.out.File + ".????-??-??")
	slices.Sort(old)
	for len(old) > l.out.Backups {
		_ = os.Remove(old[0])
		old = old[1:]
	}
}

// Close implements io.Closer.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}
