package clientapi_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// found searches the directory and returns the localparts.
func (p *people) found(process, token, term string, limit int) (names []string, limited bool) {
	p.t.Helper()
	got := p.must(process, token, "POST", "/v3/user_directory/search", object(p.t, "search_term", term, "limit", limit))
	for _, u := range got.Get("results").Array() {
		localpart, _, _ := strings.Cut(u.Get("user_id").Str[1:], ":")
		names = append(names, localpart)
	}
	return names, got.Get("limited").Bool()
}

func TestUserDirectory(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob, carol, dave := p.register("alice"), p.register("bob"), p.register("carol"), p.register("dave")
	p.must("worker1", alice, "PUT", "/v3/profile/@alice:test/displayname", `{"displayname":"Ália Cooper"}`)
	p.must("worker1", bob, "PUT", "/v3/profile/@bob:test/displayname", `{"displayname":"Alias"}`)
	private := p.must("worker1", bob, "POST", "/v3/createRoom", `{"preset":"private_chat","invite":["@dave:test"]}`).Get("room_id").Str
	p.must("worker1", dave, "POST", "/v3/join/"+url.PathEscape(private), `{}`)
	p.must("worker1", bob, "PUT", "/v3/rooms/"+url.PathEscape(private)+"/state/m.room.member/@bob:test", `{"membership":"join","displayname":"Secret"}`)
	p.room(alice)
	for _, process := range processes {
		for _, c := range []struct {
			token, term string
			limit       int
			want        []string
			limited     bool
		}{
			{carol, "ali", 10, []string{"alice"}, false},       // a public room; bob's is private
			{dave, "ali", 10, []string{"alice", "bob"}, false}, // bob shares a room
			{dave, "ALIA", 10, []string{"alice", "bob"}, false},
			{dave, "ali", 1, []string{"alice"}, true},
			{dave, "@bob:test", 10, []string{"bob"}, false},
			{dave, "bo", 0, []string{"bob"}, false},
			{dave, "cooper alia", 10, []string{"alice"}, false},
			{dave, "ooper", 10, nil, false},
			{dave, "secret", 10, nil, false},
			{dave, "dave", 10, nil, false}, // not oneself
			{dave, "'; DROP & | ! :* \\ \"", 10, nil, false},
			{dave, "", 10, nil, false},
		} {
			if got, limited := p.found(process, c.token, c.term, c.limit); !slices.Equal(got, c.want) || limited != c.limited {
				t.Errorf("%s: search for %q found %v (limited %v), want %v", process, c.term, got, limited, c.want)
			}
		}
		for _, c := range []struct {
			token, body string
			status      int
			code        string
		}{
			{"", `{"search_term":"x"}`, http.StatusUnauthorized, "M_MISSING_TOKEN"},
			{alice, `{}`, http.StatusBadRequest, "M_MISSING_PARAM"},
			{alice, `{"search_term":5}`, http.StatusBadRequest, "M_BAD_JSON"},
			{alice, `{"search_term":"x","limit":"many"}`, http.StatusBadRequest, "M_BAD_JSON"},
			{alice, `{"search_term":"x","limit":1.5}`, http.StatusBadRequest, "M_BAD_JSON"},
			{alice, `{"search_term":"x","limit":-1}`, http.StatusBadRequest, "M_INVALID_PARAM"},
			{alice, "{\"search_term\":\"\xff\"}", http.StatusBadRequest, "M_NOT_JSON"},
			{alice, `{"search_term":"a\u0000b"}`, http.StatusOK, ""},
			{alice, `{"search_term":"x","limit":1000000}`, http.StatusOK, ""},
			{alice, `{"search_term":"` + strings.Repeat("x ", 100_000) + `"}`, http.StatusOK, ""},
		} {
			if code, got := p.do(process, c.token, "POST", "/r0/user_directory/search", c.body); code != c.status || got.Get("errcode").Str != c.code {
				t.Errorf("%s: %.60s: %d %s, want %d %s", process, c.body, code, got.Raw, c.status, c.code)
			}
		}
	}
	// A new name is found at once, an old one no longer; who leaves the server is gone.
	p.must("worker1", alice, "PUT", "/v3/profile/@alice:test/displayname", `{"displayname":"Zoe"}`)
	for _, process := range processes {
		if got, _ := p.found(process, carol, "zoe", 10); !slices.Equal(got, []string{"alice"}) {
			t.Errorf("%s: the new name finds %v", process, got)
		}
		if got, _ := p.found(process, carol, "cooper", 10); got != nil {
			t.Errorf("%s: the old name finds %v", process, got)
		}
	}
	if err := p.Core("master").Accounts.Deactivate(t.Context(), "@alice:test", false); err != nil {
		t.Fatal(err)
	}
	if got, _ := p.found("worker1", carol, "zoe", 10); got != nil {
		t.Errorf("a deactivated account is found: %v", got)
	}
}

// The directory follows the events, in the process it is given to.
func TestUserDirectoryFollows(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice := p.register("alice")
	db := p.Core("master").DB
	if _, err := db.Exec(t.Context(), `DELETE FROM user_directory`); err != nil {
		t.Fatal(err)
	}
	p.room(alice)
	bob := p.register("bob")
	for deadline := time.Now().Add(20 * time.Second); ; {
		got, _ := p.found("worker1", bob, "alice", 1)
		if slices.Equal(got, []string{"alice"}) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("found %v", got)
		}
	}
}
