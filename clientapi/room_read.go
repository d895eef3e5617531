package clientapi

import (
	"context"
	"encoding/json"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
)

func (g *roomGroup) reading() []homeserver.Endpoint {
	user, guest := homeserver.AuthUser, homeserver.AuthGuest
	byTime := on("GET", "/rooms/{roomId}/timestamp_to_event", user, "", g.timestamp)
	byTime.Versions = []string{"v1"}
	later := func(path string, h homeserver.Handler) homeserver.Endpoint {
		e := on("GET", path, user, "", h)
		e.Versions = []string{"v1", "unstable"}
		return e
	}
	return []homeserver.Endpoint{
		on("GET", "/rooms/{roomId}/event/{eventId}", guest, "", g.event),
		on("GET", "/rooms/{roomId}/state", guest, "", g.state),
		on("GET", "/rooms/{roomId}/state/{eventType}/{stateKey}", guest, "", g.stateEvent),
		on("GET", "/rooms/{roomId}/members", guest, "", g.members),
		on("GET", "/rooms/{roomId}/joined_members", user, "", g.joinedMembers),
		on("GET", "/rooms/{roomId}/messages", guest, "", g.messages),
		on("GET", "/rooms/{roomId}/context/{eventId}", guest, "", g.context),
		on("GET", "/rooms/{roomId}/initialSync", guest, "", g.initialSync),
		byTime,
		later("/rooms/{roomId}/relations/{eventId}", g.relations),
		later("/rooms/{roomId}/relations/{eventId}/{relType}", g.relations),
		later("/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}", g.relations),
		later("/rooms/{roomId}/threads", g.threads),
	}
}

func (g *roomGroup) event(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.Event(ctx, r.Requester(), r.Param("roomId"), r.Param("eventId"))
}

func (g *roomGroup) state(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.State(ctx, r.Requester(), r.Param("roomId"))
}

func (g *roomGroup) stateEvent(ctx context.Context, r *homeserver.Request) (any, error) {
	whole := false
	switch r.Query("format") {
	case "", "content":
	case "event":
		whole = true
	default:
		return nil, mxerr.InvalidParam.WithMessage("Query parameter format must be content or event")
	}
	return g.svc.StateEvent(ctx, r.Requester(), r.Param("roomId"), r.Param("eventType"), r.Param("stateKey"), whole)
}

func (g *roomGroup) members(ctx context.Context, r *homeserver.Request) (any, error) {
	es, err := g.svc.Members(ctx, r.Requester(), r.Param("roomId"), room.MembersRequest{
		At: r.Query("at"), Membership: r.Query("membership"), NotMembership: r.Query("not_membership"),
	})
	if err != nil {
		return nil, err
	}
	return wrapJSON("chunk", es), nil
}

func (g *roomGroup) joinedMembers(ctx context.Context, r *homeserver.Request) (any, error) {
	ms, err := g.svc.JoinedMembers(ctx, r.Requester(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	return struct {
		Joined map[string]room.JoinedMember `json:"joined"`
	}{ms}, nil
}

func (g *roomGroup) messages(ctx context.Context, r *homeserver.Request) (any, error) {
	// Whether the user may read the room at all comes before what is wrong with the request.
	if err := g.svc.CheckReadable(ctx, r.Requester(), r.Param("roomId")); err != nil {
		return nil, err
	}
	backwards, err := direction(r)
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	f, err := eventFilter(r)
	if err != nil {
		return nil, err
	}
	page, err := g.svc.Messages(ctx, r.Requester(), r.Param("roomId"), room.MessagesRequest{
		From: r.Query("from"), To: r.Query("to"), Backwards: backwards, Limit: clamp(limit), Filter: f,
	})
	if err != nil {
		return nil, err
	}
	return page.JSON(), nil
}

func (g *roomGroup) context(ctx context.Context, r *homeserver.Request) (any, error) {
	limit, err := r.QueryInt("limit", room.DefaultPage)
	if err != nil {
		return nil, err
	}
	f, err := eventFilter(r)
	if err != nil {
		return nil, err
	}
	return g.svc.Context(ctx, r.Requester(), r.Param("roomId"), r.Param("eventId"), clamp(limit), f)
}

func (g *roomGroup) initialSync(ctx context.Context, r *homeserver.Request) (any, error) {
	limit, err := r.QueryInt("limit", room.DefaultPage)
	if err != nil {
		return nil, err
	}
	return g.svc.RoomInitialSync(ctx, r.Requester(), r.Param("roomId"), clamp(limit))
}

func (g *roomGroup) timestamp(ctx context.Context, r *homeserver.Request) (any, error) {
	if !r.HasQuery("ts") {
		return nil, mxerr.MissingParam.WithMessage("Missing query parameter ts")
	}
	ts, err := r.QueryInt("ts", 0)
	if err != nil {
		return nil, err
	}
	backwards, err := direction(r)
	if err != nil {
		return nil, err
	}
	return g.svc.EventAt(ctx, r.Requester(), r.Param("roomId"), ts, !backwards)
}

func (g *roomGroup) relations(ctx context.Context, r *homeserver.Request) (any, error) {
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	recurse, err := r.QueryBool("recurse", false)
	if err != nil {
		return nil, err
	}
	forwards := false
	if r.HasQuery("dir") {
		backwards, err := direction(r)
		if err != nil {
			return nil, err
		}
		forwards = !backwards
	}
	return g.svc.Relations(ctx, r.Requester(), r.Param("roomId"), r.Param("eventId"), room.RelationsRequest{
		RelType: r.Param("relType"), Type: r.Param("eventType"), From: r.Query("from"), To: r.Query("to"),
		Forwards: forwards, Limit: clamp(limit), Recurse: recurse,
	})
}

func (g *roomGroup) threads(ctx context.Context, r *homeserver.Request) (any, error) {
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	req := room.ThreadsRequest{From: r.Query("from"), Limit: clamp(limit)}
	switch r.Query("include") {
	case "", "all":
	case "participated":
		req.Participated = true
	default:
		return nil, mxerr.InvalidParam.WithMessage("Query parameter include must be all or participated")
	}
	return g.svc.Threads(ctx, r.Requester(), r.Param("roomId"), req)
}

// wrapJSON makes an object of one key from JSON that is ready, without reading it again.
func wrapJSON(key string, value json.RawMessage) json.RawMessage {
	b := make([]byte, 0, len(key)+len(value)+8)
	b = append(append(append(b, `{"`...), key...), `":`...)
	return append(append(b, value...), '}')
}
