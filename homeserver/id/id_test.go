package id_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/weft-im/weft/homeserver/id"
)

func TestUser(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 255-len("@:x.org"))
	for _, tc := range []struct {
		in        string
		want      id.User
		ok        bool
		compliant bool
	}{
		{"@alice:example.org", id.User{"alice", "example.org"}, true, true},
		{"@alice:example.org:8448", id.User{"alice", "example.org:8448"}, true, true},
		{"@alice:[::1]:8448", id.User{"alice", "[::1]:8448"}, true, true},
		{"@a.b_c=d-e/f+g:1.2.3.4", id.User{"a.b_c=d-e/f+g", "1.2.3.4"}, true, true},
		{"@ALICE!:x.org", id.User{"ALICE!", "x.org"}, true, true},
		{"@:x.org", id.User{"", "x.org"}, true, false},
		{"@ü\n:x.org", id.User{"ü\n", "x.org"}, true, false},
		{"@" + long + ":x.org", id.User{long, "x.org"}, true, true},
		{"@" + long + "a:x.org", id.User{}, false, false},
		{"alice:x.org", id.User{}, false, false},
		{"@alice", id.User{}, false, false},
		{"@alice:", id.User{}, false, false},
		{"@al\x00ice:x.org", id.User{}, false, false},
		{"@al\xffice:x.org", id.User{}, false, false},
		{"@a:x org", id.User{}, false, false},
		{"", id.User{}, false, false},
		{"@", id.User{}, false, false},
	} {
		got, err := id.ParseUser(tc.in)
		if (err == nil) != tc.ok || got != tc.want {
			t.Errorf("ParseUser(%q) = %+v, %v", tc.in, got, err)
			continue
		}
		if err != nil {
			if !errors.Is(err, id.ErrInvalid) {
				t.Errorf("ParseUser(%q): %v is not ErrInvalid", tc.in, err)
			}
			continue
		}
		if got.String() != tc.in || got.Compliant() != tc.compliant || id.ServerOf(tc.in) != got.Server {
			t.Errorf("%q: String %q, Compliant %t, ServerOf %q", tc.in, got.String(), got.Compliant(), id.ServerOf(tc.in))
		}
	}
}

func TestMakeUser(t *testing.T) {
	t.Parallel()
	if s, err := id.MakeUser("alice", "x.org"); err != nil || s != "@alice:x.org" {
		t.Errorf("%q %v", s, err)
	}
	for _, local := range []string{"", "Alice", "a b", "ü", "a:b", strings.Repeat("a", 250)} {
		if s, err := id.MakeUser(local, "x.org"); err == nil {
			t.Errorf("MakeUser(%q) = %q", local, s)
		}
	}
}

func TestRoomsAliasesEvents(t *testing.T) {
	t.Parallel()
	hash := "31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"
	for in, want := range map[string]bool{
		"!abc:x.org":                            true,
		"!ü b:x.org":                            true,
		"!" + hash:                              true,
		"!" + hash[1:]:                          false,
		"!" + hash[1:] + "+":                    false,
		"!abc":                                  false,
		"!:x.org":                               false,
		"#abc:x.org":                            false,
		"!a\x00:x.org":                          false,
		"!" + strings.Repeat("a", 300) + ":x.o": false,
		"":                                      false,
	} {
		if got := id.IsRoom(in); got != want {
			t.Errorf("IsRoom(%q) = %t", in, got)
		}
	}
	if r, err := id.ParseRoom("!" + hash); err != nil || r != (id.Room{Opaque: hash}) {
		t.Errorf("%+v %v", r, err)
	}
	for in, want := range map[string]bool{"#a:x.org": true, "#a/b ü:x.org:80": true, "#:x.org": false, "#a": false, "@a:x.org": false} {
		if got := id.IsAlias(in); got != want {
			t.Errorf("IsAlias(%q) = %t", in, got)
		}
	}
	for in, want := range map[string]bool{
		"$143273582443PhrSn:example.org": true, "$" + hash: true, "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk": true,
		"$": false, "": false, "x": false, "$a\xff": false, "$a:": false, "$" + strings.Repeat("a", 255): false,
	} {
		if got := id.IsEvent(in); got != want {
			t.Errorf("IsEvent(%q) = %t", in, got)
		}
	}
	for in, want := range map[string]bool{"GHTYAJCE": true, "a b": true, "": false, "a\nb": false, "\xff": false, strings.Repeat("a", 513): false} {
		if err := id.ValidateDevice(in); (err == nil) != want {
			t.Errorf("ValidateDevice(%q) = %v", in, err)
		}
	}
}

func TestServerName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]id.ServerName{
		// The specification's examples.
		"matrix.org":             {Host: "matrix.org"},
		"matrix.org:8888":        {Host: "matrix.org", Port: 8888},
		"1.2.3.4":                {Host: "1.2.3.4"},
		"1.2.3.4:1234":           {Host: "1.2.3.4", Port: 1234},
		"[1234:5678::abcd]":      {Host: "1234:5678::abcd"},
		"[1234:5678::abcd]:5678": {Host: "1234:5678::abcd", Port: 5678},
		"localhost":              {Host: "localhost"},
		"1.2.3":                  {Host: "1.2.3"},
	} {
		got, err := id.ParseServerName(in)
		isIP := got.IP.IsValid()
		got.IP = want.IP
		if err != nil || got != want {
			t.Errorf("ParseServerName(%q) = %+v, %v", in, got, err)
		}
		if wantIP := strings.Contains(in, "1.2.3.4") || in[0] == '['; isIP != wantIP {
			t.Errorf("ParseServerName(%q): IP %t", in, isIP)
		}
	}
	for _, in := range []string{
		"", ":80", "a:", "a:b", "a:123456", "a:99999", "a:-1", "a b", "a_b", "ü.org", "[::1", "[::1]80", "[1.2.3.4]", "[fe80::1%eth0]", "::1",
		"999.1.1.1", "a/b", "a@b", strings.Repeat("a", 256),
	} {
		if got, err := id.ParseServerName(in); err == nil {
			t.Errorf("ParseServerName(%q) = %+v", in, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"@a:b", "!a:b", "#a:b", "$a", "[::1]:80", "1.2.3.4", "@:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := id.ParseUser(s); err == nil && (u.String() != s || len(s) > id.MaxLength || !validServer(u.Server)) {
			t.Errorf("user %q: %+v", s, u)
		}
		if a, err := id.ParseAlias(s); err == nil && a.String() != s {
			t.Errorf("alias %q: %+v", s, a)
		}
		if r, err := id.ParseRoom(s); err == nil && r.Server != "" && "!"+r.Opaque+":"+r.Server != s {
			t.Errorf("room %q: %+v", s, r)
		}
		_ = id.ValidateEvent(s)
		_ = id.ValidateDevice(s)
		_, _ = id.ParseServerName(s)
	})
}

func validServer(s string) bool { return id.ValidateServerName(s) == nil }
