package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketPath is the longest path of a unix socket that every kernel takes.
const maxSocketPath = 103

// makeSocketDir makes the directory for sockets: run/ in the cluster's directory, or, where the path of a socket in it
// would be too long for the kernel, a directory of that cluster's own among the temporary ones.
func makeSocketDir(cfg Config) (string, error) {
	dir, err := socketDir(cfg)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	// Among the temporary directories anybody may have made it first.
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("make socket directory: %s belongs to someone else", dir)
	}
	return dir, nil
}

// socketDir returns the directory for sockets, the same one at each start.
func socketDir(cfg Config) (string, error) {
	run, err := filepath.Abs(filepath.Join(cfg.Dir, "run"))
	if err != nil {
		return "", fmt.Errorf("find socket directory: %w", err)
	}
	longest := len("redis")
	for _, p := range cfg.Topology.Processes {
		longest = max(longest, len(p.Name)+len(private))
	}
	if len(run)+len("/")+longest+len(".sock") <= maxSocketPath {
		return run, nil
	}
	sum := sha256.Sum256([]byte(run))
	return filepath.Join(os.TempDir(), "weft-run-"+hex.EncodeToString(sum[:6])), nil
}

// removeSocketDir removes a directory that [makeSocketDir] made outside of the cluster's, once nothing is in it.
func removeSocketDir(cfg Config) {
	if dir, err := socketDir(cfg); err == nil && filepath.Base(dir) != "run" {
		_ = os.Remove(dir)
	}
}
