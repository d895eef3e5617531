package event

import (
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// Everything in this file reads JSON that is already known to be canonical (or that the database says is): no white
// space, one spelling for each string. Damaged input gives a negative index or false, never a panic.

// plainByte marks the bytes that need no attention inside a string: everything but quote, backslash and control
// characters.
var plainByte = func() (t [256]bool) {
	for i := range t {
		t[i] = i >= 0x20 && i != '"' && i != '\\'
	}
	return t
}()

// skipPlain returns the index of the first byte at or after b[i] that is not plain, or one near before it: it looks at
// eight bytes at a time.
func skipPlain(b []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, escape := w^(ones*'"'), w^(ones*'\\')
		// A byte of a difference is 0 where w has the character; a byte of w is below 0x20 where it is a control one.
		if ((quote-ones)&^quote|(escape-ones)&^escape|(w-ones*0x20)&^w)&highs != 0 {
			break
		}
		i += 8
	}
	return i
}

// skipString returns the index after the string whose opening quote is at b[i], or -1.
func skipString(b []byte, i int) int {
	i = skipPlain(b, i+1)
	for i < len(b) {
		c := b[i]
		if plainByte[c] {
			i++
			continue
		}
		switch c {
		case '"':
			return i + 1
		case '\\':
			i = skipPlain(b, i+2)
		default:
			return -1
		}
	}
	return -1
}

// skipValue returns the index after the value that starts at b[i], or -1.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				if i = skipString(b, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
				if depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	start := i
	for i < len(b) {
		switch b[i] {
		case ',', '}', ']':
			if i == start {
				return -1
			}
			return i
		}
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// objectIter walks the members of an object.
type objectIter struct {
	b        []byte
	i        int
	key, val []byte // key without quotes and with escapes; both share memory with b
	valStart int
	memStart int  // where the member begins, at the quote of its key
	known    span // a value whose end need not be searched
	bad      bool
}

func iterObject(b []byte) objectIter {
	if len(b) < 2 || b[0] != '{' {
		return objectIter{bad: true}
	}
	return objectIter{b: b, i: 1}
}

// next moves to the next member, and reports whether there is one.
func (it *objectIter) next() bool {
	b, i := it.b, it.i
	if it.bad || i >= len(b) || b[i] == '}' {
		return false
	}
	if b[i] == ',' {
		i++
	}
	if i >= len(b) || b[i] != '"' {
		it.bad = true
		return false
	}
	it.memStart = i
	end := skipString(b, i)
	if end < 0 || end >= len(b) || b[end] != ':' {
		it.bad = true
		return false
	}
	it.key = b[i+1 : end-1]
	it.valStart = end + 1
	if it.valStart == int(it.known.start) {
		it.i = int(it.known.end)
	} else if it.i = skipValue(b, end+1); it.i < 0 {
		it.bad = true
		return false
	}
	it.val = b[end+1 : it.i]
	return true
}

// arrayIter walks the elements of an array.
type arrayIter struct {
	b   []byte
	i   int
	val []byte
	bad bool
}

func iterArray(b []byte) arrayIter {
	if len(b) < 2 || b[0] != '[' {
		return arrayIter{bad: true}
	}
	return arrayIter{b: b, i: 1}
}

func (it *arrayIter) next() bool {
	b, i := it.b, it.i
	if it.bad || i >= len(b) || b[i] == ']' {
		return false
	}
	if b[i] == ',' {
		i++
	}
	end := skipValue(b, i)
	if end < 0 {
		it.bad = true
		return false
	}
	it.val, it.i = b[i:end], end
	return true
}

// lookup returns the raw value of a member of an object, nil if it is missing or b is not an object. The key must have
// no escapes.
func lookup(b []byte, key string) []byte {
	for it := iterObject(b); it.next(); {
		if string(it.key) == key {
			return it.val
		}
	}
	return nil
}

// lookupString returns a string member of an object, and whether it is there and a string.
func lookupString(b []byte, key string) (string, bool) { return decodeString(lookup(b, key)) }

// isString, isObject and isArray look at the first byte of a raw value.
func isString(raw []byte) bool { return len(raw) > 1 && raw[0] == '"' }
func isObject(raw []byte) bool { return len(raw) > 1 && raw[0] == '{' }
func isArray(raw []byte) bool  { return len(raw) > 1 && raw[0] == '[' }

// decodeString decodes a raw string value; false if raw is no string.
func decodeString(raw []byte) (string, bool) {
	if !isString(raw) {
		return "", false
	}
	return unescape(raw[1 : len(raw)-1]), true
}

// unescape decodes the inside of a canonical string.
func unescape(s []byte) string {
	for _, c := range s {
		if c == '\\' {
			b := appendUnescaped(make([]byte, 0, len(s)), s)
			return unsafe.String(unsafe.SliceData(b), len(b))
		}
	}
	return string(s)
}

// appendUnescaped appends the inside of a valid JSON string, decoded. Lone surrogates cannot be in a valid event; they
// become U+FFFD.
func appendUnescaped(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '\\' || i+1 >= len(s) {
			dst = append(dst, c)
			continue
		}
		i++
		switch s[i] {
		case 'b':
			dst = append(dst, '\b')
		case 't':
			dst = append(dst, '\t')
		case 'n':
			dst = append(dst, '\n')
		case 'f':
			dst = append(dst, '\f')
		case 'r':
			dst = append(dst, '\r')
		case 'u':
			r := hex4(s, i+1)
			i += 4
			if utf16.IsSurrogate(r) {
				r2 := rune(-1)
				if i+2 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					r2 = hex4(s, i+3)
				}
				if r = utf16.DecodeRune(r, r2); r != utf8.RuneError {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, s[i])
		}
	}
	return dst
}

// hex4 reads four hexadecimal digits, -1 if they are not there.
func hex4(s []byte, i int) rune {
	if i+4 > len(s) {
		return -1
	}
	var r rune
	for _, c := range s[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// appendQuoted appends a string as canonical JSON. s must be valid UTF-8.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if plainByte[c] {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			const hex = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}
