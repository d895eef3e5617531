// Package mxrpc makes calls between the processes of a server with Matrix errors: what the callee returns as a
// *mxerr.Error arrives at the caller as one, so that it does not matter to a client which process did the work.
//
// Use it in place of rpc.Register and rpc.Call; the rest of package rpc applies unchanged.
package mxrpc

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/replication/rpc"
)

// Register makes n serve m with fn. It panics when the name is registered already, since that is a mistake in the
// program.
func Register[Req, Resp any](n *rpc.Node, m rpc.Method[Req, Resp], fn func(ctx context.Context, req Req) (Resp, error)) {
	rpc.Register(n, m, func(ctx context.Context, req Req) (Resp, error) {
		resp, err := fn(ctx, req)
		return resp, toRPC(err)
	})
}

// Call calls m on the named instance and returns its reply. A Matrix error of the callee is an *mxerr.Error; other
// failures of the callee are errors without one, as they would be had the call been local.
func Call[Req, Resp any](ctx context.Context, n *rpc.Node, instance string, m rpc.Method[Req, Resp], req Req) (Resp, error) {
	resp, err := rpc.Call(ctx, n, instance, m, req)
	return resp, fromRPC(err)
}

// wireError is a Matrix error on its way to another process; it keeps the original for the callee's log.
type wireError struct{ mx *mxerr.Error }

func (e *wireError) Error() string { return e.mx.Error() }
func (e *wireError) Unwrap() error { return e.mx }

// RPCError implements rpc.Coder.
func (e *wireError) RPCError() *rpc.Error {
	out := &rpc.Error{Status: e.mx.Status, Code: e.mx.Code, Message: e.mx.Message}
	for k, v := range e.mx.Fields {
		if b, err := json.Marshal(v); err == nil {
			if out.Fields == nil {
				out.Fields = make(map[string]json.RawMessage, len(e.mx.Fields))
			}
			out.Fields[k] = b
		}
	}
	return out
}

func toRPC(err error) error {
	mx, ok := mxerr.As(err)
	if !ok {
		return err
	}
	return &wireError{mx}
}

func fromRPC(err error) error {
	var remote *rpc.Error
	if err == nil || !errors.As(err, &remote) {
		return err
	}
	if _, local := mxerr.As(err); local {
		return err
	}
	if remote.Code == mxerr.Unknown.Code && remote.Status == mxerr.Unknown.Status {
		return err // a bug or a failure on the other side, not an answer for the client
	}
	mx := &mxerr.Error{Status: remote.Status, Code: remote.Code, Message: remote.Message}
	if len(remote.Fields) > 0 {
		mx.Fields = make(map[string]any, len(remote.Fields))
		for k, v := range remote.Fields {
			mx.Fields[k] = v
		}
	}
	return mx.Wrap(err)
}
