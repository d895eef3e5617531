package userdir

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

const (
	// maxNameRunes, maxWords and maxWordRunes bound what is read of a name: other servers may send long ones.
	maxNameRunes = 256
	maxWords     = 100
	maxWordRunes = 64
)

// words splits a text into the words it is found by: lower case, without accents and compatibility forms, at everything
// that is no letter or digit. Scripts that are written without spaces give one word a character, as do pictures.
func words(text string) []string {
	var out []string
	var word []rune
	end := func() {
		if len(word) > 0 {
			out = append(out, string(word[:min(len(word), maxWordRunes)]))
			word = word[:0]
		}
	}
	n := 0
	for _, r := range norm.NFKD.String(text) {
		if n++; n > 4*maxNameRunes || len(out) >= maxWords {
			break
		}
		switch {
		case unicode.Is(unicode.Mn, r):
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar, unicode.So):
			end()
			out = append(out, string(r))
		case unicode.IsLetter(r), unicode.IsNumber(r), unicode.IsMark(r):
			word = append(word, unicode.ToLower(r))
		default:
			end()
		}
	}
	end()
	return out
}

// vector returns the words of a user as the text of a tsvector.
func vector(userID, displayName string) string {
	var b strings.Builder
	put := func(text string, weight byte) {
		for _, w := range words(text) {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString("'" + w + "':1")
			b.WriteByte(weight)
		}
	}
	localpart, server, _ := strings.Cut(userID, ":")
	put(localpart, 'A')
	put(displayName, 'B')
	put(server, 'D')
	return b.String()
}

// query returns the words of a search as the text of a tsquery: all must be there, suffix after each. It is "" where the
// text has no words.
func query(text, suffix string) string {
	list := words(text)
	for i, w := range list {
		list[i] = "'" + w + "'" + suffix
	}
	return strings.Join(list, " & ")
}
