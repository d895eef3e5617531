// Command cluster starts a whole homeserver on this machine: a private PostgreSQL and Redis, the main
// process, its workers and the router before them. It prints `ready URL` when every process is ready, starts
// again those that die, and stops them all on SIGINT or SIGTERM.
//
//	cluster [-topology FILE]
//
// WEFT_DIR is the data directory (default ./var), WEFT_PORT the router's port (default 8008),
// WEFT_SERVER_NAME the server name (default localhost).
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/cluster"
)

func main() {
	topologyPath := flag.String("topology", "", "topology `file`; the default is a main process, two generic workers, two event persisters and a router")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *topologyPath); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, topologyPath string) error {
	topology := cluster.Default()
	if topologyPath != "" {
		var err error
		if topology, err = cluster.ReadTopology(topologyPath); err != nil {
			return err
		}
	}
	topology.ServerName = cmp.Or(os.Getenv("WEFT_SERVER_NAME"), topology.ServerName)
	dir, err := filepath.Abs(cmp.Or(os.Getenv("WEFT_DIR"), "var"))
	if err != nil {
		return fmt.Errorf("find data directory: %w", err)
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	log := zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr}).With().Timestamp().Logger()
	s, err := cluster.New(cluster.Config{
		Dir:      dir,
		Topology: topology,
		BinDir:   filepath.Dir(executable),
		Listen:   []string{net.JoinHostPort("127.0.0.1", cmp.Or(os.Getenv("WEFT_PORT"), "8008"))},
	}, log)
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-s.Ready():
			fmt.Printf("ready %s\n", s.URL())
			log.Info().Str("url", s.URL()).Str("logs", filepath.Join(dir, "logs")).
				Msg("log in with a Matrix client at this address; registration is open")
		case <-ctx.Done():
		}
	}()
	return s.Run(ctx)
}
