package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/notices"
)

// ServerNotices is the group of what administrators tell users, as Synapse's admin API has it.
func ServerNotices(svc *notices.Service) homeserver.Group {
	send := func(ctx context.Context, r *homeserver.Request) (any, error) {
		var body struct {
			UserID   *string         `json:"user_id"`
			Type     string          `json:"type"`
			StateKey *string         `json:"state_key"`
			Content  json.RawMessage `json:"content"`
		}
		if err := r.Decode(&body); err != nil {
			return nil, err
		}
		if body.UserID == nil || body.Content == nil {
			return nil, mxerr.MissingParam.WithMessage("Missing user_id or content")
		}
		id, err := svc.Send(ctx, notices.Notice{
			UserID: *body.UserID, Type: body.Type, StateKey: body.StateKey, Content: body.Content, TxnID: r.Param("txnId"),
		})
		return eventID(id, err)
	}
	const path = "/_synapse/admin/v1/send_server_notice"
	return homeserver.Group{
		Name: "server_notices",
		Endpoints: []homeserver.Endpoint{
			{Method: http.MethodPost, Path: path, Auth: homeserver.AuthAdmin, MaxBody: maxEventBody, Handle: send},
			{Method: http.MethodPut, Path: path + "/{txnId}", Auth: homeserver.AuthAdmin, MaxBody: maxEventBody, Handle: send},
		},
	}
}
