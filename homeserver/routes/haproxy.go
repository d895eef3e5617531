package routes

import (
	"fmt"
	"io"
	"strings"

	"github.com/weft-im/weft/homeserver"
)

// HAProxy writes a frontend and the backends it uses, for HAProxy 2.6 or later. Put it behind the file's own global and
// defaults sections.
func HAProxy(w io.Writer, cfg Config) error {
	p, err := newPlan(cfg)
	if err != nil {
		return err
	}
	listen := p.Listen
	if !strings.Contains(listen, ":") {
		listen = "*:" + listen
	}
	var b strings.Builder
	b.WriteString("# Written by `weftctl routes --format haproxy`. Goes behind global and defaults.\n\n")
	fmt.Fprintf(&b, "frontend weft\n    mode http\n    bind %s\n    timeout client 10m\n    option forwardfor\n", listen)
	b.WriteString("    http-request set-header X-Forwarded-Proto https if { ssl_fc }\n")
	b.WriteString("    # What requests that should reach one process have in common.\n")
	b.WriteString("    http-request set-var(txn.weft_token) req.hdr(Authorization)\n")
	b.WriteString("    http-request set-var(txn.weft_token) urlp(access_token) if { urlp(access_token) -m found }\n")
	b.WriteString("    http-request set-var(txn.weft_user) var(txn.weft_token)\n")
	b.WriteString("    http-request set-var(txn.weft_user) 'var(txn.weft_token),regsub(\"^.*syt_([^_]+)_.*$\",\"\\1\")' if { var(txn.weft_token) -m reg 'syt_[^_]+_' }\n")
	b.WriteString("    http-request set-var(txn.weft_room) path\n")
	fmt.Fprintf(&b, "    http-request set-var(txn.weft_room) 'path,regsub(\"%s.*$\",\"\\1\")' if { path_reg '%s' }\n", roomPath, roomPath)
	for _, r := range p.rules {
		fmt.Fprintf(&b, "    use_backend %s if { path_reg '^%s$' }%s\n", r.pool.name, r.pattern, haproxyMethods(r.methods))
	}
	fmt.Fprintf(&b, "    default_backend %s\n", p.mainPool().name)
	for _, po := range p.allPools() {
		fmt.Fprintf(&b, "\nbackend %s\n    mode http\n    timeout connect 5s\n    timeout server 10m\n", po.name)
		switch po.affinity {
		case homeserver.ByUser:
			b.WriteString("    balance hash var(txn.weft_user)\n    hash-type consistent\n")
		case homeserver.ByRoom:
			b.WriteString("    balance hash var(txn.weft_room)\n    hash-type consistent\n")
		case homeserver.ByOrigin:
			b.WriteString("    balance source\n    hash-type consistent\n")
		default:
			b.WriteString("    balance roundrobin\n")
		}
		b.WriteString("    option redispatch\n")
		for _, s := range po.servers {
			network, addr, _ := address(s)
			if network == "unix" {
				addr = "unix@" + addr
			}
			fmt.Fprintf(&b, "    server %s %s check\n", ident(s.Name), addr)
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func haproxyMethods(methods []string) string {
	for _, m := range methods {
		if m == "*" {
			return ""
		}
	}
	return " { method " + strings.Join(methods, " ") + " }"
}
