// Package outbox lets any process of the server send EDUs to other servers: the federation stream, which lives in the
// memory of the main process and is followed by the federation senders.
//
// What other servers are told of rooms, typing, receipts and presence follows from the streams of these; the outbox is
// for what has no stream of its own. It promises no more than an EDU does: what a server that is out of reach is not
// told now it is not told later either.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
)

// Config is what an Outbox is made of.
type Config struct {
	// Client publishes the stream in the main process. It must not run yet. Required.
	Client *replication.Client
	// Writers says which process is the main one. Required.
	Writers *replication.Writers
	// RPC reaches it. Required.
	RPC *rpc.Node
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Outbox hands EDUs to the senders. It is safe for concurrent use.
type Outbox struct {
	cfg    Config
	writer *writer // in the main process
}

// maxDestinations bounds the servers of one row.
const maxDestinations = 500

var sendMethod = rpc.Method[streams.OutboundEDU, struct{}]{
	Name: "fed_send_edu", Args: func(e streams.OutboundEDU) []string { return []string{e.EDUType} },
}

var rowsMethod = rpc.Method[rowsRequest, rowsReply]{Name: "federation_updates", Repeatable: true}

type rowsRequest struct {
	After int64 `json:"after"`
}

type rowsReply struct {
	Rows  []replication.Row[streams.FederationRow] `json:"rows"`
	Token int64                                    `json:"token"`
	// Gone says that rows behind After are not there any more.
	Gone bool `json:"gone,omitempty"`
}

// New makes the outbox, publishes the stream in the main process and serves the others there. It does no I/O.
func New(cfg Config) (*Outbox, error) {
	if cfg.Client == nil || cfg.Writers == nil || cfg.RPC == nil {
		return nil, errors.New("outbox: Config.Client, Writers and RPC are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	o := &Outbox{cfg: cfg}
	if !cfg.Writers.Writes(streams.Federation().Name) {
		return o, nil
	}
	var err error
	if o.writer, err = newWriter(cfg.Client, cfg.Now); err != nil {
		return nil, err
	}
	mxrpc.Register(cfg.RPC, sendMethod, func(_ context.Context, e streams.OutboundEDU) (struct{}, error) {
		return struct{}{}, o.writer.put(e)
	})
	mxrpc.Register(cfg.RPC, rowsMethod, func(_ context.Context, r rowsRequest) (rowsReply, error) { return o.writer.after(r.After), nil })
	return o, nil
}

// Send has servers told of an EDU. It returns once the main process has it. Of EDUs of one type with the same key, if
// that is not "", only the last counts as long as they wait.
func (o *Outbox) Send(ctx context.Context, destinations []string, edu federation.EDU, key string) error {
	for chunk := range slices.Chunk(destinations, maxDestinations) {
		row := streams.OutboundEDU{Destinations: chunk, EDUType: edu.Type, Content: edu.Content, Key: key}
		var err error
		if o.writer != nil {
			err = o.writer.put(row)
		} else {
			_, err = mxrpc.Call(ctx, o.cfg.RPC, replication.MainInstance, sendMethod, row)
		}
		if err != nil {
			return fmt.Errorf("send an EDU of type %s: %w", edu.Type, err)
		}
	}
	return nil
}

// Source reads missed rows from the main process, for those who follow the stream.
func (o *Outbox) Source(ctx context.Context, writer string, after, upTo int64, _ int) ([]replication.Row[streams.FederationRow], int64, error) {
	var reply rowsReply
	if o.writer != nil {
		reply = o.writer.after(after)
	} else {
		var err error
		if reply, err = mxrpc.Call(ctx, o.cfg.RPC, writer, rowsMethod, rowsRequest{After: after}); err != nil {
			return nil, 0, err
		}
	}
	if reply.Gone {
		return nil, 0, replication.ErrRowsGone
	}
	rows := slices.DeleteFunc(reply.Rows, func(r replication.Row[streams.FederationRow]) bool { return r.Token > upTo })
	return rows, upTo, nil
}

// What the main process keeps for senders that have missed rows: an EDU that is older is not true any more.
const (
	keepFor   = time.Minute
	keepBytes = 8 << 20
)

// writer numbers the rows. Tokens count from its start in milliseconds since the epoch, so that they grow over restarts.
type writer struct {
	publisher *replication.Publisher[streams.FederationRow]
	now       func() time.Time

	mu        sync.Mutex
	token     int64
	forgotten int64 // rows up to here may be missing
	kept      []keptRow
	bytes     int
}

type keptRow struct {
	row   replication.Row[streams.FederationRow]
	at    time.Time
	bytes int
}

func newWriter(c *replication.Client, now func() time.Time) (*writer, error) {
	start := now().UnixMilli()
	w := &writer{now: now, token: start, forgotten: start}
	var err error
	w.publisher, err = replication.NewPublisher(c, streams.Federation(), replication.PublisherConfig{Position: start})
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return w, nil
}

func (w *writer) put(e streams.OutboundEDU) error {
	if !json.Valid(e.Content) {
		return errors.New("the content is not JSON")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.token++
	row := replication.Row[streams.FederationRow]{Token: w.token, Value: streams.FederationRow{Type: streams.FederationEDU, Data: e}}
	k := keptRow{row: row, at: w.now(), bytes: len(e.Content) + 64*len(e.Destinations)}
	w.kept = append(w.kept, k)
	w.bytes += k.bytes
	for len(w.kept) > 0 && (w.bytes > keepBytes || k.at.Sub(w.kept[0].at) > keepFor) {
		w.bytes -= w.kept[0].bytes
		w.forgotten, w.kept = w.kept[0].row.Token, w.kept[1:]
	}
	return w.publisher.Publish(w.token, row)
}

// after returns the rows behind a token.
func (w *writer) after(token int64) rowsReply {
	w.mu.Lock()
	defer w.mu.Unlock()
	reply := rowsReply{Token: w.token, Gone: token < w.forgotten, Rows: []replication.Row[streams.FederationRow]{}}
	for _, k := range w.kept {
		if k.row.Token > token {
			reply.Rows = append(reply.Rows, k.row)
		}
	}
	return reply
}
