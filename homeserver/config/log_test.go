package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

// What Synapse's own generator writes.
const generatedLogConfig = `
version: 1
formatters:
    precise:
        format: '%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s'
    structured:
        class: synapse.logging.TerseJsonFormatter
handlers:
    file:
        class: logging.handlers.TimedRotatingFileHandler
        formatter: precise
        filename: DIR/homeserver.log
        when: midnight
        backupCount: 3
        encoding: utf8
    buffer:
        class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler
        target: file
        capacity: 10
        flushLevel: 30
        period: 5
    console:
        class: logging.StreamHandler
        formatter: structured
        level: ERROR
loggers:
    synapse.storage.SQL:
        level: INFO
root:
    level: WARNING
    handlers: [buffer, console]
disable_existing_loggers: false
`

func TestGeneratedLogConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := write(t, "log.yaml", strings.ReplaceAll(generatedLogConfig, "DIR", dir))
	s, err := ReadLogConfig(p[0])
	if err != nil {
		t.Fatal(err)
	}
	want := &LogSettings{Level: zerolog.WarnLevel, Outputs: []LogOutput{
		{File: dir + "/homeserver.log", Level: zerolog.TraceLevel, Daily: true, Backups: 3},
		{JSON: true, Level: zerolog.ErrorLevel},
	}}
	if diff := cmp.Diff(want.Outputs, s.Outputs); diff != "" || s.Level != want.Level || len(s.Warnings) != 0 {
		t.Errorf("level %s, warnings %v, outputs (-want +got):\n%s", s.Level, s.Warnings, diff)
	}
	var stdout, stderr bytes.Buffer
	log, closer, err := s.Open(&stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	log.Info().Msg("not shown")
	log.Warn().Str("a", "b").Msg("careful")
	log.Error().Msg("broken")
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(dir + "/homeserver.log")
	if err != nil {
		t.Fatal(err)
	}
	if s := string(file); strings.Contains(s, "not shown") || !strings.Contains(s, "careful a=b") || !strings.Contains(s, "broken") {
		t.Errorf("file: %s", s)
	}
	if s := stderr.String(); strings.Contains(s, "careful") || !strings.Contains(s, `"level":"error"`) || stdout.Len() > 0 {
		t.Errorf("console: %s / %s", s, stdout.String())
	}
}

func TestDefaultLog(t *testing.T) {
	t.Parallel()
	s, err := ReadLogConfig("")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log, closer, err := s.Open(nil, &out)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	log.Debug().Msg("no")
	log.Info().Msg("yes")
	if !strings.HasPrefix(out.String(), `{"level":"info"`) || strings.Contains(out.String(), `"no"`) {
		t.Errorf("%s", out.String())
	}
}

func TestLogProblems(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"root: {level: LOUD}":                                            `1: root.level: expected DEBUG, INFO, WARNING, ERROR or CRITICAL, got "LOUD"`,
		"root: {handlers: [nope]}":                                       `1: root.handlers: there is no handler "nope"`,
		"handlers: {a: {class: logging.handlers.SysLogHandler}}":         `1: handlers.a: class "logging.handlers.SysLogHandler" is not supported; use logging.StreamHandler or logging.FileHandler and its rotating kinds`,
		"handlers: {a: {class: logging.FileHandler}}\nroot: {level: 20}": `1: handlers.a: filename is required`,
		"root: [": "not valid YAML",
	} {
		p := write(t, "log.yaml", src)
		if _, err := ReadLogConfig(p[0]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", src, err, want)
		}
	}
	if _, err := ReadLogConfig("/does/not/exist"); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestLogFileRotates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Date(2026, 5, 1, 23, 59, 0, 0, time.Local)
	names := func() []string {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e.Name()+"="+string(b))
		}
		return out
	}
	l := &logFile{out: LogOutput{File: dir + "/d", Daily: true, Backups: 1}, now: func() time.Time { return now }}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	put := func(s string) {
		t.Helper()
		if _, err := l.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	now = now.Add(2 * time.Minute)
	put("b")
	now = now.Add(24 * time.Hour)
	put("c")
	if diff := cmp.Diff([]string{"d=c", "d.2026-05-02=b"}, names()); diff != "" {
		t.Errorf("daily:\n%s", diff)
	}
	// logrotate moves the file away: writing goes on in a new one.
	if err := os.Rename(dir+"/d", dir+"/moved"); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	put("e")
	if diff := cmp.Diff([]string{"d=e", "d.2026-05-02=b", "moved=c"}, names()); diff != "" {
		t.Errorf("moved:\n%s", diff)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("x")); err == nil {
		t.Error("a closed file takes lines")
	}
	for _, n := range []string{"/d", "/d.2026-05-02", "/moved"} {
		_ = os.Remove(dir + n)
	}
	l = &logFile{out: LogOutput{File: dir + "/n", MaxBytes: 4, Backups: 2}, now: func() time.Time { return now }}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"aa", "aa", "bbb", "ccc", "ddd"} {
		put(s)
	}
	if diff := cmp.Diff([]string{"n=ddd", "n.1=ccc", "n.2=bbb"}, names()); diff != "" {
		t.Errorf("by size:\n%s", diff)
	}
	_ = l.Close()
}
