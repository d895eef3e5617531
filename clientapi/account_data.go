package clientapi

import (
	"context"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/accountdata"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// AccountData is the group of what clients store for their users, and of the tags of rooms.
//
// Spec: client-server API, "Client Config", "Room Tagging" (v1.19); removal as in MSC3391.
func AccountData(svc *accountdata.Service) homeserver.Group {
	g := &accountDataGroup{svc}
	const (
		global = "/_matrix/client/{v}/user/{userId}/account_data/{type}"
		room   = "/_matrix/client/{v}/user/{userId}/rooms/{roomId}/account_data/{type}"
		tags   = "/_matrix/client/{v}/user/{userId}/rooms/{roomId}/tags"
		tag    = tags + "/{tag}"
	)
	endpoints := []homeserver.Endpoint{
		{Method: http.MethodGet, Path: global, Versions: accountVersions(), Handle: g.get},
		{Method: http.MethodPut, Path: global, Versions: accountVersions(), Handle: g.put},
		{Method: http.MethodGet, Path: room, Versions: accountVersions(), Handle: g.get},
		{Method: http.MethodPut, Path: room, Versions: accountVersions(), Handle: g.put},
		{Method: http.MethodDelete, Path: global, Versions: []string{"unstable/org.matrix.msc3391"}, Handle: g.delete},
		{Method: http.MethodDelete, Path: room, Versions: []string{"unstable/org.matrix.msc3391"}, Handle: g.delete},
		{Method: http.MethodGet, Path: tags, Versions: accountVersions(), Handle: g.tags},
		{Method: http.MethodPut, Path: tag, Versions: accountVersions(), MaxBody: 64 << 10, Handle: g.putTag},
		{Method: http.MethodDelete, Path: tag, Versions: accountVersions(), Handle: g.deleteTag},
	}
	for i := range endpoints {
		endpoints[i].Auth = homeserver.AuthUser
	}
	return homeserver.Group{
		Name:      "account_data",
		Affinity:  homeserver.ByUser,
		Stream:    "account_data",
		Endpoints: endpoints,
	}
}

type accountDataGroup struct{ svc *accountdata.Service }

// roomOf returns the room of a request, "" for global data. An empty {roomId} is none.
func roomOf(r *homeserver.Request) string {
	return r.Param("roomId")
}

func (g *accountDataGroup) get(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "get account data"); err != nil {
		return nil, err
	}
	return g.svc.Get(ctx, r.UserID(), roomOf(r), r.Param("type"))
}

func (g *accountDataGroup) put(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "add account data"); err != nil {
		return nil, err
	}
	body, err := jsonObject(r)
	if err != nil {
		return nil, err
	}
	return nil, g.svc.Put(ctx, r.UserID(), roomOf(r), r.Param("type"), body)
}

func (g *accountDataGroup) delete(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "delete account data"); err != nil {
		return nil, err
	}
	return nil, g.svc.Delete(ctx, r.UserID(), roomOf(r), r.Param("type"))
}

func (g *accountDataGroup) tags(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "get tags"); err != nil {
		return nil, err
	}
	if r.Param("roomId") == "" {
		return nil, mxerr.InvalidParam.WithMessage("Invalid room ID")
	}
	tags, err := g.svc.Tags(ctx, r.UserID(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"tags": tags}, nil
}

func (g *accountDataGroup) putTag(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "add tags"); err != nil {
		return nil, err
	}
	body, err := jsonObject(r)
	if err != nil {
		return nil, err
	}
	return nil, g.svc.SetTag(ctx, r.UserID(), r.Param("roomId"), r.Param("tag"), body)
}

func (g *accountDataGroup) deleteTag(ctx context.Context, r *homeserver.Request) (any, error) {
	if err := own(r, "remove tags"); err != nil {
		return nil, err
	}
	return nil, g.svc.DeleteTag(ctx, r.UserID(), r.Param("roomId"), r.Param("tag"))
}

// jsonObject returns a body that must be a JSON object, as bytes of its own.
func jsonObject(r *homeserver.Request) ([]byte, error) {
	var probe map[string]any
	if err := r.Decode(&probe); err != nil {
		return nil, err
	}
	return r.RawBody()
}
