package homeserver_test

import (
	"strings"
	"testing"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/config"
)

func TestProfiles(t *testing.T) {
	t.Parallel()
	p := start(t, homeserver.Config{Listeners: []config.Listener{listen("metrics"), listen("client"), listen("client", "metrics")}})
	p.waitReady(t)
	addrs := p.Addresses("")
	for _, tc := range []struct {
		path string
		want int
	}{
		{"/debug/pprof/heap", 200},
		{"/debug/pprof/goroutine", 200},
		{"/debug/pprof/profile?seconds=1", 200},
		{"/debug/pprof/profile?seconds=0", 400},
		{"/debug/pprof/profile?seconds=301", 400},
		{"/debug/pprof/profile?seconds=x", 400},
		{"/debug/pprof/none", 404},
	} {
		status, body := get(t, addrs[0], tc.path)
		if status != tc.want {
			t.Errorf("%s: %d %q, want %d", tc.path, status, body, tc.want)
		}
		if status == 200 && !strings.HasPrefix(body, "\x1f\x8b") {
			t.Errorf("%s is no profile: %.40q", tc.path, body)
		}
		for _, public := range addrs[1:] {
			if status, _ := get(t, public, tc.path); status != 404 {
				t.Errorf("%s on a listener for clients: %d", tc.path, status)
			}
		}
	}
}
