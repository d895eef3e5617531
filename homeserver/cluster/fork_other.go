//go:build !linux

package cluster

import "syscall"

// childAttributes puts a process into its own group, so that an interrupt typed at the terminal reaches
// the supervisor only.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
