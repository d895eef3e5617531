package push

import (
	"strings"
	"unicode/utf8"
)

// glob is a glob-style pattern, matched without regard to case: "*" stands for any characters, "?" for one. Matching
// takes time in proportion to the text, and to the length of a part of the pattern with "?" in it: both pattern and text
// are in the hands of users.
//
// Spec: appendices, "Glob-style matching" (v1.19).
type glob struct {
	// parts, in lower case, stand in this order, with anything between them.
	parts []part
}

// part is a piece of a pattern without "*".
type part struct {
	text string
	// wild is set where there is a "?" in text.
	wild bool
}

// Bounds of patterns in bytes: of whole ones, and of parts with "?". Longer ones match nothing.
const (
	maxPattern = 2048
	maxWild    = 64
)

// newGlob returns nil for a pattern that is too long.
func newGlob(pattern string) *glob {
	if len(pattern) > maxPattern {
		return nil
	}
	g := &glob{}
	for p := range strings.SplitSeq(strings.ToLower(pattern), "*") {
		wild := strings.Contains(p, "?")
		if wild && len(p) > maxWild {
			return nil
		}
		g.parts = append(g.parts, part{p, wild})
	}
	return g
}

// at returns where the part ends in a text that it stands at the start of, -1 if it does not.
func (p part) at(text string) int {
	if !p.wild {
		if strings.HasPrefix(text, p.text) {
			return len(p.text)
		}
		return -1
	}
	i := 0
	for _, want := range p.text {
		got, size := utf8.DecodeRuneInString(text[i:])
		if size == 0 || want != '?' && want != got {
			return -1
		}
		i += size
	}
	return i
}

// find returns the first place of the part in a text, start -1 if there is none.
func (p part) find(text string) (start, end int) {
	if !p.wild {
		if start = strings.Index(text, p.text); start < 0 {
			return -1, -1
		}
		return start, start + len(p.text)
	}
	for i := range text {
		if n := p.at(text[i:]); n >= 0 {
			return i, i + n
		}
	}
	return -1, -1
}

// matchAll reports whether the pattern matches all of a text, which is in lower case.
func (g *glob) matchAll(lower string) bool {
	end := g.parts[0].at(lower)
	if end < 0 {
		return false
	}
	if len(g.parts) == 1 {
		return end == len(lower)
	}
	rest, ok := g.middle(lower[end:])
	if !ok {
		return false
	}
	last := g.parts[len(g.parts)-1]
	if !last.wild {
		return strings.HasSuffix(rest, last.text)
	}
	// As many characters from the end as the part has.
	at := len(rest)
	for range utf8.RuneCountInString(last.text) {
		_, size := utf8.DecodeLastRuneInString(rest[:at])
		at -= size
	}
	return last.at(rest[at:]) == len(rest)-at
}

// middle finds the parts between the first and the last, each as early as can be, and returns what is left of the text.
func (g *glob) middle(text string) (rest string, ok bool) {
	for _, p := range g.parts[1 : len(g.parts)-1] {
		_, end := p.find(text)
		if end < 0 {
			return "", false
		}
		text = text[end:]
	}
	return text, true
}

// matchWords reports whether the pattern matches a part of a text that begins and ends at word boundaries. The text is in
// lower case.
func (g *glob) matchWords(lower string) bool {
	first, last := g.parts[0], g.parts[len(g.parts)-1]
	if len(g.parts) == 1 {
		return first.text != "" && wordBegins(lower, first, func(end int) bool { return wordEnd(lower, end) })
	}
	// The earliest begin leaves most for the rest, as "*" may reach over words.
	at := 0
	if first.text != "" && !wordBegins(lower, first, func(end int) bool { at = end; return true }) {
		return false
	}
	rest, ok := g.middle(lower[at:])
	if !ok {
		return false
	}
	if last.text == "" {
		return true
	}
	at = len(lower) - len(rest)
	return each(lower, at, last, func(_, end int) bool { return wordEnd(lower, end) })
}

// each calls fn with the places of a part in a text from at on until it returns true, and reports whether it did.
func each(text string, at int, p part, fn func(start, end int) bool) bool {
	for at <= len(text) {
		start, end := p.find(text[at:])
		if start < 0 {
			return false
		}
		start, end = at+start, at+end
		if fn(start, end) {
			return true
		}
		_, size := utf8.DecodeRuneInString(text[start:])
		at = start + max(size, 1)
	}
	return false
}

// wordBegins is each for the places that begin at a word boundary.
func wordBegins(text string, p part, fn func(end int) bool) bool {
	return each(text, 0, p, func(start, end int) bool { return (start == 0 || !isWord(text[start-1])) && fn(end) })
}

func wordEnd(text string, at int) bool { return at == len(text) || !isWord(text[at]) }

// containsWords reports whether words stands in a text with no letter, digit or underscore before or behind it. Both are
// in lower case.
func containsWords(text, words string) bool {
	return words != "" && len(words) <= maxPattern &&
		wordBegins(text, part{text: words}, func(end int) bool { return wordEnd(text, end) })
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// tokenOf returns a token that each text has in which containsWords finds words: the longest, as it is likely to be rare.
// "" where there is none. Where cut is set, the last of words may go on.
func tokenOf(words string, cut bool) string {
	longest, left := "", len(words)
	eachToken(words, func(token string) bool {
		left -= len(token)
		if len(token) > len(longest) && !(cut && left == 0 && isWord(token[0])) {
			longest = token
		}
		return true
	})
	return longest
}

// eachToken calls fn with each run of letters, digits and underscores of a text, and with each other character, until it
// returns false. The tokens of what containsWords finds in a text are tokens of the text.
func eachToken(text string, fn func(token string) bool) {
	for i := 0; i < len(text); {
		end := i
		for end < len(text) && isWord(text[end]) {
			end++
		}
		if end == i {
			_, size := utf8.DecodeRuneInString(text[i:])
			end += size
		}
		if !fn(text[i:end]) {
			return
		}
		i = end
	}
}
