package iprange_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-im/weft/internal/iprange"
)

func TestAllows(t *testing.T) {
	t.Parallel()
	f, err := iprange.Parse([]string{"10.0.0.0/8", "127.0.0.1", "::1/128", "fc00::/7"}, []string{"10.1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "10.0.0.1": false, "10.1.2.3": true, "127.0.0.1": false, "127.0.0.2": true, "::1": false,
		"::ffff:10.0.0.1": false, "::ffff:10.1.2.3": true, "::10.0.0.1": false, "64:ff9b::10.0.0.1": false, "2002:a00:1::": false,
		"fd00::1": false, "fd00::1%eth0": false, "2606:4700::1": true, "64:ff9b::8.8.8.8": true,
	} {
		if got := f.Allows(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Allows(%s) = %v", addr, got)
		}
	}
	if !(*iprange.Filter)(nil).Allows(netip.MustParseAddr("10.0.0.1")) {
		t.Error("no filter does not allow all")
	}
	if _, err := iprange.Parse([]string{"10.0.0.0/33", "x"}, nil); err == nil {
		t.Error("bad ranges were taken")
	}
}

func TestDialer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	denied, _ := iprange.Parse([]string{"127.0.0.0/8", "::1"}, nil)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if _, err := denied.Dialer(time.Second).DialContext(t.Context(), "tcp", net.JoinHostPort(host, port)); !errors.Is(err, iprange.ErrDenied) {
			t.Errorf("dial %s: %v", host, err)
		}
	}
	conn, err := new(iprange.Filter).Dialer(time.Second).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}
