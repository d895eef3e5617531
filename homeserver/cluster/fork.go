package cluster

import (
	"os"
	"os/exec"
	"runtime"
	"sync"
)

// forker starts all processes from one OS thread that lives as long as they do: where the system can tell
// a child that its parent has died, "the parent" is the thread that started it.
type forker struct {
	requests chan forkRequest
	done     sync.WaitGroup
}

type forkRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

func newForker() *forker {
	f := &forker{requests: make(chan forkRequest)}
	f.done.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for r := range f.requests {
			r.reply <- r.cmd.Start()
		}
	})
	return f
}

func (f *forker) start(c command, output *os.File) (*exec.Cmd, error) {
	return f.startCommand(exec.Command(c.path, c.args...), output)
}

func (f *forker) startCommand(cmd *exec.Cmd, output *os.File) (*exec.Cmd, error) {
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = childAttributes()
	reply := make(chan error, 1)
	f.requests <- forkRequest{cmd, reply}
	if err := <-reply; err != nil {
		return nil, err
	}
	return cmd, nil
}

func (f *forker) close() {
	close(f.requests)
	f.done.Wait()
}
