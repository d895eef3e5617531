package replication

import (
	"context"
	"time"

	"github.com/weft-im/weft/replication/wire"
)

// The methods of streamNode.

func (n *node[R]) channel() string { return wire.StreamChannel(n.c.cfg.ServerName, n.s.Name) }

func (n *node[R]) push(message string) { n.in.push(inboxItem[R]{message: message}) }

func (n *node[R]) reset() { n.in.push(inboxItem[R]{reset: true}) }

func (n *node[R]) observe(writer string, token int64) {
	n.in.push(inboxItem[R]{writer: writer, prev: token, token: token})
}

func (n *node[R]) repeat() {
	if n.pub != nil {
		n.pub.repeat()
	}
}

func (n *node[R]) send(ctx context.Context, stop <-chan struct{}) error {
	if n.pub == nil {
		return nil
	}
	return n.pub.run(ctx, stop)
}

func (n *node[R]) tracker() *tracker {
	if n.follow == nil {
		return nil
	}
	return n.track
}

func (n *node[R]) status(now time.Time) StreamStatus {
	s := StreamStatus{
		Stream:   n.s.Name,
		Followed: n.follow != nil,
		Written:  n.pub != nil,
		Rows:     n.rows.Load(),
		CatchUps: n.catchUps.Load(),
		Gaps:     n.gaps.Load(),
		Ignored:  n.ignored.Load(),
	}
	s.Queued, s.Dropped = n.in.status()
	if n.pub != nil {
		s.Sent = n.pub.sent.Load()
	}
	if n.follow != nil {
		s.Position = n.track.position()
		s.Writers = n.track.status(now)
	}
	return s
}
