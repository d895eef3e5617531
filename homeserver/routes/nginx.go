package routes

import (
	"fmt"
	"io"
	"strings"

	"github.com/weft-im/weft/homeserver"
)

// Nginx writes a file for nginx's http block (conf.d): upstreams, maps and one server. One map from method and path to
// upstream holds all routes, so that what nginx decides is one look.
func Nginx(w io.Writer, cfg Config) error {
	p, err := newPlan(cfg)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("# Written by `weftctl routes --format nginx`. For nginx's http block.\n\n")
	fmt.Fprintf(&b, "# What requests that should reach one process have in common.\n")
	fmt.Fprintf(&b, "map $http_authorization$arg_access_token $weft_user {\n    default $http_authorization$arg_access_token;\n    \"~%s\" $1;\n}\n", userToken)
	fmt.Fprintf(&b, "map $request_uri $weft_room {\n    default $request_uri;\n    \"~%s\" $1;\n}\n\n", roomPath)
	b.WriteString("# The path as the client wrote it, %2F and all.\nmap $request_uri $weft_path {\n    default $uri;\n    \"~^([^?]*)\" $1;\n}\n\n")
	for _, po := range p.allPools() {
		fmt.Fprintf(&b, "upstream %s {\n", po.name)
		switch po.affinity {
		case homeserver.ByUser:
			b.WriteString("    hash $weft_user consistent;\n")
		case homeserver.ByRoom:
			b.WriteString("    hash $weft_room consistent;\n")
		case homeserver.ByOrigin:
			b.WriteString("    hash $remote_addr consistent;\n")
		}
		for _, s := range po.servers {
			network, addr, _ := address(s)
			if network == "unix" {
				addr = "unix:" + addr
			}
			fmt.Fprintf(&b, "    server %s; # %s\n", addr, s.Name)
		}
		// With a hash the keepalive must come after it.
		b.WriteString("    keepalive 32;\n}\n\n")
	}
	fmt.Fprintf(&b, "map \"$request_method $weft_path\" $weft_upstream {\n    default %s;\n", p.mainPool().name)
	for _, r := range p.rules {
		fmt.Fprintf(&b, "    \"~^%s %s$\" %s;\n", methodPattern(r.methods), r.pattern, r.pool.name)
	}
	b.WriteString("}\n\n")
	name := p.ServerName
	if name == "" {
		name = "_"
	}
	fmt.Fprintf(&b, `server {
    listen %s;
    server_name %s;
    client_max_body_size %d;

    location / {
        proxy_pass http://$weft_upstream;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_read_timeout 10m;
        proxy_buffering off;
        proxy_request_buffering off;
        # A process that is being restarted: ask another. What was sent already is not sent again, except by
        # methods that may be.
        proxy_next_upstream error timeout;
    }
}
`, p.Listen, name, p.MaxBodyBytes)
	_, err = io.WriteString(w, b.String())
	return err
}

// methodPattern is a regular expression of methods.
func methodPattern(methods []string) string {
	for _, m := range methods {
		if m == "*" {
			return "[A-Z]+"
		}
	}
	if len(methods) == 1 {
		return methods[0]
	}
	return "(?:" + strings.Join(methods, "|") + ")"
}

// mainPool is the pool of the main process alone.
func (p *plan) mainPool() *pool {
	for _, po := range p.pools {
		if len(po.servers) == 1 && po.servers[0].Name == p.main.Name {
			return po
		}
	}
	po := &pool{name: "weft_at_" + ident(p.main.Name), affinity: homeserver.AnyInstance, servers: []Upstream{p.main}}
	p.pools = append(p.pools, po)
	return po
}

// allPools returns the pools that rules use, and main's.
func (p *plan) allPools() []*pool {
	main := p.mainPool()
	used := map[*pool]bool{main: true}
	for _, r := range p.rules {
		used[r.pool] = true
	}
	var out []*pool
	for _, po := range p.pools {
		if used[po] {
			out = append(out, po)
		}
	}
	return out
}
