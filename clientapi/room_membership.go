package clientapi

import (
	"context"
	"encoding/json"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
)

func (g *roomGroup) membership() []homeserver.Endpoint {
	user, guest := homeserver.AuthUser, homeserver.AuthGuest
	return []homeserver.Endpoint{
		on("POST", "/rooms/{roomId}/join", guest, "rc_joins.local", g.join),
		on("POST", "/join/{roomIdOrAlias}", guest, "rc_joins.local", g.join),
		on("POST", "/knock/{roomIdOrAlias}", user, "rc_joins.local", g.knock),
		on("POST", "/rooms/{roomId}/leave", guest, "", g.leave),
		on("POST", "/rooms/{roomId}/forget", user, "", g.forget),
		on("POST", "/rooms/{roomId}/invite", user, "rc_invites.per_issuer", g.invite),
		on("POST", "/rooms/{roomId}/kick", user, "", g.onTarget(g.svc.Kick)),
		on("POST", "/rooms/{roomId}/ban", user, "", g.onTarget(g.svc.Ban)),
		on("POST", "/rooms/{roomId}/unban", user, "", g.onTarget(g.svc.Unban)),
	}
}

func (g *roomGroup) join(ctx context.Context, r *homeserver.Request) (any, error) {
	target := r.Param("roomIdOrAlias")
	if target == "" {
		if target = r.Param("roomId"); target == "" || target[0] != '!' {
			return nil, mxerr.InvalidParam.WithMessage("That is not a room ID")
		}
	}
	req := room.JoinRequest{Via: vias(r), Content: content{}}
	if err := r.DecodeOptional(&req.Content); err != nil {
		return nil, err
	}
	if raw, ok := req.Content["third_party_signed"]; ok && string(raw) != "null" {
		if err := json.Unmarshal(raw, &req.ThirdPartySigned); err != nil {
			return nil, mxerr.BadJSON.WithMessage("third_party_signed is not what an identity server signs").Wrap(err)
		}
	}
	id, err := g.svc.Join(ctx, r.Requester(), target, req)
	return roomID(id, err)
}

func (g *roomGroup) knock(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		Reason json.RawMessage `json:"reason"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	extra := content{}
	if body.Reason != nil {
		extra["reason"] = body.Reason
	}
	id, err := g.svc.Knock(ctx, r.Requester(), r.Param("roomIdOrAlias"), vias(r), extra)
	return roomID(id, err)
}

func (g *roomGroup) leave(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	return nil, g.svc.Leave(ctx, r.Requester(), r.Param("roomId"), body.Reason)
}

func (g *roomGroup) forget(ctx context.Context, r *homeserver.Request) (any, error) {
	return nil, g.svc.Forget(ctx, r.Requester(), r.Param("roomId"))
}

func (g *roomGroup) invite(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		room.Invite3PID
		UserID *string `json:"user_id"`
		Reason string  `json:"reason"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.UserID == nil && (body.Medium != "" || body.Address != "" || body.IDServer != "") {
		return nil, g.svc.Invite3PID(ctx, r.Requester(), r.Param("roomId"), body.Invite3PID)
	}
	if body.UserID == nil {
		return nil, mxerr.MissingParam.WithMessage("Missing user_id")
	}
	return nil, g.svc.Invite(ctx, r.Requester(), r.Param("roomId"), *body.UserID, body.Reason)
}

// onTarget is a handler of an action on another member of the room.
func (g *roomGroup) onTarget(act func(ctx context.Context, who *room.Requester, roomID, target, reason string) error) homeserver.Handler {
	return func(ctx context.Context, r *homeserver.Request) (any, error) {
		var body struct {
			UserID string `json:"user_id"`
			Reason string `json:"reason"`
		}
		if err := r.Decode(&body); err != nil {
			return nil, err
		}
		return nil, act(ctx, r.Requester(), r.Param("roomId"), body.UserID, body.Reason)
	}
}

func roomID(id string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return struct {
		RoomID string `json:"room_id"`
	}{id}, nil
}
