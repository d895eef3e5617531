package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/singleflight"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/internal/iprange"
	"github.com/weft-im/weft/storage"
)

// ClientConfig is what a Client is made of.
type ClientConfig struct {
	// Signer signs requests in the name of this server. Required.
	Signer event.Signer
	// DB keeps which servers are down. Required.
	DB storage.Querier
	// UserAgent names this program. Defaults to "Weft".
	UserAgent string
	// TLS says which certificates are good.
	TLS TLSConfig
	// Addresses says which addresses may be connected to; nil allows all.
	Addresses *iprange.Filter
	// Allowed lists the only servers to talk to; nil allows all.
	Allowed *[]string
	// Timeout is how long a request may take where it does not say. Defaults to 1 minute.
	Timeout time.Duration
	// MaxRetries is how often a request that may be repeated is tried again, with up to MaxRetryDelay between, when the
	// connection broke. They default to 3 and 2 seconds.
	MaxRetries    int
	MaxRetryDelay time.Duration
	// Backoff says how long to keep away from servers that are down.
	Backoff BackoffConfig
	// DNS defaults to the system's.
	DNS Lookups
	// OnUp, which may be nil, is told when a server that was thought to be down has answered. It must not block.
	OnUp func(server string)
	// Log defaults to silence.
	Log zerolog.Logger
}

func (c ClientConfig) withDefaults() ClientConfig {
	if c.UserAgent == "" {
		c.UserAgent = "Weft"
	}
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	if c.MaxRetries == 0 {
		c.MaxRetries = 3
	}
	if c.MaxRetryDelay <= 0 {
		c.MaxRetryDelay = 2 * time.Second
	}
	if c.DNS == nil {
		c.DNS = net.DefaultResolver
	}
	return c
}

// Client calls other homeservers. It is safe for concurrent use. Its methods return the Matrix error of a server that
// gave one (*mxerr.Error with the status it had), a *BackoffError or ErrNotAllowed for a server that was not asked, and a
// *ConnectionError where there was no usable answer.
type Client struct {
	cfg      ClientConfig
	resolver *resolver
	backoffs *backoffs
	http     *http.Client
	flight   singleflight.Group
}

// ErrNotAllowed says that the configuration does not let this server talk to another.
var ErrNotAllowed = errors.New("federation with this server is not allowed")

// ConnectionError says that a server gave no answer, or none that makes sense.
type ConnectionError struct {
	// Destination is the server.
	Destination string
	// Err is what happened.
	Err error
}

func (e *ConnectionError) Error() string {
	return fmt.Sprintf("no answer from %s: %v", e.Destination, e.Err)
}

// Unwrap returns what happened.
func (e *ConnectionError) Unwrap() error { return e.Err }

// NewClient checks the configuration. It does no I/O.
func NewClient(cfg ClientConfig) (*Client, error) {
	cfg = cfg.withDefaults()
	var errs []error
	if cfg.Signer.ServerName == "" || cfg.Signer.KeyID == "" || len(cfg.Signer.Key) == 0 {
		errs = append(errs, errors.New("Signer is required"))
	}
	if cfg.DB == nil {
		errs = append(errs, errors.New("DB is required"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("federation client: %w", err)
	}
	c := &Client{cfg: cfg}
	dialer := cfg.Addresses.Dialer(dialTimeout)
	c.resolver = newResolver(cfg.DNS, newWebClient(dialer, &c.cfg.TLS))
	c.backoffs = newBackoffs(cfg.Backoff, cfg.DB, cfg.Log)
	c.http = &http.Client{
		Transport: newTransport(c.resolver, dialer, &c.cfg.TLS),
		// Requests are signed for one server and one path.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// ServerName is the name of this server.
func (c *Client) ServerName() string { return c.cfg.Signer.ServerName }

// Close ends the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Seen says that a server has made itself heard, so that it may be tried again if it was thought to be down. It returns
// at once.
func (c *Client) Seen(server string) {
	if d, ok := c.backoffs.peek(server); ok && d.FailureTS == 0 {
		return
	}
	go c.succeeded(context.Background(), server)
}

// ServerUp says that another process has heard of a server that was down.
func (c *Client) ServerUp(server string) {
	c.backoffs.forget(server)
	c.resolver.forget(server)
}

// RetryAt returns when a server that does not answer is to be tried again, the zero time for one that may be tried now.
func (c *Client) RetryAt(ctx context.Context, server string) (time.Time, error) {
	var be *BackoffError
	err := c.backoffs.check(ctx, server)
	if errors.As(err, &be) {
		return be.RetryAt, nil
	}
	return time.Time{}, err
}

func (c *Client) succeeded(ctx context.Context, server string) {
	if c.backoffs.succeeded(ctx, server) && c.cfg.OnUp != nil {
		c.cfg.OnUp(server)
	}
}

// The sizes of responses in bytes, so that none takes up the memory.
const (
	maxResponse      = 4 << 20
	maxStateResponse = 128 << 20
	maxErrorResponse = 64 << 10
)

// call is one request to another server.
type call struct {
	method, server string
	// path is the escaped path, query the query without "?".
	path, query string
	// body is sent as JSON, nil for none.
	body any
	// timeout overrides the Client's.
	timeout time.Duration
	// maxBytes bounds the response. Defaults to maxResponse.
	maxBytes int64
	// unsigned leaves the signature out, for endpoints that need none.
	unsigned bool
	// force asks also a server that is thought to be down.
	force bool
	// once forbids repeating the request when the connection breaks.
	once bool
}

// joinPath joins escaped segments behind a prefix.
func joinPath(prefix string, segments ...string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// do makes a request and decodes the response into out, unless that is nil.
func (c *Client) do(ctx context.Context, q call, out any) error {
	return c.stream(ctx, q, func(body io.Reader) error {
		data, err := io.ReadAll(body)
		if err != nil || out == nil {
			return err
		}
		return decodeResponse(data, out)
	})
}

func decodeResponse(data []byte, out any) error {
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%w: %w", errBadResponse, err)
	}
	return nil
}

var (
	errBadResponse = errors.New("the response is not what it should be")
	errTooLong     = errors.New("the response is too long")
)

// shared is do for questions that many may have at once: calls for the same are made once.
func (c *Client) shared(ctx context.Context, q call, out any) error {
	key := q.method + " " + q.server + q.path + "?" + q.query
	ch := c.flight.DoChan(key, func() (any, error) {
		var data json.RawMessage
		// It outlives a caller who gives up; the time-out of the request bounds it.
		err := c.do(context.WithoutCancel(ctx), q, &data)
		return data, err
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return res.Err
		}
		if err := decodeResponse(res.Val.(json.RawMessage), out); err != nil {
			return &ConnectionError{q.server, err}
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stream makes a request and hands the body of a good response to read.
func (c *Client) stream(ctx context.Context, q call, read func(io.Reader) error) error {
	if err := c.mayCall(ctx, q); err != nil {
		return err
	}
	var content []byte
	if q.body != nil {
		var err error
		if content, err = encodeBody(q.body); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	if q.timeout <= 0 {
		q.timeout = c.cfg.Timeout
	}
	if q.maxBytes <= 0 {
		q.maxBytes = maxResponse
	}
	reqCtx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	res, err := c.send(reqCtx, q, content)
	if err != nil {
		if ctx.Err() != nil { // whoever asked has gone: that says nothing about the server
			return ctx.Err()
		}
		if !denied(err) {
			c.backoffs.failed(ctx, q.server)
		}
		return &ConnectionError{q.server, err}
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return c.refused(ctx, q, res)
	}
	c.succeeded(ctx, q.server)
	if err := read(&boundedReader{r: res.Body, left: q.maxBytes}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &ConnectionError{q.server, err}
	}
	return nil
}

// refused returns the error that a response stands for. Gateways in front of a server that is down answer for it.
func (c *Client) refused(ctx context.Context, q call, res *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxErrorResponse))
	if err != nil {
		body = nil
	}
	mx := mxerr.Decode(res.StatusCode, body)
	isMatrix := mx.Code != mxerr.Unknown.Code || bytes.Contains(body, []byte(`"errcode"`))
	switch {
	case res.StatusCode >= 500 && (!isMatrix || res.StatusCode >= 502 && res.StatusCode <= 504 && mx.Code == mxerr.Unknown.Code):
		c.backoffs.failed(ctx, q.server)
		return &ConnectionError{q.server, mx}
	case !isMatrix && res.StatusCode < 400:
		return &ConnectionError{q.server, fmt.Errorf("%w: status %d", errBadResponse, res.StatusCode)}
	}
	c.succeeded(ctx, q.server)
	return mx
}

// mayCall checks that a server is one to talk to, and not thought to be down.
func (c *Client) mayCall(ctx context.Context, q call) error {
	if q.server == c.ServerName() {
		return &ConnectionError{q.server, errors.New("this server does not call itself")}
	}
	if _, err := id.ParseServerName(q.server); err != nil || strings.HasSuffix(q.server, noPort) {
		return &ConnectionError{q.server, errors.Join(errors.New("not a server name"), err)}
	}
	if c.cfg.Allowed != nil && !slices.Contains(*c.cfg.Allowed, q.server) {
		return fmt.Errorf("%s: %w", q.server, ErrNotAllowed)
	}
	if q.force {
		return nil
	}
	return c.backoffs.check(ctx, q.server)
}

// send makes a request, again where the connection breaks under one that may be repeated.
func (c *Client) send(ctx context.Context, q call, content []byte) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		res, err := c.attempt(ctx, q, content)
		if err == nil || ctx.Err() != nil || q.once || q.method == http.MethodPost || attempt >= c.cfg.MaxRetries || !broken(err) {
			return res, err
		}
		wait := min(100*time.Millisecond<<attempt, c.cfg.MaxRetryDelay)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// broken reports whether a connection was lost that had been there, as opposed to one that could not be made.
func broken(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || op != nil && (op.Op == "read" || op.Op == "write")
}

func (c *Client) attempt(ctx context.Context, q call, content []byte) (*http.Response, error) {
	found, err := c.resolver.resolve(ctx, q.server)
	if err != nil {
		return nil, err
	}
	target := "https://" + urlHost(q.server) + q.path
	if q.query != "" {
		target += "?" + q.query
	}
	var body io.Reader
	if content != nil {
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, err
	}
	req.Host = found.host
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !q.unsigned {
		auth, err := authorization(c.cfg.Signer, q.server, q.method, req.URL.RequestURI(), content)
		if err != nil {
			return nil, fmt.Errorf("sign request: %w", err)
		}
		req.Header.Set("Authorization", auth)
	}
	return c.http.Do(req)
}

// encodeBody returns JSON as it is sent and signed. Raw JSON is taken as it is.
func encodeBody(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return raw, nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// boundedReader fails, other than io.LimitedReader, when there is more than is allowed.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, errTooLong
	}
	return n, err
}
