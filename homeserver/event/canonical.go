package event

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxNesting is how deep arrays and objects may nest, as deep as encoding/json reads. A 64 KiB event could nest deeper,
// but no other implementation would accept it.
const maxNesting = 10000

// maxSafeInteger is the greatest integer of canonical JSON; the smallest is its negative.
const maxSafeInteger = 1<<53 - 1

// Canonical returns the canonical JSON of a JSON value (appendices, "Canonical JSON"): keys sorted by code point, no
// white space, shortest escapes. Numbers are read generously, as room versions 1 to 5 need: -0 becomes 0, 1e10 becomes
// 10000000000, integers of any size and fractions stay. Invalid JSON, invalid UTF-8, lone surrogates and duplicate keys
// are errors (ErrBadJSON). It may return raw itself.
func Canonical(raw []byte) ([]byte, error) { return canonicalise(raw, false) }

// CanonicalStrict is Canonical for room versions 6 and later and for anything new: numbers must be integers in
// ±(2^53-1), without fraction, exponent or negative zero.
func CanonicalStrict(raw []byte) ([]byte, error) { return canonicalise(raw, true) }

// Canonical returns the canonical JSON of a value under the version's rules.
func (v *Version) Canonical(raw []byte) ([]byte, error) {
	return canonicalise(raw, v.StrictCanonicalJSON)
}

func canonicalise(raw []byte, strict bool) ([]byte, error) {
	if !utf8.Valid(raw) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrBadJSON)
	}
	if end := checkCanonical(raw, 0, strict, 0); end == len(raw) {
		return raw, nil
	}
	t := jsonTree{src: raw, strict: strict, nodes: make([]jsonNode, 0, 16+len(raw)/16)}
	root, err := t.parse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w at byte %d", ErrBadJSON, err, t.pos)
	}
	return t.append(make([]byte, 0, len(raw)), root), nil
}

// checkCanonical returns the index after the value at b[i] if it is canonical as it stands. Anything else, wrong or
// merely not canonical, gives -1: the tree finds out which. This is the path of nearly all traffic, since servers send
// events canonically.
func checkCanonical(b []byte, i int, strict bool, depth int) int {
	if i >= len(b) || depth > maxNesting {
		return -1
	}
	switch c := b[i]; {
	case c == '"':
		return checkString(b, i)
	case c == '{':
		i++
		if i < len(b) && b[i] == '}' {
			return i + 1
		}
		var last []byte
		for first := true; ; first = false {
			if i >= len(b) || b[i] != '"' {
				return -1
			}
			end := checkString(b, i)
			if end < 0 || end >= len(b) || b[end] != ':' {
				return -1
			}
			key := b[i+1 : end-1]
			if !first && string(last) >= string(key) {
				return -1
			}
			// Escapes sort by what they stand for, not as they are spelt.
			if slices.Contains(key, '\\') {
				return -1
			}
			last = key
			if i = checkCanonical(b, end+1, strict, depth+1); i < 0 || i >= len(b) {
				return -1
			}
			if b[i] == '}' {
				return i + 1
			}
			if b[i] != ',' {
				return -1
			}
			i++
		}
	case c == '[':
		i++
		if i < len(b) && b[i] == ']' {
			return i + 1
		}
		for {
			if i = checkCanonical(b, i, strict, depth+1); i < 0 || i >= len(b) {
				return -1
			}
			if b[i] == ']' {
				return i + 1
			}
			if b[i] != ',' {
				return -1
			}
			i++
		}
	case c == 't':
		return checkLiteral(b, i, "true")
	case c == 'f':
		return checkLiteral(b, i, "false")
	case c == 'n':
		return checkLiteral(b, i, "null")
	default:
		return checkInteger(b, i, strict)
	}
}

func checkLiteral(b []byte, i int, lit string) int {
	if len(b)-i < len(lit) || string(b[i:i+len(lit)]) != lit {
		return -1
	}
	return i + len(lit)
}

// checkString returns the index after the string at b[i] if it is spelt canonically, else -1.
func checkString(b []byte, i int) int {
	i = skipPlain(b, i+1)
	for i < len(b) {
		c := b[i]
		if plainByte[c] {
			i++
			continue
		}
		if c == '"' {
			return i + 1
		}
		if c != '\\' || i+1 >= len(b) {
			return -1
		}
		switch b[i+1] {
		case '"', '\\', 'b', 't', 'n', 'f', 'r':
			i += 2
		case 'u':
			if i+6 > len(b) || b[i+2] != '0' || b[i+3] != '0' || (b[i+4] != '0' && b[i+4] != '1') {
				return -1
			}
			lo := b[i+5]
			if !(lo >= '0' && lo <= '9' || lo >= 'a' && lo <= 'f') {
				return -1
			}
			if b[i+4] == '0' && (lo == '8' || lo == '9' || lo == 'a' || lo == 'c' || lo == 'd') {
				return -1
			}
			i += 6
		default:
			return -1
		}
		i = skipPlain(b, i)
	}
	return -1
}

// checkInteger returns the index after the integer at b[i] if it is canonical, else -1.
func checkInteger(b []byte, i int, strict bool) int {
	neg := b[i] == '-'
	if neg {
		i++
	}
	start := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	n := i - start
	if n == 0 || b[start] == '0' && (n > 1 || neg) {
		return -1
	}
	if i < len(b) && (b[i] == '.' || b[i] == 'e' || b[i] == 'E') {
		return -1
	}
	if strict && !safeInteger(b[start:i]) {
		return -1
	}
	return i
}

// safeInteger reports whether digits, without leading zeros, are at most 2^53-1.
func safeInteger(digits []byte) bool {
	const limit = "9007199254740991"
	return len(digits) < len(limit) || len(digits) == len(limit) && string(digits) <= limit
}

// jsonTree is JSON that has to be put in order: an index of the values, children linked to their siblings, so that
// sorting moves indices and the output is written once.
type jsonTree struct {
	src    []byte
	pos    int
	strict bool
	nodes  []jsonNode
	sorted []int32
}

type jsonNode struct {
	kind  byte   // '{', '[', or 0 for a scalar
	key   string // decoded
	lit   []byte // canonical scalar
	first int32  // first child, 0 if none
	next  int32  // next sibling, 0 if none
	count int32  // children
}

var (
	errSyntax    = errors.New("syntax error")
	errTrailing  = errors.New("data after the value")
	errNesting   = errors.New("nested too deeply")
	errDuplicate = errors.New("duplicate key")
	errControl   = errors.New("control character in string")
	errEscape    = errors.New("invalid escape")
	errSurrogate = errors.New("lone surrogate")
	errNumber    = errors.New("number is not an integer in ±(2^53-1)")
	errHuge      = errors.New("number out of range")
)

func (t *jsonTree) parse() (int32, error) {
	root, err := t.value(0)
	if err != nil {
		return 0, err
	}
	t.space()
	if t.pos != len(t.src) {
		return 0, errTrailing
	}
	return root, nil
}

func (t *jsonTree) space() {
	for t.pos < len(t.src) {
		switch t.src[t.pos] {
		case ' ', '\t', '\n', '\r':
			t.pos++
		default:
			return
		}
	}
}

func (t *jsonTree) peek() byte {
	t.space()
	if t.pos < len(t.src) {
		return t.src[t.pos]
	}
	return 0
}

func (t *jsonTree) add(n jsonNode) int32 {
	t.nodes = append(t.nodes, n)
	return int32(len(t.nodes) - 1)
}

func (t *jsonTree) value(depth int) (int32, error) {
	if depth > maxNesting {
		return 0, errNesting
	}
	switch c := t.peek(); c {
	case '{', '[':
		return t.container(c, depth)
	case '"':
		if end := checkString(t.src, t.pos); end > 0 {
			n := t.add(jsonNode{lit: t.src[t.pos:end]})
			t.pos = end
			return n, nil
		}
		s, err := t.string()
		if err != nil {
			return 0, err
		}
		return t.add(jsonNode{lit: appendQuoted(nil, s)}), nil
	case 't':
		return t.literal("true")
	case 'f':
		return t.literal("false")
	case 'n':
		return t.literal("null")
	default:
		lit, err := t.number()
		if err != nil {
			return 0, err
		}
		return t.add(jsonNode{lit: lit}), nil
	}
}

func (t *jsonTree) literal(lit string) (int32, error) {
	end := checkLiteral(t.src, t.pos, lit)
	if end < 0 {
		return 0, errSyntax
	}
	n := t.add(jsonNode{lit: t.src[t.pos:end]})
	t.pos = end
	return n, nil
}

func (t *jsonTree) container(open byte, depth int) (int32, error) {
	closing := open + 2 // '[' and ']', '{' and '}' are two apart
	t.pos++
	self := t.add(jsonNode{kind: open})
	if t.peek() == closing {
		t.pos++
		return self, nil
	}
	var last int32
	for {
		var key string
		if open == '{' {
			if t.peek() != '"' {
				return 0, errSyntax
			}
			var err error
			if key, err = t.string(); err != nil {
				return 0, err
			}
			if t.peek() != ':' {
				return 0, errSyntax
			}
			t.pos++
		}
		child, err := t.value(depth + 1)
		if err != nil {
			return 0, err
		}
		t.nodes[child].key = key
		if last == 0 {
			t.nodes[self].first = child
		} else {
			t.nodes[last].next = child
		}
		last = child
		t.nodes[self].count++
		switch t.peek() {
		case ',':
			t.pos++
		case closing:
			t.pos++
			if open == '{' {
				return self, t.sort(self)
			}
			return self, nil
		default:
			return 0, errSyntax
		}
	}
}

// sort links the members of an object in the order of their keys. Go compares strings by their UTF-8 bytes, which is the
// order of code points.
func (t *jsonTree) sort(object int32) error {
	t.sorted = t.sorted[:0]
	inOrder, last := true, ""
	for c := t.nodes[object].first; c != 0; c = t.nodes[c].next {
		key := t.nodes[c].key
		inOrder = inOrder && (len(t.sorted) == 0 || last < key)
		last = key
		t.sorted = append(t.sorted, c)
	}
	if inOrder {
		return nil
	}
	slices.SortFunc(t.sorted, func(a, b int32) int { return strings.Compare(t.nodes[a].key, t.nodes[b].key) })
	for i, c := range t.sorted {
		t.nodes[c].next = 0
		if i == 0 {
			t.nodes[object].first = c
			continue
		}
		prev := t.sorted[i-1]
		if t.nodes[prev].key == t.nodes[c].key {
			return fmt.Errorf("%w %q", errDuplicate, t.nodes[c].key)
		}
		t.nodes[prev].next = c
	}
	return nil
}

// string reads and decodes the string at pos. It may share memory with src.
func (t *jsonTree) string() (string, error) {
	start := t.pos + 1
	escaped := false
	for i := start; i < len(t.src); i++ {
		c := t.src[i]
		if plainByte[c] {
			continue
		}
		if c == '"' {
			t.pos = i + 1
			if !escaped {
				return unsafeString(t.src[start:i]), nil
			}
			return string(appendUnescaped(nil, t.src[start:i])), nil
		}
		if c != '\\' {
			t.pos = i
			return "", errControl
		}
		escaped = true
		n, err := checkEscape(t.src[i:])
		if err != nil {
			t.pos = i
			return "", err
		}
		i += n - 1
	}
	return "", errSyntax
}

// checkEscape returns the length of the escape, or pair of surrogate escapes, at the start of s.
func checkEscape(s []byte) (int, error) {
	if len(s) < 2 {
		return 0, errEscape
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 't', 'n', 'f', 'r':
		return 2, nil
	case 'u':
	default:
		return 0, errEscape
	}
	r := hex4(s, 2)
	if r < 0 {
		return 0, errEscape
	}
	if !utf16.IsSurrogate(r) {
		return 6, nil
	}
	if len(s) < 12 || s[6] != '\\' || s[7] != 'u' {
		return 0, errSurrogate
	}
	if utf16.DecodeRune(r, hex4(s, 8)) == utf8.RuneError {
		return 0, errSurrogate
	}
	return 12, nil
}

// number reads a number and returns its canonical spelling.
func (t *jsonTree) number() ([]byte, error) {
	b, start, i := t.src, t.pos, t.pos
	digits := func() int {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i - from
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	first := i
	n := digits()
	if n == 0 || n > 1 && b[first] == '0' {
		return nil, errSyntax
	}
	intEnd := i
	fraction, exponent := false, false
	if i < len(b) && b[i] == '.' {
		i++
		fraction = true
		if digits() == 0 {
			return nil, errSyntax
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		exponent = true
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if digits() == 0 {
			return nil, errSyntax
		}
	}
	lit := b[start:i]
	if !fraction && !exponent {
		if string(lit) == "-0" {
			if t.strict {
				return nil, errNumber
			}
			lit = b[first:i]
		}
		if t.strict && !safeInteger(b[first:intEnd]) {
			return nil, errNumber
		}
		t.pos = i
		return lit, nil
	}
	if t.strict {
		return nil, errNumber
	}
	t.pos = i
	return looseNumber(lit, fraction)
}

// looseNumber spells a number with a fraction or exponent for room versions 1 to 5. The specification's example makes
// 1e10 an integer. For what cannot be one it says nothing: such numbers are spelt as Python does, since that is what the
// servers that sent these events hashed.
func looseNumber(lit []byte, fraction bool) ([]byte, error) {
	f, err := strconv.ParseFloat(string(lit), 64)
	if err != nil {
		return nil, errHuge
	}
	if !fraction && f >= -maxSafeInteger && f <= maxSafeInteger && f == float64(int64(f)) {
		return strconv.AppendInt(nil, int64(f), 10), nil
	}
	out := strconv.AppendFloat(nil, f, 'e', -1, 64)
	exp, err := strconv.Atoi(string(out[strings.IndexByte(string(out), 'e')+1:]))
	if err == nil && exp >= -4 && exp < 16 {
		out = strconv.AppendFloat(out[:0], f, 'f', -1, 64)
		if !slices.Contains(out, '.') {
			out = append(out, '.', '0')
		}
	}
	return out, nil
}

// append writes the tree below a node.
func (t *jsonTree) append(dst []byte, node int32) []byte {
	n := &t.nodes[node]
	if n.kind == 0 {
		return append(dst, n.lit...)
	}
	dst = append(dst, n.kind)
	for c := n.first; c != 0; c = t.nodes[c].next {
		if c != n.first {
			dst = append(dst, ',')
		}
		if n.kind == '{' {
			dst = append(appendQuoted(dst, t.nodes[c].key), ':')
		}
		dst = t.append(dst, c)
	}
	return append(dst, n.kind+2)
}
