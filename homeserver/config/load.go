package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Load reads files in order, later ones winning option by option, and validates the result. A directory stands for the
// .yaml files in it, by name. All problems come in one error, each one line of it an *[Error].
func Load(paths ...string) (*Config, error) {
	c := Default()
	c.position = map[string]Position{}
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	type option struct {
		pair
		d *decoder
	}
	var decoders []*decoder
	var order []string
	merged := map[string]option{}
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		d := &decoder{file: path, anchors: map[string]ast.Node{}, cfg: c}
		decoders = append(decoders, d)
		for _, p := range d.parse(src) {
			if _, there := merged[p.key]; !there {
				order = append(order, p.key)
			}
			merged[p.key] = option{p, d}
		}
		c.sources = append(c.sources, path)
	}
	root := reflect.ValueOf(c).Elem()
	fields := fieldsOf(root.Type())
	for _, key := range order {
		o := merged[key]
		o.d.field(key, o.pair, fields, root)
	}
	var errs []error
	for _, d := range decoders {
		errs = append(errs, d.errs...)
	}
	errs = append(errs, c.readSecretFiles()...)
	if len(errs) == 0 {
		// Rules between options make no sense of options that could not be read.
		c.normalize()
		errs = append(errs, c.problems()...)
	}
	slices.SortStableFunc(c.warnings, func(a, b Warning) int {
		return cmp.Or(slices.Index(files, a.File)-slices.Index(files, b.File), a.Line-b.Line)
	})
	if len(errs) > 0 {
		return nil, sorted(files, errs)
	}
	return c, nil
}

// LoadArgs reads what the command line of a process names: -c FILE or --config-path FILE, any number of times, and
// --config-directory, --keys-directory, --report-stats and --generate-... of Synapse's command lines as far as they make
// sense. Help goes to help.
func LoadArgs(args []string, help io.Writer) (*Config, error) {
	var paths []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		name, value, inline := strings.Cut(arg, "=")
		switch name {
		case "-c", "--config-path", "-config-path":
			if !inline {
				if i++; i >= len(args) {
					return nil, fmt.Errorf("%s needs a file", arg)
				}
				value = args[i]
			}
			paths = append(paths, value)
		case "-h", "--help", "-help":
			_, _ = io.WriteString(help, usage)
			return nil, ErrHelp
		default:
			if strings.HasPrefix(arg, "-c") && !strings.HasPrefix(arg, "--") && len(arg) > 2 { // -cFILE
				paths = append(paths, arg[2:])
				continue
			}
			return nil, fmt.Errorf("unknown argument %q; try --help", arg)
		}
	}
	if len(paths) == 0 {
		return nil, errors.New("no configuration: give one or more -c FILE")
	}
	return Load(paths...)
}

// ErrHelp is returned by LoadArgs when help was asked for and has been printed.
var ErrHelp = errors.New("help requested")

const usage = `Usage: PROGRAM -c FILE [-c FILE]...

  -c, --config-path FILE   configuration file or directory, in Synapse's format; may be
                           given several times, an option in a later file replaces that
                           of an earlier one
  -h, --help               show this
`

// expand replaces directories by the configuration files in them.
func expand(paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		if !st.IsDir() {
			out = append(out, p)
			continue
		}
		names, err := filepath.Glob(filepath.Join(p, "*.yaml"))
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		slices.Sort(names)
		out = append(out, names...)
	}
	return out, nil
}

// parse returns the top-level options of a file.
func (d *decoder) parse(src []byte) []pair {
	f, err := parser.ParseBytes(src, 0)
	if err != nil {
		line, msg := syntaxError(err)
		d.errs = append(d.errs, &Error{Position: Position{d.file, line}, Message: msg})
		return nil
	}
	var out []pair
	for i, doc := range f.Docs {
		body := d.resolve(doc.Body)
		if isNull(body) {
			continue
		}
		if _, comment := body.(*ast.CommentGroupNode); comment {
			continue
		}
		if i > 0 {
			d.fail("", body, "expected one YAML document, got several")
			return out
		}
		d.collectAnchors(body)
		pairs, ok := d.pairs(body, 0)
		if !ok {
			d.fail("", body, "expected options (name: value), got %s", describe(body))
		}
		out = append(out, pairs...)
	}
	return out
}

// collectAnchors finds all anchors first: an option of a later file may win over the one that holds an anchor.
func (d *decoder) collectAnchors(n ast.Node) {
	ast.Walk(anchorVisitor{d}, n)
}

type anchorVisitor struct{ d *decoder }

// Visit implements ast.Visitor.
func (v anchorVisitor) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok {
		v.d.anchors[a.Name.GetToken().Value] = a.Value
	}
	return v
}

// syntaxError takes the line and the first line of text out of the parser's error, whose rest is a picture of the source
// (which may hold secrets).
func syntaxError(err error) (line int, msg string) {
	text := err.Error()
	first, _, _ := strings.Cut(text, "\n")
	var col int
	if n, _ := fmt.Sscanf(first, "[%d:%d]", &line, &col); n == 2 {
		_, first, _ = strings.Cut(first, "] ")
	}
	return line, "not valid YAML: " + first
}

// sorted joins errors by file and line.
func sorted(files []string, errs []error) error {
	slices.SortStableFunc(errs, func(a, b error) int {
		var ea, eb *Error
		if !errors.As(a, &ea) || !errors.As(b, &eb) {
			return 0
		}
		return cmp.Or(slices.Index(files, ea.File)-slices.Index(files, eb.File), ea.Line-eb.Line)
	})
	return errors.Join(errs...)
}

// readSecretFiles reads the secrets that options name files for.
func (c *Config) readSecretFiles() []error {
	var errs []error
	for _, s := range []struct {
		option string
		path   string
		into   *Secret
	}{
		{"macaroon_secret_key_path", c.MacaroonSecretKeyPath, &c.MacaroonSecretKey},
		{"form_secret_path", c.FormSecretPath, &c.FormSecret},
		{"registration_shared_secret_path", c.RegistrationSharedSecretPath, &c.RegistrationSharedSecret},
		{"turn_shared_secret_path", c.TurnSharedSecretPath, &c.TurnSharedSecret},
		{"worker_replication_secret_path", c.WorkerReplicationSecretPath, &c.WorkerReplicationSecret},
		{"redis.password_path", c.Redis.PasswordPath, &c.Redis.Password},
	} {
		if s.path == "" {
			continue
		}
		if *s.into != "" {
			errs = append(errs, c.errAt(s.option, "must not be set beside %s", strings.TrimSuffix(s.option, "_path")))
			continue
		}
		b, err := os.ReadFile(s.path)
		if errors.Is(err, os.ErrNotExist) && s.option == "registration_shared_secret_path" {
			continue // made when the main process starts
		}
		if err != nil {
			errs = append(errs, c.errAt(s.option, "cannot be read: %v", err))
			continue
		}
		*s.into = Secret(strings.TrimSpace(string(b)))
		if *s.into == "" {
			errs = append(errs, c.errAt(s.option, "the file %s is empty", s.path))
		}
	}
	return errs
}

// ErrorAt puts the place of an option before an error that its value has led to: a program reports it as it does what
// Load finds.
func (c *Config) ErrorAt(option string, err error) error {
	var e *Error
	_ = errors.As(c.errAt(option, "%s", strings.Join(strings.Fields(err.Error()), " ")), &e)
	e.Cause = err
	return e
}

// errAt makes an error at the place of an option, or of the nearest one around it that the files have.
func (c *Config) errAt(option, format string, args ...any) error {
	e := &Error{Option: option, Message: fmt.Sprintf(format, args...)}
	for o := option; o != ""; {
		if p, ok := c.position[o]; ok {
			e.Position = p
			return e
		}
		cut := max(strings.LastIndexByte(o, '.'), strings.LastIndexByte(o, '['), 0)
		o = o[:cut]
	}
	if n := len(c.sources); n > 0 {
		e.File = c.sources[n-1]
	}
	return e
}
