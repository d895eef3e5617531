package rpc_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/weft-im/weft/replication/rpc"
)

type sendRequest struct {
	RoomID  string         `json:"room_id"`
	Content map[string]any `json:"content"`
}

type sendReply struct {
	EventID string `json:"event_id"`
}

var (
	sendMethod = rpc.Method[sendRequest, sendReply]{Name: "send_event", Args: func(r sendRequest) []string { return []string{r.RoomID} }}
	echoMethod = rpc.Method[[]byte, []byte]{Name: "echo", Request: rpc.Bytes{}, Response: rpc.Bytes{}}
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCall measures a call over a warm connection. cpu-µs/op counts both sides.
func BenchmarkCall(b *testing.B) {
	for _, network := range []string{"unix", "tcp"} {
		b.Run(network, func(b *testing.B) {
			callee, err := rpc.New(rpc.Config{Instance: "callee", Secret: "s"})
			if err != nil {
				b.Fatal(err)
			}
			rpc.Register(callee, echoMethod, func(_ context.Context, in []byte) ([]byte, error) { return in, nil })
			rpc.Register(callee, sendMethod, func(context.Context, sendRequest) (sendReply, error) {
				return sendReply{"$abc"}, nil
			})
			var l net.Listener
			addr := rpc.Address{Host: "127.0.0.1"}
			if network == "unix" {
				addr = rpc.Address{Path: filepath.Join(b.TempDir(), "rpc.sock")}
				l, err = net.Listen("unix", addr.Path)
			} else {
				l, err = net.Listen("tcp", "127.0.0.1:0")
			}
			if err != nil {
				b.Fatal(err)
			}
			if network == "tcp" {
				addr.Port = l.Addr().(*net.TCPAddr).Port
			}
			srv := &http.Server{Handler: callee.Handler()}
			rpc.ConfigureServer(srv)
			go srv.Serve(l)
			defer srv.Close()
			caller, err := rpc.New(rpc.Config{Instance: "caller", Secret: "s", Instances: map[string]rpc.Address{"callee": addr}})
			if err != nil {
				b.Fatal(err)
			}
			defer caller.Close()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			payload := make([]byte, 1024)
			run := func(name string, parallel bool, call func() error) {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					start := cpu()
					if parallel {
						b.SetParallelism(16)
						b.RunParallel(func(pb *testing.PB) {
							for pb.Next() {
								if err := call(); err != nil {
									b.Error(err)
									return
								}
							}
						})
					} else {
						for b.Loop() {
							if err := call(); err != nil {
								b.Fatal(err)
							}
						}
					}
					b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-µs/op")
				})
			}
			bytesCall := func() error {
				_, err := rpc.Call(ctx, caller, "callee", echoMethod, payload)
				return err
			}
			jsonCall := func() error {
				_, err := rpc.Call(ctx, caller, "callee", sendMethod, sendRequest{"!room:x", map[string]any{"body": "hello", "msgtype": "m.text"}})
				return err
			}
			run("bytes/one", false, bytesCall)
			run("bytes/parallel", true, bytesCall)
			run("json/parallel", true, jsonCall)
		})
	}
}
