package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// maxStripped bounds the events that tell of a room somebody is invited to.
const maxStripped = 100

// inviteEndpoints are those by which other servers invite users of this one.
//
// Spec: server-server API, "Inviting to a room" (v1.19).
func (in *Inbound) inviteEndpoints() []homeserver.Endpoint {
	return []homeserver.Endpoint{
		in.endpoint(http.MethodPut, "/invite/{roomId}/{eventId}", in.inviteV1, "v1"),
		in.endpoint(http.MethodPut, "/invite/{roomId}/{eventId}", in.inviteV2, "v2"),
	}
}

// inviteV1 is for room versions 1 and 2, where the body is the event.
func (in *Inbound) inviteV1(ctx context.Context, r *homeserver.Request) (any, error) {
	raw, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	if !gjson.ValidBytes(raw) {
		return nil, mxerr.NotJSON
	}
	version, _ := event.LookupVersion("1")
	room, err := in.store.Room(ctx, r.Param("roomId"))
	if err == nil {
		version = room.Version
	} else if !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("find room: %w", err)
	}
	var state []json.RawMessage
	for _, s := range gjson.GetBytes(raw, "unsigned.invite_room_state").Array() {
		state = append(state, json.RawMessage(s.Raw))
	}
	return v1Response(in.invite(ctx, r, version, raw, state))
}

func (in *Inbound) inviteV2(ctx context.Context, r *homeserver.Request) (any, error) {
	var body struct {
		RoomVersion string            `json:"room_version"`
		Event       json.RawMessage   `json:"event"`
		State       []json.RawMessage `json:"invite_room_state"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.RoomVersion == "" || len(body.Event) == 0 {
		return nil, mxerr.MissingParam.WithMessage("room_version and event are required")
	}
	version, ok := event.LookupVersion(body.RoomVersion)
	if !ok {
		return nil, mxerr.IncompatibleRoomVersion.WithField("room_version", body.RoomVersion)
	}
	return in.invite(ctx, r, version, body.Event, body.State)
}

// invite signs an invite of a user of this server, and tells the user.
func (in *Inbound) invite(ctx context.Context, r *homeserver.Request, v *event.Version, raw json.RawMessage, state []json.RawMessage) (any, error) {
	e, err := parseEvent(v, raw)
	if err != nil {
		return nil, err
	}
	user, isState := e.StateKey()
	invalid := func(why string) error { return mxerr.InvalidParam.WithMessage(why) }
	switch {
	case e.ID() != r.Param("eventId"):
		return nil, invalid("The event ID does not match the event")
	case e.RoomID() != r.Param("roomId"):
		return nil, invalid("The event is of another room")
	case !isState || e.Type() != event.TypeMember || e.Membership() != event.MembershipInvite:
		return nil, invalid("The event is not an invite")
	case event.ServerName(e.Sender()) != r.Origin():
		return nil, invalid("The sender is of another server")
	case !in.store.IsLocal(user):
		return nil, invalid("The invited user is not of this server")
	case e.HashMismatch():
		return nil, invalid("The content hash does not match")
	}
	if err := e.VerifySignedBy(ctx, in.ingest.cfg.Keys, r.Origin()); err != nil {
		return nil, badSignature(err)
	}
	stripped, err := in.checkStripped(ctx, v, e.RoomID(), state)
	if err != nil {
		return nil, err
	}
	if room, err := in.store.Room(ctx, e.RoomID()); err == nil {
		if room.Version != v {
			return nil, invalid("The room has another version")
		}
		if err := in.checkACL(ctx, room, r.Origin()); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("find room: %w", err)
	}
	if in.cfg.Invites != nil {
		if err := in.cfg.Invites.CheckInvite(ctx, e.Sender(), user, e.RoomID()); err != nil {
			return nil, err
		}
	}
	signed, err := e.Sign(in.cfg.Signer)
	if err != nil {
		return nil, fmt.Errorf("sign invite: %w", err)
	}
	if _, err := in.cfg.Writer.ReceiveOutOfBand(ctx, writer.OutOfBand{Event: signed, Stripped: stripped}); err != nil {
		return nil, err
	}
	return struct {
		Event json.RawMessage `json:"event"`
	}{signed.JSON()}, nil
}

// checkStripped turns the state that comes with an invite into what clients see of it. Where the room id follows from the
// m.room.create event, the events must be whole and good; of older rooms they may be stripped.
func (in *Inbound) checkStripped(ctx context.Context, v *event.Version, roomID string, state []json.RawMessage) ([]byte, error) {
	if len(state) > maxStripped {
		return nil, mxerr.InvalidParam.WithMessage("invite_room_state has too many events")
	}
	if v.RoomIDFromCreate {
		return in.checkStrippedPDUs(ctx, v, roomID, state)
	}
	return stripState(state), nil
}

func (in *Inbound) checkStrippedPDUs(ctx context.Context, v *event.Version, roomID string, state []json.RawMessage) ([]byte, error) {
	out := []byte{'['}
	created := false
	for _, raw := range state {
		e, err := in.ingest.Check(ctx, v, raw)
		if err != nil {
			return nil, mxerr.InvalidParam.WithMessage("invite_room_state: " + err.Error()).Wrap(err)
		}
		if e.RoomID() != roomID || !e.IsState() {
			return nil, mxerr.InvalidParam.WithMessage("invite_room_state holds an event that is not part of the room's state")
		}
		created = created || e.Type() == event.TypeCreate
		out = appendItem(out, event.AppendClient(nil, e, event.ClientOptions{Stripped: true}))
	}
	if !created {
		return nil, mxerr.InvalidParam.WithMessage("invite_room_state lacks the m.room.create event")
	}
	return append(out, ']'), nil
}

func appendItem(array, item []byte) []byte {
	if len(array) > 1 {
		array = append(array, ',')
	}
	return append(array, item...)
}
