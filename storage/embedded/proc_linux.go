package embedded

import (
	"os"
	"path/filepath"
	"strconv"
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
