package room

import (
	"encoding/json"
	"strings"

	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// ServerACL is the list of servers that may take part in a room, from m.room.server_acl.
//
// Spec: client-server API, "Server Access Control Lists (ACLs) for rooms" (v1.19).
type ServerACL struct {
	allow, deny     []string
	allowIPLiterals bool
}

// ParseServerACL reads the content of an m.room.server_acl event. Entries of a wrong type are an error here, M_BAD_JSON;
// in events of other servers callers ignore them with the whole event.
func ParseServerACL(content json.RawMessage) (*ServerACL, error) {
	var w struct {
		Allow           []string `json:"allow"`
		Deny            []string `json:"deny"`
		AllowIPLiterals *bool    `json:"allow_ip_literals"`
	}
	if err := json.Unmarshal(content, &w); err != nil {
		return nil, mxerr.BadJSON.WithMessage("m.room.server_acl: allow and deny must be arrays of strings, allow_ip_literals a boolean").Wrap(err)
	}
	acl := &ServerACL{allowIPLiterals: w.AllowIPLiterals == nil || *w.AllowIPLiterals}
	for _, g := range w.Allow {
		acl.allow = append(acl.allow, strings.ToLower(g))
	}
	for _, g := range w.Deny {
		acl.deny = append(acl.deny, strings.ToLower(g))
	}
	return acl, nil
}

// Allows reports whether a server may take part. The port of its name does not matter.
func (a *ServerACL) Allows(server string) bool {
	n, err := id.ParseServerName(server)
	if err != nil {
		return false
	}
	host := strings.ToLower(n.Host)
	if n.IP.IsValid() {
		if !a.allowIPLiterals {
			return false
		}
		if n.IP.Is6() {
			host = "[" + host + "]"
		}
	}
	for _, g := range a.deny {
		if glob(g, host) {
			return false
		}
	}
	for _, g := range a.allow {
		if glob(g, host) {
			return true
		}
	}
	return false
}

// glob matches * with any run of characters and ? with any one. It remembers only the last star, which is enough: an
// earlier one could take nothing the later one cannot.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
