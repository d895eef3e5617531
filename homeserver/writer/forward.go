package writer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/storage"
)

// sendRequest asks a room's owner to write.
type sendRequest struct {
	roomID string
	drafts []Draft
}

// createRequest asks a writer to make a room.
type createRequest struct {
	version string
	drafts  []Draft // m.room.create first
}

type createReply struct {
	roomID  string
	roomNID storage.RoomNID
	results []Result
}

// receiveRequest hands events of other servers to a room's owner.
type receiveRequest struct {
	roomID, version string
	events          []Received
}

// receiveReply is what became of received events: of all, or of those before the first that failed.
type receiveReply struct {
	results []Result
	failed  *rpc.Error
}

func sendMethod() rpc.Method[sendRequest, []Result] {
	return rpc.Method[sendRequest, []Result]{
		Name: "send_events", Args: func(r sendRequest) []string { return []string{r.roomID} },
		Request: sendCodec{}, Response: resultsCodec{},
	}
}

func createMethod() rpc.Method[createRequest, createReply] {
	return rpc.Method[createRequest, createReply]{Name: "create_room", Request: createCodec{}, Response: createReplyCodec{}}
}

func receiveMethod() rpc.Method[receiveRequest, receiveReply] {
	return rpc.Method[receiveRequest, receiveReply]{
		Name: "fed_send_events", Args: func(r receiveRequest) []string { return []string{r.roomID} },
		Request: receiveCodec{}, Response: receiveReplyCodec{},
		// An event is written once, whoever brings it again.
		Durable: true,
	}
}

func outOfBandMethod() rpc.Method[outOfBandRequest, []Result] {
	return rpc.Method[outOfBandRequest, []Result]{
		Name: "fed_out_of_band", Args: func(r outOfBandRequest) []string { return []string{r.event.Event.RoomID()} },
		Request: outOfBandCodec{}, Response: resultsCodec{},
		// An event is written once, whoever brings it again.
		Durable: true,
	}
}

// register serves the methods by which other processes reach this writer. What arrives is written here, also if this
// process believes that the room belongs to another: the two may have read different configurations, and sending it on
// might go round in circles.
func (w *Writer) register(n *rpc.Node) {
	rpc.Register(n, sendMethod(), func(ctx context.Context, r sendRequest) ([]Result, error) {
		if w.cfg.IDs == nil {
			return nil, toRPC(errNoWriter)
		}
		results, err := w.do(ctx, r.roomID, &request{drafts: r.drafts})
		return results, toRPC(err)
	})
	rpc.Register(n, createMethod(), func(ctx context.Context, r createRequest) (createReply, error) {
		v, ok := event.LookupVersion(r.version)
		if !ok || w.cfg.IDs == nil || len(r.drafts) == 0 {
			return createReply{}, toRPC(errNoWriter)
		}
		c, err := w.CreateRoom(ctx, v, r.drafts[0], r.drafts[1:]...)
		if err != nil {
			return createReply{}, toRPC(err)
		}
		return createReply{c.RoomID, c.RoomNID, c.Results}, nil
	})
	rpc.Register(n, receiveMethod(), func(ctx context.Context, r receiveRequest) (receiveReply, error) {
		if w.cfg.IDs == nil {
			return receiveReply{}, toRPC(errNoWriter)
		}
		results, err := w.receiveHere(ctx, r.roomID, r.events)
		reply := receiveReply{results: results}
		if err = toRPC(err); errors.As(err, &reply.failed) {
			err = nil
		}
		return reply, err
	})
	rpc.Register(n, outOfBandMethod(), func(ctx context.Context, r outOfBandRequest) ([]Result, error) {
		if w.cfg.IDs == nil {
			return nil, toRPC(errNoWriter)
		}
		results, err := w.do(ctx, r.event.Event.RoomID(), &request{outOfBand: &r.event})
		return results, toRPC(err)
	})
}

var errNoWriter = mxerr.Unknown.WithStatus(503).WithMessage("This process does not write rooms")

func (w *Writer) forwardSend(ctx context.Context, owner, roomID string, drafts []Draft) ([]Result, error) {
	m := sendMethod()
	// With a transaction id an event is written once, also by an owner that was restarted between two attempts.
	m.Durable = true
	for i := range drafts {
		m.Durable = m.Durable && drafts[i].TxnID != ""
	}
	results, err := forward(ctx, w, owner, m, sendRequest{roomID, drafts})
	if err != nil {
		return nil, fmt.Errorf("send to room %s: %w", roomID, err)
	}
	return results, nil
}

func (w *Writer) forwardCreate(ctx context.Context, v *event.Version, create Draft, drafts []Draft) (*Created, error) {
	// The room's id is not known yet, so any writer will do.
	owner, _ := w.owner(rand.Text())
	reply, err := forward(ctx, w, owner, createMethod(), createRequest{v.ID, append([]Draft{create}, drafts...)})
	if err != nil {
		return nil, fmt.Errorf("create room: %w", err)
	}
	return &Created{RoomID: reply.roomID, RoomNID: reply.roomNID, Results: reply.results}, nil
}

// forward calls another writer and turns errors back into what they were there.
func forward[Req, Resp any](ctx context.Context, w *Writer, owner string, m rpc.Method[Req, Resp], req Req) (Resp, error) {
	if w.cfg.RPC == nil || owner == w.Instance() {
		var zero Resp
		return zero, errNoWriter
	}
	m.Timeout = w.cfg.RequestTimeout
	resp, err := rpc.Call(ctx, w.cfg.RPC, owner, m, req)
	var remote *rpc.Error
	switch {
	case err == nil:
		return resp, nil
	case errors.As(err, &remote):
		return resp, fromRPC(remote)
	case ctx.Err() != nil:
		return resp, errTimeout.Wrap(err)
	}
	return resp, mxerr.Unknown.WithStatus(503).WithMessage("The writer of the room cannot be reached").Wrap(err)
}

// toRPC makes an error cross to the calling process.
func toRPC(err error) error {
	var mx *mxerr.Error
	var missing *MissingEventsError
	if errors.As(err, &missing) {
		mx = missing.crossing()
	} else if err == nil || !errors.As(err, &mx) {
		return err
	}
	e := &rpc.Error{Status: mx.Status, Code: mx.Code, Message: mx.Message}
	for k, v := range mx.Fields {
		raw, err := json.Marshal(v)
		if err != nil {
			continue
		}
		if e.Fields == nil {
			e.Fields = make(map[string]json.RawMessage)
		}
		e.Fields[k] = raw
	}
	return e
}

func fromRPC(e *rpc.Error) error {
	mx := &mxerr.Error{Status: e.Status, Code: e.Code, Message: e.Message}
	for k, v := range e.Fields {
		if mx.Fields == nil {
			mx.Fields = make(map[string]any)
		}
		var value any
		if json.Unmarshal(v, &value) == nil {
			mx.Fields[k] = value
		}
	}
	return mx
}
