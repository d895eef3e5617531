package push

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// expression is a pattern as a regular expression, which knows nothing of glob's shortcuts.
func expression(t *testing.T, before, pattern, behind string) *regexp.Regexp {
	t.Helper()
	var b strings.Builder
	for _, r := range strings.ToLower(pattern) {
		switch r {
		case '*':
			b.WriteString(`(?:.|\n)*`)
		case '?':
			b.WriteString(`(?:.|\n)`)
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	re, err := regexp.Compile(before + b.String() + behind)
	if err != nil {
		t.Skip(err)
	}
	return re
}

func compareGlob(t *testing.T, pattern, text string) {
	t.Helper()
	g := newGlob(pattern)
	if g == nil || !utf8.ValidString(pattern) || !utf8.ValidString(text) {
		return
	}
	lower := strings.ToLower(text)
	if got, want := g.matchAll(lower), expression(t, `\A`, pattern, `\z`).MatchString(lower); got != want {
		t.Errorf("all of %q matches %q is %t, want %t", text, pattern, got, want)
	}
	if pattern == "" {
		return
	}
	want := expression(t, `(?:\A|[^A-Za-z0-9_])`, pattern, `(?:[^A-Za-z0-9_]|\z)`).MatchString(lower)
	if got := g.matchWords(lower); got != want {
		t.Errorf("words of %q match %q is %t, want %t", text, pattern, got, want)
	}
	if token := g.token(); token != "" && want {
		found := false
		eachToken(lower, func(t string) bool { found = found || t == token; return !found })
		if !found {
			t.Errorf("%q is found in %q, but not its token %q", pattern, text, token)
		}
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	patterns := []string{"", "a", "*", "**", "?", "a*", "*a", "a*b", "a?b", "a*?b*", "*a*a*", "ab", "ä?", "?*?", "a b", "@a", "a-*-b", "*ab?", "_a", "*?a", "a*a*a"}
	texts := []string{"", "a", "b", "ab", "aab", "a b", "axb", "a a", "x a", "a x", "xa", "ax", "äß", "a\nb", "@a", "a-x-b", "aba", "ab ba", "_a", "a_", "x-a-b", "ababab", "a aa aaa", "Ä"}
	for _, p := range patterns {
		for _, text := range texts {
			compareGlob(t, p, text)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a*b?c", "an ABBc of a")
	f.Add("*é?", "Café!")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 60 || len(text) > 200 {
			return
		}
		compareGlob(t, pattern, text)
	})
}

// FuzzCondition feeds conditions as clients may send them.
func FuzzCondition(f *testing.F) {
	f.Add(`{"kind":"event_match","key":"content.body","pattern":"a*"}`)
	f.Add(`{"kind":"event_property_is","key":"content.a\\.b.","value":1e400}`)
	f.Add(`{"kind":"room_member_count","is":"<=99999999999999999999"}`)
	e := made(f, "m.room.message", message("a text"))
	room := inRoom(f, 3)
	who := newPerson(anna, "Anna")
	f.Fuzz(func(_ *testing.T, condition string) {
		p := single(condition)
		p.run(newFacts(e, room), &who)
		p.shared().run(newFacts(e, room), nil)
	})
}
