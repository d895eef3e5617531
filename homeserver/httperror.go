package homeserver

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/weft-im/weft/homeserver/mxerr"
)

// statusClientGone is what the log and metrics call a request whose client went away. It is never sent.
const statusClientGone = 499

// fault is how an error answers a request.
type fault struct {
	status int
	// err is what the client is told, nil for a client that is gone.
	err *mxerr.Error
	// bug says that the cause must be logged for somebody to act on.
	bug bool
}

// classify is the one place where an error becomes a response.
func classify(ctx context.Context, err error, requestID string) fault {
	if mx, ok := mxerr.As(err); ok {
		status := mx.Status
		if status < 400 || status > 599 {
			status = http.StatusInternalServerError
		}
		return fault{status: status, err: mx}
	}
	if isTooLarge(err) {
		return fault{status: http.StatusRequestEntityTooLarge, err: mxerr.TooLarge}
	}
	if errors.Is(err, context.Canceled) {
		if mx, ok := mxerr.As(context.Cause(ctx)); ok { // a drain that ran out of time
			return fault{status: mx.Status, err: mx}
		}
	}
	// The request's own context ends when the client goes away, and only then: drains and deadlines have causes.
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return fault{status: statusClientGone}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault{status: http.StatusGatewayTimeout, err: errTimedOut}
	}
	return fault{
		status: http.StatusInternalServerError,
		err:    mxerr.Unknown.WithField("request_id", requestID),
		bug:    true,
	}
}

var (
	errTimedOut = &mxerr.Error{Status: http.StatusGatewayTimeout, Code: mxerr.Unknown.Code, Message: "The server took too long to answer"}
	errStopping = &mxerr.Error{Status: http.StatusServiceUnavailable, Code: mxerr.Unknown.Code, Message: "The server is being restarted"}
)

// WriteError answers a request with an error, for endpoints with a Raw handler. Errors become responses as those of a
// Handler do.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	f := classify(r.Context(), err, w.Header().Get(requestIDHeader))
	writeFault(w, f)
}

// writeFault sends a fault, unless the client is gone.
func writeFault(w http.ResponseWriter, f fault) {
	if f.err == nil {
		// The status is for the log and metrics; the connection is closed already.
		w.WriteHeader(statusClientGone)
		return
	}
	h := w.Header()
	if ms, ok := retryAfterMS(f.err); ok {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(float64(ms)/1000)), 10))
	}
	body, err := json.Marshal(f.err)
	if err != nil { // a field that cannot be encoded is no reason to send none of it
		body, _ = json.Marshal(&mxerr.Error{Code: f.err.Code, Message: f.err.Message})
	}
	h["Content-Type"] = contentTypeJSON
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	_, _ = w.Write(body)
}

// retryAfterMS returns the retry_after_ms of an error, also of one another process sent.
func retryAfterMS(e *mxerr.Error) (int64, bool) {
	switch v := e.Fields["retry_after_ms"].(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	case float64:
		return int64(v), true
	case json.RawMessage:
		n, err := strconv.ParseInt(string(v), 10, 64)
		return n, err == nil
	}
	return 0, false
}
