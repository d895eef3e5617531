package replication_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-im/weft/replication"
)

func TestPositionText(t *testing.T) {
	t.Parallel()
	ids := replication.NewWriterIDs("a", "b", "c")
	for _, tc := range []struct {
		pos  replication.Position
		text string
		long string
	}{
		{replication.Position{}, "0", "0"},
		{replication.NewPosition(57), "57", "57"},
		{replication.NewPosition(-5), "0", "0"},
		{replication.NewPosition(57).WithEpoch(2), "2-57", "2-57"},
		{replication.NewPosition(55).Advance("b", 57), "55~2.2", "55~b.57"},
		{replication.NewPosition(55).Advance("c", 70).Advance("a", 56), "55~1.1~3.15", "55~a.56~c.70"},
		{replication.PositionOf(9, map[string]int64{"a": 5, "b": 5, "c": 6}), "9-5~3.1", "9-5~c.6"},
		{replication.PositionOf(0, map[string]int64{"a": 5, "b": 5}), "5", "5"},
		{replication.PositionOf(0, nil), "0", "0"},
		{replication.NewPosition(math.MaxInt64-1).Advance("a", math.MaxInt64), "9223372036854775806~1.1", "9223372036854775806~a.9223372036854775807"},
	} {
		if got, err := tc.pos.Encode(ids); err != nil || got != tc.text {
			t.Errorf("%v is encoded as %q, %v, want %q", tc.pos, got, err, tc.text)
		}
		if got := tc.pos.String(); got != tc.long {
			t.Errorf("String is %q, want %q", got, tc.long)
		}
		if got, err := replication.ParsePosition(tc.text, ids); err != nil || !got.Equal(tc.pos) {
			t.Errorf("%q is parsed as %v, %v, want %v", tc.text, got, err, tc.pos)
		}
	}
}

func TestPositionTextMalformed(t *testing.T) {
	t.Parallel()
	ids := replication.NewWriterIDs("a", "b", "c")
	for _, text := range []string{
		"", "-", "~", ".", "-1", "+1", " 1", "1 ", "01", "00", "1-", "0-1", "1--2", "1-2-3", "01-2", "x", "1x", "0x10", "1_000", "1e3",
		"9223372036854775808", "99999999999999999999999", "1~", "1~1", "1~1.", "1~.1", "1~1.0", "1~1.-1", "1~1.01", "1~01.1", "1~2.1~1.1", "1~1.1~1.1",
		"1~0.1~", "1~1.1~", "1~1.1.1", "1~99999999999.1", "9223372036854775807~1.1", "1~1.9223372036854775807", "1~-1.1", "1.1", "٣",
	} {
		if p, err := replication.ParsePosition(text, ids); err == nil {
			t.Errorf("%q is parsed as %v, want an error", text, p)
		}
	}
	var unknown *replication.UnknownWriterError
	if _, err := replication.ParsePosition("1~4.1", ids); !errors.As(err, &unknown) || unknown.ID != 4 {
		t.Errorf("got %v, want an UnknownWriterError for 4", err)
	}
	if _, err := replication.ParsePosition("1~1.1", nil); !errors.As(err, &unknown) {
		t.Errorf("got %v without ids, want an UnknownWriterError", err)
	}
	if _, err := replication.NewPosition(1).Advance("d", 2).Encode(ids); !errors.As(err, &unknown) || unknown.Name != "d" {
		t.Errorf("got %v, want an UnknownWriterError for d", err)
	}
	if got, err := replication.NewPosition(1).Encode(nil); err != nil || got != "1" {
		t.Errorf("a level position without ids is %q, %v", got, err)
	}
}

// model is a position as a plain function from writers to numbers.
type model struct {
	epoch, floor int64
	writers      map[string]int64
}

func (m model) get(w string) int64 {
	if id, ok := m.writers[w]; ok {
		return max(id, m.floor)
	}
	return m.floor
}

var modelWriters = []string{"a", "b", "c", "d"}

func drawModel(t *rapid.T, name string) model {
	m := model{
		epoch:   rapid.Int64Range(0, 1).Draw(t, name+" epoch"),
		floor:   rapid.Int64Range(0, 20).Draw(t, name+" floor"),
		writers: rapid.MapOfN(rapid.SampledFrom(modelWriters), rapid.Int64Range(0, 30), 0, 4).Draw(t, name+" writers"),
	}
	return m
}

func (m model) position() replication.Position {
	p := replication.NewPosition(m.floor).WithEpoch(m.epoch)
	for w, id := range m.writers {
		p = p.Advance(w, id)
	}
	return p
}

func checkModel(t *rapid.T, what string, p replication.Position, m model) {
	t.Helper()
	top := m.floor
	for _, w := range append(modelWriters, "unheard of") {
		if p.Get(w) != m.get(w) {
			t.Fatalf("%s: %v has %s at %d, want %d", what, p, w, p.Get(w), m.get(w))
		}
		if !p.Covers(w, m.get(w)) || p.Covers(w, m.get(w)+1) {
			t.Fatalf("%s: %v does not cover %s up to exactly %d", what, p, w, m.get(w))
		}
		top = max(top, m.get(w))
	}
	if p.Floor() != m.floor || p.Max() != top || p.Epoch() != m.epoch {
		t.Fatalf("%s: %v has floor %d, max %d, epoch %d, want %d, %d, %d", what, p, p.Floor(), p.Max(), p.Epoch(), m.floor, top, m.epoch)
	}
}

func TestPositionModel(t *testing.T) {
	t.Parallel()
	ids := replication.NewWriterIDs(modelWriters...)
	plain := regexp.MustCompile(`^[0-9.~-]+$`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawModel(t, "a"), drawModel(t, "b")
		p, q := a.position(), b.position()
		checkModel(t, "advance", p, a)

		// Merge is the pointwise maximum, and the least position at least both.
		m := p.Merge(q)
		want := model{epoch: max(a.epoch, b.epoch), writers: map[string]int64{}}
		switch {
		case a.epoch > b.epoch:
			want = a
		case a.epoch < b.epoch:
			want = b
		default:
			want.floor = max(a.floor, b.floor)
			for _, w := range modelWriters {
				want.writers[w] = max(a.get(w), b.get(w))
			}
			if !m.AtLeast(p) || !m.AtLeast(q) {
				t.Fatalf("%v merged with %v is %v, which is not at least both", p, q, m)
			}
		}
		checkModel(t, "merge", m, want)
		if !q.Merge(p).Equal(m) || !m.Merge(p).Equal(m) {
			t.Fatalf("merge of %v and %v depends on order", p, q)
		}

		// AtLeast is the pointwise order.
		atLeast := a.epoch == b.epoch && a.floor >= b.floor
		for _, w := range modelWriters {
			atLeast = atLeast && a.get(w) >= b.get(w)
		}
		if q.IsZero() {
			atLeast = true
		}
		if p.AtLeast(q) != atLeast {
			t.Fatalf("%v.AtLeast(%v) is %v", p, q, !atLeast)
		}
		if p.AtLeast(q) && q.AtLeast(p) && !p.IsZero() && !q.IsZero() && !p.Equal(q) {
			t.Fatalf("%v and %v are at least one another but not equal", p, q)
		}

		// Level moves the floor to the lowest of the writers and nobody back.
		level := p.Level(modelWriters...)
		low := int64(math.MaxInt64)
		for _, w := range modelWriters {
			low = min(low, a.get(w))
			if level.Get(w) != a.get(w) {
				t.Fatalf("Level moved %s from %d to %d", w, a.get(w), level.Get(w))
			}
		}
		if level.Floor() != low {
			t.Fatalf("%v levelled has floor %d, want %d", p, level.Floor(), low)
		}
		full := make(map[string]int64)
		for _, w := range modelWriters {
			full[w] = a.get(w)
		}
		if of := replication.PositionOf(a.epoch, full); !of.Equal(level) {
			t.Fatalf("PositionOf gives %v, want %v", of, level)
		}

		// Text and JSON bring the same position back.
		text, err := p.Encode(ids)
		if err != nil {
			t.Fatal(err)
		}
		if !plain.MatchString(text) {
			t.Fatalf("text %q has characters that a token cannot hold", text)
		}
		if p.IsLevel() && a.epoch == 0 && text != fmt.Sprint(a.floor) {
			t.Fatalf("text of the level position %v is %q", p, text)
		}
		back, err := replication.ParsePosition(text, ids)
		if err != nil || !back.Equal(p) {
			t.Fatalf("%v came back from %q as %v, %v", p, text, back, err)
		}
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var fromJSON replication.Position
		if err := json.Unmarshal(data, &fromJSON); err != nil || !fromJSON.Equal(p) {
			t.Fatalf("%v came back from %s as %v, %v", p, data, fromJSON, err)
		}

		// Values do not share: working with copies left the originals as they were.
		checkModel(t, "unchanged", p, a)
		checkModel(t, "unchanged", q, b)
		if names := slices.Sorted(maps.Keys(p.Writers())); p.IsLevel() != (len(names) == 0) {
			t.Fatalf("%v has writers %v", p, names)
		}
	})
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"0", "57", "2-57", "55~2.2", "9-5~1.1~3.4", "9223372036854775807", "1~1"} {
		f.Add(s)
	}
	ids := replication.NewWriterIDs("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := replication.ParsePosition(text, ids)
		if err != nil {
			if !p.IsZero() {
				t.Errorf("error %v came with position %v", err, p)
			}
			return
		}
		// There is one text for a position.
		if again, err := p.Encode(ids); err != nil || again != text {
			t.Errorf("%q was read as %v, which is written as %q, %v", text, p, again, err)
		}
		if p.Max() < p.Floor() || p.Floor() < 0 {
			t.Errorf("%q was read as %v", text, p)
		}
	})
}

func TestPositionJSONMalformed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"floor":-1}`, `{"epoch":-1,"floor":1}`, `[]`, `"5"`, `{"floor":"x"}`} {
		var p replication.Position
		if err := json.Unmarshal([]byte(text), &p); err == nil {
			t.Errorf("%s was read as %v", text, p)
		}
	}
}
