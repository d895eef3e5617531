package mxrpc_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/replication/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A Matrix error reads the same to the caller whether or not another process made it.
func TestErrorsCross(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "weft")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "rpc")
	m := rpc.Method[string, int]{Name: "try"}
	bug := errors.New("nil map")
	callee := node(t, rpc.Config{Instance: "callee"})
	mxrpc.Register(callee, m, func(_ context.Context, what string) (int, error) {
		switch what {
		case "forbidden":
			return 0, mxerr.Forbidden.WithMessage("Not you").WithField("retry_after_ms", 5).Wrap(bug)
		case "bug":
			return 0, bug
		}
		return 7, nil
	})
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: callee.Handler()}
	rpc.ConfigureServer(srv)
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	caller := node(t, rpc.Config{Instance: "caller", Instances: map[string]rpc.Address{"callee": {Path: socket}}})
	for name, from := range map[string]*rpc.Node{"local": callee, "remote": caller} {
		t.Run(name, func(t *testing.T) {
			if n, err := mxrpc.Call(t.Context(), from, "callee", m, "fine"); err != nil || n != 7 {
				t.Errorf("got %d, %v", n, err)
			}
			_, err := mxrpc.Call(t.Context(), from, "callee", m, "forbidden")
			mx, ok := mxerr.As(err)
			if !ok || !errors.Is(err, mxerr.Forbidden) || mx.Status != 403 || mx.Message != "Not you" {
				t.Fatalf("got %v", err)
			}
			if b, err := mx.MarshalJSON(); err != nil || string(b) != `{"errcode":"M_FORBIDDEN","error":"Not you","retry_after_ms":5}` {
				t.Errorf("response is %s, %v", b, err)
			}
			_, err = mxrpc.Call(t.Context(), from, "callee", m, "bug")
			if _, ok := mxerr.As(err); ok || err == nil {
				t.Errorf("a bug arrives as %v", err)
			}
		})
	}
}

func node(t *testing.T, cfg rpc.Config) *rpc.Node {
	t.Helper()
	n, err := rpc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}
