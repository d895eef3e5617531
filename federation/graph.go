package federation

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/id"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

const (
	// maxBackfill is how many events /backfill returns at most, maxMissing /get_missing_events.
	maxBackfill = 100
	maxMissing  = 20
	// maxNamed bounds the events that a request may name.
	maxNamed = 100
)

// graphEndpoints are those that tell events, and the state at them.
func (in *Inbound) graphEndpoints() []homeserver.Endpoint {
	return []homeserver.Endpoint{
		in.endpoint(http.MethodGet, "/event/{eventId}", in.getEvent, "v1"),
		in.endpoint(http.MethodGet, "/state/{roomId}", in.getState, "v1"),
		in.endpoint(http.MethodGet, "/state_ids/{roomId}", in.getStateIDs, "v1"),
		in.endpoint(http.MethodGet, "/event_auth/{roomId}/{eventId}", in.getEventAuth, "v1"),
		in.endpoint(http.MethodGet, "/backfill/{roomId}", in.backfill, "v1"),
		in.endpoint(http.MethodPost, "/get_missing_events/{roomId}", in.getMissingEvents, "v1"),
		in.endpoint(http.MethodGet, "/timestamp_to_event/{roomId}", in.timestampToEvent, "v1"),
	}
}

// answer is a transaction that answers a question.
type answer struct {
	Origin         string            `json:"origin"`
	OriginServerTS int64             `json:"origin_server_ts"`
	PDUs           []json.RawMessage `json:"pdus"`
}

func (in *Inbound) answer(events []*event.Event) *answer {
	return &answer{in.cfg.ServerName, in.cfg.Now().UnixMilli(), rawEvents(events)}
}

// rawEvents returns events as they travel between servers.
func rawEvents(events []*event.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

func rawStored(events []*store.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

func storedIDs(events []*store.Event) []string {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.ID()
	}
	return ids
}

// getEvent serves events that are known of, outliers and rejected ones too: they may be part of others' auth chains.
func (in *Inbound) getEvent(ctx context.Context, r *homeserver.Request) (any, error) {
	eventID := r.Param("eventId")
	unknown := mxerr.NotFound.WithMessage("Could not find event " + eventID)
	if !id.IsEvent(eventID) {
		return nil, unknown
	}
	es, err := in.store.EventsByID(ctx, []string{eventID})
	if err != nil {
		return nil, fmt.Errorf("find event %s: %w", eventID, err)
	}
	if es[0] == nil {
		return nil, unknown
	}
	room, err := in.memberRoom(ctx, r.Origin(), es[0].RoomID())
	if err != nil {
		return nil, err
	}
	events, err := in.shown(ctx, room, r.Origin(), es)
	if err != nil {
		return nil, err
	}
	return in.answer(events), nil
}

// stateAt finds the state before the event that a request names.
func (in *Inbound) stateAt(ctx context.Context, r *homeserver.Request) (state, chain []*store.Event, err error) {
	room, err := in.memberRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, nil, err
	}
	if err := in.checkWhole(ctx, room); errors.Is(err, mxerr.NotFound) {
		return nil, nil, mxerr.Forbidden.WithMessage("This server does not know the whole state of the room yet")
	} else if err != nil {
		return nil, nil, err
	}
	eventID := r.Query("event_id")
	if eventID == "" {
		return nil, nil, mxerr.MissingParam.WithMessage("Missing query parameter event_id")
	}
	e, err := in.eventIn(ctx, room, eventID)
	if err != nil {
		return nil, nil, err
	}
	if state, err = in.store.State(ctx, e.StateRoot, nil); err != nil {
		return nil, nil, fmt.Errorf("read state before %s: %w", eventID, err)
	}
	if chain, err = in.authChain(ctx, room, state); err != nil {
		return nil, nil, fmt.Errorf("read auth chain of the state before %s: %w", eventID, err)
	}
	return state, chain, nil
}

// authChain returns the auth chain of events for another server, with the create event also where events do not name it:
// a server that joins must have it, and some look for it there and nowhere else.
func (in *Inbound) authChain(ctx context.Context, room *store.Room, of []*store.Event) ([]*store.Event, error) {
	chain, err := in.store.AuthChain(ctx, of)
	if err != nil || !room.Version.RoomIDFromCreate {
		return chain, err
	}
	isCreate := func(e *store.Event) bool { return e.Is(event.TypeCreate, "") }
	if slices.ContainsFunc(chain, isCreate) || len(of) == 1 && isCreate(of[0]) {
		return chain, nil
	}
	create, err := in.store.EventsByID(ctx, []string{"$" + room.ID[1:]})
	if err != nil {
		return nil, fmt.Errorf("find the create event of %s: %w", room.ID, err)
	}
	if create[0] != nil {
		chain = append(chain, create[0])
	}
	return chain, nil
}

func (in *Inbound) getState(ctx context.Context, r *homeserver.Request) (any, error) {
	state, chain, err := in.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	return struct {
		AuthChain []json.RawMessage `json:"auth_chain"`
		PDUs      []json.RawMessage `json:"pdus"`
	}{rawStored(chain), rawStored(state)}, nil
}

func (in *Inbound) getStateIDs(ctx context.Context, r *homeserver.Request) (any, error) {
	state, chain, err := in.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	return struct {
		AuthChainIDs []string `json:"auth_chain_ids"`
		PDUIDs       []string `json:"pdu_ids"`
	}{storedIDs(chain), storedIDs(state)}, nil
}

func (in *Inbound) getEventAuth(ctx context.Context, r *homeserver.Request) (any, error) {
	room, err := in.memberRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	eventID := r.Param("eventId")
	es, err := in.store.EventsByID(ctx, []string{eventID})
	if err != nil {
		return nil, fmt.Errorf("find event %s: %w", eventID, err)
	}
	if es[0] == nil || es[0].RoomNID != room.NID {
		return nil, mxerr.NotFound.WithMessage("Could not find event " + eventID)
	}
	chain, err := in.authChain(ctx, room, es)
	if err != nil {
		return nil, fmt.Errorf("read auth chain of %s: %w", eventID, err)
	}
	return struct {
		AuthChain []json.RawMessage `json:"auth_chain"`
	}{rawStored(chain)}, nil
}

func (in *Inbound) backfill(ctx context.Context, r *homeserver.Request) (any, error) {
	room, err := in.memberRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	from := r.QueryAll("v")
	if len(from) == 0 || len(from) > maxNamed {
		return nil, mxerr.InvalidParam.WithMessage("v must name between 1 and 100 events")
	}
	limit, err := r.QueryInt("limit", maxBackfill)
	if err != nil {
		return nil, err
	}
	found, err := in.ancestors(ctx, room, from, int(min(limit, maxBackfill)))
	if err != nil {
		return nil, err
	}
	events, err := in.shown(ctx, room, r.Origin(), found)
	if err != nil {
		return nil, err
	}
	return in.answer(events), nil
}

// deepest is a heap of events, the deepest first.
type deepest []*store.Event

func (d deepest) Len() int           { return len(d) }
func (d deepest) Less(i, j int) bool { return d[i].Depth() > d[j].Depth() }
func (d deepest) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deepest) Push(x any)        { *d = append(*d, x.(*store.Event)) }
func (d *deepest) Pop() any {
	old := *d
	e := old[len(old)-1]
	*d = old[:len(old)-1]
	return e
}

// ancestors returns the given events of a room and those before them, the deepest first.
func (in *Inbound) ancestors(ctx context.Context, r *store.Room, ids []string, limit int) ([]*store.Event, error) {
	g := graphReader{in: in, room: r, known: make(map[string]*store.Event)}
	start, err := g.read(ctx, ids)
	if err != nil {
		return nil, err
	}
	var end storage.EventPoint
	for _, e := range start {
		if e.Depth() > end.Depth || e.Depth() == end.Depth && e.NID > end.NID {
			end = storage.EventPoint{Depth: e.Depth(), NID: e.NID}
		}
	}
	// Most rooms are nearly a line: what lies before is most of what is wanted.
	if err := g.readAhead(ctx, end, limit); err != nil {
		return nil, err
	}
	open := deepest(start)
	heap.Init(&open)
	seen := make(map[string]bool)
	for _, e := range start {
		seen[e.ID()] = true
	}
	var out []*store.Event
	for open.Len() > 0 && len(out) < limit {
		e := heap.Pop(&open).(*store.Event)
		if e.Flags&store.Rejected == 0 {
			out = append(out, e)
		}
		var next []string
		for _, p := range e.PrevEvents() {
			if !seen[p] {
				seen[p] = true
				next = append(next, p)
			}
		}
		prevs, err := g.read(ctx, next)
		if err != nil {
			return nil, err
		}
		for _, p := range prevs {
			heap.Push(&open, p)
		}
	}
	return out, nil
}

// graphReader reads events of a room that have their place there.
type graphReader struct {
	in    *Inbound
	room  *store.Room
	known map[string]*store.Event
}

// readAhead reads the last events up to a point.
func (g *graphReader) readAhead(ctx context.Context, end storage.EventPoint, limit int) error {
	page, _, err := g.in.store.Page(ctx, storage.EventPageQuery{Room: g.room.NID, UpTo: end, Backwards: true, Limit: limit})
	if err != nil {
		return fmt.Errorf("read events of %s: %w", g.room.ID, err)
	}
	for _, e := range page {
		g.known[e.ID()] = e
	}
	return nil
}

// read returns those of the events that are there.
func (g *graphReader) read(ctx context.Context, ids []string) ([]*store.Event, error) {
	var out []*store.Event
	var ask []string
	for _, id := range ids {
		if e := g.known[id]; e != nil {
			out = append(out, e)
		} else {
			ask = append(ask, id)
		}
	}
	found, err := g.in.store.PlacedByID(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("read events of %s: %w", g.room.ID, err)
	}
	for _, e := range found {
		if inPlace(g.room, e) {
			out = append(out, e)
		}
	}
	return out, nil
}

func (in *Inbound) getMissingEvents(ctx context.Context, r *homeserver.Request) (any, error) {
	room, err := in.memberRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	q := MissingEvents{Limit: 10}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if len(q.Earliest) > maxNamed || len(q.Latest) > maxNamed || len(q.Latest) == 0 {
		return nil, mxerr.InvalidParam.WithMessage("earliest_events and latest_events may name up to 100 events, latest_events at least one")
	}
	found, err := in.between(ctx, room, &q)
	if err != nil {
		return nil, err
	}
	events, err := in.shown(ctx, room, r.Origin(), found)
	if err != nil {
		return nil, err
	}
	return struct {
		Events []json.RawMessage `json:"events"`
	}{rawEvents(events)}, nil
}

// between returns the events before the latest and not before the earliest, the shallowest first, nearest to the latest
// where there are more than the limit.
func (in *Inbound) between(ctx context.Context, r *store.Room, q *MissingEvents) ([]*store.Event, error) {
	limit := max(min(q.Limit, maxMissing), 0)
	seen := make(map[string]bool)
	for _, list := range [][]string{q.Earliest, q.Latest} {
		for _, id := range list {
			seen[id] = true
		}
	}
	g := graphReader{in: in, room: r}
	level, err := g.read(ctx, q.Latest)
	if err != nil {
		return nil, err
	}
	var out []*store.Event
	for len(level) > 0 && len(out) < limit {
		var next []string
		for _, e := range level {
			for _, p := range e.PrevEvents() {
				if !seen[p] {
					seen[p] = true
					next = append(next, p)
				}
			}
		}
		if level, err = g.read(ctx, next); err != nil {
			return nil, err
		}
		level = slices.DeleteFunc(level, func(e *store.Event) bool { return e.Depth() < q.MinDepth })
		for _, e := range level {
			if len(out) < limit && e.Flags&store.Rejected == 0 {
				out = append(out, e)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *store.Event) int {
		return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), cmp.Compare(a.NID, b.NID))
	})
	return out, nil
}

func (in *Inbound) timestampToEvent(ctx context.Context, r *homeserver.Request) (any, error) {
	room, err := in.memberRoom(ctx, r.Origin(), r.Param("roomId"))
	if err != nil {
		return nil, err
	}
	if !r.HasQuery("ts") {
		return nil, mxerr.MissingParam.WithMessage("Missing query parameter ts")
	}
	ts, err := r.QueryInt("ts", 0)
	if err != nil {
		return nil, err
	}
	dir := strings.ToLower(r.Query("dir"))
	if dir != "f" && dir != "b" {
		return nil, mxerr.InvalidParam.WithMessage("dir must be f or b")
	}
	return in.cfg.Rooms.NearestEvent(ctx, room, ts, dir == "f")
}
