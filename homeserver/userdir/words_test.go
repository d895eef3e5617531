package userdir

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                       nil,
		" !?'\\:&|<->*":          nil,
		"Alice Cooper":           {"alice", "cooper"},
		"@user-1-alice":          {"user", "1", "alice"},
		"José ÅNGSTRÖM":          {"jose", "angstrom"},
		"O'Neill (Bob)":          {"o", "neill", "bob"},
		"田中さん":                   {"田", "中", "さ", "ん"},
		"ﬁle①":                   {"file1"},
		"🌸 Sakura":               {"🌸", "sakura"},
		"Straße":                 {"straße"},
		strings.Repeat("x", 300): {strings.Repeat("x", maxWordRunes)},
	} {
		if diff := cmp.Diff(want, words(text)); diff != "" {
			t.Errorf("words of %q: %s", text, diff)
		}
	}
	if n := len(words(strings.Repeat("a ", 10_000))); n != maxWords {
		t.Errorf("a long name has %d words", n)
	}
	if got, want := vector("@al.ice:b.org:8448", "Al Smith"), "'al':1A 'ice':1A 'al':1B 'smith':1B 'b':1D 'org':1D '8448':1D"; got != want {
		t.Errorf("vector %s, want %s", got, want)
	}
	if got, want := query("Al sm", ":*"), "'al':* & 'sm':*"; got != want {
		t.Errorf("query %s, want %s", got, want)
	}
}
