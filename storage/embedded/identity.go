package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is whom the server runs as; nil is the process's own user.
type account struct {
	name     string
	uid, gid uint32
}

// serverAccount returns whom a server started by this process must run as.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no system user postgres or nobody to run it as")
}

// own gives a path to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// sysProcAttr returns how to start the server's programs, which must reach dir.
func (a *account) sysProcAttr(dir string) *syscall.SysProcAttr {
	// A group of its own, so that an interrupt typed at a terminal reaches the
	// homeserver alone, which stops the server when it no longer needs it.
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a == nil {
		return attr
	}
	attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	if !a.reaches(dir) {
		passDirectories(attr)
	}
	return attr
}

// reaches tells whether the account may enter every directory on the way to
// dir. (Root's home is usually closed to others.)
func (a *account) reaches(dir string) bool {
	for dir = filepath.Dir(dir); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		bit := os.FileMode(0o001)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			switch {
			case st.Uid == a.uid:
				bit = 0o100
			case st.Gid == a.gid:
				bit = 0o010
			}
		}
		if info.Mode().Perm()&bit == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
