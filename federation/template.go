package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tidwall/sjson"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
)

// template is what /make_join and its like answer: an event for the asking server to sign.
type template struct {
	RoomVersion string          `json:"room_version"`
	Event       json.RawMessage `json:"event"`
}

// ownUser checks that a server asks for a user of its own.
func ownUser(r *homeserver.Request) (string, error) {
	userID := r.Param("userId")
	if !id.IsUser(userID) {
		return "", mxerr.InvalidParam.WithMessage("Invalid user ID")
	}
	if id.ServerOf(userID) != r.Origin() {
		return "", mxerr.Forbidden.WithMessage("The user is of another server")
	}
	return userID, nil
}

// speaksVersion checks that the asking server knows the room's version.
func speaksVersion(r *homeserver.Request, room *store.Room) error {
	versions := r.QueryAll("ver")
	if len(versions) == 0 {
		versions = []string{"1"}
	}
	if !slices.Contains(versions, room.Version.ID) {
		return mxerr.IncompatibleRoomVersion.WithField("room_version", room.Version.ID)
	}
	return nil
}

// makeMember makes a template of a member event at the end of a room.
//
// Errors: M_FORBIDDEN where the rules do not allow it.
func (in *Inbound) makeMember(ctx context.Context, r *store.Room, userID string, content map[string]any) (*template, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode content: %w", err)
	}
	head, err := in.store.Head(ctx, r.NID)
	if err != nil {
		return nil, fmt.Errorf("read head of %s: %w", r.ID, err)
	}
	// Signed by this server only to have the whole event, for the rules to look at.
	e, err := buildAt(ctx, in.store, in.cfg.Signer, r, head, event.Draft{
		Sender: userID, Type: event.TypeMember, StateKey: &userID, Content: raw, OriginServerTS: in.cfg.Now().UnixMilli(),
	})
	if err != nil {
		return nil, err
	}
	t := &template{RoomVersion: r.Version.ID}
	if t.Event, err = unsignedEvent(e); err != nil {
		return nil, fmt.Errorf("make template: %w", err)
	}
	return t, nil
}

// unsignedEvent takes out of an event what its sender is to add.
func unsignedEvent(e *event.Event) (raw json.RawMessage, err error) {
	raw = slices.Clone(e.JSON())
	for _, key := range []string{"hashes", "signatures", "event_id"} {
		if raw, err = sjson.DeleteBytes(raw, key); err != nil {
			return nil, err
		}
	}
	return sjson.SetBytes(raw, "origin", event.ServerName(e.Sender()))
}
