package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/storage"
)

const eventsStream = "events"

// Draft is an event as its sender asks for it. The writer of the room adds the rest.
type Draft struct {
	// Type is the event type. Required.
	Type string
	// StateKey makes it a state event.
	StateKey *string
	// Sender is the user who sends it, of this server. Required.
	Sender string
	// Content is a JSON object. Required.
	Content json.RawMessage
	// Redacts is the event that an m.room.redaction redacts.
	Redacts string
	// OriginServerTS is the time of the event in milliseconds since the Unix epoch. Defaults to now.
	OriginServerTS int64
	// DeviceID and TxnID make the request idempotent: a second draft of the same sender in the room with both the same
	// is answered with the first one's event. Without TxnID every draft is an event. Of a request with several drafts
	// only all or none may have been sent before.
	DeviceID, TxnID string
	// SkipUnchanged answers a state event whose sender and content are those of the current one with that event.
	SkipUnchanged bool
}

// Result says what became of one draft or event.
type Result struct {
	EventID string
	NID     storage.EventNID
	// Writer is the instance that wrote it: with NID its place in the events stream, to wait for.
	Writer string
	// Duplicate says that the event had been there before.
	Duplicate bool
	// Rejected and SoftFailed events are stored and not shown (Receive only).
	Rejected, SoftFailed bool
}

// Created says what became of CreateRoom.
type Created struct {
	RoomID  string
	RoomNID storage.RoomNID
	// Results are those of m.room.create and of the drafts after it.
	Results []Result
}

// request is a call of Send or Receive on its way through a lane.
type request struct {
	drafts   []Draft
	received *Received
	// outOfBand is of ReceiveOutOfBand.
	outOfBand *OutOfBand
	creation  *creation
	deadline  time.Time
	// abandoned is set when the caller has stopped waiting. What is not built yet then need not be.
	abandoned atomic.Bool
	// retried is set when the request went back to the queue, so that its transaction ids are looked up first.
	retried bool
	// found are the events that earlier requests with the same transaction ids wrote, by draft.
	found []*record

	done    chan struct{} // closed once the rest is set
	results []Result
	err     error
}

// creation says that a request makes its room.
type creation struct {
	version *event.Version
	nid     storage.RoomNID
	create  *event.Event
}

func (r *request) finish(results []Result, err error) {
	r.results, r.err = results, err
	close(r.done)
}

// expired returns why a request need not be worked on any more, nil if it does.
func (r *request) expired(now time.Time) error {
	if r.abandoned.Load() {
		return context.Canceled
	}
	if now.After(r.deadline) {
		return errTimeout
	}
	return nil
}

var errTimeout = mxerr.Unknown.WithStatus(504).WithMessage("The event could not be written in time")

// Send writes drafts to a room in their order, all of them or none, on whichever process owns the room, and returns when
// they are committed. Errors are Matrix errors where the drafts are at fault: M_FORBIDDEN with the reason of the
// authorisation rule, M_TOO_LARGE, M_BAD_JSON, M_NOT_FOUND for a room that is not there. While the owner or the database
// is away Send tries again until ctx ends; it is then unknown whether the events will be there, and a second call with
// the same transaction ids finds out.
func (w *Writer) Send(ctx context.Context, roomID string, drafts ...Draft) ([]Result, error) {
	if len(drafts) == 0 {
		return nil, nil
	}
	owner, local := w.owner(roomID)
	if !local {
		return w.forwardSend(ctx, owner, roomID, drafts)
	}
	return w.do(ctx, roomID, &request{drafts: drafts})
}

// CreateRoom makes a room of the given version and writes its first events, all of them or none. create is the
// m.room.create draft (a room id is chosen, in room version 12 it follows from the event); drafts come after it.
func (w *Writer) CreateRoom(ctx context.Context, version *event.Version, create Draft, drafts ...Draft) (*Created, error) {
	if w.cfg.IDs == nil {
		return w.forwardCreate(ctx, version, create, drafts)
	}
	for attempt := 1; ; attempt++ {
		c, err := w.createHere(ctx, version, create, drafts)
		if !errors.Is(err, mxerr.RoomInUse) || create.OriginServerTS != 0 || attempt == 3 {
			return c, err
		}
		// Another writer has made the same room in the same millisecond.
	}
}

func (w *Writer) createHere(ctx context.Context, version *event.Version, create Draft, drafts []Draft) (*Created, error) {
	roomID, ev, err := w.buildCreate(version, create)
	if err != nil {
		return nil, err
	}
	nid, err := w.roomNIDs.next(ctx, w.cfg.DB)
	if err != nil {
		return nil, fmt.Errorf("create room %s: %w", roomID, err)
	}
	all := append([]Draft{create}, drafts...)
	results, err := w.do(ctx, roomID, &request{drafts: all, creation: &creation{version: version, nid: nid, create: ev}})
	if err != nil {
		return nil, err
	}
	return &Created{RoomID: roomID, RoomNID: nid, Results: results}, nil
}

// do runs a request in the lane of its room and waits for the answer.
func (w *Writer) do(ctx context.Context, roomID string, req *request) ([]Result, error) {
	if err := w.start(ctx, roomID, req); err != nil {
		return nil, err
	}
	return w.wait(ctx, roomID, req)
}

// start queues requests behind each other.
func (w *Writer) start(ctx context.Context, roomID string, reqs ...*request) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(w.cfg.RequestTimeout)
	}
	for _, req := range reqs {
		req.done, req.deadline = make(chan struct{}), deadline
	}
	return w.submit(roomID, reqs)
}

func (w *Writer) wait(ctx context.Context, roomID string, req *request) ([]Result, error) {
	select {
	case <-req.done:
		return req.results, req.err
	case <-ctx.Done():
		req.abandoned.Store(true)
		if err := ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
			return nil, errTimeout.Wrap(err)
		}
		return nil, fmt.Errorf("write to room %s: %w", roomID, context.Cause(ctx))
	}
}
