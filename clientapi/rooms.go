package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/delayed"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
)

// roomVersions are the version prefixes of the endpoints that older clients use for rooms.
func roomVersions() []string { return []string{"v3", "r0", "api/v1", "unstable"} }

// maxEventBody bounds the body of a request that sends an event: more than an event may have, since it may be written
// with spaces and escapes, and little enough not to be worth reading to the end.
const maxEventBody = 256 << 10

// maxCreateBody bounds the body of /createRoom, which may hold many events.
const maxCreateBody = 4 << 20

// Rooms is the group of what is done in one room and best served by one instance for all its requests: reading it,
// sending to it, and its members. later sends events that are to be sent later; nil if none are.
//
// Spec: client-server API, "Events" and "Rooms" (v1.19).
func Rooms(svc *room.Service, later *delayed.Service) homeserver.Group {
	g := &roomGroup{svc, later}
	return homeserver.Group{
		Name:      "rooms",
		Affinity:  homeserver.ByRoom,
		Endpoints: slices.Concat(g.sending(), g.membership(), g.reading(), g.others()),
	}
}

type roomGroup struct {
	svc   *room.Service
	later *delayed.Service
}

// on is an endpoint of one room.
func on(method, path string, auth homeserver.Auth, limit string, h homeserver.Handler) homeserver.Endpoint {
	e := homeserver.Endpoint{
		Method: method, Path: "/_matrix/client/{v}" + path, Versions: roomVersions(), Auth: auth, Limit: limit, Handle: h,
	}
	if method != http.MethodGet {
		e.MaxBody = maxEventBody
	}
	return e
}

func (g *roomGroup) sending() []homeserver.Endpoint {
	user, guest := homeserver.AuthUser, homeserver.AuthGuest
	return []homeserver.Endpoint{
		on("PUT", "/rooms/{roomId}/send/{eventType}/{txnId}", guest, "rc_message", g.send),
		// Older clients leave the transaction id to the server.
		on("POST", "/rooms/{roomId}/send/{eventType}", guest, "rc_message", g.send),
		on("PUT", "/rooms/{roomId}/state/{eventType}/{stateKey}", guest, "rc_message", g.putState),
		on("PUT", "/rooms/{roomId}/redact/{eventId}/{txnId}", user, "rc_message", g.redact),
		on("POST", "/rooms/{roomId}/redact/{eventId}", user, "rc_message", g.redact),
		on("POST", "/rooms/{roomId}/upgrade", user, "rc_room_creation", g.upgrade),
	}
}

func (g *roomGroup) send(ctx context.Context, r *homeserver.Request) (any, error) {
	if r.HasQuery(delayParam) {
		return g.sendLater(ctx, r, nil)
	}
	req, err := eventRequest(r)
	if err != nil {
		return nil, err
	}
	req.TxnID = r.Param("txnId")
	id, err := g.svc.Send(ctx, r.Requester(), r.Param("roomId"), req)
	return eventID(id, err)
}

func (g *roomGroup) putState(ctx context.Context, r *homeserver.Request) (any, error) {
	if r.HasQuery(delayParam) {
		key := r.Param("stateKey")
		return g.sendLater(ctx, r, &key)
	}
	req, err := eventRequest(r)
	if err != nil {
		return nil, err
	}
	id, err := g.svc.SendState(ctx, r.Requester(), r.Param("roomId"), r.Param("stateKey"), req)
	return eventID(id, err)
}

// eventRequest reads the content of an event from the body. ts is for application services; others' is not looked at.
func eventRequest(r *homeserver.Request) (room.SendRequest, error) {
	req := room.SendRequest{Type: r.Param("eventType")}
	if err := r.Decode(&req.Content); err != nil {
		return req, err
	}
	if r.Requester().AppserviceID != "" {
		ts, err := r.QueryInt("ts", 0)
		if err != nil {
			return req, err
		}
		req.TS = ts
	}
	return req, nil
}

func eventID(id string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return struct {
		EventID string `json:"event_id"`
	}{id}, nil
}

func (g *roomGroup) redact(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	id, err := g.svc.Redact(ctx, r.Requester(), r.Param("roomId"), r.Param("eventId"), body.Reason, r.Param("txnId"))
	return eventID(id, err)
}

func (g *roomGroup) upgrade(ctx context.Context, r *homeserver.Request) (any, error) {
	var body room.UpgradeRequest
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	id, err := g.svc.Upgrade(ctx, r.Requester(), r.Param("roomId"), body)
	if err != nil {
		return nil, err
	}
	return struct {
		ReplacementRoom string `json:"replacement_room"`
	}{id}, nil
}

func (g *roomGroup) others() []homeserver.Endpoint {
	user := homeserver.AuthUser
	hierarchy := on("GET", "/rooms/{roomId}/hierarchy", user, "", g.hierarchy)
	hierarchy.Versions = []string{"v1"}
	summary := homeserver.Endpoint{
		Method: http.MethodGet, Path: "/_matrix/client/{v}/room_summary/{roomIdOrAlias}", Versions: []string{"v1"},
		Auth: homeserver.AuthOptional, Handle: g.summary,
	}
	// The two names the endpoint had as a proposal (MSC3266).
	proposed, older := summary, summary
	proposed.Path, proposed.Versions = "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}", nil
	older.Path, older.Versions = "/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary", nil
	return []homeserver.Endpoint{
		hierarchy, summary, proposed, older,
		on("POST", "/rooms/{roomId}/report", user, "rc_reports", g.reportRoom),
		on("POST", "/rooms/{roomId}/report/{eventId}", user, "rc_reports", g.reportEvent),
		on("GET", "/rooms/{roomId}/aliases", user, "", g.aliases),
	}
}

func (g *roomGroup) hierarchy(ctx context.Context, r *homeserver.Request) (any, error) {
	suggested, err := r.QueryBool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	req := room.HierarchyRequest{SuggestedOnly: suggested, Limit: clamp(limit), From: r.Query("from")}
	if r.HasQuery("max_depth") {
		n, err := r.QueryInt("max_depth", 0)
		if err != nil {
			return nil, err
		}
		depth := clamp(n)
		req.MaxDepth = &depth
	}
	return g.svc.Hierarchy(ctx, r.Requester(), r.Param("roomId"), req)
}

func (g *roomGroup) summary(ctx context.Context, r *homeserver.Request) (any, error) {
	return g.svc.Summary(ctx, r.Requester(), r.Param("roomIdOrAlias"), vias(r))
}

type reportBody struct {
	Reason string `json:"reason"`
	Score  *int   `json:"score"`
}

func (g *roomGroup) reportRoom(ctx context.Context, r *homeserver.Request) (any, error) {
	var body reportBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, g.svc.ReportRoom(ctx, r.Requester(), r.Param("roomId"), body.Reason)
}

func (g *roomGroup) reportEvent(ctx context.Context, r *homeserver.Request) (any, error) {
	var body reportBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, g.svc.ReportEvent(ctx, r.Requester(), r.Param("roomId"), r.Param("eventId"), body.Reason, body.Score)
}

func (g *roomGroup) aliases(ctx context.Context, r *homeserver.Request) (any, error) {
	as, err := g.svc.Aliases(ctx, r.Requester(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	return struct {
		Aliases []string `json:"aliases"`
	}{as}, nil
}

// vias returns the servers a request names to reach a room by. Older clients say server_name.
func vias(r *homeserver.Request) []string {
	return slices.Concat(r.QueryAll("via"), r.QueryAll("server_name"))
}

// eventFilter reads the filter parameter of endpoints that take a RoomEventFilter.
func eventFilter(r *homeserver.Request) (*filter.Events, error) {
	raw := r.Query("filter")
	if raw == "" {
		return nil, nil
	}
	return filter.ParseEvents([]byte(raw))
}

// direction reads the dir parameter.
func direction(r *homeserver.Request) (backwards bool, err error) {
	switch r.Query("dir") {
	case "b":
		return true, nil
	case "f":
		return false, nil
	case "":
		return false, mxerr.MissingParam.WithMessage("Missing query parameter dir")
	}
	return false, mxerr.InvalidParam.WithMessage("Query parameter dir must be b or f")
}

// clamp keeps a number from a client within an int of any machine.
func clamp(n int64) int { return int(min(n, 1<<30)) }

// content is a JSON object whose keys become part of an event.
type content = map[string]json.RawMessage
