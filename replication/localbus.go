package replication

import (
	"context"
	"slices"
	"sync"
)

// LocalBus is a Bus inside one Go process. It connects several Clients of one test or one
// program, each standing for a process of its own. It is reliable and keeps order, but a
// subscriber that falls far behind loses messages, as with any bus.
type LocalBus struct {
	mu     sync.RWMutex
	subs   map[string][]*localSub // by channel
	closed chan struct{}
}

// NewLocalBus returns a bus that connects everybody who holds it.
func NewLocalBus() *LocalBus {
	return &LocalBus{subs: make(map[string][]*localSub), closed: make(chan struct{})}
}

// localQueue bounds the messages that wait for one subscriber.
const localQueue = 16384

type localSub struct {
	wake chan struct{}

	mu    sync.Mutex
	queue [][2]string // channel, message
	lost  bool
}

// Publish implements Bus.
func (b *LocalBus) Publish(ctx context.Context, channel, message string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	select {
	case <-b.closed:
		return ErrBusClosed
	default:
	}
	for _, s := range b.subs[channel] {
		s.mu.Lock()
		if len(s.queue) < localQueue {
			s.queue = append(s.queue, [2]string{channel, message})
		} else {
			s.lost = true
		}
		s.mu.Unlock()
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// Subscribe implements Bus.
func (b *LocalBus) Subscribe(ctx context.Context, channels []string, sub Subscriber) error {
	s := &localSub{wake: make(chan struct{}, 1)}
	b.mu.Lock()
	for _, ch := range channels {
		b.subs[ch] = append(b.subs[ch], s)
	}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, ch := range channels {
			b.subs[ch] = slices.DeleteFunc(b.subs[ch], func(o *localSub) bool { return o == s })
			if len(b.subs[ch]) == 0 {
				delete(b.subs, ch)
			}
		}
	}()
	sub.Connected()
	var spare [][2]string
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil
		case <-b.closed:
			return ErrBusClosed
		}
		s.mu.Lock()
		queue, lost := s.queue, s.lost
		s.queue, s.lost = spare[:0], false
		s.mu.Unlock()
		for _, m := range queue {
			sub.Message(m[0], m[1])
		}
		if lost {
			sub.Connected()
		}
		clear(queue)
		spare = queue
	}
}

// Close implements Bus.
func (b *LocalBus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
	default:
		close(b.closed)
	}
	return nil
}
