package replication_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/replicationtest"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStream measures rows of 1 KiB from Publish to the handler of a follower. "one"
// waits for each row, "many" for the last.
func BenchmarkStream(b *testing.B) {
	for _, kind := range []string{"alone", "local bus"} {
		for _, mode := range []string{"one", "many"} {
			b.Run(kind+"/"+mode, func(b *testing.B) {
				var bus replication.Bus
				if kind == "local bus" {
					bus = replication.NewLocalBus()
				}
				client := func(name string) *replication.Client {
					c, err := replication.NewClient(replication.Config{ServerName: server, Instance: name, Bus: bus})
					if err != nil {
						b.Fatal(err)
					}
					return c
				}
				w := client("w")
				f := w
				if bus != nil {
					f = client("f")
				}
				pub, err := replication.NewPublisher(w, events, replication.PublisherConfig{})
				if err != nil {
					b.Fatal(err)
				}
				value := strings.Repeat("x", 1024)
				fol, err := replication.Follow(f, events, replication.FollowConfig[string]{
					Source: func(_ context.Context, _ string, after, upTo int64, limit int) (rows []row, reached int64, err error) {
						for i := after + 1; i <= upTo && len(rows) < limit; i++ {
							rows = append(rows, row{i, value})
						}
						return rows, after + int64(len(rows)), nil
					},
				})
				if err != nil {
					b.Fatal(err)
				}
				fol.Handle(func(context.Context, update) {})
				replicationtest.Run(b, w)
				if f != w {
					replicationtest.Run(b, f)
				}
				ctx := context.Background()
				b.ReportAllocs()
				b.ResetTimer()
				start := cpu()
				var n int64
				for range b.N {
					n++
					if err := pub.Publish(n, row{n, value}); err != nil {
						b.Fatal(err)
					}
					if mode == "one" || n%1000 == 0 {
						if err := fol.WaitFor(ctx, "w", n); err != nil {
							b.Fatal(err)
						}
					}
				}
				if err := fol.WaitFor(ctx, "w", n); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64((cpu()-start).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func BenchmarkPositionText(b *testing.B) {
	ids := replication.NewWriterIDs("a", "b", "c")
	for name, p := range map[string]replication.Position{
		"level": replication.NewPosition(123456), "vector": replication.NewPosition(123456).Advance("b", 123460).Advance("c", 123461),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				text, err := p.Encode(ids)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := replication.ParsePosition(text, ids); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOwner(b *testing.B) {
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprint("event_persister", i))
	}
	for b.Loop() {
		replication.Rendezvous(names, "!abcdefghijklmnopqr:example.com")
	}
}
