package filter_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
)

func TestParseRejects(t *testing.T) {
	t.Parallel()
	long := `"m.x"` + strings.Repeat(`,"m.x"`, filter.MaxListLength)
	for _, tc := range []struct {
		name, in string
		want     error
	}{
		{"empty", ``, mxerr.NotJSON},
		{"not JSON", `{"room":`, mxerr.NotJSON},
		{"trailing text", `{} x`, mxerr.NotJSON},
		{"array", `[]`, mxerr.NotJSON},
		{"number", `4`, mxerr.NotJSON},
		{"presence is a string", `{"presence":"not_an_object"}`, mxerr.BadJSON},
		{"room is a list", `{"room":[]}`, mxerr.BadJSON},
		{"timeline is a string", `{"room":{"timeline":"not_an_object"}}`, mxerr.BadJSON},
		{"limit is a string", `{"room":{"timeline":{"limit":"10"}}}`, mxerr.BadJSON},
		{"limit is a fraction", `{"room":{"timeline":{"limit":1.5}}}`, mxerr.BadJSON},
		{"limit is negative", `{"room":{"timeline":{"limit":-1}}}`, mxerr.BadJSON},
		{"limit is huge", `{"room":{"timeline":{"limit":99999999999999999999}}}`, mxerr.BadJSON},
		{"types is a string", `{"room":{"timeline":{"types":"m.room.message"}}}`, mxerr.BadJSON},
		{"types holds a number", `{"room":{"timeline":{"types":[4]}}}`, mxerr.BadJSON},
		{"sender is no user", `{"room":{"timeline":{"senders":["not_a_sender_id"]}}}`, mxerr.BadJSON},
		{"not_senders is no user", `{"presence":{"not_senders":["@a"]}}`, mxerr.BadJSON},
		{"room is no room", `{"room":{"timeline":{"rooms":["not_a_room_id"]}}}`, mxerr.BadJSON},
		{"outer rooms", `{"room":{"rooms":["#a:b"]}}`, mxerr.BadJSON},
		{"outer not_rooms", `{"room":{"not_rooms":[""]}}`, mxerr.BadJSON},
		{"event_format", `{"event_format":"xml"}`, mxerr.BadJSON},
		{"event_fields is an object", `{"event_fields":{}}`, mxerr.BadJSON},
		{"event_fields has an empty segment", `{"event_fields":["content..body"]}`, mxerr.BadJSON},
		{"contains_url is a string", `{"room":{"timeline":{"contains_url":"yes"}}}`, mxerr.BadJSON},
		{"too many types", `{"room":{"timeline":{"types":[` + long + `]}}}`, mxerr.BadJSON},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if _, err := filter.Parse([]byte(tc.in)); !errors.Is(err, tc.want) {
				t.Errorf("Parse(%.60s) = %v, want %v", tc.in, err, tc.want)
			}
		})
	}
}

func TestParseKeepsWhatSyncReads(t *testing.T) {
	t.Parallel()
	f, err := filter.Parse([]byte(`{"event_format":"federation","event_fields":["type"],"unknown":1,
		"room":{"include_leave":true,"rooms":["!a:x"],"not_rooms":["!b:x"],
		"timeline":{"limit":7,"lazy_load_members":true,"unread_thread_notifications":true},
		"state":{"types":null}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if f.Format != filter.FormatFederation || f.Fields.All() || !f.Room.IncludeLeave {
		t.Errorf("format %q, all fields %v, include_leave %v", f.Format, f.Fields.All(), f.Room.IncludeLeave)
	}
	if !f.Room.AllowsRoom("!a:x") || f.Room.AllowsRoom("!b:x") || f.Room.AllowsRoom("!c:x") {
		t.Error("the lists of rooms are not honoured")
	}
	tl := f.Room.Timeline
	if tl.Limit(10, 5) != 5 || tl.Limit(10, 100) != 7 || !tl.LazyLoadMembers || !tl.UnreadThreadNotifications {
		t.Errorf("timeline = %+v", tl)
	}
	if !f.Room.State.MatchesAll() || f.Room.State.Limit(10, 100) != 10 {
		t.Error("a null list is not the same as an absent one")
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	ev := filter.Subject{RoomID: "!r:x", Type: "m.room.message", Sender: "@a:x", Content: []byte(`{"body":"b"}`)}
	img := ev
	img.Content = []byte(`{"url":"mxc://x/y","m.relates_to":{"rel_type":"m.thread","event_id":"$e"}}`)
	for _, tc := range []struct {
		in   string
		ev   filter.Subject
		want bool
	}{
		{`{}`, ev, true},
		{`{"types":["m.room.message"]}`, ev, true},
		{`{"types":["m.room.*"]}`, ev, true},
		{`{"types":["*"]}`, ev, true},
		{`{"types":["m.*.mess*"]}`, ev, true},
		{`{"types":["m.room"]}`, ev, false},
		{`{"types":[]}`, ev, false},
		{`{"not_types":[]}`, ev, true},
		{`{"types":["m.room.*"],"not_types":["*.message"]}`, ev, false},
		{`{"senders":["@a:x"]}`, ev, true},
		{`{"senders":["@b:x"]}`, ev, false},
		{`{"senders":["@a:x"],"not_senders":["@a:x"]}`, ev, false},
		{`{"rooms":["!r:x","!a:x"]}`, ev, true},
		{`{"not_rooms":["!r:x"]}`, ev, false},
		{`{"contains_url":true}`, ev, false},
		{`{"contains_url":false}`, ev, true},
		{`{"contains_url":true}`, img, true},
		{`{"contains_url":false}`, img, false},
		{`{"org.matrix.msc3874.rel_types":["m.thread"]}`, img, true},
		{`{"org.matrix.msc3874.rel_types":["m.thread"]}`, ev, false},
		{`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`, img, false},
		{`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`, ev, true},
	} {
		e, err := filter.ParseEvents([]byte(tc.in))
		if err != nil {
			t.Fatalf("%s: %v", tc.in, err)
		}
		if got := e.Match(tc.ev); got != tc.want {
			t.Errorf("%s on %s: got %v, want %v", tc.in, tc.ev.Content, got, tc.want)
		}
		if e.MatchesAll() && !tc.want || e.MatchesNone() && tc.want {
			t.Errorf("%s: MatchesAll %v, MatchesNone %v, match %v", tc.in, e.MatchesAll(), e.MatchesNone(), tc.want)
		}
	}
}

// A pattern is compared with the plain recursive definition of what a star means.
func TestPatternsAgainstDefinition(t *testing.T) {
	t.Parallel()
	var def func(p, s string) bool
	def = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return def(p[1:], s) || s != "" && def(p, s[1:])
		}
		return s != "" && p[0] == s[0] && def(p[1:], s[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "type")
		e, err := filter.ParseEvents(fmt.Appendf(nil, `{"types":[%q]}`, p))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := e.AllowsType(s), def(p, s); got != want {
			t.Fatalf("%q on %q: got %v, want %v", p, s, got, want)
		}
	})
}

func TestLikeTypes(t *testing.T) {
	t.Parallel()
	e, err := filter.ParseEvents([]byte(`{"types":["m.*","a_b%c\\d"]}`))
	if err != nil {
		t.Fatal(err)
	}
	in, out := e.LikeTypes()
	if want := `m.%,a\_b\%c\\d`; strings.Join(in, ",") != want || out != nil {
		t.Errorf("got %v and %v, want %s and nil", in, out, want)
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	const ev = `{"type":"m.x","content":{"body":"hi","a.b":{"c":1,"d":2},"n":{}},"sender":"@a:x"}`
	for _, tc := range []struct {
		paths []string
		want  string
	}{
		{nil, ev},
		{[]string{"type", "sender"}, `{"type":"m.x","sender":"@a:x"}`},
		{[]string{"content.body"}, `{"content":{"body":"hi"}}`},
		{[]string{"content"}, `{"content":{"body":"hi","a.b":{"c":1,"d":2},"n":{}}}`},
		{[]string{"content", "content.body"}, `{"content":{"body":"hi","a.b":{"c":1,"d":2},"n":{}}}`},
		{[]string{"content.body", "content"}, `{"content":{"body":"hi","a.b":{"c":1,"d":2},"n":{}}}`},
		{[]string{`content.a\.b.d`}, `{"content":{"a.b":{"d":2}}}`},
		{[]string{"content.missing", "type.sub"}, `{}`},
		{[]string{"missing", "type"}, `{"type":"m.x"}`},
	} {
		f, err := filter.CompileFields(tc.paths)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.Append(nil, []byte(ev))); got != tc.want {
			t.Errorf("%v: got %s, want %s", tc.paths, got, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"event_fields":["content.body"],"room":{"timeline":{"types":["m.*"],"limit":3}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := filter.Parse(raw)
		if err != nil {
			if mxerr.Code(err) == "" {
				t.Fatalf("error is not a Matrix error: %v", err)
			}
			return
		}
		p.Room.Timeline.Match(filter.Subject{Type: "m.room.message", Content: raw})
		p.Fields.Append(nil, raw)
	})
}
