package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCanonicalSpecVectors(t *testing.T) {
	t.Parallel()
	// Appendices, "Canonical JSON", "Examples".
	for _, c := range []struct{ in, want string }{
		{`{}`, `{}`},
		{"{\n    \"one\": 1,\n    \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{"{\n    \"b\": \"2\",\n    \"a\": \"1\"\n}", `{"a":"1","b":"2"}`},
		{`{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{
			`{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe",
			"three_pids": [{"medium": "email", "address": "john.doe@example.org"},
			{"medium": "msisdn", "address": "123456789"}]}}}`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`,
		},
		{`{"a": "日本語"}`, `{"a":"日本語"}`},
		{`{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{`{"a": "\u65E5"}`, `{"a":"日"}`},
		{`{"a": null}`, `{"a":null}`},
		{`{"a": -0, "b": 1e10}`, `{"a":0,"b":10000000000}`},
	} {
		got, err := Canonical([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("Canonical(%s) = %s, %v, want %s", c.in, got, err, c.want)
		}
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	const bad = "error"
	for _, c := range []struct{ name, in, loose, strict string }{
		{"white space", " \t\r\n[ 1 , {\"a\" : [ ] , \"b\":{ } } ] ", `[1,{"a":[],"b":{}}]`, `[1,{"a":[],"b":{}}]`},
		{"scalar", ` "x" `, `"x"`, `"x"`},
		{"literals", `[true,false,null]`, `[true,false,null]`, `[true,false,null]`},
		{"shortest escapes", `"\u0008\u0009\u000A\u000c\u000D\u0022\u005C\/\u002F"`, `"\b\t\n\f\r\"\\//"`, `"\b\t\n\f\r\"\\//"`},
		{"control escapes", `"\u0000\u001F\u007f"`, "\"\\u0000\\u001f\x7f\"", "\"\\u0000\\u001f\x7f\""},
		{"surrogate pair", `"\uD83D\uDE00"`, `"😀"`, `"😀"`},
		{"keys by code point", `{"\ue000":1,"😀":2,"z":3}`, "{\"z\":3,\"\ue000\":1,\"😀\":2}", "{\"z\":3,\"\ue000\":1,\"😀\":2}"},
		{"escaped keys", `{"a\"":1,"a!":2,"a\n":3,"\u0061":4}`, `{"a":4,"a\n":3,"a!":2,"a\"":1}`, `{"a":4,"a\n":3,"a!":2,"a\"":1}`},
		{"prefix keys", `{"ab":1,"a":2,"":3}`, `{"":3,"a":2,"ab":1}`, `{"":3,"a":2,"ab":1}`},
		{"greatest integer", `[9007199254740991,-9007199254740991]`, `[9007199254740991,-9007199254740991]`, `[9007199254740991,-9007199254740991]`},
		{"too great", `[9007199254740992]`, `[9007199254740992]`, bad},
		{"too small", `[-9007199254740992]`, `[-9007199254740992]`, bad},
		{"huge integer", `[100000000000000000000000]`, `[100000000000000000000000]`, bad},
		{"negative zero", `[-0]`, `[0]`, bad},
		{"negative zero float", `[-0.0]`, `[-0.0]`, bad},
		{"fraction", `[50.57]`, `[50.57]`, bad},
		{"fraction of zero", `[1.0]`, `[1.0]`, bad},
		{"exponent", `[5.114698E4]`, `[51146.98]`, bad},
		{"integer exponent", `[1E2,1e+2]`, `[100,100]`, bad},
		{"great exponent", `[1e22,1.5e-7]`, `[1e+22,1.5e-07]`, bad},
		{"infinite", `[1e400]`, bad, bad},
		{"leading zero", `[01]`, bad, bad},
		{"plus", `[+1]`, bad, bad},
		{"bare minus", `[-]`, bad, bad},
		{"bare point", `[1.]`, bad, bad},
		{"bare exponent", `[1e]`, bad, bad},
		{"NaN", `[NaN]`, bad, bad},
		{"duplicate key", `{"a":1,"a":1}`, bad, bad},
		{"duplicate escaped key", `{"a":1,"\u0061":2}`, bad, bad},
		{"duplicate nested", `[{"x":{"b":1,"a":2,"b":3}}]`, bad, bad},
		{"lone high surrogate", `"\ud800"`, bad, bad},
		{"lone low surrogate", `"\udc00x"`, bad, bad},
		{"surrogates reversed", `"\ude00\ud83d"`, bad, bad},
		{"bad UTF-8", "\"\xff\"", bad, bad},
		{"encoded surrogate", "\"\xed\xa0\x80\"", bad, bad},
		{"raw control", "\"\n\"", bad, bad},
		{"bad escape", `"\x"`, bad, bad},
		{"bad hex", `"\u00g0"`, bad, bad},
		{"open string", `"abc`, bad, bad},
		{"open escape", `"\`, bad, bad},
		{"open object", `{"a":1`, bad, bad},
		{"open array", `[1`, bad, bad},
		{"mismatched", `[1}`, bad, bad},
		{"trailing comma", `[1,]`, bad, bad},
		{"trailing comma in object", `{"a":1,}`, bad, bad},
		{"no colon", `{"a" 1}`, bad, bad},
		{"key not a string", `{1:1}`, bad, bad},
		{"no comma", `[1 2]`, bad, bad},
		{"trailing data", `{} {}`, bad, bad},
		{"nothing", ``, bad, bad},
		{"blank", `  `, bad, bad},
		{"comment", `{/**/}`, bad, bad},
		{"form feed is not white space", "\f{}", bad, bad},
		{"too deep", strings.Repeat("[", maxNesting+2) + strings.Repeat("]", maxNesting+2), bad, bad},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, m := range []struct {
				name string
				f    func([]byte) ([]byte, error)
				want string
			}{{"loose", Canonical, c.loose}, {"strict", CanonicalStrict, c.strict}} {
				got, err := m.f([]byte(c.in))
				switch {
				case m.want == bad && !errors.Is(err, ErrBadJSON):
					t.Errorf("%s: %.80s = %s, %v, want ErrBadJSON", m.name, c.in, got, err)
				case m.want != bad && (err != nil || string(got) != m.want):
					t.Errorf("%s: %.80s = %s, %v, want %s", m.name, c.in, got, err, m.want)
				}
			}
		})
	}
}

func TestCanonicalDeep(t *testing.T) {
	t.Parallel()
	// Objects out of order at every level: the output is written once, not once a level.
	in := []byte(strings.Repeat(`{"b":1,"a":`, 9000) + "1" + strings.Repeat("}", 9000))
	got, err := Canonical(in)
	if err != nil || !bytes.HasSuffix(got, []byte(`},"b":1}`)) {
		t.Fatalf("got %.40s…, %v", got, err)
	}
}

// genJSON makes any JSON value that canonical JSON allows.
func genJSON() *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Just[any](nil), rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.Int64Range(-maxSafeInteger, maxSafeInteger), func(n int64) any { return n }),
		rapid.Map(rapid.String(), func(s string) any { return s }),
	)
	value := leaf
	for range 3 {
		inner := value
		value = rapid.OneOf(leaf,
			rapid.Map(rapid.SliceOfN(inner, 0, 4), func(s []any) any { return s }),
			rapid.Map(rapid.MapOfN(rapid.String(), inner, 0, 5), func(m map[string]any) any { return m }),
		)
	}
	return value
}

func TestCanonicalProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := genJSON().Draw(t, "value")
		raw, err := json.MarshalIndent(value, "", rapid.SampledFrom([]string{"", "  "}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := CanonicalStrict(raw)
		if err != nil {
			t.Fatalf("CanonicalStrict(%s): %v", raw, err)
		}
		if loose, err := Canonical(raw); err != nil || !bytes.Equal(loose, got) {
			t.Fatalf("loose %s, strict %s, %v", loose, got, err)
		}
		if again, err := CanonicalStrict(got); err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%s became %s, %v", got, again, err)
		}
		var a, b any
		if json.Unmarshal(raw, &a) != nil || json.Unmarshal(got, &b) != nil {
			t.Fatalf("%s became %s, which does not decode", raw, got)
		}
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if !bytes.Equal(x, y) {
			t.Fatalf("%s became %s, which means something else", raw, got)
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{
		`{"b":[1,-0,1e10,"\u00e9\ud83d\ude00\n"],"a":{"":null}}`, `"\ud800"`, `{"a":1,"\u0061":1}`, ` [ 9007199254740992 ] `,
		`{"a":1.5e-7}`, "\"\xff\"", `[[[[`, `{"a":`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		loose, err := Canonical(raw)
		if err != nil {
			if _, err := CanonicalStrict(raw); err == nil {
				t.Fatalf("%q is strictly canonical but not loosely", raw)
			}
			return
		}
		if !json.Valid(raw) || !json.Valid(loose) {
			t.Fatalf("%q became %q: not JSON", raw, loose)
		}
		again, err := Canonical(loose)
		if err != nil || !bytes.Equal(again, loose) {
			t.Fatalf("%q became %q, then %q, %v", raw, loose, again, err)
		}
		if strict, err := CanonicalStrict(raw); err == nil && !bytes.Equal(strict, loose) {
			t.Fatalf("%q became %q loosely and %q strictly", raw, loose, strict)
		}
		if end := skipValue(loose, 0); end != len(loose) {
			t.Fatalf("skipValue(%q) = %d", loose, end)
		}
	})
}
