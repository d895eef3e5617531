//go:build unix && !linux

package embedded

import "syscall"

// dieWithParent does nothing here: the next start stops a server that was left
// behind.
func dieWithParent(*syscall.SysProcAttr) {}

// passDirectories does nothing here: initdb will say what it may not enter.
func passDirectories(*syscall.SysProcAttr) {}

// isServerOf tells whether the process is a PostgreSQL server on the data
// directory: any live process is taken for one, since the directory says so.
func isServerOf(pid int, _ string) bool { return syscall.Kill(pid, 0) == nil }

// childrenOf does not know here; children end by themselves soon after.
func childrenOf(int) []int { return nil }
