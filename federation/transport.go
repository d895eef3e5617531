package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/weft-im/weft/internal/iprange"
)

// TLSConfig says which certificates of other servers are good.
type TLSConfig struct {
	// Roots are the only authorities to trust. Defaults to the system's.
	Roots *x509.CertPool
	// InsecureSkipVerify believes any certificate.
	InsecureSkipVerify bool
	// SkipVerifyFor are servers, as shell patterns ("*.onion"), whose certificates are believed whatever they are.
	SkipVerifyFor []string
	// MinVersion is the oldest version to speak. Defaults to TLS 1.2.
	MinVersion uint16
}

// LoadRoots reads PEM files of certificate authorities.
func LoadRoots(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read certificate authority: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", f)
		}
	}
	return pool, nil
}

// forName returns the TLS configuration for a connection to a server, whose certificate must be for tlsName.
func (c *TLSConfig) forName(server, tlsName string, protos []string) *tls.Config {
	t := &tls.Config{
		RootCAs: c.Roots, ServerName: tlsName, MinVersion: max(c.MinVersion, tls.VersionTLS10), NextProtos: protos,
		InsecureSkipVerify: c.InsecureSkipVerify, //nolint:gosec // an administrator asked for it by name
	}
	if c.MinVersion == 0 {
		t.MinVersion = tls.VersionTLS12
	}
	for _, pattern := range c.SkipVerifyFor {
		if ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(server)); ok && err == nil {
			t.InsecureSkipVerify = true
		}
	}
	return t
}

const (
	dialTimeout         = 10 * time.Second
	tlsHandshakeTimeout = 10 * time.Second
	idleConnTimeout     = 2 * time.Minute
	maxIdleConns        = 2000
	maxIdlePerServer    = 4
	// maxConnsPerServer bounds the connections to one server that speaks HTTP/1.1; further requests wait.
	maxConnsPerServer = 32
	maxHeaderBytes    = 64 << 10
)

// newTransport returns a transport whose hosts are server names, see urlHost: it finds the server, connects to whichever
// of its addresses answers, and checks the certificate.
func newTransport(r *resolver, dialer *net.Dialer, tc *TLSConfig) *http.Transport {
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			server := serverOfAddr(addr)
			found, err := r.resolve(ctx, server)
			if err != nil {
				return nil, err
			}
			conn, err := dialFirst(ctx, dialer, network, found.targets, tc.forName(server, found.tlsName, []string{"h2", "http/1.1"}))
			if err != nil {
				r.forget(server)
			}
			return conn, err
		},
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           maxIdleConns,
		MaxIdleConnsPerHost:    maxIdlePerServer,
		MaxConnsPerHost:        maxConnsPerServer,
		IdleConnTimeout:        idleConnTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ExpectContinueTimeout:  time.Second,
	}
}

// dialFirst connects to the first of the targets that answers with a good certificate.
func dialFirst(ctx context.Context, dialer *net.Dialer, network string, targets []string, tc *tls.Config) (net.Conn, error) {
	var errs []error
	for _, target := range targets {
		conn, err := dialer.DialContext(ctx, network, target)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		secure := tls.Client(conn, tc)
		hsCtx, cancel := context.WithTimeout(ctx, tlsHandshakeTimeout)
		err = secure.HandshakeContext(hsCtx)
		cancel()
		if err == nil {
			return secure, nil
		}
		_ = conn.Close()
		errs = append(errs, fmt.Errorf("TLS with %s: %w", target, err))
	}
	return nil, errors.Join(errs...)
}

// newWebClient returns the client for well-known files, with the same rules as the transport. It follows redirects, each
// under the same address filter, and never away from HTTPS.
func newWebClient(dialer *net.Dialer, tc *TLSConfig) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				return dialFirst(ctx, dialer, network, []string{addr}, tc.forName(host, host, nil))
			},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects || req.URL.Scheme != "https" {
				return fmt.Errorf("redirect to %s is not followed", req.URL.Redacted())
			}
			return nil
		},
	}
}

// noPort marks, in the place of a port, server names that have none: "a.example" and "a.example:443" are two servers.
const noPort = ":0"

// urlHost returns the host of URLs that the transport reads as server. It keeps a pool of connections for each.
func urlHost(server string) string {
	// The name was checked: a colon behind the last bracket is that of a port.
	if strings.LastIndexByte(server, ':') > strings.LastIndexByte(server, ']') {
		return server
	}
	return server + noPort
}

func serverOfAddr(addr string) string { return strings.TrimSuffix(addr, noPort) }

// denied reports whether an error came from the address filter.
func denied(err error) bool { return errors.Is(err, iprange.ErrDenied) }
