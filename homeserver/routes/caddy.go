package routes

import (
	"fmt"
	"io"
	"strings"

	"github.com/weft-im/weft/homeserver"
)

// Caddy writes a site for a Caddyfile. Paths are matched on the URI as the client wrote it, since Caddy's own path
// matchers see %2F as a slash.
func Caddy(w io.Writer, cfg Config) error {
	p, err := newPlan(cfg)
	if err != nil {
		return err
	}
	site := ":" + strings.TrimPrefix(p.Listen, ":")
	if p.ServerName != "" {
		site = p.ServerName + site
	}
	var b strings.Builder
	b.WriteString("# Written by `weftctl routes --format caddy`.\n\n")
	fmt.Fprintf(&b, "%s {\n", site)
	fmt.Fprintf(&b, "\trequest_body {\n\t\tmax_size %d\n\t}\n\n", p.MaxBodyBytes)
	b.WriteString("\t# What requests that should reach one process have in common.\n")
	b.WriteString("\trequest_header X-Weft-User {header.Authorization}{query.access_token}\n")
	fmt.Fprintf(&b, "\t@weft_token vars_regexp weft_token {header.Authorization}{query.access_token} `%s`\n", userToken)
	b.WriteString("\trequest_header @weft_token X-Weft-User {re.weft_token.1}\n")
	b.WriteString("\trequest_header X-Weft-Room {uri}\n")
	fmt.Fprintf(&b, "\t@weft_room vars_regexp weft_room {uri} `%s`\n", roomPath)
	b.WriteString("\trequest_header @weft_room X-Weft-Room {re.weft_room.1}\n\n")
	b.WriteString("\troute {\n")
	for i, r := range p.rules {
		fmt.Fprintf(&b, "\t\t@r%d {\n", i)
		if m := caddyMethods(r.methods); m != "" {
			fmt.Fprintf(&b, "\t\t\tmethod %s\n", m)
		}
		fmt.Fprintf(&b, "\t\t\tvars_regexp {uri} `^%s(?:\\?.*)?$`\n\t\t}\n", r.pattern)
		b.WriteString(caddyProxy(fmt.Sprintf("@r%d ", i), r.pool))
	}
	b.WriteString(caddyProxy("", p.mainPool()))
	b.WriteString("\t}\n}\n")
	_, err = io.WriteString(w, b.String())
	return err
}

func caddyProxy(matcher string, po *pool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\t\treverse_proxy %s", matcher)
	for i, s := range po.servers {
		if i > 0 {
			b.WriteByte(' ')
		}
		network, addr, _ := address(s)
		if network == "unix" {
			addr = "unix/" + addr
		}
		b.WriteString(addr)
	}
	b.WriteString(" {\n")
	switch po.affinity {
	case homeserver.ByUser:
		b.WriteString("\t\t\tlb_policy header X-Weft-User\n")
	case homeserver.ByRoom:
		b.WriteString("\t\t\tlb_policy header X-Weft-Room\n")
	case homeserver.ByOrigin:
		b.WriteString("\t\t\tlb_policy client_ip_hash\n")
	default:
		b.WriteString("\t\t\tlb_policy round_robin\n")
	}
	b.WriteString("\t\t\tlb_try_duration 5s\n\t\t\tflush_interval -1\n\t\t\theader_up -X-Weft-User\n\t\t\theader_up -X-Weft-Room\n\t\t}\n")
	return b.String()
}

func caddyMethods(methods []string) string {
	for _, m := range methods {
		if m == "*" {
			return ""
		}
	}
	return strings.Join(methods, " ")
}
