package event

import (
	"net/netip"
	"strings"
)

// ServerName returns the server part of a user, room, alias or (room versions 1 and 2) event id: what follows the first
// colon, empty if there is none.
func ServerName(id string) string {
	if i := strings.IndexByte(id, ':'); i >= 0 {
		return id[i+1:]
	}
	return ""
}

// validUserID holds a user id to the historical grammar, which events of every room version may use: any localpart
// without colon and NUL, even an empty one (appendices, "Historical User IDs").
func validUserID(s string) bool {
	colon := strings.IndexByte(s, ':')
	return len(s) <= MaxFieldBytes && colon > 0 && s[0] == '@' && strings.IndexByte(s[:colon], 0) < 0 &&
		validServerName(s[colon+1:])
}

// validServerName holds a server name to its grammar (appendices, "Server Name").
func validServerName(s string) bool {
	host := s
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		if addr, err := netip.ParseAddr(s[1:end]); err != nil || !addr.Is6() || addr.Zone() != "" {
			return false
		}
		if host = s[end+1:]; host == "" {
			return true
		}
		return host[0] == ':' && validPort(host[1:])
	}
	if colon := strings.IndexByte(s, ':'); colon >= 0 {
		if !validPort(s[colon+1:]) {
			return false
		}
		host = s[:colon]
	}
	if host == "" {
		return false
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

func validPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// validEventID holds an event id in prev_events and auth_events to what can be looked up.
func validEventID(s string) bool {
	return len(s) > 1 && len(s) <= MaxFieldBytes && s[0] == '$' && strings.IndexByte(s, 0) < 0
}
