package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weft-im/weft/homeserver/cluster"
)

const (
	idleMemoryTarget  = 40   // MiB resident, each
	idleTogether      = 250  // MiB, eight processes
	idleCPUTarget     = 0.05 // seconds a minute, each
	startReadyTarget  = 300  // milliseconds
	settle            = 10 * time.Second
	startsMeasured    = 5
	mebibyte          = 1 << 20
	processTerminates = 30 * time.Second
)

// eightProcesses is a cluster of a usual shape.
func eightProcesses() []cluster.Process {
	out := oneProcess()
	for _, name := range []string{"worker1", "worker2", "worker3", "worker4"} {
		out = append(out, cluster.Process{Name: name, App: cluster.AppGenericWorker})
	}
	return append(out,
		cluster.Process{Name: "persister1", App: cluster.AppEventPersister},
		cluster.Process{Name: "persister2", App: cluster.AppEventPersister},
		cluster.Process{Name: "router", App: cluster.AppRouter})
}

// idle measures what eight processes hold and use that nobody calls.
func idle(ctx context.Context, cfg Config, r *Report) (err error) {
	const scenario = "idle"
	i, err := startInstance(ctx, cfg, eightProcesses())
	if err != nil {
		return err
	}
	defer func() { err = i.end(err) }()
	if err := sleep(ctx, min(settle, cfg.Idle)); err != nil {
		return err
	}
	spent, elapsed, err := i.spent(func() error { return sleep(ctx, cfg.Idle) })
	if err != nil {
		return err
	}
	minutes := elapsed.Minutes()
	var together memory
	for _, p := range i.state.Processes {
		m, err := readMemory(p.PID)
		if err != nil {
			return err
		}
		together.resident += m.resident
		together.proportional += m.proportional
		r.addTarget(scenario, "resident, "+p.Name, float64(m.resident)/mebibyte, "MiB", idleMemoryTarget)
		r.addTarget(scenario, "CPU, "+p.Name, spent[p.Name].Seconds()/minutes, "s/min", idleCPUTarget)
	}
	r.add(scenario, "CPU, "+postgresName, spent[postgresName].Seconds()/minutes, "s/min")
	r.add(scenario, "CPU, "+redisName, spent[redisName].Seconds()/minutes, "s/min")
	r.addTarget(scenario, "resident, eight processes", float64(together.resident)/mebibyte, "MiB", idleTogether)
	r.add(scenario, "proportional, eight processes", float64(together.proportional)/mebibyte, "MiB")
	return nil
}

// start measures the time from a process's start to its being ready, with a database that is there and migrated.
func start(ctx context.Context, cfg Config, r *Report) (err error) {
	const scenario = "start"
	// The cluster lends its database; the process beside it has a configuration of its own.
	i, err := startInstance(ctx, cfg, append(oneProcess(), cluster.Process{Name: "worker1", App: cluster.AppGenericWorker}))
	if err != nil {
		return err
	}
	defer func() { err = i.end(err) }()
	var took []time.Duration
	for range startsMeasured {
		d, err := i.startToReady(ctx, cfg)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	r.addTarget(scenario, "start to ready, median", milliseconds(quantile(took, .5)), "ms", startReadyTarget)
	return nil
}

// startToReady starts one more worker and stops it again.
func (i *instance) startToReady(ctx context.Context, cfg Config) (time.Duration, error) {
	path := filepath.Join(i.dir, "conf", "extra.yaml")
	listen, err := freeAddress()
	if err != nil {
		return 0, err
	}
	_, port, _ := net.SplitHostPort(listen)
	text := fmt.Sprintf(`worker_app: generic_worker
worker_name: extra
worker_listeners:
  - {type: http, port: %s, bind_addresses: [127.0.0.1], resources: [{names: [client, federation, media]}]}
`, port)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return 0, err
	}
	socketPath := filepath.Join(i.dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socketPath, Net: "unixgram"})
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = socket.Close()
		_ = os.Remove(socketPath)
	}()
	if err := socket.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(cfg.BinDir, cluster.AppGenericWorker), "-c", i.state.ConfigPath, "-c", path)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socketPath)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = processTerminates
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for {
		n, err := socket.Read(buf)
		if err != nil {
			_ = cmd.Process.Kill()
			return 0, fmt.Errorf("the process does not get ready: %w", err)
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			break
		}
	}
	took := time.Since(began)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	return took, cmd.Wait()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
