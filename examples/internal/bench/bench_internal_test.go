package bench

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestReadUsage(t *testing.T) {
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		u, err := readUsage(map[int]string{cmd.Process.Pid: "busy"})
		if err != nil {
			t.Fatal(err)
		}
		if u["busy"] >= 2*clockTick && u.total() == u["busy"] {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a busy process used %v", u)
		}
	}
}

func TestReadStat(t *testing.T) {
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	s, err := readStat(os.Getpid())
	if err != nil || s.pid != os.Getpid() || s.parent != os.Getppid() || s.command == "" {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := readStat(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is not there: %v", err)
	}
	if m, err := readMemory(os.Getpid()); err != nil || m.proportional <= 0 || m.resident < m.proportional {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestScanResponses(t *testing.T) {
	body := []byte(`{"next_batch":"s1_2","rooms":{"join":{"!r":{"timeline":{"events":[
		{"content":{"bench.sent":1700000000000001,"body":"x"}},{"content":{"body":"y","bench.sent":1700000000000002}}]}}}}}`)
	if got := nextBatch(body); got != "s1_2" {
		t.Errorf("next_batch %q", got)
	}
	want := []time.Time{time.UnixMicro(1700000000000001), time.UnixMicro(1700000000000002)}
	if got := sentTimes(body); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	for _, broken := range []string{"", `{}`, `"bench.sent":`, `"bench.sent":x}`} {
		if got := sentTimes([]byte(broken)); len(got) != 0 || nextBatch([]byte(broken)) != "" {
			t.Errorf("%q: sent at %v", broken, got)
		}
	}
}

func TestQuantile(t *testing.T) {
	v := []time.Duration{4, 1, 3, 2}
	for _, tc := range []struct {
		share float64
		want  time.Duration
	}{{0, 1}, {.5, 3}, {.99, 4}, {1, 4}} {
		if got := quantile(v, tc.share); got != tc.want {
			t.Errorf("%v: got %v, want %v", tc.share, got, tc.want)
		}
	}
	if got := quantile(nil, .5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestFigureMet(t *testing.T) {
	one := 1.0
	for _, tc := range []struct {
		f    Figure
		want bool
	}{
		{Figure{Value: 5}, true},
		{Figure{Value: 1, Target: &one}, true},
		{Figure{Value: 2, Target: &one}, false},
		{Figure{Value: 2, Target: &one, AtLeast: true}, true},
		{Figure{Value: .5, Target: &one, AtLeast: true}, false},
	} {
		if tc.f.Met() != tc.want {
			t.Errorf("%+v: met is %v", tc.f, !tc.want)
		}
	}
}
