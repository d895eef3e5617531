package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// Supervisor runs the processes of a cluster. Make one with [New].
type Supervisor struct {
	cfg   Config
	log   zerolog.Logger
	ready chan struct{}

	mu    sync.Mutex
	state State
}

// New checks the topology. It does no I/O and starts nothing.
func New(cfg Config, log zerolog.Logger) (*Supervisor, error) {
	cfg.Topology = cfg.Topology.withDefaults()
	cfg.ReadyTimeout = cmp.Or(cfg.ReadyTimeout, 2*time.Minute)
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, errors.New("cluster: Dir is required"))
	}
	if cfg.BinDir == "" {
		errs = append(errs, errors.New("cluster: BinDir is required"))
	}
	if len(cfg.ListenTLS) > 0 && (cfg.TLSCertificatePath == "" || cfg.TLSPrivateKeyPath == "") {
		errs = append(errs, errors.New("cluster: ListenTLS needs TLSCertificatePath and TLSPrivateKeyPath"))
	}
	errs = append(errs, cfg.Topology.validate())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Supervisor{cfg: cfg, log: log, ready: make(chan struct{})}, nil
}

// Ready is closed when every process has said that it is ready.
func (s *Supervisor) Ready() <-chan struct{} { return s.ready }

// URL is where clients find the homeserver. Valid once Ready is closed.
func (s *Supervisor) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.URL
}

// stopTimeout is how long a process may take to drain before it is killed.
const stopTimeout = 25 * time.Second

// Run starts everything and blocks until ctx is done; what ends by itself is started again. Then it stops the processes in the order in which
// nothing is cut off: the router, the workers, the main process, Redis, PostgreSQL. It returns nil after
// a clean stop.
func (s *Supervisor) Run(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("make cluster directory: %w", err)
	}
	unlock, err := lockDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	defer removeSocketDir(s.cfg)

	backends, err := s.startBackends(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it was starting
		}
		return err
	}
	defer func() { err = errors.Join(err, backends.stop()) }()

	plan, err := generate(s.cfg)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.state = State{ServerName: s.cfg.Topology.ServerName, PID: os.Getpid(), Started: time.Now(), URL: plan.url, ConfigPath: plan.configPath}
	for _, c := range plan.commands {
		s.state.Processes = append(s.state.Processes, ProcessState{
			Name: c.process.Name, App: c.process.App, Address: c.address, Streams: c.process.Streams,
		})
	}
	s.mu.Unlock()
	defer func() { _ = os.Remove(statePath(s.cfg.Dir)) }()

	return s.runProcesses(ctx, plan)
}

// runProcesses starts the plan's processes and stops them, the last stage first, when ctx is done.
func (s *Supervisor) runProcesses(ctx context.Context, plan *plan) error {
	fork := newForker()
	defer fork.close()

	type running struct {
		stop context.CancelFunc
		done chan error
	}
	var stages [3][]running
	failed := make(chan error, len(plan.commands))
	for i, c := range plan.commands {
		// A process outlives ctx until its stage is stopped.
		procCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		r := running{stop: stop, done: make(chan error, 1)}
		go func() {
			err := s.keepRunning(procCtx, fork, i, c)
			if err != nil {
				failed <- err
			}
			r.done <- err
		}()
		stages[stage(c.process.App)] = append(stages[stage(c.process.App)], r)
	}

	err := s.waitReady(ctx, plan, failed)
	if err == nil {
		close(s.ready)
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	for i := len(stages) - 1; i >= 0; i-- {
		for _, r := range stages[i] {
			r.stop()
		}
		for _, r := range stages[i] {
			if e := <-r.done; e != nil && err == nil {
				err = e
			}
		}
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// stage orders the stop: what others need stops later.
func stage(app string) int {
	switch app {
	case AppHomeserver:
		return 0
	case AppRouter:
		return 2
	default:
		return 1
	}
}

// keepRunning starts a process again whenever it ends, more slowly each time it ends soon, until ctx is
// done. A process that ends with status 1 before it was ever ready has a configuration that will not get
// better by itself: that is an error.
func (s *Supervisor) keepRunning(ctx context.Context, fork *forker, index int, c command) error {
	const minBackoff, maxBackoff, steady = 100 * time.Millisecond, 10 * time.Second, 30 * time.Second
	backoff := minBackoff
	for restarts := 0; ; restarts++ {
		logFile, err := s.openLog(c)
		if err != nil {
			return fmt.Errorf("open log of %s: %w", c.process.Name, err)
		}
		started := time.Now()
		cmd, err := fork.start(c, logFile)
		if err != nil {
			_ = logFile.Close()
			return fmt.Errorf("start %s: %w", c.process.Name, err)
		}
		s.setProcess(index, cmd.Process.Pid, restarts)
		exited := make(chan error, 1)
		go func() { exited <- cmd.Wait() }()

		select {
		case err = <-exited:
			_ = logFile.Close()
		case <-ctx.Done():
			err := terminate(cmd.Process, exited)
			_ = logFile.Close()
			if err != nil {
				return fmt.Errorf("stop %s: %w", c.process.Name, err)
			}
			return nil
		}
		select {
		case <-s.ready:
		default:
			if cmd.ProcessState.ExitCode() == 1 {
				return fmt.Errorf("%s ended at its start: %s", c.process.Name, lastLine(c.log))
			}
		}
		s.log.Warn().Str("instance", c.process.Name).AnErr("cause", err).Dur("backoff", backoff).Msg("process ended, starting it again")
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		if time.Since(started) > steady {
			backoff = minBackoff
		} else {
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// openLog returns where a process writes its log: a file of its own or a copy of our standard error.
func (s *Supervisor) openLog(c command) (*os.File, error) {
	if !s.cfg.LogToStderr {
		return os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	fd, err := syscall.Dup(int(os.Stderr.Fd()))
	if err != nil {
		return nil, fmt.Errorf("duplicate standard error: %w", err)
	}
	return os.NewFile(uintptr(fd), "stderr"), nil
}

// terminate asks a process to drain, and kills it when it takes too long.
func terminate(p *os.Process, exited <-chan error) error {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case err := <-exited:
		return err
	case <-time.After(stopTimeout):
		_ = p.Kill()
		<-exited //nolint:errcheck // it was killed
		return fmt.Errorf("did not stop within %s and was killed", stopTimeout)
	}
}

func (s *Supervisor) setProcess(index, pid, restarts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Processes[index].PID = pid
	s.state.Processes[index].Restarts = restarts
	if err := writeState(s.cfg.Dir, s.state); err != nil {
		s.log.Warn().Err(err).Msg("cluster state not written")
	}
}

// lastLine returns the last line of a log, to show why a process ended.
func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "its log is unreadable"
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	slices.Reverse(lines)
	return lines[0] + " (" + filepath.Base(path) + ")"
}

func splitAddress(addr string) (host string, port int) {
	h, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, 0
	}
	port, _ = strconv.Atoi(p)
	return h, port
}
