package clientapi

import (
	"context"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
)

// Search is the group of the server-side search through the events of the user's rooms.
//
// Spec: client-server API, "Server Side Search" (v1.19).
func Search(svc *room.Service) homeserver.Group {
	search := on("POST", "/search", homeserver.AuthUser, "", func(ctx context.Context, r *homeserver.Request) (any, error) {
		var body struct {
			Categories *struct {
				RoomEvents *room.SearchRequest `json:"room_events"`
			} `json:"search_categories"`
		}
		if err := r.Decode(&body); err != nil {
			return nil, err
		}
		if body.Categories == nil {
			return nil, mxerr.MissingParam.WithMessage("Missing search_categories")
		}
		type categories struct {
			RoomEvents *room.SearchResults `json:"room_events,omitempty"`
		}
		var out categories
		if body.Categories.RoomEvents != nil {
			var err error
			out.RoomEvents, err = svc.Search(ctx, r.Requester(), *body.Categories.RoomEvents, r.Query("next_batch"))
			if err != nil {
				return nil, err
			}
		}
		return struct {
			Categories categories `json:"search_categories"`
		}{out}, nil
	})
	return homeserver.Group{Name: "search", Affinity: homeserver.ByUser, Endpoints: []homeserver.Endpoint{search}}
}
