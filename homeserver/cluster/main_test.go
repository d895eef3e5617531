package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/config"
)

// The test binary plays the programs that a supervisor starts: it is linked to their names.
func TestMain(m *testing.M) {
	switch app := filepath.Base(os.Args[0]); app {
	case AppHomeserver, AppGenericWorker, AppEventPersister, AppRouter:
		if err := play(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		goleak.VerifyTestMain(m)
	}
}

// play answers /ready on all listeners until it is told to stop, which it notes in the cluster's directory. A process
// named broken fails, one named stuck never gets ready.
func play() error {
	cfg, err := config.LoadArgs(os.Args[1:], os.Stdout)
	if err != nil {
		return err
	}
	name := cfg.InstanceName()
	if name == "broken" {
		return fmt.Errorf("%s: nothing works", name)
	}
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if name != "stuck" {
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(map[string]any{"components": []any{
			map[string]any{"name": "instance", "ready": true},
			map[string]any{"name": "replication", "ready": false, "reason": "connection refused"},
		}})
	})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	for _, l := range cfg.ActiveListeners() {
		if l.Path == "" {
			continue
		}
		_ = os.Remove(l.Path)
		ln, err := net.Listen("unix", l.Path)
		if err != nil {
			return err
		}
		defer ln.Close()
		go func() { _ = http.Serve(ln, nil) }()
	}
	<-ctx.Done()
	conf := os.Args[2] // -c FILE
	log, err := os.OpenFile(filepath.Join(filepath.Dir(filepath.Dir(conf)), "stopped"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = fmt.Fprintln(log, name)
	return err
}
