package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/weft-im/weft/homeserver/mxerr"
)

// EventTemplate is an m.room.member event that another server has prepared, to be completed and signed here.
type EventTemplate struct {
	// RoomVersion is "" where the server does not say, which stands for version 1 (or unknown, for leaves).
	RoomVersion string          `json:"room_version"`
	Event       json.RawMessage `json:"event"`
}

// MakeJoin returns a template for a join. versions are the room versions this server knows.
func (c *Client) MakeJoin(ctx context.Context, server, roomID, userID string, versions []string) (*EventTemplate, error) {
	return c.template(ctx, server, "/make_join", roomID, userID, versions)
}

// MakeKnock returns a template for a knock. versions are the room versions this server knows.
func (c *Client) MakeKnock(ctx context.Context, server, roomID, userID string, versions []string) (*EventTemplate, error) {
	return c.template(ctx, server, "/make_knock", roomID, userID, versions)
}

// MakeLeave returns a template for a leave.
func (c *Client) MakeLeave(ctx context.Context, server, roomID, userID string) (*EventTemplate, error) {
	return c.template(ctx, server, "/make_leave", roomID, userID, nil)
}

// templateTimeout is how long one of several servers may take that can help with a room.
const templateTimeout = 20 * time.Second

func (c *Client) template(ctx context.Context, server, endpoint, roomID, userID string, versions []string) (*EventTemplate, error) {
	out := &EventTemplate{}
	q := call{
		method: http.MethodGet, server: server, path: joinPath(v1+endpoint, roomID, userID), timeout: templateTimeout,
		// Somebody wants to go there now, and may know better than this server whether the other one is up. Who leaves can
		// do without it.
		force: endpoint != "/make_leave",
	}
	if versions != nil {
		q.query = url.Values{"ver": versions}.Encode()
	}
	if err := c.do(ctx, q, out); err != nil {
		return nil, err
	}
	if out.Event == nil {
		return nil, &ConnectionError{server, fmt.Errorf("%w: no event", errBadResponse)}
	}
	return out, nil
}

// SendLeave submits a signed leave.
func (c *Client) SendLeave(ctx context.Context, server, roomID, eventID string, event json.RawMessage) error {
	q := call{method: http.MethodPut, server: server, path: joinPath(v2+"/send_leave", roomID, eventID), body: event}
	err := c.do(ctx, q, nil)
	if unserved(err) {
		q.path = joinPath(v1+"/send_leave", roomID, eventID)
		err = c.do(ctx, q, nil)
	}
	return err
}

// SendKnock submits a signed knock and returns events of the room's state that describe it.
func (c *Client) SendKnock(ctx context.Context, server, roomID, eventID string, event json.RawMessage) ([]json.RawMessage, error) {
	var out struct {
		State []json.RawMessage `json:"knock_room_state"`
		// Older servers use the name of an earlier draft.
		OldState []json.RawMessage `json:"knock_state_events"`
	}
	err := c.do(ctx, call{method: http.MethodPut, server: server, path: joinPath(v1+"/send_knock", roomID, eventID), body: event}, &out)
	if out.State == nil {
		out.State = out.OldState
	}
	return out.State, err
}

// Invite is an invite for a user of another server to sign.
type Invite struct {
	RoomVersion string          `json:"room_version"`
	Event       json.RawMessage `json:"event"`
	// State are events of the room's state that describe it.
	State []json.RawMessage `json:"invite_room_state,omitempty"`
}

// Invite has a server sign an invite for one of its users, and returns the signed event. Servers that know only the
// endpoint's first version are asked there if the room has one of the first two versions.
func (c *Client) Invite(ctx context.Context, server, roomID, eventID string, in Invite) (json.RawMessage, error) {
	var out struct {
		Event json.RawMessage `json:"event"`
	}
	err := c.do(ctx, call{method: http.MethodPut, server: server, path: joinPath(v2+"/invite", roomID, eventID), body: in}, &out)
	if unserved(err) && (in.RoomVersion == "1" || in.RoomVersion == "2") {
		var body map[string]json.RawMessage
		if err := json.Unmarshal(in.Event, &body); err != nil {
			return nil, fmt.Errorf("invite of version 1: %w", err)
		}
		if body["unsigned"], err = json.Marshal(map[string]any{"invite_room_state": in.State}); err != nil {
			return nil, fmt.Errorf("invite of version 1: %w", err)
		}
		var pair []json.RawMessage
		err = c.do(ctx, call{method: http.MethodPut, server: server, path: joinPath(v1+"/invite", roomID, eventID), body: body}, &pair)
		if err == nil && (len(pair) != 2 || json.Unmarshal(pair[1], &out) != nil) {
			err = &ConnectionError{server, errBadResponse}
		}
	}
	if err == nil && out.Event == nil {
		err = &ConnectionError{server, fmt.Errorf("%w: no event", errBadResponse)}
	}
	return out.Event, err
}

// ExchangeThirdPartyInvite asks a server of the room to make an invite out of a third-party invite that was redeemed.
// body is the unfinished m.room.member event.
func (c *Client) ExchangeThirdPartyInvite(ctx context.Context, server, roomID string, body json.RawMessage) error {
	return c.do(ctx, call{method: http.MethodPut, server: server, path: joinPath(v1+"/exchange_third_party_invite", roomID), body: body}, nil)
}

// unserved reports whether a server does not know an endpoint, as opposed to what was asked there.
func unserved(err error) bool {
	var mx *mxerr.Error
	if !errors.As(err, &mx) {
		return false
	}
	return mx.Code == mxerr.Unrecognized.Code || mx.Code == mxerr.Unknown.Code && (mx.Status == http.StatusNotFound || mx.Status == http.StatusMethodNotAllowed)
}
