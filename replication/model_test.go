package replication_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/replicationtest"
)

// step is one thing that happens in a run of the model test.
type step struct {
	what string
	proc int // which process
	n    int
}

var stepKinds = []string{
	"begin", "begin", "begin", "commit", "commit", "commit", "commit", "write", "write", "write", "write", "write", "write",
	"partition", "heal", "restart bus", "release", "chaos", "calm", "crash", "crash after commit", "stop", "time", "time", "database away",
}

var modelNames = []string{"p0", "p1", "p2"}

// modelRun is a cluster of processes that all write and follow one stream, over a network
// that loses, repeats and reorders.
type modelRun struct {
	t     *testing.T
	db    *table
	net   *replicationtest.Network
	procs []*process
	open  map[string][]int64
}

func (m *modelRun) start(i int) {
	name := modelNames[i]
	writers, err := replication.NewWriters(replication.WritersConfig{
		Instance: name, Instances: modelNames, StreamWriters: map[string][]string{"events": modelNames},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	own := m.db.restart(name)
	m.open[name] = nil
	m.procs[i] = newProcess(m.t, name, m.net.Bus(name), processConfig{
		client:  replication.Config{Writers: writers, QueueSize: 6, CatchUpLimit: 3, SendQueueBytes: 300},
		follow:  replication.FollowConfig[string]{Source: m.db.source, From: m.db.snapshot(modelNames)},
		publish: replication.PublisherConfig{Position: own, OnForeignPosition: m.db.foreign(name)},
	})
	m.procs[i].start()
}

// stop ends a process and checks what it has seen.
func (m *modelRun) stop(i int) {
	p := m.procs[i]
	p.stop(m.t)
	m.check(p, false)
}

// check holds what a process was given against what is stored: each row once, in order,
// from where it started, to the end where whole.
func (m *modelRun) check(p *process, whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.bad {
		m.t.Errorf("%s: %s", p.name, b)
	}
	if len(p.gaps) > 0 {
		m.t.Errorf("%s: gaps %v", p.name, p.gaps)
	}
	for _, w := range modelNames {
		want := m.db.stored(w, p.from.Get(w))
		got := p.got[w]
		if !whole && len(got) < len(want) {
			want = want[:len(got)]
		}
		if !slices.Equal(got, want) {
			m.t.Errorf("%s got of %s\n%q, want\n%q", p.name, w, got, want)
		}
	}
}

func (m *modelRun) step(s step) {
	p := m.procs[s.proc]
	switch s.what {
	case "begin":
		m.open[p.name] = append(m.open[p.name], m.db.begin(p.name))
	case "commit":
		open := m.open[p.name]
		if len(open) == 0 {
			return
		}
		k := s.n % len(open)
		id := open[k]
		m.open[p.name] = slices.Delete(open, k, k+1)
		if err := p.pub.Publish(0, m.db.commit(p.name, id, 1+s.n%3)...); err != nil {
			m.t.Error(err)
		}
		p.pub.Advance(m.db.done(p.name, id))
	case "write":
		p.write(m.t, m.db, 1+s.n%3)
	case "partition":
		m.net.Partition(p.name)
	case "heal":
		m.net.Heal(p.name)
	case "restart bus":
		m.net.Restart()
	case "release":
		m.net.Release()
	case "chaos":
		m.net.Script(replicationtest.Chaos(uint64(s.n), 0.1))
	case "calm":
		m.net.Script(nil)
	case "crash after commit":
		m.db.commit(p.name, m.db.begin(p.name), 1)
		fallthrough
	case "crash":
		// Cut off first, so that nothing can be sent while it stops.
		m.net.Partition(p.name)
		m.stop(s.proc)
		m.net.Heal(p.name)
		m.start(s.proc)
	case "stop":
		m.stop(s.proc)
		m.start(s.proc)
	case "time":
		time.Sleep(time.Duration(s.n) * time.Millisecond)
	case "database away":
		m.db.mu.Lock()
		m.db.failures = s.n % 10
		m.db.mu.Unlock()
	}
}

// TestModel lets several processes write and follow while everything goes wrong, and holds
// what they saw against what is stored.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				what: rapid.SampledFrom(stepKinds).Draw(rt, "what"),
				proc: rapid.IntRange(0, len(modelNames)-1).Draw(rt, "process"),
				n:    rapid.IntRange(0, 1000).Draw(rt, "n"),
			}
		}), 1, 80).Draw(rt, "steps")
		ok := t.Run("run", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runModel(t, steps) })
		})
		if !ok {
			rt.Fatal("see the run's own messages")
		}
	})
}

func runModel(t *testing.T, steps []step) {
	m := &modelRun{t: t, db: newTable(), net: replicationtest.NewNetwork(), procs: make([]*process, len(modelNames)), open: map[string][]int64{}}
	for i := range modelNames {
		m.start(i)
	}
	for _, s := range steps {
		m.step(s)
	}

	// Everything is put right: all must come to the same end.
	m.net.Script(nil)
	m.net.Release()
	m.db.mu.Lock()
	m.db.failures = 0
	m.db.mu.Unlock()
	for i, p := range m.procs {
		m.net.Heal(p.name)
		for _, id := range m.open[p.name] {
			p.pub.Advance(m.db.done(p.name, id))
		}
		m.procs[i].write(t, m.db, 1)
	}
	end := m.db.snapshot(modelNames)
	for _, p := range m.procs {
		if err := p.client.WaitForPosition(context.Background(), "events", end); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
	// An idle writer follows the others, so the positions become level and stay so.
	time.Sleep(5 * time.Second)
	for _, p := range m.procs {
		pos := p.client.Position("events")
		if !pos.IsLevel() || pos.Max() != m.db.seq {
			t.Errorf("%s stands at %v in the end, want %d", p.name, pos, m.db.seq)
		}
		for _, s := range p.client.Snapshot() {
			for _, w := range s.Writers {
				if w.Lag != 0 || w.LagTime != 0 {
					t.Errorf("%s says that it lags: %+v", p.name, w)
				}
			}
		}
		m.check(p, true)
	}
	for _, p := range m.procs {
		p.stop(t)
	}
	if t.Failed() {
		for _, s := range steps {
			t.Logf("%+v", s)
		}
	}
}
