package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/sync"
)

const (
	// maxEventsTimeout bounds how long /events waits.
	maxEventsTimeout = 5 * time.Minute
	// peekInterval is how often a room that the user is not in is looked at again. Nothing wakes such a request: there
	// are few, and each look is one short query.
	peekInterval = 2 * time.Second
	// peekPage is how many events of a room one request returns.
	peekPage = 100
)

// Events is the group of the deprecated /events: what is new for the user, as one list, and what is new in a room that
// anybody may read. The first is /sync in another form.
//
// Spec: client-server API, "GET /events" under "Syncing" and "Room Previews" (v1.19).
func Events(svc *sync.Service, rooms *room.Service) homeserver.Group {
	g := &eventsGroup{svc, rooms}
	events := on("GET", "/events", homeserver.AuthGuest, "", g.events)
	events.Versions = []string{"v3", "r0", "api/v1", "v2_alpha"}
	return homeserver.Group{Name: "events", Affinity: homeserver.ByUser, Endpoints: []homeserver.Endpoint{events}}
}

type eventsGroup struct {
	svc   *sync.Service
	rooms *room.Service
}

// eventsPage is the answer to /events.
type eventsPage struct {
	Start string            `json:"start"`
	End   string            `json:"end"`
	Chunk []json.RawMessage `json:"chunk"`
}

func (g *eventsGroup) events(ctx context.Context, r *homeserver.Request) (any, error) {
	ms, err := r.QueryInt("timeout", 0)
	if err != nil {
		return nil, err
	}
	timeout := time.Duration(min(ms, maxEventsTimeout.Milliseconds())) * time.Millisecond
	roomID, from := r.Query("room_id"), r.Query("from")
	if r.Requester().IsGuest && roomID == "" {
		return nil, mxerr.GuestAccessForbidden.WithMessage("Guests must name a room")
	}
	if roomID != "" {
		joined, err := g.rooms.IsJoined(ctx, r.Requester(), roomID)
		if err != nil {
			return nil, err
		}
		if !joined {
			return g.peek(ctx, r, roomID, from, timeout)
		}
	}
	if from == "" {
		// Without a token the stream starts now.
		resp, err := g.sync(ctx, r, "", `{"presence":{"types":[]},"account_data":{"types":[]},"room":{"rooms":[]}}`, 0)
		if err != nil {
			return nil, err
		}
		from = resp.Get("next_batch").Str
	}
	filter := ""
	if roomID != "" {
		raw, err := json.Marshal(map[string]any{"room": map[string]any{"rooms": []string{roomID}}})
		if err != nil {
			return nil, err
		}
		filter = string(raw)
	}
	resp, err := g.sync(ctx, r, from, filter, timeout)
	if err != nil {
		return nil, err
	}
	return eventsPage{Start: from, End: resp.Get("next_batch").Str, Chunk: flatten(resp)}, nil
}

func (g *eventsGroup) sync(ctx context.Context, r *homeserver.Request, since, filter string, timeout time.Duration) (gjson.Result, error) {
	resp, err := g.svc.Sync(ctx, sync.Request{Requester: r.Requester(), Since: since, Filter: filter, Timeout: timeout})
	if err != nil {
		return gjson.Result{}, err
	}
	var b bytes.Buffer
	if err := resp.Write(&b); err != nil {
		return gjson.Result{}, err
	}
	return gjson.ParseBytes(b.Bytes()), nil
}

// flatten lists the events of a sync response, each with its room.
func flatten(resp gjson.Result) []json.RawMessage {
	out := []json.RawMessage{}
	add := func(roomID, e gjson.Result) {
		raw := []byte(e.Raw)
		if roomID.Raw != "" && !e.Get("room_id").Exists() && len(raw) > 2 {
			raw = append(append(append([]byte(`{"room_id":`), roomID.Raw...), ','), raw[1:]...)
		}
		out = append(out, raw)
	}
	for _, e := range resp.Get("presence.events").Array() {
		add(gjson.Result{}, e)
	}
	for _, section := range []string{"join", "leave", "invite", "knock"} {
		resp.Get("rooms." + section).ForEach(func(roomID, r gjson.Result) bool {
			for _, path := range []string{"timeline.events", "ephemeral.events"} {
				for _, e := range r.Get(path).Array() {
					add(roomID, e)
				}
			}
			for _, path := range []string{"invite_state.events", "knock_state.events"} {
				for _, e := range r.Get(path).Array() {
					if e.Get("type").Str == "m.room.member" {
						add(roomID, e)
					}
				}
			}
			return true
		})
	}
	return out
}

// peek returns what is new in a room that the user is not in.
func (g *eventsGroup) peek(ctx context.Context, r *homeserver.Request, roomID, from string, timeout time.Duration) (any, error) {
	who := r.Requester()
	if from == "" {
		p, err := g.rooms.Messages(ctx, who, roomID, room.MessagesRequest{Limit: 1, Backwards: true})
		if err != nil {
			return nil, err
		}
		from = p.Start
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(peekInterval)
	defer tick.Stop()
	for {
		chunk, end, err := g.rooms.News(ctx, who, roomID, from, peekPage)
		if err != nil {
			return nil, err
		}
		if len(chunk) > 0 || timeout <= 0 {
			return eventsPage{Start: from, End: end, Chunk: chunk}, nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			timeout = 0
		case <-r.Draining():
			timeout = 0
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
