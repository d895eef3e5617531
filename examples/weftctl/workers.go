package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weft-im/weft/homeserver/config"
)

const (
	stopTimeout  = 60 * time.Second
	pollInterval = 50 * time.Millisecond
)

// worker is one process of a set, as its configuration files describe it.
type worker struct {
	name    string
	program string
	files   []string
	pidFile string
}

// selection reads what start, stop and restart take, as synctl does: a shared configuration, and with -w one worker,
// with -a the main process and all workers of a directory, with neither the main process. The main process comes first.
func selection(name string, args []string, stderr io.Writer) ([]worker, error) {
	flags := newFlags(name, "-c FILE [-a DIR | -w FILE]", stderr)
	shared := configFlag(flags)
	dir := flags.String("a", "", "the main process and every worker whose file is in `DIR`")
	flags.StringVar(dir, "all-processes", "", "the same as -a `DIR`")
	one := flags.String("w", "", "the worker of this `file` alone")
	flags.StringVar(one, "worker", "", "the same as -w `FILE`")
	positional, err := parse(flags, args)
	if err != nil {
		return nil, err
	}
	paths := append(slices.Clone(*shared), positional...)
	switch {
	case len(paths) == 0:
		return nil, usageError("no configuration: give the shared one with -c FILE")
	case *dir != "" && *one != "":
		return nil, usageError("-a and -w exclude each other")
	}
	sets := [][]string{paths}
	switch {
	case *one != "":
		sets = [][]string{append(slices.Clone(paths), *one)}
	case *dir != "":
		files, err := filepath.Glob(filepath.Join(*dir, "*.yaml"))
		if err != nil {
			return nil, fmt.Errorf("list workers: %w", err)
		}
		for _, f := range files {
			sets = append(sets, append(slices.Clone(paths), f))
		}
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the programs: %w", err)
	}
	var out []worker
	var errs []error
	for _, files := range sets {
		cfg, err := config.Load(files...)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w := worker{name: cfg.InstanceName(), program: filepath.Join(filepath.Dir(executable), cfg.AppName()), files: files, pidFile: cfg.ActivePIDFile()}
		if w.pidFile == "" {
			option := "pid_file"
			if cfg.IsWorker() {
				option = "worker_pid_file"
			}
			errs = append(errs, fmt.Errorf("%s: %s is required to start and stop %s", files[len(files)-1], option, w.name))
		}
		if i := slices.IndexFunc(out, func(o worker) bool { return o.name == w.name }); i >= 0 {
			if cfg.IsWorker() {
				errs = append(errs, fmt.Errorf("%s: %s is in another file too", files[len(files)-1], w.name))
			}
			out[i] = w // main's own file in the directory of the workers
			continue
		}
		out = append(out, w)
	}
	return out, errors.Join(errs...)
}

// running returns the process id, or 0 for a worker that does not run. A pid file that outlived its process, whose
// number may belong to another program by now, counts as not running.
func (w worker) running() (int, error) {
	b, err := os.ReadFile(w.pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: read pid file: %w", w.name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("%s: %s holds no process id", w.name, w.pidFile)
	}
	if !alive(pid) {
		return 0, nil
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil &&
		filepath.Base(strings.TrimSuffix(exe, " (deleted)")) != filepath.Base(w.program) {
		return 0, nil
	}
	return pid, nil
}

// alive reports whether a process runs. One that has ended and that its parent has not asked about, as happens in
// containers whose first process does not care for orphans, does not.
func alive(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil { // not Linux
		return true
	}
	state := stat[bytes.LastIndexByte(stat, ')')+1:]
	return !bytes.HasPrefix(state, []byte(" Z")) && !bytes.HasPrefix(state, []byte(" X"))
}

// stop asks the worker to drain, and waits until it is gone.
func (w worker) stop(ctx context.Context, stdout io.Writer) error {
	pid, err := w.running()
	if err != nil {
		return err
	}
	if pid == 0 {
		return say(stdout, "%s: not running\n", w.name)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: stop process %d: %w", w.name, pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for alive(pid) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: process %d has not stopped yet", w.name, pid)
		case <-tick.C:
		}
	}
	return say(stdout, "%s: stopped\n", w.name)
}

func say(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}
