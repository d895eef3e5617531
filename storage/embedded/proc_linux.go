package embedded

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent has the server shut down when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }

// passDirectories lets a program that does not run as root enter directories
// that only root may: the one privilege it keeps.
func passDirectories(attr *syscall.SysProcAttr) {
	attr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
	if !permitted(unix.CAP_DAC_READ_SEARCH) {
		attr.AmbientCaps[0] = unix.CAP_DAC_OVERRIDE
	}
}

func permitted(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Permitted&(1<<(capability%32)) != 0
}

// isServerOf tells whether the process is a PostgreSQL server on the data
// directory.
func isServerOf(pid int, data string) bool {
	// A server's working directory is its data directory. For a process that may
	// not be looked at the answer is no: the server would be ours.
	cwd, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false
	}
	if real, err := filepath.EvalSymlinks(data); err == nil {
		data = real
	}
	return cwd == data
}

// childrenOf returns the processes that the process has started.
func childrenOf(pid int) (children []int) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended
		}
		// "pid (name) state parent ...", where the name may hold anything.
		i := strings.LastIndexByte(string(stat), ')')
		fields := strings.Fields(string(stat[i+1:]))
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			children = append(children, child)
		}
	}
	return children
}
