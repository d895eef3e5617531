package cluster

import "syscall"

// childAttributes puts a process into its own group, so that an interrupt typed at the terminal reaches
// the supervisor only, and ends it when the supervisor is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
