package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/rs/zerolog"
)

// LogSettings are what a process reads of a log configuration file, which is Python's logging.config in YAML.
type LogSettings struct {
	// Level is the least level to log. Defaults to info.
	Level zerolog.Level
	// Outputs are where lines go. Defaults to standard error.
	Outputs []LogOutput
	// Warnings name what the file asks for that is not done.
	Warnings []Warning
}

// LogOutput is one destination of log lines.
type LogOutput struct {
	// File is the path of a file, or "" for a stream of the process.
	File string
	// Stdout writes to standard output instead of standard error.
	Stdout bool
	// JSON writes one JSON object a line, otherwise text.
	JSON bool
	// Level is the least level of this output.
	Level zerolog.Level
	// MaxBytes, where not 0, is the size at which a file is moved aside and begun anew.
	MaxBytes int64
	// Daily moves the file aside at midnight.
	Daily bool
	// Backups is the number of old files kept.
	Backups int
}

// The parts of Python's format that mean something here.
type pyLogging struct {
	Version    int                    `yaml:"version"`
	Formatters map[string]pyFormatter `yaml:"formatters"`
	Handlers   map[string]pyHandler   `yaml:"handlers"`
	Loggers    map[string]pyLogger    `yaml:"loggers"`
	Root       pyLogger               `yaml:"root"`
	Filters    map[string]any         `yaml:"filters"`
	Disable    bool                   `yaml:"disable_existing_loggers"`
	Drains     any                    `yaml:"drains"`
	Structured bool                   `yaml:"structured"`
}

type pyFormatter struct {
	Class   string `yaml:"class"`
	Factory string `yaml:"()"`
	Format  string `yaml:"format"`
	DateFmt string `yaml:"datefmt"`
}

type pyHandler struct {
	Class       string      `yaml:"class"`
	Formatter   string      `yaml:"formatter"`
	Level       StringOrInt `yaml:"level"`
	Filename    string      `yaml:"filename"`
	Stream      string      `yaml:"stream"`
	MaxBytes    int64       `yaml:"maxBytes"`
	BackupCount int         `yaml:"backupCount"`
	When        string      `yaml:"when"`
	Target      string      `yaml:"target"`
	Filters     []any       `yaml:"filters"`
	Encoding    string      `yaml:"encoding"`
	Capacity    int         `yaml:"capacity"`
	FlushLevel  StringOrInt `yaml:"flushLevel"`
	Period      int         `yaml:"period"`
	Mode        string      `yaml:"mode"`
	Delay       bool        `yaml:"delay"`
	Interval    int         `yaml:"interval"`
	UTC         bool        `yaml:"utc"`
}

type pyLogger struct {
	Level     StringOrInt `yaml:"level"`
	Handlers  []string    `yaml:"handlers"`
	Propagate bool        `yaml:"propagate"`
}

// ReadLogConfig reads a log configuration file. "" gives the defaults.
func ReadLogConfig(path string) (*LogSettings, error) {
	s := &LogSettings{Level: zerolog.InfoLevel}
	if path == "" {
		s.Outputs = []LogOutput{{JSON: true, Level: zerolog.TraceLevel}}
		return s, nil
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read log configuration: %w", err)
	}
	c := &Config{position: map[string]Position{}}
	d := &decoder{file: path, anchors: map[string]ast.Node{}, cfg: c}
	var py pyLogging
	v := reflect.ValueOf(&py).Elem()
	for _, p := range d.parse(src) {
		d.field(p.key, p, fieldsOf(v.Type()), v)
	}
	s.Warnings = slices.DeleteFunc(c.warnings, func(w Warning) bool {
		// Python handlers and formatters take any argument of their class.
		return strings.HasPrefix(w.Option, "handlers.") || strings.HasPrefix(w.Option, "formatters.")
	})
	errs := d.errs
	fail := func(option, format string, args ...any) { errs = append(errs, c.errAt(option, format, args...)) }

	if py.Root.Level != "" {
		if s.Level, err = pyLevel(py.Root.Level); err != nil {
			fail("root.level", "%v", err)
		}
	}
	// Everything here is what Synapse would log under "synapse".
	if l, ok := py.Loggers["synapse"]; ok && l.Level != "" {
		if s.Level, err = pyLevel(l.Level); err != nil {
			fail("loggers.synapse.level", "%v", err)
		}
	}
	names := py.Root.Handlers
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(py.Handlers))
	}
	done := map[string]bool{}
	for _, name := range names {
		// Python's buffering handlers pass on to a target.
		for range 10 {
			if t := py.Handlers[name].Target; t != "" {
				name = t
			}
		}
		h, ok := py.Handlers[name]
		if !ok {
			fail("root.handlers", "there is no handler %q", name)
			continue
		}
		if done[name] {
			continue
		}
		done[name] = true
		out, why := h.output(py.Formatters)
		if why != "" {
			fail("handlers."+name, "%s", why)
			continue
		}
		s.Outputs = append(s.Outputs, out)
	}
	if len(s.Outputs) == 0 && len(errs) == 0 {
		s.Outputs = []LogOutput{{JSON: true, Level: zerolog.TraceLevel}}
	}
	if len(errs) > 0 {
		return nil, sorted([]string{path}, errs)
	}
	return s, nil
}

func (h *pyHandler) output(formatters map[string]pyFormatter) (out LogOutput, why string) {
	out.Level = zerolog.TraceLevel
	if h.Level != "" {
		l, err := pyLevel(h.Level)
		if err != nil {
			return out, err.Error()
		}
		out.Level = l
	}
	f := formatters[h.Formatter]
	out.JSON = strings.Contains(strings.ToLower(cmp.Or(f.Class, f.Factory)), "json")
	class := h.Class[strings.LastIndexByte(h.Class, '.')+1:]
	switch class {
	case "StreamHandler":
		out.Stdout = strings.HasSuffix(h.Stream, "stdout")
		return out, ""
	case "FileHandler", "WatchedFileHandler", "RotatingFileHandler", "TimedRotatingFileHandler":
		if h.Filename == "" {
			return out, "filename is required"
		}
		out.File = h.Filename
		out.Backups = h.BackupCount
		if class == "RotatingFileHandler" {
			out.MaxBytes = h.MaxBytes
		}
		out.Daily = class == "TimedRotatingFileHandler"
		return out, ""
	}
	return out, fmt.Sprintf("class %q is not supported; use logging.StreamHandler or logging.FileHandler and its rotating kinds", h.Class)
}

func pyLevel(s StringOrInt) (zerolog.Level, error) {
	switch strings.ToUpper(string(s)) {
	case "DEBUG", "10":
		return zerolog.DebugLevel, nil
	case "INFO", "20":
		return zerolog.InfoLevel, nil
	case "WARNING", "WARN", "30":
		return zerolog.WarnLevel, nil
	case "ERROR", "40":
		return zerolog.ErrorLevel, nil
	case "CRITICAL", "FATAL", "50":
		return zerolog.FatalLevel, nil
	case "NOTSET", "0", "TRACE":
		return zerolog.TraceLevel, nil
	}
	return 0, fmt.Errorf("expected DEBUG, INFO, WARNING, ERROR or CRITICAL, got %q", string(s))
}

// Open opens the outputs. stdout and stderr are the process's streams. Closing closes the files.
func (s *LogSettings) Open(stdout, stderr io.Writer) (zerolog.Logger, io.Closer, error) {
	var closers multiCloser
	var writers []io.Writer
	least := zerolog.Disabled
	for _, o := range s.Outputs {
		var w io.Writer
		switch {
		case o.File != "":
			f, err := openLogFile(o)
			if err != nil {
				_ = closers.Close()
				return zerolog.Nop(), nil, err
			}
			closers = append(closers, f)
			w = f
		case o.Stdout:
			w = stdout
		default:
			w = stderr
		}
		if !o.JSON {
			w = zerolog.ConsoleWriter{Out: w, NoColor: true, TimeFormat: "2006-01-02 15:04:05.000"}
		}
		writers = append(writers, &levelWriter{w, o.Level})
		least = min(least, o.Level)
	}
	var out io.Writer
	switch len(writers) {
	case 0:
		return zerolog.Nop(), closers, nil
	case 1:
		out = writers[0]
	default:
		out = zerolog.MultiLevelWriter(writers...)
	}
	log := zerolog.New(out).Level(max(s.Level, least)).With().Timestamp().Logger()
	return log, closers, nil
}

// levelWriter passes on lines of a level and above.
type levelWriter struct {
	io.Writer
	least zerolog.Level
}

// WriteLevel implements zerolog.LevelWriter.
func (w *levelWriter) WriteLevel(l zerolog.Level, p []byte) (int, error) {
	if l < w.least {
		return len(p), nil
	}
	return w.Write(p)
}

type multiCloser []io.Closer

// Close implements io.Closer.
func (m multiCloser) Close() error {
	var errs []error
	for _, c := range m {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
