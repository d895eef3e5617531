package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// stateTimeout is how long a server may take to collect the state of a room.
const stateTimeout = 5 * time.Minute

// GetEvent returns an event.
func (c *Client) GetEvent(ctx context.Context, server, eventID string) (json.RawMessage, error) {
	pdus, err := c.pdus(ctx, call{method: http.MethodGet, server: server, path: joinPath(v1+"/event", eventID)})
	if err != nil {
		return nil, err
	}
	if len(pdus) != 1 {
		return nil, &ConnectionError{server, fmt.Errorf("%w: %d events instead of one", errBadResponse, len(pdus))}
	}
	return pdus[0], nil
}

// pdus makes a call whose response is a transaction.
func (c *Client) pdus(ctx context.Context, q call) ([]json.RawMessage, error) {
	var out struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	err := c.do(ctx, q, &out)
	return out.PDUs, err
}

// RoomState is the state of a room before an event, and the events that authorise it.
type RoomState struct {
	PDUs      []json.RawMessage `json:"pdus"`
	AuthChain []json.RawMessage `json:"auth_chain"`
}

// State returns the state of a room before an event.
func (c *Client) State(ctx context.Context, server, roomID, eventID string) (*RoomState, error) {
	out := &RoomState{}
	err := c.do(ctx, call{
		method: http.MethodGet, server: server, path: joinPath(v1+"/state", roomID), query: url.Values{"event_id": {eventID}}.Encode(),
		timeout: stateTimeout, maxBytes: maxStateResponse,
	}, out)
	return out, err
}

// RoomStateIDs is RoomState by event id.
type RoomStateIDs struct {
	PDUIDs       []string `json:"pdu_ids"`
	AuthChainIDs []string `json:"auth_chain_ids"`
}

// StateIDs returns the ids of the state of a room before an event.
func (c *Client) StateIDs(ctx context.Context, server, roomID, eventID string) (*RoomStateIDs, error) {
	out := &RoomStateIDs{}
	err := c.do(ctx, call{
		method: http.MethodGet, server: server, path: joinPath(v1+"/state_ids", roomID), query: url.Values{"event_id": {eventID}}.Encode(),
		timeout: stateTimeout, maxBytes: maxStateResponse,
	}, out)
	return out, err
}

// Backfill returns up to limit events from before, and with, the events named.
func (c *Client) Backfill(ctx context.Context, server, roomID string, from []string, limit int) ([]json.RawMessage, error) {
	return c.pdus(ctx, call{
		method: http.MethodGet, server: server, path: joinPath(v1+"/backfill", roomID),
		query: url.Values{"v": from, "limit": {strconv.Itoa(limit)}}.Encode(), maxBytes: maxEventsResponse,
	})
}

// maxEventsResponse is for lists of some hundred events of up to 64 KiB.
const maxEventsResponse = 32 << 20

// MissingEvents asks for what lies between events that are known and later ones.
type MissingEvents struct {
	// Earliest are the newest events that are known, Latest those whose predecessors are missing.
	Earliest []string `json:"earliest_events"`
	Latest   []string `json:"latest_events"`
	Limit    int      `json:"limit,omitempty"`
	MinDepth int64    `json:"min_depth,omitempty"`
}

// GetMissingEvents returns events between others, oldest first as a rule.
func (c *Client) GetMissingEvents(ctx context.Context, server, roomID string, q MissingEvents) ([]json.RawMessage, error) {
	var out struct {
		Events []json.RawMessage `json:"events"`
	}
	err := c.do(ctx, call{
		method: http.MethodPost, server: server, path: joinPath(v1+"/get_missing_events", roomID), body: q, maxBytes: maxEventsResponse,
	}, &out)
	return out.Events, err
}

// EventAuth returns the whole auth chain of an event.
func (c *Client) EventAuth(ctx context.Context, server, roomID, eventID string) ([]json.RawMessage, error) {
	var out struct {
		AuthChain []json.RawMessage `json:"auth_chain"`
	}
	err := c.do(ctx, call{
		method: http.MethodGet, server: server, path: joinPath(v1+"/event_auth", roomID, eventID), timeout: stateTimeout, maxBytes: maxStateResponse,
	}, &out)
	return out.AuthChain, err
}

// EventAtTime is an event and its time in milliseconds since the epoch.
type EventAtTime struct {
	EventID        string `json:"event_id"`
	OriginServerTS int64  `json:"origin_server_ts"`
}

// TimestampToEvent returns the event of a room closest to a time, after it (forwards) or before.
func (c *Client) TimestampToEvent(ctx context.Context, server, roomID string, ts int64, forwards bool) (*EventAtTime, error) {
	dir := "b"
	if forwards {
		dir = "f"
	}
	out := &EventAtTime{}
	err := c.do(ctx, call{
		method: http.MethodGet, server: server, path: joinPath(v1+"/timestamp_to_event", roomID),
		query: url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {dir}}.Encode(),
	}, out)
	return out, err
}
