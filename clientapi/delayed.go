package clientapi

import (
	"context"
	"net/http"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/delayed"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// delayParam has an event sent later: so many milliseconds from now.
const delayParam = "org.matrix.msc4140.delay"

// sendLater schedules an event that is asked for like one to be sent now. A request that is repeated under its
// transaction id need not say what to send.
func (g *roomGroup) sendLater(ctx context.Context, r *homeserver.Request, stateKey *string) (any, error) {
	if g.later == nil {
		return nil, mxerr.Forbidden.WithMessage("This server does not take delayed events")
	}
	ms, err := r.QueryInt(delayParam, 0)
	if err != nil {
		return nil, err
	}
	id, err := g.later.Scheduled(ctx, r.Requester(), r.Param("roomId"), r.Param("txnId"))
	if err != nil {
		return nil, err
	}
	if id == "" {
		req, err := eventRequest(r)
		if err != nil {
			return nil, err
		}
		id, err = g.later.Schedule(ctx, r.Requester(), delayed.Request{
			RoomID: r.Param("roomId"), Type: req.Type, StateKey: stateKey, TxnID: r.Param("txnId"), Content: req.Content, TS: req.TS,
			Delay: time.Duration(min(ms, int64(maxDelay/time.Millisecond))) * time.Millisecond,
		})
		if err != nil {
			return nil, err
		}
	}
	return struct {
		DelayID string `json:"delay_id"`
	}{id}, nil
}

// maxDelay keeps a delay within what a duration holds; what the server allows is far below.
const maxDelay = 100 * 365 * 24 * time.Hour

// DelayedEvents is the group of the events that users have scheduled: what there are, and to send, restart or cancel
// them. Whoever knows a delay id may do that; it is how a client has another service do it.
//
// Spec: MSC4140, under its unstable prefix.
func DelayedEvents(svc *delayed.Service) homeserver.Group {
	g := &delayedGroup{svc}
	const all, one = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}"
	endpoints := []homeserver.Endpoint{
		{Method: http.MethodGet, Path: all, Auth: homeserver.AuthGuest, Handle: g.list},
		{Method: http.MethodGet, Path: one, Auth: homeserver.AuthGuest, Handle: g.get},
		{Method: http.MethodPost, Path: one, Auth: homeserver.AuthOptional, Handle: g.act},
		{Method: http.MethodPost, Path: one + "/send", Auth: homeserver.AuthOptional, Handle: onDelayed(svc.Send)},
		{Method: http.MethodPost, Path: one + "/restart", Auth: homeserver.AuthOptional, Handle: onDelayed(svc.Restart)},
		{Method: http.MethodPost, Path: one + "/cancel", Auth: homeserver.AuthOptional, Handle: onDelayed(svc.Cancel)},
	}
	for i := range endpoints {
		endpoints[i].Limit = "rc_delayed_event_mgmt"
	}
	return homeserver.Group{Name: "delayed_events", Affinity: homeserver.ByUser, Endpoints: endpoints}
}

type delayedGroup struct{ svc *delayed.Service }

func (g *delayedGroup) list(ctx context.Context, r *homeserver.Request) (any, error) {
	req := delayed.ListRequest{RoomID: r.Query("room_id"), From: r.Query("from")}
	switch r.Query("status") {
	case "", "scheduled":
	case "finalised":
		req.Finalised = true
	default:
		return nil, mxerr.InvalidParam.WithMessage("Query parameter status must be scheduled or finalised")
	}
	return g.svc.List(ctx, r.Requester(), req)
}

func (g *delayedGroup) get(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.Get(ctx, r.Requester(), r.Param("delayId"))
}

// onDelayed is a handler of what is done to one event.
func onDelayed(act func(ctx context.Context, delayID string) error) homeserver.Handler {
	return func(ctx context.Context, r *homeserver.Request) (any, error) {
		return nil, act(ctx, r.Param("delayId"))
	}
}

// act takes the action from the body, as earlier versions of the proposal had it.
func (g *delayedGroup) act(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		Action *string `json:"action"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Action == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing action")
	}
	id := r.Param("delayId")
	switch *body.Action {
	case "send":
		return nil, g.svc.Send(ctx, id)
	case "restart":
		return nil, g.svc.Restart(ctx, id)
	case "cancel":
		return nil, g.svc.Cancel(ctx, id)
	}
	return nil, mxerr.InvalidParam.WithMessage("action must be send, restart or cancel")
}
