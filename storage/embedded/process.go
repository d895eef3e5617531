package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server's main process, started here or found.
type process struct {
	pid  int
	data string
	// done is closed when it has ended; nil for a detached one, which nobody
	// waits for.
	done chan struct{}
	// child says that a detached process was started by this one.
	child bool
}

// startUntilReady starts the server and waits until it accepts connections.
func startUntilReady(ctx context.Context, program string, args []string, attr *syscall.SysProcAttr, p paths) (*process, error) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		logStart, err := rotateLog(p.log)
		if err != nil {
			return nil, err
		}
		proc, err := startProcess(program, args, attr, p)
		if err != nil {
			return nil, err
		}
		if err = proc.waitReady(ctx, p); err == nil {
			return proc, nil
		}
		said := readFrom(p.log, logStart)
		// Children of a server that was killed need a moment to see it.
		if strings.Contains(said, "pre-existing shared memory block") && time.Now().Before(deadline) && pause(ctx) == nil {
			continue
		}
		if e := proc.stop(context.WithoutCancel(ctx)); e != nil {
			err = errors.Join(err, e)
		}
		return nil, fmt.Errorf("start: %s (log: %s)", failure([]byte(said), err), p.log)
	}
}

// startProcess starts the server's main process with its log as output. A
// process that does not die with this one is let go of.
func startProcess(program string, args []string, attr *syscall.SysProcAttr, p paths) (*process, error) {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	// Not the data directory: the right to reach it may come with the exec only.
	cmd.Dir = "/"
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attr
	proc := &process{data: p.data}
	if attr.Setsid {
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		proc.pid, proc.child = cmd.Process.Pid, true
		return proc, cmd.Process.Release()
	}
	proc.done = make(chan struct{})
	started := make(chan error)
	go func() {
		// The signal of a parent's death is sent when the thread dies that
		// started the child, so that thread must stay.
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		proc.pid = cmd.Process.Pid
		started <- nil
		// How it ended stands in its log.
		_ = cmd.Wait()
		close(proc.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return proc, nil
}

// ended tells whether the process has ended.
func (proc *process) ended() bool {
	if proc.child {
		reaped, err := syscall.Wait4(proc.pid, nil, syscall.WNOHANG, nil)
		return reaped == proc.pid || errors.Is(err, syscall.ECHILD)
	}
	if proc.done == nil {
		return !isServerOf(proc.pid, proc.data)
	}
	select {
	case <-proc.done:
		return true
	default:
		return false
	}
}

// wait returns when the process has ended, or with the context's error.
func (proc *process) wait(ctx context.Context) error {
	if proc.done != nil {
		select {
		case <-proc.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for !proc.ended() {
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// waitReady waits until the server's pid file says that it accepts
// connections. Asking by connecting would fill its log.
func (proc *process) waitReady(ctx context.Context, p paths) error {
	for {
		pid, ready := readPIDFile(p.data)
		if pid == proc.pid && ready {
			return nil
		}
		if proc.ended() {
			return errors.New("the server ended while it started")
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait for the server: %w", err)
		}
	}
}

// stop asks the server to end its connections and itself, and not so kindly
// once ctx has ended.
func (proc *process) stop(ctx context.Context) error {
	if proc.ended() {
		return nil // its number may be another process's by now
	}
	if err := proc.signal(syscall.SIGINT); err != nil {
		return err
	}
	if proc.wait(ctx) == nil {
		return nil
	}
	if err := proc.signal(syscall.SIGQUIT); err != nil {
		return err
	}
	return proc.wait(context.WithoutCancel(ctx))
}

// kill ends the server and the processes that serve its connections, all at
// once.
func (proc *process) kill() error {
	if proc.ended() {
		return nil
	}
	children := childrenOf(proc.pid)
	if err := proc.signal(syscall.SIGKILL); err != nil {
		return err
	}
	for _, pid := range children {
		// It may have seen the end of the server already.
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	for _, pid := range children {
		for isServerOf(pid, proc.data) {
			if err := pause(context.Background()); err != nil {
				return err
			}
		}
	}
	return proc.wait(context.Background())
}

func (proc *process) signal(sig syscall.Signal) error {
	if err := syscall.Kill(proc.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal process %d: %w", proc.pid, err)
	}
	return nil
}

// readPIDFile returns the process id in the data directory's pid file, 0 when
// there is none, and whether the server accepts connections.
func readPIDFile(data string) (pid int, ready bool) {
	f, err := os.Open(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for line := 1; sc.Scan(); line++ {
		switch line {
		case 1:
			if pid, err = strconv.Atoi(strings.TrimSpace(sc.Text())); err != nil {
				return 0, false
			}
		case 8:
			ready = strings.TrimSpace(sc.Text()) == "ready"
		}
	}
	return pid, ready
}

// runningServer returns the process id of a server that runs on the data
// directory, or 0.
func runningServer(data string) int {
	pid, _ := readPIDFile(data)
	if pid > 0 && isServerOf(pid, data) && syscall.Kill(pid, 0) == nil {
		return pid
	}
	return 0
}

// stopOrphan stops a server that was left behind by a process which died, and
// removes a pid file that names no server. The caller holds the directory's
// lock, so nobody else's server is in the way.
func stopOrphan(ctx context.Context, data string) error {
	for {
		pid := runningServer(data)
		if pid == 0 {
			break
		}
		if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop the server that was left behind (process %d): %w", pid, err)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait for the server that was left behind (process %d): %w", pid, err)
		}
	}
	// The number may by now belong to some other process, which PostgreSQL would
	// take for a server.
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

const maxLogBytes = 16 << 20

// rotateLog moves a log that has grown large aside and returns where what is
// written next will begin.
func rotateLog(path string) (offset int64, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if info.Size() < maxLogBytes {
		return info.Size(), nil
	}
	return 0, os.Rename(path, path+".1")
}

func readFrom(path string, offset int64) string {
	data, err := os.ReadFile(path)
	if err != nil || int64(len(data)) < offset {
		return ""
	}
	return string(data[offset:])
}
