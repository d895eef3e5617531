package homeserver

import (
	"context"

	"github.com/weft-im/weft/homeserver/task"
)

// The kinds of background tasks a process may have; see package task.
type (
	// Task is a Periodic or a Durable task.
	Task = task.Task
	// Periodic is work a timer starts.
	Periodic = task.Periodic
	// Durable is work queued in the database.
	Durable = task.Durable
)

// Component is a part of a process that runs for as long as the process does: a replication client, a bus, a task runner.
// A process starts its components in the order given and stops them in reverse.
type Component interface {
	// Name is stable and unique in the process; logs, metrics, /ready and errors use it.
	Name() string
	// Run blocks until ctx ends and what is in flight has been finished, then returns nil. An error stops the process.
	Run(ctx context.Context) error
}

// Readier is a Component that needs time before it can be used. The process starts the next component, and opens its
// public listeners, when the channel is closed.
type Readier interface {
	// Ready returns a channel that is closed once the component can be used. It returns the same channel each time.
	Ready() <-chan struct{}
}

// Checker is a Component that can say why it does not work now. /ready asks it.
type Checker interface {
	// Check returns nil where the component works, and otherwise what it is waiting for. It returns at once.
	Check(ctx context.Context) error
}

// ComponentFunc makes a Component of a function.
func ComponentFunc(name string, run func(ctx context.Context) error) Component {
	return componentFunc{name, run}
}

type componentFunc struct {
	name string
	run  func(ctx context.Context) error
}

func (c componentFunc) Name() string                  { return c.name }
func (c componentFunc) Run(ctx context.Context) error { return c.run(ctx) }
