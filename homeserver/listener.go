package homeserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/config"
)

// Timeouts of connections. There is none for writing: a long poll may take minutes.
const (
	readHeaderTimeout = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// listener is one entry of the listeners option: a port on some addresses, or a unix socket.
type listener struct {
	cfg    *config.Listener
	name   string
	router *Router
	log    zerolog.Logger

	mu     sync.Mutex
	server *http.Server
	socks  []net.Listener
	served sync.WaitGroup
}

// listenerName names a listener in logs and errors.
func listenerName(lc *config.Listener) string {
	switch {
	case lc.Tag != "":
		return lc.Tag
	case lc.Path != "":
		return "unix:" + lc.Path
	}
	return "port " + strconv.Itoa(lc.Port)
}

// open binds and serves. An error of serving goes to failed.
func (l *listener) open(ctx, base context.Context, certs *certificates, failed chan<- error) error {
	socks, err := l.bind(ctx)
	if err != nil {
		return fmt.Errorf("listener %s: %w", l.name, err)
	}
	srv := &http.Server{
		Handler:           l.router,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          stdlog.New(debugWriter{l.log}, "", 0), //nolint:forbidigo // what net/http takes
		Protocols:         new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	if l.cfg.TLS {
		if err := certs.load(); err != nil {
			closeAll(socks)
			return fmt.Errorf("listener %s: %w", l.name, err)
		}
		srv.Protocols.SetHTTP2(true)
		srv.TLSConfig = &tls.Config{GetCertificate: certs.get, MinVersion: tls.VersionTLS12}
	} else if private(l.cfg) {
		// Other processes speak h2c: one connection for all their calls. Public listeners stay with HTTP/1.1, which is
		// what reverse proxies speak.
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	l.mu.Lock()
	l.server, l.socks = srv, socks
	l.mu.Unlock()
	for _, s := range socks {
		l.served.Go(func() {
			var err error
			if l.cfg.TLS {
				err = srv.ServeTLS(s, "", "")
			} else {
				err = srv.Serve(s)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("listener %s: %w", l.name, err)
			}
		})
	}
	l.log.Debug().Str("listener", l.name).Strs("addresses", l.addresses()).Msg("listening")
	return nil
}

// bind opens the sockets.
func (l *listener) bind(ctx context.Context) ([]net.Listener, error) {
	if l.cfg.Path != "" {
		s, err := listenUnix(ctx, l.cfg.Path, os.FileMode(l.cfg.Mode))
		if err != nil {
			return nil, err
		}
		return []net.Listener{s}, nil
	}
	var socks []net.Listener
	var skipped error
	port := l.cfg.Port
	for _, addr := range l.cfg.Addresses() {
		// With "tcp" a socket on :: takes IPv4 as well, and the one on 0.0.0.0 beside it fails.
		network := "tcp"
		if ip, err := netip.ParseAddr(strings.Trim(addr, "[]")); err == nil {
			if network = "tcp4"; ip.Is6() {
				network = "tcp6"
			}
			addr = ip.String()
		}
		var lc net.ListenConfig
		s, err := lc.Listen(ctx, network, net.JoinHostPort(addr, strconv.Itoa(port)))
		if err != nil {
			if addr == "::" && len(l.cfg.Addresses()) > 1 && noIPv6(err) {
				skipped = err
				continue
			}
			closeAll(socks)
			return nil, err
		}
		if port == 0 { // the other addresses get the port the system picked for the first
			port = s.Addr().(*net.TCPAddr).Port
		}
		socks = append(socks, s)
	}
	if len(socks) == 0 && skipped != nil {
		return nil, skipped
	}
	return socks, nil
}

func noIPv6(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// listenUnix opens a unix socket. A socket file nobody listens on, left by a process that was killed, is replaced.
func listenUnix(ctx context.Context, path string, mode os.FileMode) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("another process listens on %s", path)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove stale socket: %w", err)
			}
		}
	}
	if mode == 0 {
		mode = 0o666
	}
	var lc net.ListenConfig
	s, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("set mode of socket: %w", err)
	}
	return s, nil
}

// shutdown stops accepting and waits for requests in flight. What is left when ctx ends is cut off by close.
func (l *listener) shutdown(ctx context.Context) error {
	l.mu.Lock()
	srv := l.server
	l.mu.Unlock()
	if srv == nil {
		return nil
	}
	if err := srv.Shutdown(ctx); err != nil {
		return fmt.Errorf("listener %s: requests in flight did not finish: %w", l.name, err)
	}
	return nil
}

func (l *listener) close() {
	l.mu.Lock()
	srv := l.server
	l.mu.Unlock()
	if srv != nil {
		_ = srv.Close()
		l.served.Wait()
	}
}

// addresses returns where the listener is open.
func (l *listener) addresses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	scheme := "http://"
	if l.cfg.TLS {
		scheme = "https://"
	}
	var out []string
	for _, s := range l.socks {
		if s.Addr().Network() == "unix" {
			out = append(out, "unix:"+s.Addr().String())
		} else {
			out = append(out, scheme+s.Addr().String())
		}
	}
	return out
}

func closeAll(socks []net.Listener) {
	for _, s := range socks {
		_ = s.Close()
	}
}

// debugWriter takes what net/http has to say about broken connections.
type debugWriter struct{ log zerolog.Logger }

func (w debugWriter) Write(b []byte) (int, error) {
	w.log.Debug().Str("detail", strings.TrimSpace(string(b))).Msg("connection error")
	return len(b), nil
}

// certificates is a certificate that is read again when its files change.
type certificates struct {
	certPath, keyPath string
	log               zerolog.Logger

	mu      sync.Mutex
	cert    *tls.Certificate
	stamp   [2]fileStamp
	checked time.Time
}

type fileStamp struct {
	mod  time.Time
	size int64
}

// certCheckInterval is how often a handshake looks whether the files have changed.
const certCheckInterval = time.Second

func (c *certificates) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil {
		return nil
	}
	return c.read()
}

// read loads the files. The caller holds mu.
func (c *certificates) read() error {
	stamp := c.stat()
	cert, err := tls.LoadX509KeyPair(c.certPath, c.keyPath)
	if err != nil {
		return fmt.Errorf("load TLS certificate: %w", err)
	}
	c.cert, c.stamp, c.checked = &cert, stamp, time.Now()
	return nil
}

func (c *certificates) stat() (stamp [2]fileStamp) {
	for i, path := range []string{c.certPath, c.keyPath} {
		if st, err := os.Stat(path); err == nil {
			stamp[i] = fileStamp{st.ModTime(), st.Size()}
		}
	}
	return stamp
}

// get is tls.Config.GetCertificate. Where the new files cannot be read (yet), the old certificate goes on serving.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) >= certCheckInterval {
		c.checked = time.Now()
		if c.stat() != c.stamp {
			if err := c.read(); err != nil {
				c.log.Warn().Err(err).Msg("the changed TLS certificate cannot be used; the old one is kept")
			} else {
				c.log.Info().Msg("TLS certificate read again")
			}
		}
	}
	return c.cert, nil
}
