package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const startTimeout = 5 * time.Minute

// startCommand starts what does not run yet, one after another, each when the one before is ready.
func startCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	workers, err := selection("start", args, stderr)
	if err != nil {
		return err
	}
	return startAll(ctx, workers, stdout)
}

func startAll(ctx context.Context, workers []worker, stdout io.Writer) error {
	for _, w := range workers {
		if err := w.start(ctx, stdout); err != nil {
			return err
		}
	}
	return nil
}

// start starts the worker in the background and waits until it says READY=1, as a service manager would. What it prints
// goes to a log beside its pid file; what it logs, where its log configuration says.
func (w worker) start(ctx context.Context, stdout io.Writer) error {
	pid, err := w.running()
	if err != nil {
		return err
	}
	if pid != 0 {
		return say(stdout, "%s: already running (pid %d)\n", w.name, pid)
	}
	dir, err := os.MkdirTemp("", "weft-start")
	if err != nil {
		return fmt.Errorf("%s: make notification socket: %w", w.name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	address := filepath.Join(dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("%s: make notification socket: %w", w.name, err)
	}
	defer func() { _ = socket.Close() }()
	logPath := strings.TrimSuffix(w.pidFile, ".pid") + ".out"
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("%s: open log: %w", w.name, err)
	}
	defer func() { _ = log.Close() }()
	var args []string
	for _, f := range w.files {
		args = append(args, "-c", f)
	}
	cmd := exec.Command(w.program, args...) // outlives this program: no context
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return // closed
			}
			if strings.Contains(string(buf[:n]), "READY=1") {
				close(ready)
				return
			}
		}
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-ready:
		return say(stdout, "%s: started (pid %d)\n", w.name, cmd.Process.Pid)
	case err := <-ended:
		return fmt.Errorf("%s: ended before it was ready; see %s: %w", w.name, logPath, err)
	case <-timeout.C:
		return fmt.Errorf("%s: process %d is not ready yet; see %s and its /ready", w.name, cmd.Process.Pid, logPath)
	case <-ctx.Done():
		return fmt.Errorf("%s: process %d was left starting: %w", w.name, cmd.Process.Pid, ctx.Err())
	}
}
