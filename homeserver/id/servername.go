package id

import (
	"net/netip"
	"strconv"
	"strings"
)

// ServerName is a parsed server name.
type ServerName struct {
	// Host is the DNS name, the IPv4 literal, or the IPv6 literal without its brackets.
	Host string
	// Port is the explicit port, 0 where there is none.
	Port int
	// IP is set where Host is an IP literal.
	IP netip.Addr
}

// ParseServerName parses a server name: a DNS name, an IPv4 literal or an IPv6 literal in brackets, then an optional
// port.
func ParseServerName(s string) (ServerName, error) {
	const what = "server name"
	if s == "" {
		return ServerName{}, invalid(what, "is empty")
	}
	var n ServerName
	var host, port string
	hasPort := false
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return ServerName{}, invalid(what, "has an IPv6 literal without ']'")
		}
		host = s[1:end]
		if rest := s[end+1:]; rest != "" {
			if rest[0] != ':' {
				return ServerName{}, invalid(what, "has text after ']'")
			}
			port, hasPort = rest[1:], true
		}
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return ServerName{}, invalid(what, "has an invalid IPv6 literal")
		}
		n.IP = ip
	} else {
		host, port, hasPort = strings.Cut(s, ":")
		if !isDNSName(host) {
			return ServerName{}, invalid(what, "has a host that is no DNS name and no IP literal")
		}
		if looksIPv4(host) {
			ip, err := netip.ParseAddr(host)
			if err != nil {
				return ServerName{}, invalid(what, "has an invalid IPv4 literal")
			}
			n.IP = ip
		}
	}
	n.Host = host
	if hasPort {
		if len(port) == 0 || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return ServerName{}, invalid(what, "has a port that is not 1 to 5 digits")
		}
		p, _ := strconv.Atoi(port)
		if p > 65535 {
			return ServerName{}, invalid(what, "has a port above 65535")
		}
		n.Port = p
	}
	return n, nil
}

// ValidateServerName is ParseServerName for callers that need only the verdict.
func ValidateServerName(s string) error {
	_, err := ParseServerName(s)
	return err
}

// isDNSName holds the grammar's dns-name: 1 to 255 letters, digits, hyphens and dots. It is wider than host names are
// (empty labels, leading hyphens), and ids that use the width exist in old rooms.
func isDNSName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '.' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// looksIPv4 reports whether s has the form of the grammar's IPv4address: four runs of one to three digits.
func looksIPv4(s string) bool {
	dots, run := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if run == 0 {
				return false
			}
			dots, run = dots+1, 0
		case c >= '0' && c <= '9':
			if run++; run > 3 {
				return false
			}
		default:
			return false
		}
	}
	return dots == 3 && run > 0
}
