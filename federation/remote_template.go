package federation

import (
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// knownVersions returns the room versions that this server knows, for other servers to say that theirs is among them.
func knownVersions() []string {
	all := event.Versions()
	ids := make([]string, len(all))
	for i, v := range all {
		ids[i] = v.ID
	}
	return ids
}

// templateVersion returns the version of a room by a template. unsaid is the version where the server does not say.
//
// Errors: M_UNSUPPORTED_ROOM_VERSION.
func templateVersion(t *EventTemplate, unsaid string) (*event.Version, error) {
	id := t.RoomVersion
	if id == "" {
		id = unsaid
	}
	v, ok := event.LookupVersion(id)
	if !ok {
		return nil, mxerr.UnsupportedRoomVersion.WithMessage("The room has a version that this server does not know")
	}
	return v, nil
}

// memberTemplate is what of another server's template goes into the event. The rest is this server's to say.
type memberTemplate struct {
	Type       string          `json:"type"`
	RoomID     string          `json:"room_id"`
	Sender     string          `json:"sender"`
	StateKey   *string         `json:"state_key"`
	Depth      int64           `json:"depth"`
	PrevEvents json.RawMessage `json:"prev_events"`
	AuthEvents json.RawMessage `json:"auth_events"`
	Content    json.RawMessage `json:"content"`
}

// fillTemplate makes an event of a template: the user's own membership, with the content that this server wants it to
// have. Only where a room lets people in by their membership elsewhere does the other server add to that. The template
// must be what was asked for.
func fillTemplate(v *event.Version, raw json.RawMessage, roomID, userID string, content json.RawMessage, now int64, s event.Signer) (*event.Event, error) {
	var t memberTemplate
	if err := decodeResponse(raw, &t); err != nil {
		return nil, err
	}
	membership := gjson.GetBytes(content, "membership").Str
	if t.Type != event.TypeMember || t.RoomID != roomID || t.Sender != userID || t.StateKey == nil || *t.StateKey != userID ||
		gjson.GetBytes(t.Content, "membership").Str != membership {
		return nil, fmt.Errorf("%w: the template is not for what was asked", errBadResponse)
	}
	by := gjson.GetBytes(t.Content, "join_authorised_via_users_server")
	if v.Restricted && membership == event.MembershipJoin && by.Type == gjson.String {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(content, &members); err != nil {
			return nil, ours(fmt.Errorf("read content: %w", err))
		}
		members["join_authorised_via_users_server"] = json.RawMessage(by.Raw)
		var err error
		if content, err = json.Marshal(members); err != nil {
			return nil, ours(fmt.Errorf("write content: %w", err))
		}
	}
	e := map[string]any{
		"type": t.Type, "room_id": roomID, "sender": userID, "state_key": userID, "depth": t.Depth, "content": content,
		"prev_events": t.PrevEvents, "auth_events": t.AuthEvents, "origin": s.ServerName, "origin_server_ts": now,
	}
	if v.EventFormat == event.FormatRefs {
		e["event_id"] = "$" + rand.Text() + ":" + s.ServerName
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadResponse, err)
	}
	if b, err = event.HashAndSign(v, b, s); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadResponse, err)
	}
	out, err := event.Parse(v, b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadResponse, err)
	}
	return out, nil
}
