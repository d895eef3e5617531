package pushers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/internal/iprange"
	"github.com/weft-im/weft/storage"
)

// maxAnswer bounds what is read of a gateway's answer, in bytes.
const maxAnswer = 64 << 10

// gateway sends to push gateways.
//
// Spec: push gateway API, "Notify a push gateway about an event" (v1.19).
type gateway struct {
	client  *http.Client
	timeout time.Duration
}

// newGateway makes a gateway that connects to the addresses that are allowed. Each user names a URL for it.
func newGateway(allowed *iprange.Filter, timeout time.Duration) *gateway {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = allowed.Dialer(timeout).DialContext
	transport.Proxy = http.ProxyFromEnvironment
	transport.MaxIdleConnsPerHost = 16
	return &gateway{timeout: timeout, client: &http.Client{
		Transport: transport,
		// A gateway is at its URL: elsewhere is not what the user asked for.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (g *gateway) close() { g.client.CloseIdleConnections() }

// post sends a notification and returns the pushkeys that the gateway rejects.
func (g *gateway) post(ctx context.Context, url string, n *notification) (rejected []string, err error) {
	body, err := json.Marshal(map[string]*notification{"notification": n})
	if err != nil {
		return nil, fmt.Errorf("write notification: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("notify gateway: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Weft")
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("notify gateway: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("gateway answered %d", resp.StatusCode)
	}
	var a struct {
		Rejected []string `json:"rejected"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, errors.New("gateway did not answer with the JSON expected")
	}
	return a.Rejected, nil
}

// notification is what a gateway is told.
type notification struct {
	EventID           string          `json:"event_id,omitempty"`
	RoomID            string          `json:"room_id,omitempty"`
	Type              string          `json:"type,omitempty"`
	Sender            string          `json:"sender,omitempty"`
	SenderDisplayName string          `json:"sender_display_name,omitempty"`
	RoomName          string          `json:"room_name,omitempty"`
	RoomAlias         string          `json:"room_alias,omitempty"`
	UserIsTarget      bool            `json:"user_is_target,omitempty"`
	Prio              string          `json:"prio,omitempty"`
	Content           json.RawMessage `json:"content,omitempty"`
	Counts            counts          `json:"counts"`
	Devices           [1]device       `json:"devices"`
}

// counts is sent with a zero too: that is how a badge goes away.
type counts struct {
	Unread int64 `json:"unread"`
}

type device struct {
	AppID   string `json:"app_id"`
	Pushkey string `json:"pushkey"`
	// PushkeyTS is in seconds.
	PushkeyTS int64                      `json:"pushkey_ts"`
	Data      map[string]json.RawMessage `json:"data"`
	Tweaks    map[string]json.RawMessage `json:"tweaks,omitempty"`
}

// eventIDOnly is the format in which a gateway is told next to nothing.
const eventIDOnly = "event_id_only"

// target is a pusher's data taken apart.
type target struct {
	url         string
	eventIDOnly bool
	device      device
}

func newTarget(p *storage.Pusher) (*target, error) {
	t := &target{device: device{AppID: p.AppID, Pushkey: p.Pushkey, PushkeyTS: p.SetTS / 1000}}
	if err := json.Unmarshal(p.Data, &t.device.Data); err != nil {
		return nil, fmt.Errorf("read the data of a pusher: %w", err)
	}
	data := gjson.ParseBytes(p.Data)
	t.url, t.eventIDOnly = data.Get("url").Str, data.Get("format").Str == eventIDOnly
	delete(t.device.Data, "url")
	return t, nil
}

// badge is the notification that says how much is unread.
func (t *target) badge(unread int64) *notification {
	return &notification{Counts: counts{unread}, Devices: [1]device{t.device}}
}

// about is the notification of an event. Room and sender are what they are called.
func (t *target) about(e *event.Event, userID string, unread int64, actions string, roomName, roomAlias, senderName string) *notification {
	n := t.badge(unread)
	n.EventID, n.RoomID, n.Prio = e.ID(), e.RoomID(), "low"
	tweaks := tweaksOf(actions)
	n.Devices[0].Tweaks = tweaks
	if e.Type() == "m.room.encrypted" || tweaks["sound"] != nil || tweaks["highlight"] != nil && string(tweaks["highlight"]) != "false" {
		n.Prio = "high"
	}
	if t.eventIDOnly {
		return n
	}
	n.Type, n.Sender, n.Content = e.Type(), e.Sender(), e.Content()
	n.SenderDisplayName, n.RoomName, n.RoomAlias = senderName, roomName, roomAlias
	if key, ok := e.StateKey(); ok && e.Type() == event.TypeMember {
		n.UserIsTarget = key == userID
	}
	return n
}

// tweaksOf returns the tweaks among actions. A highlight without a value is one.
func tweaksOf(actions string) map[string]json.RawMessage {
	tweaks := make(map[string]json.RawMessage)
	for _, a := range gjson.Parse(actions).Array() {
		name := a.Get("set_tweak")
		if name.Type != gjson.String {
			continue
		}
		switch value := a.Get("value"); {
		case value.Exists():
			tweaks[name.Str] = json.RawMessage(value.Raw)
		case name.Str == "highlight":
			tweaks[name.Str] = json.RawMessage("true")
		}
	}
	return tweaks
}
