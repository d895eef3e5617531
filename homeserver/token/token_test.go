package token_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
)

func TestSyncRoundTrip(t *testing.T) {
	t.Parallel()
	writers := []string{"main", "persister1", "persister2"}
	ids := replication.NewWriterIDs(writers...)
	rapid.Check(t, func(t *rapid.T) {
		var s token.Sync
		for st := range token.Streams {
			p := replication.NewPosition(rapid.Int64Range(0, 1<<50).Draw(t, "floor"))
			for _, w := range writers {
				if rapid.Bool().Draw(t, "ahead") {
					p = p.Advance(w, p.Floor()+rapid.Int64Range(1, 1<<40).Draw(t, "by"))
				}
			}
			if rapid.Bool().Draw(t, "set") {
				s = s.With(st, p.WithEpoch(rapid.Int64Range(0, 5).Draw(t, "epoch")))
			}
		}
		text, err := s.Encode(ids)
		if err != nil {
			t.Fatalf("encode %v: %v", s, err)
		}
		got, err := token.ParseSync(text, ids)
		if err != nil || !got.Equal(s) {
			t.Fatalf("token %q parsed to %v, %v, want %v", text, got, err, s)
		}
		again, err := token.Parse(text, ids)
		if err != nil || again.Sync == nil || !again.Sync.Equal(s) {
			t.Fatalf("token %q parsed to %v, %v by Parse, want %v", text, again, err, s)
		}
	})
}

func TestSyncText(t *testing.T) {
	t.Parallel()
	ids := replication.NewWriterIDs("a", "b")
	s := token.Sync{}.With(token.Events, replication.NewPosition(55).Advance("b", 57)).With(token.Receipts, replication.NewPosition(12))
	if got, err := s.Encode(ids); got != "s1_55~2.2_0_12" || err != nil {
		t.Errorf("encoded %q, %v, want s1_55~2.2_0_12", got, err)
	}
	if got, err := (token.Sync{}).Encode(nil); got != "s1_0" || err != nil {
		t.Errorf("zero token encoded %q, %v, want s1_0", got, err)
	}
	early, err := token.ParseSync("s1_3", ids)
	if err != nil || early.Get(token.DeviceLists).Floor() != 0 || early.Get(token.Events).Floor() != 3 {
		t.Errorf("short token parsed to %v, %v", early, err)
	}
	if !s.AtLeast(early) || early.AtLeast(s) {
		t.Error("tokens compare wrongly")
	}
}

func TestTopological(t *testing.T) {
	t.Parallel()
	for _, p := range []token.Topological{{}, token.After(18, 4711), token.Before(18, 4711), token.After(3, -20), {Depth: 1<<53 - 1, NID: -1 << 60}} {
		got, err := token.Parse(p.String(), nil)
		if err != nil || got.Sync != nil || got.Topological != p {
			t.Errorf("token %q parsed to %+v, %v, want %+v", p, got, err, p)
		}
	}
	if token.Before(18, 4711) != (token.Topological{Depth: 18, NID: 4710}) {
		t.Error("the point before an event is not one number below it")
	}
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	ids := replication.NewWriterIDs("a")
	for _, text := range []string{
		"", " ", "s", "s1", "s1_", "s1_-1", "s1_x", "s1_01", "s2_5", "s5", "57", "s1_5_", "s1_5_0", "s1_5__3", "s1_5~9.1",
		"s1_5~1.0", "s1_5~1.1~1.2", "s1_99999999999999999999", "s1_0_0_0_0_0_0_0_0_0_1", "s1_5 ", "p1_5", "{}", "null",
		"s1_" + strings.Repeat("9", 5000), "s1_5\x00", "t", "t_", "t1", "t1_", "t_1", "t-1_5", "t1_5_6", "t01_5", "t1_+5", "t1_-0",
	} {
		if got, err := token.Parse(text, ids); !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("Parse(%.40q) = %v, %v, want M_INVALID_PARAM", text, got, err)
		}
		if got, err := token.ParseSync(text, ids); !errors.Is(err, mxerr.InvalidParam) {
			t.Errorf("ParseSync(%.40q) = %v, %v, want M_INVALID_PARAM", text, got, err)
		}
	}
	if _, err := token.ParseSync("t18_4711", ids); !errors.Is(err, mxerr.InvalidParam) {
		t.Errorf("/sync takes a token of /messages: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	ids := replication.NewWriterIDs("a", "b")
	for _, s := range []string{"s1_5", "s1_55~2.2_0_12", "t18_4711", "t3_-20", "s1_2-5", "c7.31.s1_5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := token.Parse(text, ids)
		if err != nil {
			if !errors.Is(err, mxerr.InvalidParam) {
				t.Fatalf("Parse(%q): %v, want M_INVALID_PARAM", text, err)
			}
			return
		}
		if p, err := token.ParseSliding(text, ids); err == nil {
			if out, err := p.Encode(ids); err != nil || out != text {
				t.Fatalf("ParseSliding(%q) encodes to %q, %v", text, out, err)
			}
			return
		}
		out := got.Topological.String()
		if got.Sync != nil {
			if out, err = got.Sync.Encode(ids); err != nil {
				t.Fatalf("encode what %q parsed to: %v", text, err)
			}
		}
		if out != text {
			t.Fatalf("Parse(%q) encodes to %q", text, out)
		}
	})
}
