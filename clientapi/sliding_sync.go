package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/sync"
)

// SlidingSync is the group of simplified sliding sync, under its own path and under the one that clients used before the
// proposal was final, with the form that request and response had there.
//
// Spec: MSC4186.
func SlidingSync(svc *sync.Service) homeserver.Group {
	g := &slidingGroup{svc}
	return homeserver.Group{
		Name:     "sliding_sync",
		Affinity: homeserver.ByUser,
		Endpoints: []homeserver.Endpoint{
			{
				Method:   http.MethodPost,
				Path:     "/_matrix/client/{v}/sync",
				Versions: []string{"v4"},
				Auth:     homeserver.AuthGuest,
				Handle:   g.stable,
			},
			{
				Method:   http.MethodPost,
				Path:     "/_matrix/client/{v}/org.matrix.simplified_msc3575/sync",
				Versions: []string{"unstable"},
				Auth:     homeserver.AuthGuest,
				Handle:   g.unstable,
			},
		},
	}
}

type slidingGroup struct{ svc *sync.Service }

// maxConnID bounds the name of a connection.
const maxConnID = 255

// slidingExtensions are the extensions of a request.
type slidingExtensions struct {
	AccountData *slidingExtension `json:"account_data"`
	Receipts    *slidingExtension `json:"receipts"`
	Typing      *slidingExtension `json:"typing"`
}

type slidingExtension struct {
	Enabled bool     `json:"enabled"`
	Lists   []string `json:"lists"`
	Rooms   []string `json:"rooms"`
}

func (e *slidingExtension) request() *sync.SlidingExtension {
	if e == nil || !e.Enabled {
		return nil
	}
	return &sync.SlidingExtension{Lists: e.Lists, Rooms: e.Rooms}
}

// slidingFilters are the filters of a list. IsInvite is the name IsInvited had before.
type slidingFilters struct {
	IsDM         *bool     `json:"is_dm"`
	IsEncrypted  *bool     `json:"is_encrypted"`
	IsInvited    *bool     `json:"is_invited"`
	IsInvite     *bool     `json:"is_invite"`
	Spaces       []string  `json:"spaces"`
	RoomTypes    []*string `json:"room_types"`
	NotRoomTypes []*string `json:"not_room_types"`
	Tags         []string  `json:"tags"`
	NotTags      []string  `json:"not_tags"`
}

func (f *slidingFilters) request() sync.SlidingFilters {
	if f.IsInvited == nil {
		f.IsInvited = f.IsInvite
	}
	return sync.SlidingFilters{
		IsDM: f.IsDM, IsEncrypted: f.IsEncrypted, IsInvited: f.IsInvited, Spaces: f.Spaces,
		RoomTypes: f.RoomTypes, NotRoomTypes: f.NotRoomTypes, Tags: f.Tags, NotTags: f.NotTags,
	}
}

// slidingConfig is a room config in either form.
type slidingConfig struct {
	TimelineLimit *int            `json:"timeline_limit"`
	RequiredState json.RawMessage `json:"required_state"`
}

// request checks the config; state reads its required_state.
func (c *slidingConfig) request(state func(json.RawMessage) (sync.RequiredState, error)) (sync.RoomConfig, error) {
	if c.TimelineLimit == nil || c.RequiredState == nil {
		return sync.RoomConfig{}, mxerr.BadJSON.WithMessage("Lists and room subscriptions need timeline_limit and required_state")
	}
	if *c.TimelineLimit < 0 {
		return sync.RoomConfig{}, mxerr.InvalidParam.WithMessage("timeline_limit must not be negative")
	}
	required, err := state(c.RequiredState)
	return sync.RoomConfig{TimelineLimit: *c.TimelineLimit, RequiredState: required}, err
}

// slidingBody is a request in either form.
type slidingBody struct {
	ConnID      string  `json:"conn_id"`
	Pos         *string `json:"pos"`
	Timeout     int64   `json:"timeout"`
	SetPresence string  `json:"set_presence"`
	Lists       map[string]struct {
		slidingConfig
		Range   *[2]int        `json:"range"`
		Ranges  [][2]int       `json:"ranges"`
		Filters slidingFilters `json:"filters"`
	} `json:"lists"`
	Subscriptions map[string]slidingConfig `json:"room_subscriptions"`
	Extensions    slidingExtensions        `json:"extensions"`
}

func (g *slidingGroup) stable(ctx context.Context, r *homeserver.Request) (any, error) {
	var body slidingBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	for name, l := range body.Lists {
		l.Ranges = nil
		if l.Range != nil {
			l.Ranges = [][2]int{*l.Range}
		}
		body.Lists[name] = l
	}
	return g.answer(ctx, r, &body, false, stableRequiredState)
}

// unstable takes pos, timeout and set_presence from the query, lists with several ranges, and required_state as pairs.
func (g *slidingGroup) unstable(ctx context.Context, r *homeserver.Request) (any, error) {
	var body slidingBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	timeout, err := r.QueryInt("timeout", 0)
	if err != nil {
		return nil, err
	}
	body.Timeout, body.SetPresence, body.Pos = timeout, r.Query("set_presence"), nil
	if r.HasQuery("pos") {
		pos := r.Query("pos")
		body.Pos = &pos
	}
	me := r.UserID()
	return g.answer(ctx, r, &body, true, func(raw json.RawMessage) (sync.RequiredState, error) { return pairedRequiredState(raw, me) })
}

func (g *slidingGroup) answer(ctx context.Context, r *homeserver.Request, body *slidingBody, unstable bool, state func(json.RawMessage) (sync.RequiredState, error)) (any, error) {
	req := sync.SlidingRequest{
		Requester:     r.Requester(),
		ConnID:        body.ConnID,
		SetPresence:   body.SetPresence,
		Timeout:       time.Duration(min(max(body.Timeout, 0), int64(24*time.Hour/time.Millisecond))) * time.Millisecond,
		Lists:         make(map[string]sync.SlidingList, len(body.Lists)),
		Subscriptions: make(map[string]sync.RoomConfig, len(body.Subscriptions)),
		AccountData:   body.Extensions.AccountData.request(),
		Receipts:      body.Extensions.Receipts.request(),
		Typing:        body.Extensions.Typing.request(),
		Unstable:      unstable,
		Stop:          r.Draining(),
	}
	switch req.SetPresence {
	case "", "online", "offline", "unavailable":
	default:
		return nil, mxerr.InvalidParam.WithMessage("set_presence must be online, offline or unavailable")
	}
	if body.Pos != nil {
		if req.Pos = *body.Pos; req.Pos == "" {
			return nil, mxerr.UnknownPos.WithMessage("pos must not be empty")
		}
	}
	switch {
	case len(req.ConnID) > maxConnID:
		return nil, mxerr.InvalidParam.WithMessage("conn_id is too long")
	case body.Timeout < 0:
		return nil, mxerr.InvalidParam.WithMessage("timeout must not be negative")
	case len(body.Lists) > sync.MaxSlidingLists:
		return nil, mxerr.InvalidParam.WithMessage("There are more than 100 lists")
	case len(body.Subscriptions) > sync.MaxSlidingSubscriptions:
		return nil, mxerr.InvalidParam.WithMessage("There are more than 100 room subscriptions")
	}
	for name, l := range body.Lists {
		config, err := l.request(state)
		if err != nil {
			return nil, err
		}
		for _, p := range l.Ranges {
			if p[0] < 0 || p[1] < p[0] {
				return nil, mxerr.InvalidParam.WithMessage("A range must be two indexes, the smaller one first")
			}
		}
		req.Lists[name] = sync.SlidingList{RoomConfig: config, Ranges: l.Ranges, Filters: l.Filters.request()}
	}
	for id, c := range body.Subscriptions {
		config, err := c.request(state)
		if err != nil {
			return nil, err
		}
		req.Subscriptions[id] = config
	}
	resp, err := g.svc.Sliding(ctx, req)
	if err != nil {
		return nil, err
	}
	return &homeserver.Response{Write: resp.Write}, nil
}

// stableRequiredState reads a RequiredStateRequest.
func stableRequiredState(raw json.RawMessage) (sync.RequiredState, error) {
	type element struct {
		Type     *string `json:"type"`
		StateKey *string `json:"state_key"`
	}
	var in struct {
		Include     []element `json:"include"`
		Exclude     []element `json:"exclude"`
		LazyMembers bool      `json:"lazy_members"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return sync.RequiredState{}, mxerr.BadJSON.WithMessage("required_state must be an object with include, exclude and lazy_members").Wrap(err)
	}
	out := sync.RequiredState{LazyMembers: in.LazyMembers}
	for _, e := range in.Include {
		out.Include = append(out.Include, sync.StateElement(e))
	}
	for _, e := range in.Exclude {
		out.Exclude = append(out.Exclude, sync.StateElement(e))
	}
	return out, nil
}

// pairedRequiredState reads pairs of event type and state key, in which "*" stands for anything, "$ME" for the user, and
// ["m.room.member", "$LAZY"] for members who come with the timeline.
func pairedRequiredState(raw json.RawMessage, me string) (sync.RequiredState, error) {
	var pairs [][2]string
	if err := json.Unmarshal(raw, &pairs); err != nil {
		return sync.RequiredState{}, mxerr.BadJSON.WithMessage("required_state must be a list of pairs of strings").Wrap(err)
	}
	var out sync.RequiredState
	for _, p := range pairs {
		typ, key := p[0], p[1]
		if key == "$LAZY" {
			if typ != event.TypeMember {
				return sync.RequiredState{}, mxerr.InvalidParam.WithMessage("$LAZY is for m.room.member only")
			}
			out.LazyMembers = true
			continue
		}
		var e sync.StateElement
		if typ != "*" {
			e.Type = &typ
		}
		switch key {
		case "*":
		case "$ME":
			e.StateKey = &me
		default:
			e.StateKey = &key
		}
		out.Include = append(out.Include, e)
	}
	return out, nil
}
