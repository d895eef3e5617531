// Package iprange decides which addresses a server may connect to on somebody else's word: those of other homeservers,
// push gateways and linked pages must not lead into its own network.
package iprange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ErrDenied says that an address may not be connected to.
var ErrDenied = errors.New("address is not allowed")

// Filter allows addresses that lie in none of the denied ranges, or in one of the allowed. The zero value allows all.
type Filter struct {
	deny, allow []netip.Prefix
}

// Parse makes a filter of ranges ("10.0.0.0/8") and single addresses, as in Synapse's ip_range_blacklist and
// ip_range_whitelist.
func Parse(deny, allow []string) (*Filter, error) {
	f := &Filter{}
	var err1, err2 error
	f.deny, err1 = prefixes(deny)
	f.allow, err2 = prefixes(allow)
	return f, errors.Join(err1, err2)
}

func prefixes(ranges []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, r := range ranges {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(r); err == nil {
				p = netip.PrefixFrom(a, a.BitLen())
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%q is no address range", r))
			continue
		}
		out = append(out, p.Masked())
	}
	return out, errors.Join(errs...)
}

// Allows reports whether an address may be connected to. An IPv4 address counts as itself in whatever IPv6 form it is
// written: mapped, compatible, 6to4 or NAT64.
func (f *Filter) Allows(a netip.Addr) bool {
	if f == nil {
		return true
	}
	a = a.WithZone("").Unmap()
	if within(f.allow, a) {
		return true
	}
	if within(f.deny, a) {
		return false
	}
	v4, ok := embeddedV4(a)
	return !ok || within(f.allow, v4) || !within(f.deny, v4)
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// embeddedV4 returns the IPv4 address that an IPv6 address leads to.
func embeddedV4(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch {
	case b[0] == 0x20 && b[1] == 0x02: // 6to4
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case [12]byte(b[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}: // NAT64
		return netip.AddrFrom4([4]byte(b[12:])), true
	case [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0 || b[14] != 0): // IPv4-compatible
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return netip.Addr{}, false
}

// Dialer returns a dialer that looks at each address before it connects to it, after names have been resolved, so that
// neither DNS nor a redirect gets around the filter. It tries all addresses of a name. timeout bounds the whole attempt.
func (f *Filter) Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout: timeout,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %s", ErrDenied, address)
			}
			if !f.Allows(ap.Addr()) {
				return fmt.Errorf("%w: %s", ErrDenied, ap.Addr())
			}
			return nil
		},
	}
}
