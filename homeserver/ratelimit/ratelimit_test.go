package ratelimit

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/mxerr"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestBucket(t *testing.T) {
	t.Parallel()
	c := &clock{time.Unix(1000, 0)}
	l := New(Config{Limits: map[string]config.Rate{"rc_message": {PerSecond: 2, BurstCount: 3}}, Now: c.now})
	for i := range 3 {
		if err := l.Allow("rc_message", "@a:b"); err != nil {
			t.Fatalf("action %d of a burst of 3: %v", i+1, err)
		}
	}
	err := l.Allow("rc_message", "@a:b")
	mx, ok := mxerr.As(err)
	if !ok || !errors.Is(err, mxerr.LimitExceeded) || mx.Status != 429 {
		t.Fatalf("action 4: got %v, want M_LIMIT_EXCEEDED", err)
	}
	if got := mx.Fields["retry_after_ms"]; got != int64(500) {
		t.Errorf("retry_after_ms = %v, want 500", got)
	}
	if err := l.Allow("rc_message", "@other:b"); err != nil {
		t.Errorf("another key shares the bucket: %v", err)
	}
	c.t = c.t.Add(499 * time.Millisecond)
	if err := l.Allow("rc_message", "@a:b"); err == nil {
		t.Error("allowed 1 ms before the token came in")
	}
	c.t = c.t.Add(time.Millisecond)
	if err := l.Allow("rc_message", "@a:b"); err != nil {
		t.Errorf("after retry_after_ms: %v", err)
	}
	c.t = c.t.Add(time.Hour)
	for i := range 3 {
		if err := l.Allow("rc_message", "@a:b"); err != nil {
			t.Fatalf("full bucket, action %d: %v", i+1, err)
		}
	}
	if l.Allow("rc_message", "@a:b") == nil {
		t.Error("an hour's rest filled the bucket above its burst")
	}
}

func TestCheckTakesNothing(t *testing.T) {
	t.Parallel()
	c := &clock{time.Unix(0, 0)}
	l := New(Config{Limits: map[string]config.Rate{"x": {PerSecond: 1, BurstCount: 1}}, Now: c.now})
	for range 5 {
		if err := l.Check("x", "k"); err != nil {
			t.Fatalf("check of an untouched bucket: %v", err)
		}
	}
	if err := l.Allow("x", "k"); err != nil {
		t.Fatal(err)
	}
	if l.Check("x", "k") == nil {
		t.Error("check of an empty bucket passed")
	}
}

func TestLimitsOfNoRefill(t *testing.T) {
	t.Parallel()
	c := &clock{time.Unix(0, 0)}
	l := New(Config{Limits: map[string]config.Rate{"x": {PerSecond: 0, BurstCount: 2}, "y": {PerSecond: -1}, "z": {}}, Now: c.now})
	_, _ = l.Allow("x", "k"), l.Allow("x", "k")
	c.t = c.t.Add(365 * 24 * time.Hour)
	if l.Allow("x", "k") == nil {
		t.Error("a bucket without refill refilled")
	}
	for range 100 {
		if err := l.Allow("y", "k"); err != nil {
			t.Fatalf("negative rate should mean no limit: %v", err)
		}
	}
	if l.Allow("z", "k") == nil {
		t.Error("burst 0 should refuse all")
	}
	if err := (*Limiter)(nil).Allow("x", "k"); err != nil {
		t.Errorf("nil Limiter: %v", err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	c := &clock{time.Unix(0, 0)}
	l := New(Config{Limits: map[string]config.Rate{"x": {PerSecond: 0.001, BurstCount: 5}}, MaxKeys: 1600, Now: c.now})
	for i := range 50_000 {
		_ = l.Allow("x", strconv.Itoa(i))
	}
	n := 0
	for i := range l.shards {
		n += len(l.shards[i].full)
	}
	if n > 1600 {
		t.Errorf("%d buckets kept, want at most 1600", n)
	}
}

func TestEveryClassOfTheConfigurationIsKnown(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"rc_message", "rc_login", "rc_joins.remote", "rc_admin_redaction"} {
		if !Known(name) {
			t.Errorf("%s is not known", name)
		}
	}
	if Known("rc_nonsense") {
		t.Error("rc_nonsense is known")
	}
}

func BenchmarkAllow(b *testing.B) {
	l := New(Config{Limits: map[string]config.Rate{"x": {PerSecond: 1e9, BurstCount: 1e6}}})
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Allow("x", "@alice:example.org")
	}
}
