package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/weft-im/weft/examples/internal/assembly"
	"github.com/weft-im/weft/homeserver/config"
	"github.com/weft-im/weft/homeserver/routes"
)

// routesCommand lists the endpoints of all groups, or writes the configuration of a reverse proxy. The processes to
// proxy to are those of router.upstreams in the configuration, or given one by one, the main process first.
func routesCommand(_ context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("routes", "[--format tsv|nginx|haproxy|caddy] [-c FILE]... [--upstream NAME=ADDRESS]...", stderr)
	format := fs.String("format", "tsv", "`format`: tsv, nginx, haproxy or caddy")
	configs := configFlag(fs)
	var upstreams list
	fs.Var(&upstreams, "upstream", "a process to proxy to, `NAME=ADDRESS` (host:port or unix:/path); may be given several times, the main process first")
	listen := fs.String("listen", "", "where the proxy listens, in its own syntax (default 8008)")
	serverName := fs.String("server-name", "", "the `name` the proxy answers to (default any)")
	if err := noArguments(fs, args); err != nil {
		return err
	}
	groups := assembly.Routes()
	if *format == "tsv" {
		return routes.TSV(stdout, groups)
	}
	write, ok := map[string]func(io.Writer, routes.Config) error{
		"nginx": routes.Nginx, "haproxy": routes.HAProxy, "caddy": routes.Caddy,
	}[*format]
	if !ok {
		return usageError(fmt.Sprintf("unknown format %q", *format))
	}
	rc := routes.Config{Groups: groups, Listen: *listen, ServerName: *serverName, StreamWriters: map[string][]string{}}
	if len(*configs) > 0 {
		cfg, err := config.Load(*configs...)
		if err != nil {
			return err
		}
		for _, s := range cfg.Streams() {
			rc.StreamWriters[s] = cfg.Writers(s)
		}
		for _, u := range cfg.Router.Upstreams {
			rc.Upstreams = append(rc.Upstreams, routes.Upstream{Name: u.Name, Address: u.URL, Main: u.Main, Groups: u.Groups})
		}
	}
	if len(upstreams) > 0 {
		rc.Upstreams = nil
	}
	for i, u := range upstreams {
		name, address, ok := strings.Cut(u, "=")
		if !ok {
			return usageError(fmt.Sprintf("--upstream %s: expected NAME=ADDRESS", u))
		}
		rc.Upstreams = append(rc.Upstreams, routes.Upstream{Name: name, Address: address, Main: i == 0})
	}
	if len(rc.Upstreams) == 0 {
		return usageError("name the processes with --upstream NAME=ADDRESS, or with -c FILE that has router.upstreams")
	}
	return write(stdout, rc)
}
