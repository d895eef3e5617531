package redisbus_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/redisbus"
	"github.com/weft-im/weft/replication/replicationtest"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStream measures rows of 1 KiB from Publish, over Redis, to the handler of a
// follower. cpu-µs/op counts both clients, not Redis. "one" waits for each row.
func BenchmarkStream(b *testing.B) {
	for _, mode := range []string{"one", "many"} {
		b.Run(mode, func(b *testing.B) {
			s := startRedis(b)
			stream := replication.Stream[string]{StreamInfo: replication.StreamInfo{Name: "events"}}
			client := func(name string) *replication.Client {
				c, err := replication.NewClient(replication.Config{
					ServerName: "a.test", Instance: name, Bus: newBus(b, redisbus.Config{Addrs: []string{s.addr}}),
				})
				if err != nil {
					b.Fatal(err)
				}
				return c
			}
			w, f := client("w"), client("f")
			pub, err := replication.NewPublisher(w, stream, replication.PublisherConfig{})
			if err != nil {
				b.Fatal(err)
			}
			value := strings.Repeat("x", 1024)
			fol, err := replication.Follow(f, stream, replication.FollowConfig[string]{
				Source: func(_ context.Context, _ string, after, upTo int64, limit int) (rows []replication.Row[string], reached int64, err error) {
					for i := after + 1; i <= upTo && len(rows) < limit; i++ {
						rows = append(rows, replication.Row[string]{Token: i, Value: value})
					}
					return rows, after + int64(len(rows)), nil
				},
			})
			if err != nil {
				b.Fatal(err)
			}
			replicationtest.Run(b, w)
			replicationtest.Run(b, f)
			ctx := context.Background()
			b.ResetTimer()
			start := cpu()
			var n int64
			for range b.N {
				n++
				if err := pub.Publish(n, replication.Row[string]{Token: n, Value: value}); err != nil {
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
