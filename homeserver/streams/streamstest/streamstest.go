// Package streamstest sets up several processes of one server in a test: one database, one bus, calls between them. The
// test builds its services on them as a program would, then starts them.
package streamstest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/storagetest"
)

// ServerName is the name of the server the processes belong to.
const ServerName = "test"

// Cluster is the processes of one test.
type Cluster struct {
	// DB is the database they share: new, migrated, empty.
	DB *storage.DB
	// Processes are the processes, the main process first.
	Processes []*Process

	bus     *replication.LocalBus
	dir     string
	started bool
}

// Process is what one process stands on.
type Process struct {
	Name    string
	DB      *storage.DB
	Writers *replication.Writers
	Client  *replication.Client
	RPC     *rpc.Node

	run []func(ctx context.Context) error
}

// New returns the main process and the further instances, of which streamWriters says which stream each writes.
func New(tb testing.TB, streamWriters map[string][]string, instances ...string) *Cluster {
	tb.Helper()
	// Not TB.TempDir: the path of a unix socket may have no more than about 100 characters.
	dir, err := os.MkdirTemp("", "weft")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	c := &Cluster{DB: storagetest.New(tb), bus: replication.NewLocalBus(), dir: dir}
	tb.Cleanup(func() { c.bus.Close() })
	names := append([]string{replication.MainInstance}, instances...)
	for _, name := range names {
		c.Processes = append(c.Processes, c.process(tb, name, names, streamWriters))
	}
	return c
}

func (c *Cluster) socket(name string) string { return filepath.Join(c.dir, name) }

func (c *Cluster) process(tb testing.TB, name string, names []string, streamWriters map[string][]string) *Process {
	tb.Helper()
	p := &Process{Name: name, DB: c.DB}
	var err error
	if p.Writers, err = replication.NewWriters(replication.WritersConfig{
		Instance: name, Instances: names, StreamWriters: streamWriters,
	}); err != nil {
		tb.Fatal(err)
	}
	if p.Client, err = replication.NewClient(replication.Config{
		ServerName: ServerName, Instance: name, Bus: c.bus, Writers: p.Writers,
	}); err != nil {
		tb.Fatal(err)
	}
	peers := make(map[string]rpc.Address)
	for _, other := range names {
		if other != name {
			peers[other] = rpc.Address{Path: c.socket(other)}
		}
	}
	if p.RPC, err = rpc.New(rpc.Config{Instance: name, Instances: peers}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.RPC.Close() })
	return p
}

// IDs makes the process a writer of a stream.
func (p *Process) IDs(tb testing.TB, stream string) *storage.StreamIDs {
	tb.Helper()
	ids, err := storage.OpenStreamIDs(tb.Context(), storage.StreamIDsConfig{DB: p.DB, Stream: stream, Instance: p.Name})
	if err != nil {
		tb.Fatal(err)
	}
	return ids
}

// IDsIf is IDs where the process writes the stream, otherwise nil.
func (p *Process) IDsIf(tb testing.TB, stream string) *storage.StreamIDs {
	tb.Helper()
	if !p.Writers.Writes(stream) {
		return nil
	}
	return p.IDs(tb, stream)
}

// Run adds a component that runs from Start until the test ends.
func (p *Process) Run(run func(ctx context.Context) error) { p.run = append(p.run, run) }

// Start starts the processes and waits until they are connected. They stop when the test ends.
func (c *Cluster) Start(tb testing.TB) {
	tb.Helper()
	if c.started {
		tb.Fatal("streamstest: started twice")
	}
	c.started = true
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	n := 0
	for _, p := range c.Processes {
		l, err := net.Listen("unix", c.socket(p.Name))
		if err != nil {
			tb.Fatal(err)
		}
		srv := &http.Server{Handler: p.RPC.Handler()}
		rpc.ConfigureServer(srv)
		tb.Cleanup(func() { _ = srv.Close() })
		go func() { _ = srv.Serve(l) }()
		for _, run := range append([]func(context.Context) error{p.Client.Run}, p.run...) {
			n++
			go func() {
				err := run(ctx)
				if err != nil {
					err = fmt.Errorf("process %s: %w", p.Name, err)
				}
				done <- err
			}()
		}
	}
	tb.Cleanup(func() {
		cancel()
		for range n {
			if err := <-done; err != nil {
				tb.Errorf("after the test: %v", err)
			}
		}
	})
	for _, p := range c.Processes {
		select {
		case <-p.Client.Ready():
		case <-time.After(20 * time.Second):
			tb.Fatalf("process %s is not ready", p.Name)
		}
	}
}
