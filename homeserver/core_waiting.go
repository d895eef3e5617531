package homeserver

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/config"
)

// waitingServer answers for a process that cannot start yet because of its database: /health says that it is alive,
// /ready what it waits for. It listens where the process will, on the listeners that are not public, and only once there
// is something to wait for.
type waitingServer struct {
	ctx    context.Context //nolint:containedctx // lives as long as OpenCore's call
	cfg    *config.Config
	log    zerolog.Logger
	reason atomic.Pointer[string]
	start  sync.Once
	server *http.Server
}

func serveWaiting(ctx context.Context, cfg *config.Config, log zerolog.Logger) *waitingServer {
	return &waitingServer{ctx: ctx, cfg: cfg, log: log}
}

// report is told why the database cannot be used yet, and after what time it is tried again.
func (w *waitingServer) report(err error, next time.Duration) {
	reason := err.Error()
	w.reason.Store(&reason)
	w.log.Warn().Str("instance", w.cfg.InstanceName()).Str("component", "database").Err(err).
		Int64("retry_after_ms", next.Milliseconds()).Msg("waiting for the database")
	w.start.Do(w.listen)
}

func (w *waitingServer) listen() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("OK")) })
	mux.HandleFunc("GET /ready", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(rw).Encode(Status{
			Instance:   w.cfg.InstanceName(),
			Components: []ComponentStatus{{Name: "database", Reason: *w.reason.Load()}},
		})
	})
	w.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	var lc net.ListenConfig
	for _, l := range w.cfg.ActiveListeners() {
		if !operational(&l) || l.TLS {
			continue
		}
		network, addresses := "unix", []string{l.Path}
		if l.Path == "" {
			network, addresses = "tcp", nil
			for _, host := range l.Addresses() {
				addresses = append(addresses, net.JoinHostPort(host, strconv.Itoa(l.Port)))
			}
		} else {
			_ = os.Remove(l.Path) // left by a process that was killed
		}
		for _, a := range addresses {
			ln, err := lc.Listen(w.ctx, network, a)
			if err != nil {
				w.log.Warn().Err(err).Msg("cannot show what is waited for")
				continue
			}
			go func() { _ = w.server.Serve(ln) }()
		}
	}
}

func (w *waitingServer) stop() {
	if w.server != nil {
		_ = w.server.Close()
	}
}
