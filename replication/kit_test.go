package replication_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/replicationtest"
)

const server = "a.test"

type (
	row    = replication.Row[string]
	update = replication.Update[string]
)

var events = replication.Stream[string]{StreamInfo: replication.StreamInfo{Name: "events", Mode: replication.ShardedWriters}}

// table is a stream's rows in a database: what the processes share beside the bus.
type table struct {
	mu       sync.Mutex
	seq      int64
	rows     map[string][]row          // by writer, committed, in token order
	inFlight map[string]map[int64]bool // by writer
	reached  map[string]int64          // by writer: it takes no id at or below any more
	failures int                       // of the next reads
	gone     bool                      // reads find nothing any more
	reads    int
}

func newTable() *table {
	return &table{rows: map[string][]row{}, inFlight: map[string]map[int64]bool{}, reached: map[string]int64{}}
}

// begin takes the next id for a transaction of writer.
func (t *table) begin(writer string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	if t.inFlight[writer] == nil {
		t.inFlight[writer] = map[int64]bool{}
	}
	t.inFlight[writer][t.seq] = true
	t.reached[writer] = t.seq
	return t.seq
}

// commit stores n rows under the id, which stays in flight.
func (t *table) commit(writer string, id int64, n int) (rows []row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range n {
		rows = append(rows, row{Token: id, Value: fmt.Sprintf("%s-%d-%d", writer, id, i)})
	}
	all := append(t.rows[writer], rows...)
	slices.SortStableFunc(all, func(a, b row) int { return int(a.Token - b.Token) })
	t.rows[writer] = all
	return rows
}

// done ends the transaction and returns the writer's position.
func (t *table) done(writer string, id int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.inFlight[writer], id)
	return t.position(writer)
}

func (t *table) position(writer string) int64 {
	pos := t.reached[writer]
	for id := range t.inFlight[writer] {
		pos = min(pos, id-1)
	}
	return pos
}

// foreign is OnForeignPosition of writer.
func (t *table) foreign(writer string) func(int64) int64 {
	return func(token int64) int64 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.reached[writer] = max(t.reached[writer], token)
		return t.position(writer)
	}
}

// restart ends what a writer had in flight, as the death of its process does, and returns
// where it stands.
func (t *table) restart(writer string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight[writer] = nil
	t.reached[writer] = t.seq
	return t.seq
}

func (t *table) stored(writer string, after int64) (out []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rows[writer] {
		if r.Token > after {
			out = append(out, r.Value)
		}
	}
	return out
}

// snapshot is the position of the rows stored now.
func (t *table) snapshot(writers []string) replication.Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := map[string]int64{}
	for _, w := range writers {
		m[w] = t.position(w)
	}
	return replication.PositionOf(0, m)
}

var errTable = errors.New("the database is away")

// source reads the table as a follower's Source.
func (t *table) source(_ context.Context, writer string, after, upTo int64, limit int) (out []row, reached int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reads++
	if t.gone {
		return nil, 0, replication.ErrRowsGone
	}
	if t.failures > 0 {
		t.failures--
		return nil, 0, errTable
	}
	for _, r := range t.rows[writer] {
		if r.Token <= after || r.Token > upTo {
			continue
		}
		if len(out) >= limit && r.Token != out[len(out)-1].Token {
			return out, out[len(out)-1].Token, nil
		}
		out = append(out, r)
	}
	return out, upTo, nil
}

// process is one instance that writes and follows events.
type process struct {
	name   string
	client *replication.Client
	pub    *replication.Publisher[string]
	fol    *replication.Follower[string]
	from   replication.Position
	cancel context.CancelFunc
	done   chan error

	mu   sync.Mutex
	got  map[string][]string // by writer
	last map[string]int64
	bad  []string
	gaps []string
}

type processConfig struct {
	client  replication.Config
	follow  replication.FollowConfig[string]
	publish replication.PublisherConfig
	noPub   bool
	noFol   bool
}

func newProcess(t testing.TB, name string, bus replication.Bus, cfg processConfig) *process {
	t.Helper()
	p := &process{name: name, got: map[string][]string{}, last: map[string]int64{}, from: cfg.follow.From}
	cfg.client.ServerName, cfg.client.Instance, cfg.client.Bus = server, name, bus
	var err error
	if p.client, err = replication.NewClient(cfg.client); err != nil {
		t.Fatal(err)
	}
	if !cfg.noPub {
		if p.pub, err = replication.NewPublisher(p.client, events, cfg.publish); err != nil {
			t.Fatal(err)
		}
	}
	if cfg.noFol {
		return p
	}
	cfg.follow.OnGap = func(_ context.Context, writer string, after, upTo int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.gaps = append(p.gaps, fmt.Sprint(writer, " ", after, " ", upTo))
	}
	if p.fol, err = replication.Follow(p.client, events, cfg.follow); err != nil {
		t.Fatal(err)
	}
	p.fol.Handle(p.handle)
	return p
}

func (p *process) handle(_ context.Context, u update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(u.Rows) == 0 {
		p.bad = append(p.bad, "an update without rows")
	}
	for _, r := range u.Rows {
		if r.Token < p.last[u.Writer] || r.Token > u.Token {
			p.bad = append(p.bad, fmt.Sprintf("row %d of %s after %d, in an update to %d", r.Token, u.Writer, p.last[u.Writer], u.Token))
		}
		p.last[u.Writer] = r.Token
		p.got[u.Writer] = append(p.got[u.Writer], r.Value)
	}
	if have := p.client.Position("events").Get(u.Writer); have >= u.Token {
		p.bad = append(p.bad, fmt.Sprintf("the position of %s is at %d while rows up to %d are handled", u.Writer, have, u.Token))
	}
}

func (p *process) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan error, 1)
	go func() { p.done <- p.client.Run(ctx) }()
}

func (p *process) stop(t testing.TB) {
	t.Helper()
	p.cancel()
	if err := <-p.done; err != nil {
		t.Errorf("client %s: %v", p.name, err)
	}
}

func (p *process) rows(writer string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got[writer])
}

// write runs one transaction through.
func (p *process) write(t testing.TB, db *table, n int) int64 {
	t.Helper()
	id := db.begin(p.name)
	rows := db.commit(p.name, id, n)
	if err := p.pub.Publish(0, rows...); err != nil {
		t.Fatal(err)
	}
	p.pub.Advance(db.done(p.name, id))
	return id
}

// pair is a writer "w" and a follower "f" on a network.
func pair(t testing.TB, net *replicationtest.Network, db *table, cfg processConfig) (w, f *process) {
	t.Helper()
	w = newProcess(t, "w", net.Bus("w"), processConfig{noFol: true, publish: replication.PublisherConfig{OnForeignPosition: db.foreign("w")}, client: cfg.client})
	cfg.noPub = true
	if cfg.follow.Source == nil && !cfg.follow.FromNow {
		cfg.follow.Source = db.source
	}
	f = newProcess(t, "f", net.Bus("f"), cfg)
	return w, f
}
