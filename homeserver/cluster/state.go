package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// State is what a running cluster writes to cluster.json for other programs.
type State struct {
	ServerName string         `json:"server_name"`
	PID        int            `json:"pid"`
	Started    time.Time      `json:"started"`
	URL        string         `json:"url"`
	ConfigPath string         `json:"config_path"`
	Processes  []ProcessState `json:"processes"`
}

// ProcessState is one process of a running cluster.
type ProcessState struct {
	Name string `json:"name"`
	App  string `json:"app"`
	PID  int    `json:"pid"`
	// Address is where the process listens: "unix:PATH" or "http://HOST:PORT".
	Address  string   `json:"address"`
	Streams  []string `json:"streams"`
	Restarts int      `json:"restarts"`
}

func statePath(dir string) string { return filepath.Join(dir, "cluster.json") }

// ReadState reads the state of the cluster in dir. The error is fs.ErrNotExist when none runs there.
func ReadState(dir string) (State, error) {
	data, err := os.ReadFile(statePath(dir))
	if err != nil {
		return State{}, fmt.Errorf("read cluster state: %w", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("read cluster state: %w", err)
	}
	return s, nil
}

// writeState replaces the file in one step, so that a reader never sees half of it.
func writeState(dir string, s State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write cluster state: %w", err)
	}
	tmp := statePath(dir) + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write cluster state: %w", err)
	}
	if err := os.Rename(tmp, statePath(dir)); err != nil {
		return fmt.Errorf("write cluster state: %w", err)
	}
	return nil
}

// lockDir takes the directory for this cluster, or fails where another runs in it. The kernel gives it back when the
// supervisor is gone, however it went.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock cluster directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("a cluster runs in %s already", dir)
		}
		return nil, fmt.Errorf("lock cluster directory: %w", err)
	}
	return func() {
		// Closing alone would leave the lock with a child that is just being forked.
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		_ = f.Close()
	}, nil
}
