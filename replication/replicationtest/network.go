package replicationtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/weft-im/weft/replication"
)

// Action is what a Network does with a message on its way to one subscriber.
type Action uint8

const (
	Deliver   Action = iota // as it should be
	Drop                    // never arrives
	Duplicate               // arrives twice
	Hold                    // kept until Release
	Delay                   // arrives after the next message to the same subscriber
)

// Message is a message on its way from one process to another.
type Message struct {
	From, To string // names given to Network.Bus
	Channel  string
	Text     string
}

// ErrPartitioned is why a partitioned process is disconnected.
var ErrPartitioned = errors.New("partitioned by the test")

// Network is a bus in memory that loses, repeats, reorders and holds back messages as a
// test says. Bus gives each process its own end, so that one can be cut off. Messages are
// delivered synchronously, within Publish, Release and Heal. Safe for concurrent use.
type Network struct {
	mu     sync.Mutex
	script func(Message) Action
	ends   map[string]*end
	held   []delivery
}

type delivery struct {
	msg Message
	sub *subscription
}

// NewNetwork returns a network without faults.
func NewNetwork() *Network { return &Network{ends: make(map[string]*end)} }

// Script has fn decide what happens to each message to each subscriber; nil delivers all.
// fn is called by one goroutine at a time and must not use the network.
func (n *Network) Script(fn func(Message) Action) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.script = fn
}

// Chaos returns a script that drops, repeats, delays and holds messages at random, each
// with probability p, the same way for the same seed and traffic.
func Chaos(seed uint64, p float64) func(Message) Action {
	r := rand.New(rand.NewPCG(seed, seed))
	return func(Message) Action {
		switch x := r.Float64(); {
		case x < p:
			return Drop
		case x < 2*p:
			return Duplicate
		case x < 3*p:
			return Delay
		case x < 4*p:
			return Hold
		}
		return Deliver
	}
}

// Bus returns the end of the network that the named process holds.
func (n *Network) Bus(name string) replication.Bus {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.ends[name]
	if e == nil {
		e = &end{net: n, name: name, closed: make(chan struct{})}
		n.ends[name] = e
	}
	return e
}

// Partition cuts a process off: it is told that it is disconnected, its messages are
// refused and those to it are lost.
func (n *Network) Partition(name string) {
	for _, s := range n.setDown(name, true) {
		s.call(func(sub replication.Subscriber) { sub.Disconnected(ErrPartitioned) })
	}
}

// Heal ends a partition: the process is told that it is connected.
func (n *Network) Heal(name string) {
	for _, s := range n.setDown(name, false) {
		s.call(func(sub replication.Subscriber) { sub.Connected() })
	}
}

// Restart interrupts all connections for a moment, as a restart of a broker does. Held and
// delayed messages are lost.
func (n *Network) Restart() {
	n.mu.Lock()
	n.held = nil
	var subs []*subscription
	for _, e := range n.ends {
		for _, s := range e.subs {
			s.takeDelayed()
			subs = append(subs, s)
		}
	}
	n.mu.Unlock()
	for _, s := range subs {
		s.call(func(sub replication.Subscriber) { sub.Disconnected(ErrPartitioned) })
	}
	for _, s := range subs {
		s.call(func(sub replication.Subscriber) { sub.Connected() })
	}
}

// Release delivers what was held, in the order in which it was sent.
func (n *Network) Release() {
	n.mu.Lock()
	held := n.held
	n.held = nil
	n.mu.Unlock()
	for _, d := range held {
		d.sub.message(d.msg)
	}
}

// Held is the number of messages that are held.
func (n *Network) Held() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.held)
}

func (n *Network) setDown(name string, down bool) []*subscription {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.ends[name]
	if e == nil || e.down == down {
		return nil
	}
	e.down = down
	return append([]*subscription(nil), e.subs...)
}

// end is one process's bus.
type end struct {
	net    *Network
	name   string
	closed chan struct{}
	once   sync.Once

	// under net.mu
	down bool
	subs []*subscription
}

type subscription struct {
	channels map[string]bool

	mu      sync.Mutex // one call to sub at a time
	sub     replication.Subscriber
	gone    bool
	delayed []Message
}

func (s *subscription) call(fn func(replication.Subscriber)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		fn(s.sub)
	}
}

func (s *subscription) message(m Message) {
	s.call(func(sub replication.Subscriber) { sub.Message(m.Channel, m.Text) })
}

func (s *subscription) takeDelayed() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.delayed
	s.delayed = nil
	return d
}

// Publish implements replication.Bus.
func (e *end) Publish(ctx context.Context, channel, message string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-e.closed:
		return replication.ErrBusClosed
	default:
	}
	n := e.net
	n.mu.Lock()
	if e.down {
		n.mu.Unlock()
		return replication.ErrNotConnected
	}
	type step struct {
		delivery
		action Action
	}
	var steps []step
	for _, to := range n.ends {
		if to.down {
			continue
		}
		for _, s := range to.subs {
			if !s.channels[channel] {
				continue
			}
			m := Message{From: e.name, To: to.name, Channel: channel, Text: message}
			action := Deliver
			if n.script != nil {
				action = n.script(m)
			}
			if action == Hold {
				n.held = append(n.held, delivery{m, s})
				continue
			}
			steps = append(steps, step{delivery{m, s}, action})
		}
	}
	n.mu.Unlock()
	for _, st := range steps {
		switch st.action {
		case Drop:
			continue
		case Delay:
			st.sub.mu.Lock()
			st.sub.delayed = append(st.sub.delayed, st.msg)
			st.sub.mu.Unlock()
			continue
		case Duplicate:
			st.sub.message(st.msg)
		}
		st.sub.message(st.msg)
		for _, m := range st.sub.takeDelayed() {
			st.sub.message(m)
		}
	}
	return nil
}

// Subscribe implements replication.Bus.
func (e *end) Subscribe(ctx context.Context, channels []string, sub replication.Subscriber) error {
	s := &subscription{channels: make(map[string]bool), sub: sub}
	for _, ch := range channels {
		s.channels[ch] = true
	}
	e.net.mu.Lock()
	e.subs = append(e.subs, s)
	down := e.down
	e.net.mu.Unlock()
	if !down {
		s.call(replication.Subscriber.Connected)
	}
	var err error
	select {
	case <-ctx.Done():
	case <-e.closed:
		err = replication.ErrBusClosed
	}
	e.net.mu.Lock()
	for i, o := range e.subs {
		if o == s {
			e.subs = append(e.subs[:i], e.subs[i+1:]...)
			break
		}
	}
	e.net.mu.Unlock()
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	return err
}

// Close implements replication.Bus.
func (e *end) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}
