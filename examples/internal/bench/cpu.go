package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every architecture Go runs on.
const clockTick = time.Second / 100

// Names of the processes that are not Weft's.
const (
	postgresName = "postgresql"
	redisName    = "redis"
)

// usage is the CPU time, in user and kernel mode, of each process by its name. PostgreSQL's processes count as one.
type usage map[string]time.Duration

// since returns what was used after an earlier reading.
func (u usage) since(earlier usage) usage {
	out := usage{}
	for name, d := range u {
		out[name] = d - earlier[name]
	}
	return out
}

func (u usage) total() time.Duration {
	var sum time.Duration
	for _, d := range u {
		sum += d
	}
	return sum
}

// stat is what bench needs of /proc/PID/stat.
type stat struct {
	pid, parent int
	command     string
	// cpu includes that of children which have ended.
	cpu time.Duration
}

// readStat reads one process. The error is fs.ErrNotExist for one that has ended.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if pe := new(fs.PathError); errors.As(err, &pe) && pe.Op == "read" { // it ended in between
			return stat{}, fs.ErrNotExist
		}
		return stat{}, err
	}
	s := stat{pid: pid}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')') // the command may hold anything
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("/proc/%d/stat: no command in %q", pid, b)
	}
	s.command = string(b[open+1 : end])
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 15 {
		return stat{}, fmt.Errorf("/proc/%d/stat: too few fields in %q", pid, b)
	}
	if s.parent, err = strconv.Atoi(f[1]); err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		s.cpu += time.Duration(n) * clockTick
	}
	return s, nil
}

// descendants reads every process below root.
func descendants(root int) ([]stat, error) {
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	children := map[int][]stat{}
	for _, p := range paths {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		children[s.parent] = append(children[s.parent], s)
	}
	var out []stat
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		out = append(out, children[queue[0]]...)
		for _, s := range children[queue[0]] {
			queue = append(queue, s.pid)
		}
	}
	return out, nil
}

// readUsage reads the processes below this one, of which names are Weft's.
func readUsage(names map[int]string) (usage, error) {
	all, err := descendants(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("read CPU times: %w", err)
	}
	u := usage{}
	for _, s := range all {
		switch name := names[s.pid]; {
		case name != "":
			u[name] += s.cpu
		case strings.HasPrefix(s.command, "postgres"):
			u[postgresName] += s.cpu
		case strings.HasPrefix(s.command, "redis"):
			u[redisName] += s.cpu
		}
	}
	return u, nil
}

// memory is what a process holds, in bytes: resident as the kernel counts it, and proportional, where a page that several
// processes share (the program itself) counts a part for each.
type memory struct{ resident, proportional int64 }

func readMemory(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, fmt.Errorf("read memory: %w", err)
	}
	var m memory
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "Rss":
			m.resident = kib << 10
		case "Pss":
			m.proportional = kib << 10
		}
	}
	if m.resident == 0 {
		return memory{}, fmt.Errorf("read memory: no Rss in /proc/%d/smaps_rollup", pid)
	}
	return m, nil
}
