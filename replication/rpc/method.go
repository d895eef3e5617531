package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// PathPrefix is where the methods are served.
const PathPrefix = "/_synapse/replication/"

// Codec turns a request or reply into bytes and back. It must be safe for concurrent use.
type Codec[T any] interface {
	// Append appends the encoded value to dst.
	Append(dst []byte, v T) ([]byte, error)
	// Decode reads what Append wrote. The value may keep data, which is not used again.
	Decode(data []byte) (T, error)
}

// Bytes is the codec of methods that bring their own encoding: what is sent is what is
// there, without copying.
type Bytes struct{}

// Append implements Codec.
func (Bytes) Append(dst, v []byte) ([]byte, error) {
	if len(dst) == 0 {
		return v, nil
	}
	return append(dst, v...), nil
}

// Decode implements Codec.
func (Bytes) Decode(data []byte) ([]byte, error) { return data, nil }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil || len(dst) == 0 {
		return b, err
	}
	return append(dst, b...), nil
}

func (jsonCodec[T]) Decode(data []byte) (T, error) {
	var v T
	err := json.Unmarshal(data, &v)
	return v, err
}

// Method is a call that one process can make to another. Declare each once, as a value.
type Method[Req, Resp any] struct {
	// Name is its name in the path, such as "send_events": lower-case letters, digits and
	// underscores.
	Name string
	// Args gives words for the path between the name and the request id, such as the room
	// id, for people who read access logs. The callee does not look at them. Optional.
	Args func(Req) []string
	// Request and Response are the codecs. Default to JSON.
	Request  Codec[Req]
	Response Codec[Resp]
	// Timeout bounds a call whose context has no deadline. Defaults to Config.Timeout.
	Timeout time.Duration
	// Repeatable says that running a call twice does no harm, as when it only reads.
	// Results are then not kept, and the call ends when its caller goes away.
	Repeatable bool
	// Durable says that a call which is repeated after a restart of the callee is
	// recognised by other means, such as a transaction id in the database, so that it may
	// be repeated then.
	Durable bool
}

func (m Method[Req, Resp]) request() Codec[Req] {
	if m.Request == nil {
		return jsonCodec[Req]{}
	}
	return m.Request
}

func (m Method[Req, Resp]) response() Codec[Resp] {
	if m.Response == nil {
		return jsonCodec[Resp]{}
	}
	return m.Response
}

// registered is a method without its types.
type registered struct {
	repeatable bool
	durable    bool
	local      any // func(context.Context, Req) (Resp, error)
	serve      func(ctx context.Context, body []byte) ([]byte, error)
}

// Register makes n serve m with fn. ctx carries the caller's deadline; unless m is
// Repeatable it goes on when the caller is gone. Register panics when the name is no name
// or taken, since that is a mistake in the program. Call it before Handler serves.
func Register[Req, Resp any](n *Node, m Method[Req, Resp], fn func(ctx context.Context, req Req) (Resp, error)) {
	if m.Name == "" || strings.Trim(m.Name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		panic(fmt.Sprintf("rpc: %q is no name for a method", m.Name))
	}
	reqCodec, respCodec := m.request(), m.response()
	r := &registered{
		repeatable: m.Repeatable, durable: m.Durable, local: fn,
		serve: func(ctx context.Context, body []byte) ([]byte, error) {
			req, err := reqCodec.Decode(body)
			if err != nil {
				return nil, &Error{Status: http.StatusBadRequest, Code: "M_BAD_JSON", Message: "cannot read the request: " + err.Error()}
			}
			resp, err := fn(ctx, req)
			if err != nil {
				return nil, err
			}
			b, err := respCodec.Append(nil, resp)
			if err != nil {
				return nil, fmt.Errorf("encode reply: %w", err)
			}
			return b, nil
		},
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.methods[m.Name]; ok {
		panic(fmt.Sprintf("rpc: method %q is registered twice", m.Name))
	}
	n.methods[m.Name] = r
}

// Call calls m on the named instance and returns its reply. The context's deadline travels
// with the call. When a connection breaks it tries again with the same request id, so that
// the callee acts once; see the package comment. An error that the callee returned is an
// *Error, found with errors.As; any other says that the call could not be made. Calling the
// own instance runs the registered function and returns its error as it is.
func Call[Req, Resp any](ctx context.Context, n *Node, instance string, m Method[Req, Resp], req Req) (Resp, error) {
	var zero Resp
	if instance == n.cfg.Instance {
		n.mu.RLock()
		r := n.methods[m.Name]
		n.mu.RUnlock()
		if r == nil {
			return zero, fmt.Errorf("call %s on %s: %w", m.Name, instance, ErrNoMethod)
		}
		fn, ok := r.local.(func(context.Context, Req) (Resp, error))
		if !ok {
			return zero, fmt.Errorf("call %s on %s: it is registered with other types", m.Name, instance)
		}
		return fn(ctx, req)
	}
	body, err := m.request().Append(nil, req)
	if err != nil {
		return zero, fmt.Errorf("call %s on %s: encode request: %w", m.Name, instance, err)
	}
	timeout := m.Timeout
	if timeout == 0 {
		timeout = n.cfg.Timeout
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	c := call{method: m.Name, body: body, repeatable: m.Repeatable, durable: m.Durable}
	if m.Args != nil {
		c.args = m.Args(req)
	}
	reply, err := n.do(ctx, instance, &c)
	if err != nil {
		return zero, fmt.Errorf("call %s on %s: %w", m.Name, instance, err)
	}
	resp, err := m.response().Decode(reply)
	if err != nil {
		return zero, fmt.Errorf("call %s on %s: decode reply: %w", m.Name, instance, err)
	}
	return resp, nil
}

// path is the escaped path of a call. Args that a server would clean away are replaced.
func (c *call) path(id string) string {
	b := make([]byte, 0, 128)
	b = append(b, PathPrefix...)
	b = append(b, c.method...)
	for _, a := range c.args {
		if strings.Trim(a, ".") == "" {
			a = "-"
		}
		b = append(b, '/')
		b = append(b, url.PathEscape(a)...)
	}
	b = append(b, '/')
	b = append(b, id...)
	return string(b)
}

// Errors of calls that could not be made. Use errors.Is.
var (
	// ErrUnknownInstance says that instance_map has no such instance.
	ErrUnknownInstance = errors.New("instance is not in instance_map")
	// ErrNoMethod says that the instance does not serve the method.
	ErrNoMethod = errors.New("instance does not serve this method")
	// ErrRefused says that the instance does not accept our worker_replication_secret, or
	// has none and does not trust our address.
	ErrRefused = errors.New("instance refused the call, check worker_replication_secret")
	// ErrOutcomeUnknown says that the callee was restarted while it had the call, so
	// nobody knows whether it acted.
	ErrOutcomeUnknown = errors.New("instance was restarted during the call")
)

// Error is an error that crosses processes with its HTTP status, errcode, message and
// fields. Handlers may return one, or any error that implements Coder; others arrive as
// status 500 with code "M_UNKNOWN" and no details.
type Error struct {
	Status  int
	Code    string
	Message string
	Fields  map[string]json.RawMessage // further keys of the body; may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Coder is implemented by errors that know how they cross processes; it is looked for with
// errors.As.
type Coder interface {
	error
	RPCError() *Error
}

// MarshalJSON writes the body of a Matrix error. The status is not in it.
func (e *Error) MarshalJSON() ([]byte, error) {
	m := make(map[string]any, len(e.Fields)+2)
	for k, v := range e.Fields {
		m[k] = v
	}
	m["errcode"], m["error"] = e.Code, e.Message
	return json.Marshal(m)
}

// UnmarshalJSON reads the body of a Matrix error and leaves the status as it is.
func (e *Error) UnmarshalJSON(data []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	code, ok := m["errcode"]
	if !ok {
		return errors.New("no errcode")
	}
	if err := json.Unmarshal(code, &e.Code); err != nil {
		return fmt.Errorf("errcode: %w", err)
	}
	if msg, ok := m["error"]; ok {
		if err := json.Unmarshal(msg, &e.Message); err != nil {
			return fmt.Errorf("error: %w", err)
		}
	}
	delete(m, "errcode")
	delete(m, "error")
	e.Fields = nil
	if len(m) > 0 {
		e.Fields = m
	}
	return nil
}

// toError is what crosses for err.
func toError(err error) *Error {
	var coder Coder
	var e *Error
	switch {
	case errors.As(err, &coder):
		e = coder.RPCError()
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Status: http.StatusGatewayTimeout, Code: "M_UNKNOWN", Message: "Timed out"}
	}
	if e == nil || e.Status < 400 || e.Status > 599 {
		return &Error{Status: http.StatusInternalServerError, Code: "M_UNKNOWN", Message: "Internal server error"}
	}
	return e
}
