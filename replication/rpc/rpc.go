// Package rpc is how the processes of a server call one another.
package rpc

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/rs/zerolog"
)

// PathPrefix is where the methods are served.
const PathPrefix = "/_synapse/replication/"

// Address is where an instance can be called: an entry of instance_map.
type Address struct {
	// Host and Port are a TCP address.
	Host string
	Port int
	// TLS says that the port speaks TLS.
	TLS bool
	// Path is a unix socket, used instead of Host and Port when set.
	Path string
}

// Config configures a Node.
type Config struct {
	// Instance is the name of this process; calls to it are plain function calls.
	// Defaults to "master".
	Instance string
	// Instances tells where the others are, as instance_map does.
	Instances map[string]Address
	// Secret is worker_replication_secret. Without one, Handler refuses callers that come
	// neither from loopback nor over a unix socket.
	Secret string
	// Timeout bounds a call whose context has no deadline. Defaults to 60 seconds.
	Timeout time.Duration
	// ResultTTL is how long results are kept for retries. Defaults to 5 minutes.
	ResultTTL time.Duration
	// MaxBodyBytes bounds requests and replies. Defaults to 64 MiB.
	MaxBodyBytes int64
	// Log receives what an operator should know. The zero value is silent.
	Log zerolog.Logger
}

// Node is one process's end of the calls between processes: the methods it serves and the
// connections to the others. Safe for concurrent use.
type Node struct{ cfg Config }

// New checks the configuration. It does no I/O; connections open with the first call.
func New(cfg Config) (*Node, error) { return &Node{cfg: cfg}, nil }

// Handler serves the registered methods under PathPrefix. Mount it on listeners with the
// "replication" resource; for full speed the server must speak unencrypted HTTP/2, see
// ConfigureServer.
func (n *Node) Handler() http.Handler { return nil }

// ConfigureServer lets srv speak HTTP/2 without TLS beside HTTP/1.1, and remembers which
// connections came over unix sockets. Call it before Serve.
func ConfigureServer(srv *http.Server) {}

// Close closes idle connections.
func (n *Node) Close() error { return nil }

// Codec turns a request or reply into bytes and back. Methods use JSON unless they bring
// their own.
type Codec[T any] interface {
	Append(dst []byte, v T) ([]byte, error)
	Decode(data []byte) (T, error)
}

// Method is a call that one process can make to another. Declare each once, as a value.
type Method[Req, Resp any] struct {
	// Name is its name in the path, such as "send_events".
	Name string
	// Args gives words for the path between the name and the request id, such as the room
	// id, for people who read access logs. The callee does not look at them. Optional.
	Args func(Req) []string
	// Request and Response are the codecs. Default to JSON.
	Request  Codec[Req]
	Response Codec[Resp]
	// Timeout bounds a call whose context has no deadline. Defaults to Config.Timeout.
	Timeout time.Duration
	// Repeatable says that running a call twice does no harm (it only reads), so that
	// results are not kept.
	Repeatable bool
}

// Error is an error that crosses processes with its HTTP status, errcode, message and
// fields. Handlers may return one, or any error that implements Coder; others arrive as
// status 500 with code "M_UNKNOWN".
type Error struct {
	Status  int                        `json:"-"`
	Code    string                     `json:"errcode"`
	Message string                     `json:"error"`
	Fields  map[string]json.RawMessage `json:"-"`
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Coder is implemented by errors that know how they cross processes; it is looked for with
// errors.As.
type Coder interface {
	error
	RPCError() *Error
}

// Register makes n serve m with fn. It panics when the name is registered already, since
// that is a mistake in the program. Call it before Handler serves.
func Register[Req, Resp any](n *Node, m Method[Req, Resp], fn func(ctx context.Context, req Req) (Resp, error)) {
}

// Call calls m on the named instance and returns its reply. The context's deadline travels
// with the call. When a connection breaks it tries again with the same request id, so that
// the callee acts once. An error of the callee is an *Error; see errors.As. Calling the own
// instance runs the registered function directly and returns its error as it is.
func Call[Req, Resp any](ctx context.Context, n *Node, instance string, m Method[Req, Resp], req Req) (Resp, error) {
	var r Resp
	return r, nil
}
