// Command router is a reverse proxy before the processes of a homeserver: it sends each request to the process that
// serves it best, by the affinity of its endpoint group. `weftctl routes` writes the same rules for nginx, HAProxy and
// Caddy.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/weft-im/weft/examples/internal/assembly"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/proxy"
)

func main() {
	cfg := homeserver.MustLoad("router")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg *config.Config) error {
	log, closer, err := homeserver.OpenLog(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = closer.Close() }()
	var upstreams []proxy.Upstream
	for _, u := range cfg.Router.Upstreams {
		upstreams = append(upstreams, proxy.Upstream{Name: u.Name, URL: u.URL, Main: u.Main, Groups: u.Groups})
	}
	writers := make(map[string][]string)
	for _, s := range cfg.Streams() {
		writers[s] = cfg.Writers(s)
	}
	p, err := proxy.New(proxy.Config{Groups: assembly.Routes(), Upstreams: upstreams, StreamWriters: writers, Log: log})
	if err != nil {
		return err
	}
	pc := homeserver.ProcessConfig(cfg, log)
	pc.Limits = nil // the processes behind it limit
	pc.Groups = p.Groups()
	hs, err := homeserver.New(pc)
	if err != nil {
		return err
	}
	return hs.Run(ctx)
}
