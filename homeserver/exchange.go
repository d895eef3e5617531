package homeserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/julienschmidt/httprouter"
	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
)

// requestIDHeader carries the request id in each response.
const requestIDHeader = "X-Request-Id"

// Header values that never change are shared by all responses: net/http only reads them.
var (
	contentTypeJSON  = []string{"application/json"}
	corsOrigin       = []string{"*"}
	corsMethods      = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	corsHeaders      = []string{"X-Requested-With, Content-Type, Authorization, Date"}
	corsExpose       = []string{"X-Request-Id, Retry-After"}
	corsMaxAge       = []string{"86400"}
	errBadUTF8       = mxerr.InvalidParam.WithMessage("The path or the query is not valid UTF-8")
	errGuest         = mxerr.GuestAccessForbidden
	errNotAdmin      = mxerr.Forbidden.WithMessage("You are not a server admin")
	errNotAppservice = mxerr.Forbidden.WithMessage("Only application services may do this")
	errMethod        = mxerr.Unrecognized.WithStatus(http.StatusMethodNotAllowed)
)

// exchange is one request and its response on their way through a Router. All of it is one allocation.
type exchange struct {
	rt      *Router
	w       http.ResponseWriter
	req     Request
	ep      *endpoint
	match   match
	status  int
	size    int64
	started time.Time
	values  [maxParams]string
}

// serve does everything for one request.
func (x *exchange) serve(r *http.Request) {
	x.started = time.Now()
	rt := x.rt
	x.req.id = rt.ids.next()
	if rt.opts.idHeader != "" {
		if v := r.Header.Get(rt.opts.idHeader); v != "" && len(v) <= 128 {
			x.req.id = v
		}
	}
	x.req.clientIP = clientIP(r, rt.opts.forwarded)
	h := x.w.Header()
	h["Access-Control-Allow-Origin"] = corsOrigin
	h["Access-Control-Allow-Methods"] = corsMethods
	h["Access-Control-Allow-Headers"] = corsHeaders
	h["Access-Control-Expose-Headers"] = corsExpose
	h[requestIDHeader] = []string{x.req.id}
	if r.Method == http.MethodOptions {
		h["Access-Control-Max-Age"] = corsMaxAge
		x.status = http.StatusNoContent
		x.w.WriteHeader(x.status)
		return
	}
	if rt.metrics != nil {
		rt.metrics.inFlight.Inc()
		defer rt.metrics.inFlight.Dec()
	}
	ctx := r.Context()
	log := rt.log
	if log.GetLevel() != zerolog.Disabled {
		log = log.With().Str("request_id", x.req.id).Logger()
	}
	ctx = log.WithContext(ctx)
	x.req.Request = r.WithContext(ctx)
	defer x.finish(ctx, &log)

	err := x.route(ctx)
	if err != nil {
		x.fail(ctx, &log, err)
	}
}

// route finds the endpoint, runs what stands before it, and the endpoint itself.
func (x *exchange) route(ctx context.Context) error {
	r := x.req.Request
	// Path has each %xx decoded, %2F too. Where that lost nothing RawPath is empty and Path can be used as it is;
	// otherwise the route is found on the escaped form, and each parameter decoded once.
	path, escaped := r.URL.Path, r.URL.RawPath != ""
	if escaped {
		path = r.URL.EscapedPath()
	}
	ep, ps, rest, allow := x.rt.table.find(&x.match, r.Method, path)
	if ep == nil {
		if allow == nil {
			return mxerr.Unrecognized
		}
		x.w.Header()["Allow"] = []string{strings.Join(allow, ", ")}
		return errMethod
	}
	x.ep = ep
	if err := x.params(ps, rest, escaped); err != nil {
		return err
	}
	if q := r.URL.RawQuery; q != "" && !validQuery(q) {
		return errBadUTF8
	}
	x.req.maxBody = ep.maxBody
	if x.req.maxBody == 0 {
		x.req.maxBody = DefaultMaxBody
	}
	if err := x.authenticate(ctx); err != nil {
		return err
	}
	if err := x.limit(); err != nil {
		return err
	}
	if ep.raw != nil {
		return x.serveRaw(ctx)
	}
	result, err := ep.handle(ctx, &x.req)
	if err != nil {
		return err
	}
	return x.respond(result)
}

// params decodes the path parameters.
func (x *exchange) params(ps httprouter.Params, rest string, escaped bool) error {
	ep := x.ep
	x.req.names = ep.names
	x.req.params = x.values[:len(ep.names)]
	for i := range ep.names {
		v := rest
		if i < len(ep.index) {
			v = ps[ep.index[i]].Value
		}
		if escaped && strings.IndexByte(v, '%') >= 0 {
			var err error
			if v, err = url.PathUnescape(v); err != nil {
				return errBadUTF8
			}
		}
		if !validText(v) {
			return errBadUTF8
		}
		x.req.params[i] = v
	}
	return nil
}

// validText reports whether s is text PostgreSQL can hold: UTF-8 without NUL.
func validText(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// validQuery is validText of a query once decoded. What cannot be decoded is left to the parser, which drops it.
func validQuery(q string) bool {
	if strings.IndexByte(q, '%') >= 0 {
		if dec, err := url.QueryUnescape(q); err == nil {
			q = dec
		}
	}
	return validText(q)
}

// authenticate finds out who makes the request, as the endpoint asks.
func (x *exchange) authenticate(ctx context.Context) error {
	r := x.req.Request
	kind := x.ep.route.Auth
	switch kind {
	case AuthNone:
		return nil
	case AuthServer:
		body, err := x.req.RawBody()
		if err != nil {
			return err
		}
		x.req.origin, err = x.rt.server.AuthenticateServer(ctx, r, body)
		return err
	}
	token := AccessToken(r)
	if token == "" {
		if kind == AuthOptional {
			return nil
		}
		return mxerr.MissingToken
	}
	if x.rt.opts.forwarded {
		ctx = requester.WithClientIP(ctx, x.req.clientIP)
	}
	who, err := x.rt.auth.Authenticate(ctx, token, r)
	if err != nil {
		return err
	}
	x.req.requester = who
	switch {
	case kind == AuthUser && who.IsGuest:
		return errGuest
	case kind == AuthAdmin && !who.IsAdmin:
		return errNotAdmin
	case kind == AuthAppservice && who.AppserviceID == "":
		return errNotAppservice
	}
	return nil
}

// limit takes a token of the endpoint's rate limit.
func (x *exchange) limit() error {
	class := x.ep.route.Limit
	if class == "" || x.rt.limits == nil {
		return nil
	}
	key := x.req.clientIP
	switch who := x.req.requester; {
	case who != nil && who.RateLimitExempt:
		return nil
	case who != nil && who.UserID != "":
		key = who.UserID
	case x.req.origin != "":
		key = x.req.origin
	}
	err := x.rt.limits.Allow(class, key)
	if err != nil && x.rt.metrics != nil {
		x.rt.metrics.limited.WithLabelValues(class).Inc()
	}
	return err
}

// serveRaw hands the request to a plain handler.
func (x *exchange) serveRaw(ctx context.Context) error {
	r := x.req.Request
	if x.ep.maxBody > 0 {
		r.Body = http.MaxBytesReader(x.w, r.Body, x.ep.maxBody)
	}
	if x.req.bodyRead { // the signature check has read it
		r.Body = bodyOf(x.req.body)
	}
	x.ep.raw.ServeHTTP(&recorder{ResponseWriter: x.w, x: x}, r)
	if x.status == 0 {
		x.status = http.StatusOK
	}
	if ctx.Err() != nil && x.size == 0 {
		x.status = statusClientGone
	}
	return nil
}

// recorder keeps the status and size of a plain handler's response.
type recorder struct {
	http.ResponseWriter
	x *exchange
}

func (w *recorder) WriteHeader(status int) {
	if w.x.status == 0 && status >= 200 {
		w.x.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.x.status == 0 {
		w.x.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.x.size += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// fail answers with an error.
func (x *exchange) fail(ctx context.Context, log *zerolog.Logger, err error) {
	f := classify(ctx, err, x.req.id)
	if x.status != 0 {
		// The response has begun. Cutting the connection is the only way left to say that it is not whole.
		if f.err != nil {
			log.Error().Err(err).Str("endpoint", x.template()).Msg("response could not be finished")
		}
		panic(http.ErrAbortHandler)
	}
	x.status = f.status
	switch {
	case f.bug:
		log.Error().Err(err).Str("endpoint", x.template()).Msg("request failed")
	case f.err == nil:
		log.Debug().Err(err).Str("endpoint", x.template()).Msg("client went away")
	case f.status >= 500:
		log.Warn().Err(err).Str("endpoint", x.template()).Msg("request answered with a server error")
	default:
		log.Debug().Err(err).Str("endpoint", x.template()).Msg("request refused")
	}
	if f.err == nil {
		return
	}
	writeFault(x.w, f)
}

// finish recovers from a panic, then counts and logs the request.
func (x *exchange) finish(ctx context.Context, log *zerolog.Logger) {
	p := recover()
	if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares so too
		err := fmt.Errorf("panic: %v", p)
		if asErr, ok := p.(error); ok {
			err = fmt.Errorf("panic: %w", asErr)
		}
		log.Error().Err(err).Bytes("stack", debug.Stack()).Str("endpoint", x.template()).Msg("request panicked")
		if x.status == 0 {
			x.status = http.StatusInternalServerError
			writeFault(x.w, fault{status: x.status, err: mxerr.Unknown.WithField("request_id", x.req.id)})
			p = nil
		} else {
			p = http.ErrAbortHandler
		}
	}
	d := time.Since(x.started)
	var rm routeMetrics
	if x.ep != nil {
		rm = x.ep.metrics
	}
	method := x.req.Method
	if x.ep == nil {
		method = "other" // clients choose it freely, and a label must not
	}
	x.rt.metrics.observe(rm, method, x.template(), x.status, d)
	if e := log.Info(); e.Enabled() {
		e.Str("method", x.req.Method).
			Str("path", x.req.URL.Path).
			Str("endpoint", x.template()).
			Int("status", x.status).
			Float64("duration_ms", float64(d.Microseconds())/1000).
			Int64("bytes", x.size).
			Str("client_ip", x.req.clientIP)
		if x.req.requester != nil {
			e.Str("user_id", x.req.requester.UserID)
		}
		if x.req.origin != "" {
			e.Str("origin", x.req.origin)
		}
		if x.rt.opts.tag != "" {
			e.Str("listener", x.rt.opts.tag)
		}
		e.Msg("request")
	}
	if p != nil {
		panic(p)
	}
}

// template is the endpoint's path template, for logs and metrics.
func (x *exchange) template() string {
	if x.ep == nil {
		return noRoute
	}
	return x.ep.template
}

// clientIP returns the address of the client, "" where it is not known.
func clientIP(r *http.Request, forwarded bool) string {
	if forwarded {
		if v := r.Header.Get("X-Forwarded-For"); v != "" {
			first, _, _ := strings.Cut(v, ",")
			return strings.TrimSpace(first)
		}
	}
	if r.RemoteAddr == "" || r.RemoteAddr == "@" {
		return ""
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// isTooLarge reports whether a body read through http.MaxBytesReader was cut.
func isTooLarge(err error) bool {
	var tooLarge *http.MaxBytesError
	return errors.As(err, &tooLarge)
}
