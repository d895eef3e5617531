package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Error is one wrong value. Its text is one line: file, line, option, what was expected.
type Error struct {
	Position
	// Option is the option's path ("redis.port").
	Option string
	// Message says what was expected.
	Message string
	// Cause is what the option's value has led to, nil where the value itself is wrong.
	Cause error
}

// Unwrap returns Cause.
func (e *Error) Unwrap() error { return e.Cause }

// Error returns "homeserver.yaml:12: redis.port: expected an integer".
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			b.WriteByte(':')
			b.WriteString(strconv.Itoa(e.Line))
		}
		b.WriteString(": ")
	}
	if e.Option != "" {
		b.WriteString(e.Option)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// decoder fills fields from the syntax trees of files. It goes on after an error, so that all are found at once.
type decoder struct {
	file     string
	anchors  map[string]ast.Node
	cfg      *Config
	errs     []error
	noUnused bool // inside an option nothing serves, single keys need no warning
	numbers  bool // the field is a string that YAML may write as a number
	depth    int
	values   int
}

// Bounds on what aliases can make of a small file, one that holds itself included.
const (
	maxDepth  = 50
	maxValues = 1 << 17
)

// enter counts a value. It returns false, after an error, where a file holds too many or too deep ones.
func (d *decoder) enter(option string, n ast.Node) bool {
	d.depth++
	d.values++
	if d.depth > maxDepth || d.values == maxValues {
		d.fail(option, n, "too many values, or too deeply nested")
	}
	return d.depth <= maxDepth && d.values < maxValues
}

// defaulter is a type whose zero value is not its default.
type defaulter interface{ setDefaults() }

// strict is a type whose unknown keys are errors.
type strict interface{ unknownKey(name string) string }

func (d *decoder) fail(option string, n ast.Node, format string, args ...any) {
	d.errs = append(d.errs, &Error{Position: d.at(n), Option: option, Message: fmt.Sprintf(format, args...)})
}

func (d *decoder) warn(option string, n ast.Node, message string) {
	d.cfg.warnings = append(d.cfg.warnings, Warning{d.at(n), option, message})
}

func (d *decoder) at(n ast.Node) Position {
	p := Position{File: d.file}
	if n != nil {
		if t := n.GetToken(); t != nil && t.Position != nil {
			p.Line = t.Position.Line
		}
	}
	return p
}

// resolve follows tags, anchors and aliases.
func (d *decoder) resolve(n ast.Node) ast.Node {
	for range 100 {
		switch v := n.(type) {
		case *ast.TagNode:
			n = v.Value
		case *ast.AnchorNode:
			d.anchors[v.Name.GetToken().Value] = v.Value
			n = v.Value
		case *ast.AliasNode:
			target, ok := d.anchors[v.Value.GetToken().Value]
			if !ok {
				d.fail("", n, "alias *%s has no anchor", v.Value.GetToken().Value)
				return nil
			}
			n = target
		default:
			return n
		}
	}
	return nil
}

// pairs returns the keys and values of a mapping, merge keys (<<) first so that what stands in the mapping itself wins.
func (d *decoder) pairs(n ast.Node, depth int) (out []pair, ok bool) {
	var values []*ast.MappingValueNode
	switch v := d.resolve(n).(type) {
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	default:
		return nil, false
	}
	for _, mv := range values {
		if _, merge := mv.Key.(*ast.MergeKeyNode); merge {
			if depth < 10 {
				merged, _ := d.pairs(mv.Value, depth+1)
				out = append(merged, out...)
			}
			continue
		}
		out = append(out, pair{key: keyText(mv.Key), node: mv.Key, value: mv.Value})
	}
	return out, true
}

type pair struct {
	key   string
	node  ast.Node
	value ast.Node
}

func keyText(k ast.MapKeyNode) string {
	switch v := k.(type) {
	case *ast.StringNode:
		return v.Value
	case *ast.MappingKeyNode:
		return v.Value.GetToken().Value
	}
	return k.GetToken().Value
}

// value decodes n into v. option is v's path, for messages.
func (d *decoder) value(option string, n ast.Node, v reflect.Value) {
	defer func() { d.depth-- }()
	if !d.enter(option, n) {
		return
	}
	d.cfg.position[option] = d.at(n)
	n = d.resolve(n)
	if isNull(n) {
		return
	}
	switch v.Interface().(type) {
	case time.Duration:
		d.duration(option, n, v)
		return
	case Size:
		d.size(option, n, v)
		return
	case FileMode:
		text := scalarText(n)
		mode, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
		if err != nil || mode > 0o777 {
			d.fail(option, n, "expected a permission in octal like 660, got %s", describe(n))
			return
		}
		v.SetUint(mode)
		return
	case Names:
		if s, ok := stringOf(n); ok {
			v.Set(reflect.ValueOf(Names{s}))
			return
		}
	case Secret:
		if s, ok := stringOf(n); ok {
			v.SetString(s)
		} else if t := scalarText(n); t != "" { // a password of digits
			v.SetString(t)
		} else {
			d.fail(option, n, "expected a string")
		}
		return
	case StringOrInt:
		if t := scalarText(n); t != "" {
			v.SetString(t)
		} else {
			d.fail(option, n, "expected a string or a number, got %s", describe(n))
		}
		return
	case PresenceMode:
		d.mode(option, n, v, string(PresenceUntracked))
		return
	case PasswordMode:
		d.mode(option, n, v, string(PasswordOnlyReauth))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		setDefaults(p)
		d.value(option, n, p.Elem())
		v.Set(p)
	case reflect.Struct:
		d.structure(option, n, v)
	case reflect.Slice:
		d.slice(option, n, v)
	case reflect.Map:
		d.mapping(option, n, v)
	case reflect.Interface:
		if x := d.plain(option, n); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	case reflect.String:
		if s, ok := stringOf(n); ok {
			v.SetString(s)
		} else if t := scalarText(n); d.numbers && t != "" {
			v.SetString(t)
		} else {
			d.fail(option, n, "expected a string, got %s", describe(n))
		}
	case reflect.Bool:
		if b, ok := boolOf(n); ok {
			v.SetBool(b)
		} else {
			d.fail(option, n, "expected true or false, got %s", describe(n))
		}
	case reflect.Int, reflect.Int64:
		i, ok := intOf(n)
		if !ok || v.OverflowInt(i) {
			d.fail(option, n, "expected an integer, got %s", describe(n))
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		switch x := n.(type) {
		case *ast.FloatNode:
			v.SetFloat(x.Value)
		case *ast.IntegerNode:
			i, _ := intOf(n)
			v.SetFloat(float64(i))
		default:
			d.fail(option, n, "expected a number, got %s", describe(n))
		}
	default:
		d.fail(option, n, "cannot be read into %s", v.Type()) // a field of a type nobody has taught the decoder
	}
}

// structure decodes a mapping into a struct.
func (d *decoder) structure(option string, n ast.Node, v reflect.Value) {
	pairs, ok := d.pairs(n, 0)
	if !ok {
		d.fail(option, n, "expected a mapping, got %s", describe(n))
		return
	}
	fields := fieldsOf(v.Type())
	for _, p := range pairs {
		d.field(join(option, p.key), p, fields, v)
	}
}

// field decodes one key of a mapping.
func (d *decoder) field(option string, p pair, fields map[string]reflect.StructField, v reflect.Value) {
	f, known := fields[p.key]
	if !known {
		if s, ok := v.Addr().Interface().(strict); ok {
			d.fail(option, p.node, "%s", s.unknownKey(p.key))
			return
		}
		d.warn(option, p.node, "unknown option")
		return
	}
	outer := d.noUnused
	if !outer && !isNull(d.resolve(p.value)) {
		if why := f.Tag.Get("unused"); why != "" {
			d.warn(option, p.node, "has no effect: "+why)
			d.noUnused = true
		} else if f.Tag.Get("later") != "" {
			d.warn(option, p.node, "not yet served")
		}
	}
	d.numbers = f.Tag.Get("number") != ""
	d.value(option, p.value, v.FieldByIndex(f.Index))
	d.noUnused, d.numbers = outer, false
}

func (d *decoder) slice(option string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(option, n, "expected a list, got %s", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		e := out.Index(i)
		setDefaults(e.Addr())
		if isNull(d.resolve(item)) {
			d.fail(option+"["+strconv.Itoa(i)+"]", item, "is empty")
			continue
		}
		d.value(option+"["+strconv.Itoa(i)+"]", item, e)
	}
	v.Set(out)
}

func (d *decoder) mapping(option string, n ast.Node, v reflect.Value) {
	pairs, ok := d.pairs(n, 0)
	if !ok {
		d.fail(option, n, "expected a mapping, got %s", describe(n))
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(pairs))
	for _, p := range pairs {
		e := reflect.New(v.Type().Elem())
		setDefaults(e)
		d.value(join(option, p.key), p.value, e.Elem())
		out.SetMapIndex(reflect.ValueOf(p.key), e.Elem())
	}
	v.Set(out)
}

func (d *decoder) duration(option string, n ast.Node, v reflect.Value) {
	if i, ok := intOf(n); ok {
		v.SetInt(i * int64(time.Millisecond))
	} else if dur, ok := parseDuration(scalarText(n)); ok {
		v.SetInt(int64(dur))
	} else {
		d.fail(option, n, "expected a duration like 30s, 5m, 2h, 1d, 1w, 1y or a number of milliseconds, got %s", describe(n))
	}
}

func (d *decoder) size(option string, n ast.Node, v reflect.Value) {
	if i, ok := intOf(n); ok {
		v.SetInt(i)
	} else if size, ok := parseSize(scalarText(n)); ok {
		v.SetInt(size)
	} else {
		d.fail(option, n, "expected a size like 512K, 50M, 1G or a number of bytes, got %s", describe(n))
	}
}

// mode decodes true, false, or one word.
func (d *decoder) mode(option string, n ast.Node, v reflect.Value, word string) {
	if b, ok := boolOf(n); ok {
		v.SetString(strconv.FormatBool(b))
	} else if s, _ := stringOf(n); s == word {
		v.SetString(s)
	} else {
		d.fail(option, n, "expected true, false or %q, got %s", word, describe(n))
	}
}

// plain decodes a value nothing is known of, as encoding/json would.
func (d *decoder) plain(option string, n ast.Node) any {
	defer func() { d.depth-- }()
	if !d.enter(option, n) {
		return nil
	}
	n = d.resolve(n)
	switch v := n.(type) {
	case nil, *ast.NullNode:
		return nil
	case *ast.SequenceNode:
		out := make([]any, len(v.Values))
		for i, item := range v.Values {
			out[i] = d.plain(option, item)
		}
		return out
	case *ast.MappingNode, *ast.MappingValueNode:
		out := map[string]any{}
		pairs, _ := d.pairs(n, 0)
		for _, p := range pairs {
			out[p.key] = d.plain(option, p.value)
		}
		return out
	case *ast.FloatNode:
		return v.Value
	}
	if b, ok := boolOf(n); ok {
		return b
	}
	if i, ok := intOf(n); ok {
		return i
	}
	s, _ := stringOf(n)
	return s
}

// fieldsOf returns the fields of a struct by their option names, those of embedded structs included.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	out := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		if name := f.Tag.Get("yaml"); name != "" {
			out[name] = f
		}
	}
	return out
}

func setDefaults(p reflect.Value) {
	if d, ok := p.Interface().(defaulter); ok {
		d.setDefaults()
	}
}

func join(option, key string) string {
	if option == "" {
		return key
	}
	return option + "." + key
}

func isNull(n ast.Node) bool {
	if n == nil {
		return true
	}
	_, ok := n.(*ast.NullNode)
	return ok
}

func stringOf(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		return v.Value.Value, true
	}
	return "", false
}

// boolOf takes YAML 1.1's words too, which is the YAML Synapse reads.
func boolOf(n ast.Node) (value, ok bool) {
	switch v := n.(type) {
	case *ast.BoolNode:
		return v.Value, true
	case *ast.StringNode:
		if v.Token.Type != token.StringType { // quoted
			return false, false
		}
		switch strings.ToLower(v.Value) {
		case "yes", "on", "true":
			return true, true
		case "no", "off", "false":
			return false, true
		}
	}
	return false, false
}

func intOf(n ast.Node) (int64, bool) {
	v, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	switch x := v.Value.(type) {
	case int64:
		return x, true
	case uint64:
		return int64(x), x <= math.MaxInt64
	}
	return 0, false
}

// scalarText returns a string or a number as it is written.
func scalarText(n ast.Node) string {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value
	case *ast.LiteralNode:
		return v.Value.Value
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value
	}
	return ""
}

// describe says what stands in the file, for "got ...".
func describe(n ast.Node) string {
	switch v := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return strconv.FormatBool(v.Value)
	}
	text := scalarText(n)
	if len(text) > 40 {
		text = text[:40] + "..."
	}
	if _, ok := stringOf(n); ok {
		return strconv.Quote(text)
	}
	return text
}

// parseDuration reads Synapse's durations: a number and s, m, h, d, w or y, or a number of milliseconds.
func parseDuration(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	units := map[byte]time.Duration{
		's': time.Second, 'm': time.Minute, 'h': time.Hour,
		'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour, 'y': 365 * 24 * time.Hour,
	}
	unit, ok := units[s[len(s)-1]]
	if ok {
		s = s[:len(s)-1]
	} else {
		unit = time.Millisecond
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) || n < math.MinInt64/int64(unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// parseSize reads Synapse's sizes: a number and K, M, G or T, or a number of bytes.
func parseSize(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	unit := int64(1)
	switch s[len(s)-1] {
	case 'K', 'k':
		unit = 1 << 10
	case 'M', 'm':
		unit = 1 << 20
	case 'G', 'g':
		unit = 1 << 30
	case 'T', 't':
		unit = 1 << 40
	}
	if unit > 1 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n > math.MaxInt64/unit || n < 0 {
		return 0, false
	}
	return n * unit, true
}
