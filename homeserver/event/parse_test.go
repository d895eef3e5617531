package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// edit parses an event's JSON, lets change edit it, hashes and signs it again, and returns the bytes.
func edit(t testing.TB, e *Event, change func(m map[string]any)) []byte {
	t.Helper()
	m := decode(t, e.JSON())
	change(m)
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out, err := HashAndSign(&Version{}, raw, ownSigner("a"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decode(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatalf("decode %s: %v", raw, err)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		d := r.draft("@alice:a", "org.example", ptr("key \"\\\n\u0001é"), map[string]any{"z": 1, "a": []any{"é", nil}})
		d.Unsigned = json.RawMessage(`{"age":5}`)
		for _, built := range []*Event{r.create, r.state[Tuple{TypeMember, "@alice:a"}], r.build(d)} {
			// What others may make of it on the way: other order, other escapes, white space.
			var wire bytes.Buffer
			m := decode(t, built.JSON())
			m["unsigned"] = map[string]any{"age": 7}
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Indent(&wire, raw, "", "\t"); err != nil {
				t.Fatal(err)
			}
			parsed, err := Parse(v, wire.Bytes())
			if err != nil {
				t.Fatalf("parse %s: %v", wire.Bytes(), err)
			}
			if parsed.HashMismatch() || parsed.IsRedacted() {
				t.Errorf("hash of %s does not match", built.JSON())
			}
			if !bytes.Equal(parsed.JSON(), built.JSON()) {
				t.Errorf("parsed %s\nwant %s", parsed.JSON(), built.JSON())
			}
			if got := string(parsed.Unsigned()); got != `{"age":7}` {
				t.Errorf("unsigned = %s", got)
			}
			loaded, err := Load(v, built.ID(), built.JSON())
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range []*Event{parsed, loaded, parsed.WithUnsigned(nil)} {
				sameHeader(t, got, built)
			}
			if err := parsed.VerifySignatures(t.Context(), ownKeys{}); err != nil {
				t.Error(err)
			}
		}
	})
}

func sameHeader(t *testing.T, got, want *Event) {
	t.Helper()
	header := func(e *Event) string {
		key, isState := e.StateKey()
		return fmt.Sprintf("%s %s %s %s %q %v %d %d %q %q %s %q %q", e.ID(), e.RoomID(), e.Type(), e.Sender(), key, isState,
			e.Depth(), e.OriginServerTS(), e.PrevEvents(), e.AuthEvents(), e.Content(), e.Membership(), e.Redacts())
	}
	if g, w := header(got), header(want); g != w {
		t.Errorf("header is %s\nwant      %s", g, w)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for _, c := range []struct {
		name     string
		versions string // "" is all
		field    string
		err      error
		change   func(m map[string]any)
	}{
		{"no type", "", "type", nil, func(m map[string]any) { delete(m, "type") }},
		{"type not a string", "", "type", nil, func(m map[string]any) { m["type"] = 1 }},
		{"long type", "", "type", ErrTooLarge, func(m map[string]any) { m["type"] = long }},
		{"NUL in type", "", "type", nil, func(m map[string]any) { m["type"] = "a\x00b" }},
		{"no sender", "", "sender", nil, func(m map[string]any) { delete(m, "sender") }},
		{"null sender", "", "sender", nil, func(m map[string]any) { m["sender"] = nil }},
		{"sender not a user", "", "sender", nil, func(m map[string]any) { m["sender"] = "alice" }},
		{"sender without server", "", "sender", nil, func(m map[string]any) { m["sender"] = "@alice:" }},
		{"sender of a bad server", "", "sender", nil, func(m map[string]any) { m["sender"] = "@alice:a b" }},
		{"long sender", "", "sender", ErrTooLarge, func(m map[string]any) { m["sender"] = "@" + long + ":a" }},
		{"no room id", "", "room_id", nil, func(m map[string]any) { delete(m, "room_id") }},
		{"room id not a room", "", "room_id", nil, func(m map[string]any) { m["room_id"] = "#room:a" }},
		{"long room id", "", "room_id", ErrTooLarge, func(m map[string]any) { m["room_id"] = "!" + long }},
		{"state key not a string", "", "state_key", nil, func(m map[string]any) { m["state_key"] = nil }},
		{"long state key", "", "state_key", ErrTooLarge, func(m map[string]any) { m["state_key"] = long }},
		{"state key long in bytes", "11 12", "state_key", ErrTooLarge, func(m map[string]any) { m["state_key"] = strings.Repeat("é", 128) }},
		{"no content", "", "content", nil, func(m map[string]any) { delete(m, "content") }},
		{"content not an object", "", "content", nil, func(m map[string]any) { m["content"] = []any{} }},
		{"no depth", "", "depth", nil, func(m map[string]any) { delete(m, "depth") }},
		{"depth a string", "", "depth", nil, func(m map[string]any) { m["depth"] = "1" }},
		{"negative depth", "", "depth", nil, func(m map[string]any) { m["depth"] = -1 }},
		{"depth beyond 64 bits", "1 2 3 4 5", "depth", nil, func(m map[string]any) { m["depth"] = json.Number("9223372036854775808") }},
		{"no time", "", "origin_server_ts", nil, func(m map[string]any) { delete(m, "origin_server_ts") }},
		{"time a fraction", "1 2 3 4 5", "origin_server_ts", nil, func(m map[string]any) { m["origin_server_ts"] = 1.5 }},
		{"no prev_events", "", "prev_events", nil, func(m map[string]any) { delete(m, "prev_events") }},
		{"prev_events an object", "", "prev_events", nil, func(m map[string]any) { m["prev_events"] = map[string]any{} }},
		{"prev_events of numbers", "", "prev_events", nil, func(m map[string]any) { m["prev_events"] = []any{1} }},
		{"old references", "3 6 12", "prev_events", nil, func(m map[string]any) { m["prev_events"] = []any{[]any{"$a:a", map[string]any{}}} }},
		{"new references", "1 2", "auth_events", nil, func(m map[string]any) { m["auth_events"] = []any{"$a:a"} }},
		{"reference without hashes", "1 2", "auth_events", nil, func(m map[string]any) { m["auth_events"] = []any{[]any{"$a:a"}} }},
		{"reference not an event", "3 12", "auth_events", nil, func(m map[string]any) { m["auth_events"] = []any{"a"} }},
		{"too many prev_events", "3 12", "prev_events", nil, func(m map[string]any) { m["prev_events"] = slices.Repeat([]any{"$a"}, 21) }},
		{"too many auth_events", "3 12", "auth_events", nil, func(m map[string]any) { m["auth_events"] = slices.Repeat([]any{"$a"}, 11) }},
		{"no event id", "1 2", "event_id", nil, func(m map[string]any) { delete(m, "event_id") }},
		{"event id without server", "1 2", "event_id", nil, func(m map[string]any) { m["event_id"] = "$a" }},
		{"long event id", "1 2", "event_id", ErrTooLarge, func(m map[string]any) { m["event_id"] = "$" + long + ":a" }},
		{"unsigned not an object", "", "unsigned", nil, func(m map[string]any) { m["unsigned"] = 1 }},
		{"number out of range", "6 7 8 9 10 11 12", "", ErrBadJSON, func(m map[string]any) { m["x"] = json.Number("9007199254740992") }},
		{"fraction", "6 7 8 9 10 11 12", "", ErrBadJSON, func(m map[string]any) { m["content"] = map[string]any{"x": 1.5} }},
		{"too large", "", "", ErrTooLarge, func(m map[string]any) { m["content"] = map[string]any{"x": strings.Repeat("x", MaxBytes)} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range Versions() {
				if c.versions != "" && !slices.Contains(strings.Fields(c.versions), v.ID) {
					continue
				}
				r := newTestRoom(t, v)
				e := r.build(r.draft("@alice:a", "m.room.message", nil, map[string]any{"body": "x"}))
				raw := edit(t, e, c.change)
				_, err := Parse(v, raw)
				var fe *FormatError
				if !errors.As(err, &fe) || fe.Field != c.field || c.err != nil && !errors.Is(err, c.err) {
					t.Errorf("v%s: error is %v, want one about %q, %v", v, err, c.field, c.err)
				}
			}
		})
	}
	v := version(t, "12")
	e := newTestRoom(t, v).create
	for name, raw := range map[string]string{
		"nothing": "", "scalar": "1", "array": "[]", "empty object": "{}", "bad UTF-8": "{\"type\":\"\xff\"}",
		"no hashes":              strings.Replace(string(e.JSON()), `"hashes"`, `"ashes"`, 1),
		"no signatures":          strings.Replace(string(e.JSON()), `"signatures"`, `"ignatures"`, 1),
		"signatures of lists":    strings.Replace(string(e.JSON()), `"signatures":{`, `"signatures":{"0":[],`, 1),
		"sha256 not a string":    strings.Replace(string(e.JSON()), `"sha256":"`, `"sha256":1,"x":"`, 1),
		"duplicate key":          strings.Replace(string(e.JSON()), `"type"`, `"type":"x","type"`, 1),
		"cut short":              string(e.JSON()[:len(e.JSON())-1]),
		"signature not a string": strings.Replace(string(e.JSON()), `"ed25519:k":"`, `"ed25519:k":1,"x":"`, 1),
	} {
		if _, err := Parse(v, []byte(raw)); !errors.As(err, new(*FormatError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, versions string
		change         func(m map[string]any)
	}{
		{"fields of the greatest size", "", func(m map[string]any) {
			m["type"], m["state_key"] = strings.Repeat("t", 255), strings.Repeat("é", 127)
			m["sender"] = "@" + strings.Repeat("u", 252) + ":a"
		}},
		{"historical user ids", "", func(m map[string]any) { m["sender"] = "@Ünï cöde/=+:a" }},
		{"empty localpart", "", func(m map[string]any) { m["sender"] = "@:a" }},
		{"IPv6 server with port", "", func(m map[string]any) { m["sender"] = "@x:[::1]:8448" }},
		{"empty state key", "", func(m map[string]any) { m["state_key"] = "" }},
		{"unknown keys", "", func(m map[string]any) { m["aaa"], m["zzz"] = 1, map[string]any{"x": []any{}} }},
		{"keys after unsigned", "", func(m map[string]any) { m["unsigned"], m["zzz"] = map[string]any{"age": 1}, 1 }},
		{"greatest depth", "6 12", func(m map[string]any) { m["depth"] = json.Number("9007199254740991") }},
		{"depth of 64 bits", "1 5", func(m map[string]any) { m["depth"] = json.Number("9223372036854775807") }},
		{"numbers beyond canonical JSON", "1 2 3 4 5", func(m map[string]any) {
			m["content"] = map[string]any{"a": json.Number("1.5"), "b": json.Number("123456789012345678901234567890")}
		}},
		{"20 prev_events, 10 auth_events", "3 12", func(m map[string]any) {
			m["prev_events"], m["auth_events"] = slices.Repeat([]any{"$a"}, 20), slices.Repeat([]any{"$a"}, 10)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range Versions() {
				if c.versions != "" && !slices.Contains(strings.Fields(c.versions), v.ID) {
					continue
				}
				r := newTestRoom(t, v)
				raw := edit(t, r.build(r.draft("@alice:a", "m.room.message", nil, map[string]any{"body": "x"})), c.change)
				e, err := Parse(v, raw)
				if err != nil || e.HashMismatch() {
					t.Fatalf("v%s: %v", v, err)
				}
				if strings.Contains(string(e.JSON()), `"unsigned"`) {
					t.Errorf("unsigned is still in %s", e.JSON())
				}
				want := decode(t, raw)
				delete(want, "unsigned")
				got := decode(t, e.JSON())
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("v%s: parsed %v\nwant %v", v, got, want)
				}
			}
		})
	}
}

func TestSizeLimit(t *testing.T) {
	t.Parallel()
	v := version(t, "12")
	r := newTestRoom(t, v)
	size := func(n int) (*Event, error) {
		return Build(v, r.draft("@alice:a", "m.room.message", nil, map[string]any{"body": strings.Repeat("x", n)}), ownSigner("a"))
	}
	small, err := size(0)
	if err != nil {
		t.Fatal(err)
	}
	room := MaxBytes - len(small.JSON())
	full, err := size(room)
	if err != nil || len(full.JSON()) != MaxBytes {
		t.Fatalf("an event of %d bytes: %v", MaxBytes, err)
	}
	if _, err := Parse(v, full.JSON()); err != nil {
		t.Errorf("parse an event of %d bytes: %v", MaxBytes, err)
	}
	if _, err := size(room + 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an event of %d bytes: %v", MaxBytes+1, err)
	}
	if _, err := full.Sign(ownSigner("b")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one more signature than fits: %v", err)
	}
}

func TestHashMismatch(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		e := r.build(r.draft("@alice:a", TypeMember, ptr("@alice:a"), map[string]any{"membership": "join", "displayname": "A"}))
		tampered := bytes.Replace(e.JSON(), []byte(`"displayname":"A"`), []byte(`"displayname":"B"`), 1)
		got, err := Parse(v, tampered)
		if err != nil {
			t.Fatal(err)
		}
		if !got.HashMismatch() || !got.IsRedacted() || string(got.Content()) != `{"membership":"join"}` {
			t.Errorf("mismatch %v, redacted %v, content %s", got.HashMismatch(), got.IsRedacted(), got.Content())
		}
		if got.ID() != e.ID() || got.RoomID() != e.RoomID() || !bytes.Equal(got.JSON(), e.Redacted().JSON()) {
			t.Errorf("got %s %s, want the redacted event %s %s", got.ID(), got.JSON(), e.ID(), e.Redacted().JSON())
		}
		if err := got.VerifySignatures(t.Context(), ownKeys{}); err != nil {
			t.Error(err)
		}
		// What redaction protects is what the signature covers.
		forged := bytes.Replace(e.JSON(), []byte(`"membership":"join"`), []byte(`"membership":"ban"`), 1)
		if got, err := Parse(v, forged); err != nil || got.VerifySignatures(t.Context(), ownKeys{}) == nil {
			t.Errorf("forged event: %v, signature verifies", err)
		}
		for _, hash := range []string{`""`, `"!"`, `"AAAA"`} {
			raw := appendWith(nil, e.JSON(), "hashes", []byte(`{"sha256":`+hash+`}`))
			if got, err := Parse(v, raw); err != nil || !got.HashMismatch() {
				t.Errorf("hash %s: %v", hash, err)
			}
		}
	})
}

func TestLoadRefusesDamage(t *testing.T) {
	t.Parallel()
	e := message1K(t)
	for i := range e.JSON() {
		if _, err := Load(e.Version(), e.ID(), e.JSON()[:i]); err == nil {
			t.Fatalf("%d of %d bytes load", i, len(e.JSON()))
		}
	}
}

func TestLoadWithUnsigned(t *testing.T) {
	t.Parallel()
	e := message1K(t)
	raw := appendWith(nil, e.JSON(), "unsigned", []byte(`{"age":1}`))
	got, err := Load(e.Version(), e.ID(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Unsigned()) != `{"age":1}` || got.ContentHash() != e.ContentHash() || got.ReferenceHash() != e.ReferenceHash() {
		t.Errorf("unsigned %s, hashes %x %x", got.Unsigned(), got.ContentHash(), got.ReferenceHash())
	}
	if got.Redacted().Unsigned() != nil {
		t.Errorf("redaction keeps unsigned")
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range Versions() {
		r := newTestRoom(f, v)
		for _, e := range []*Event{r.create, r.build(r.draft("@alice:a", TypeRedaction, nil, map[string]any{"redacts": "$x"}))} {
			f.Add(v.ID, e.JSON())
		}
	}
	f.Add("1", []byte(`{"auth_events":[[]],"prev_events":[["$a:a",{}],[1]]}`))
	f.Fuzz(func(t *testing.T, id string, raw []byte) {
		v, ok := LookupVersion(id)
		if !ok {
			return
		}
		// Load trusts its input, but must not panic whatever it is.
		if e, err := Load(v, "$x", raw); err == nil {
			e.PrevEvents()
			e.Redacted()
			e.ContentHash()
			e.AuthTuples()
			_ = Authorise(e, AuthMap{})
			AppendClient(nil, e, ClientOptions{})
		}
		e, err := Parse(v, raw)
		if err != nil {
			if !errors.As(err, new(*FormatError)) {
				t.Fatalf("error is a %T: %v", err, err)
			}
			return
		}
		again, err := Parse(v, e.JSON())
		if err != nil || again.ID() != e.ID() || !bytes.Equal(again.JSON(), e.JSON()) && !e.HashMismatch() {
			t.Fatalf("%s\nparses to %s %s\nand that to %v", raw, e.ID(), e.JSON(), err)
		}
		if r := e.Redacted(); r.ReferenceHash() != e.ReferenceHash() || r.Redacted() != r {
			t.Fatalf("redacting %s changes its id", e.JSON())
		}
		if !json.Valid(AppendClient(nil, e, ClientOptions{NowTS: 1, ExtraUnsigned: []byte(`"a":1`)})) {
			t.Fatalf("client JSON of %s", e.JSON())
		}
		_ = Authorise(e, NewAuthMap(e))
		_ = CheckAuthEvents(e, []*Event{e}, nil)
		_ = e.VerifySignatures(t.Context(), ownKeys{})
	})
}
