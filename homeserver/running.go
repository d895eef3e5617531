package homeserver

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// slowStart is the time after which the log says what a process waits for.
const slowStart = 5 * time.Second

// component is a Component in a process.
type component struct {
	Component
	started atomic.Bool
	cancel  context.CancelFunc
	done    chan struct{} // closed when Run has returned
	err     error         // Run's, once done is closed
}

func newComponent(c Component) *component {
	return &component{Component: c, done: make(chan struct{})}
}

// start runs the component in the background. An error of Run goes to failed.
func (c *component) start(base context.Context, failed chan<- error) {
	// Cutting off requests must not end the components: each is stopped in its turn.
	ctx, cancel := context.WithCancel(context.WithoutCancel(base))
	c.cancel = cancel
	c.started.Store(true)
	go func() {
		defer close(c.done)
		defer func() {
			if p := recover(); p != nil {
				c.err = fmt.Errorf("component %s panicked: %v\n%s", c.Name(), p, debug.Stack())
				failed <- c.err
			}
		}()
		err := c.Run(ctx)
		if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
			c.err = fmt.Errorf("component %s: %w", c.Name(), err)
			failed <- c.err
		}
	}()
}

// wait returns when the component is ready, has ended, or ctx ends.
func (c *component) wait(ctx context.Context, log zerolog.Logger) error {
	r, ok := c.Component.(Readier)
	if !ok {
		return nil
	}
	timer := time.NewTimer(slowStart)
	defer timer.Stop()
	for {
		select {
		case <-r.Ready():
			return nil
		case <-c.done:
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			e := log.Info().Str("waiting_for", c.Name())
			if why := c.check(ctx); why != nil {
				e = e.Err(why)
			}
			e.Msg("not ready yet")
		}
	}
}

// stop ends the component and waits for it.
func (c *component) stop(ctx context.Context) error {
	if !c.started.Load() {
		return nil
	}
	c.cancel()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("component %s did not stop in time", c.Name())
	}
}

// check says why the component does not work, nil where it does.
func (c *component) check(ctx context.Context) error {
	if !c.started.Load() {
		return errNotStarted
	}
	select {
	case <-c.done:
		if c.err != nil {
			return c.err
		}
		return nil
	default:
	}
	if k, ok := c.Component.(Checker); ok {
		if err := k.Check(ctx); err != nil {
			return err
		}
	}
	if r, ok := c.Component.(Readier); ok {
		select {
		case <-r.Ready():
		default:
			return errStarting
		}
	}
	return nil
}

var (
	errNotStarted = errors.New("not started yet")
	errStarting   = errors.New("starting")
)
