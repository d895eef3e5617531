package replication_test

import (
	"context"
	"fmt"

	"github.com/weft-im/weft/replication"
)

type receipt struct {
	RoomID  string
	UserID  string
	EventID string
}

// Two processes over a bus: one writes receipts, the other follows them.
func Example() {
	receipts := replication.Stream[receipt]{
		StreamInfo: replication.StreamInfo{Name: "receipts"},
		Codec:      replication.MustArrayCodec[receipt](),
	}
	ctx, stop := context.WithCancel(context.Background())
	bus := replication.NewLocalBus()

	writer, _ := replication.NewClient(replication.Config{ServerName: "example.com", Instance: "receipts1", Bus: bus})
	publisher, _ := replication.NewPublisher(writer, receipts, replication.PublisherConfig{Position: 41})

	reader, _ := replication.NewClient(replication.Config{ServerName: "example.com", Instance: "sync1", Bus: bus})
	follower, _ := replication.Follow(reader, receipts, replication.FollowConfig[receipt]{
		From: replication.NewPosition(41),
		Source: func(_ context.Context, _ string, _, upTo int64, _ int) ([]replication.Row[receipt], int64, error) {
			return nil, upTo, nil // a real one reads the receipts table
		},
	})
	follower.Handle(func(_ context.Context, u replication.Update[receipt]) {
		for _, row := range u.Rows {
			fmt.Println(u.Writer, row.Token, row.Value.UserID, row.Value.EventID)
		}
	})

	done := make(chan error)
	for _, c := range []*replication.Client{writer, reader} {
		go func() { done <- c.Run(ctx) }()
	}
	<-reader.Ready()

	// After the commit:
	_ = publisher.Publish(42, replication.Row[receipt]{Token: 42, Value: receipt{"!room:example.com", "@alice:example.com", "$event"}})

	if err := follower.WaitFor(ctx, "receipts1", 42); err != nil {
		fmt.Println(err)
	}
	fmt.Println(follower.Position())
	stop()
	<-done
	<-done
	// Output:
	// receipts1 42 @alice:example.com $event
	// 42
}

// A position in a token is short while the writers are level.
func ExamplePosition() {
	ids := replication.NewWriterIDs("persister1", "persister2")
	p := replication.PositionOf(0, map[string]int64{"persister1": 57, "persister2": 57})
	text, _ := p.Encode(ids)
	fmt.Println(text)

	p = p.Advance("persister2", 60)
	text, _ = p.Encode(ids)
	fmt.Println(text, p)

	back, _ := replication.ParsePosition(text, ids)
	fmt.Println(back.Covers("persister2", 60), back.Covers("persister1", 60))
	// Output:
	// 57
	// 57~2.3 57~persister2.60
	// true false
}
