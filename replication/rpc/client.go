package rpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// Headers. Names are in canonical form, so that they can be set without folding.
const (
	headerDeadline = "Weft-Deadline-Ms" // request: milliseconds left
	headerInstance = "Weft-Instance"    // reply: the run of the process that answers
	headerExpect   = "Weft-Expect"      // request: the run that may have begun the call
	headerRefused  = "Weft-Refused"     // reply: why the call was not let in
)

// Reasons in headerRefused.
const (
	refusedSecret = "secret"
	refusedMethod = "method"
	refusedBoot   = "restarted"
)

// peer is an instance that can be called.
type peer struct {
	scheme, host string
	transport    *http.Transport
	boot         atomic.Pointer[string] // the run that answered last
}

func newPeer(a Address, tlsConfig *tls.Config, http2 bool) (*peer, error) {
	p := &peer{scheme: "http"}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	p.transport = &http.Transport{
		DialContext:           dialer.DialContext,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       5 * time.Minute,
		DisableCompression:    true,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 0, // the call's deadline decides
		WriteBufferSize:       16 << 10,
		ReadBufferSize:        16 << 10,
	}
	protocols := new(http.Protocols)
	switch {
	case a.Path != "":
		if a.Host != "" || a.Port != 0 || a.TLS {
			return nil, errors.New("has path beside host, port or tls")
		}
		p.host = "unix"
		p.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", a.Path)
		}
	case a.Host == "" || a.Port < 1 || a.Port > 65535:
		return nil, fmt.Errorf("needs host and port (1 to 65535), or path; has host %q, port %d", a.Host, a.Port)
	default:
		p.host = net.JoinHostPort(a.Host, strconv.Itoa(a.Port))
	}
	if a.TLS {
		p.scheme = "https"
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2)
	} else {
		protocols.SetHTTP1(!http2)
		protocols.SetUnencryptedHTTP2(http2)
	}
	p.transport.Protocols = protocols
	return p, nil
}

// call is a call on its way to another process.
type call struct {
	method     string
	args       []string
	body       []byte
	repeatable bool
	durable    bool

	sent   bool   // some attempt may have reached a process
	expect string // the run it reached, if known
}

// brokenError is a failure of the connection, after which the call may be tried again.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// Delays between attempts.
const (
	firstRetry = 10 * time.Millisecond
	maxRetry   = 500 * time.Millisecond
)

// do makes the call, again if need be, and returns the body of the reply.
func (n *Node) do(ctx context.Context, instance string, c *call) ([]byte, error) {
	p := n.peers[instance]
	if p == nil {
		return nil, ErrUnknownInstance
	}
	u := &url.URL{Scheme: p.scheme, Host: p.host}
	raw := c.path(newID())
	path, err := url.PathUnescape(raw)
	if err != nil {
		return nil, err
	}
	u.Path, u.RawPath = path, raw

	var giveUp time.Time
	delay := firstRetry
	for {
		reply, err := n.attempt(ctx, p, u, c)
		var broken *brokenError
		if !errors.As(err, &broken) {
			return reply, err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w (%w)", ctx.Err(), broken.err)
		}
		now := time.Now()
		if giveUp.IsZero() {
			giveUp = now.Add(n.cfg.RetryFor)
		}
		if now.After(giveUp) {
			return nil, broken.err
		}
		n.log.Debug().Err(broken.err).Str("instance", instance).Str("method", c.method).Msg("calling again")
		select {
		case <-time.After(delay/2 + rand.N(delay/2+1)):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", ctx.Err(), broken.err)
		}
		delay = min(2*delay, maxRetry)
	}
}

// attempt sends the request once.
func (n *Node) attempt(ctx context.Context, p *peer, u *url.URL, c *call) ([]byte, error) {
	boot := p.boot.Load()
	header := make(http.Header, 4)
	if n.bearer != "" {
		header["Authorization"] = []string{n.bearer}
	}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline).Milliseconds()
		if left <= 0 {
			return nil, context.DeadlineExceeded
		}
		header[headerDeadline] = []string{strconv.FormatInt(left, 10)}
	}
	if c.sent && c.expect != "" && !c.repeatable && !c.durable {
		header[headerExpect] = []string{c.expect}
	}
	req := (&http.Request{
		Method: http.MethodPost, URL: u, Host: p.host, Header: header,
		Body: io.NopCloser(bytes.NewReader(c.body)), ContentLength: int64(len(c.body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	})
	var wrote atomic.Bool
	if !c.repeatable && !c.durable && !c.sent {
		// Whether a broken call reached the callee decides whether a restarted one may
		// run it.
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			WroteHeaders: func() { wrote.Store(true) },
		})
	}
	resp, err := p.transport.RoundTrip(req.WithContext(ctx))
	if err == nil {
		return n.reply(p, resp)
	}
	if wrote.Load() {
		c.sent = true
		if boot != nil {
			c.expect = *boot
		}
	}
	return nil, &brokenError{err}
}

// reply reads the answer to a request.
func (n *Node) reply(p *peer, resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	boot := resp.Header[headerInstance]
	if len(boot) == 0 {
		// A proxy, or a process that is starting or stopping.
		return nil, &brokenError{fmt.Errorf("unexpected answer with status %d", resp.StatusCode)}
	}
	if last := p.boot.Load(); last == nil || *last != boot[0] {
		p.boot.Store(&boot[0])
	}
	switch reason := resp.Header.Get(headerRefused); reason {
	case "":
	case refusedSecret:
		return nil, ErrRefused
	case refusedMethod:
		return nil, ErrNoMethod
	case refusedBoot:
		return nil, ErrOutcomeUnknown
	default:
		return nil, fmt.Errorf("refused: %s", reason)
	}
	body, err := readBody(resp.Body, resp.ContentLength, n.cfg.MaxBodyBytes)
	if errors.Is(err, errTooLarge) {
		return nil, fmt.Errorf("read reply: %w", err)
	}
	if err != nil {
		return nil, &brokenError{fmt.Errorf("read reply: %w", err)}
	}
	if resp.StatusCode == http.StatusOK {
		return body, nil
	}
	e := &Error{Status: resp.StatusCode}
	if err := json.Unmarshal(body, e); err != nil {
		return nil, fmt.Errorf("read error reply with status %d: %w", resp.StatusCode, err)
	}
	return nil, e
}

var errTooLarge = errors.New("body is too large")

// readBody reads a body of a length that is known, or -1, up to limit.
func readBody(r io.Reader, length, limit int64) ([]byte, error) {
	if length > limit {
		return nil, errTooLarge
	}
	if length >= 0 {
		b := make([]byte, length)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errTooLarge
	}
	return b, err
}
