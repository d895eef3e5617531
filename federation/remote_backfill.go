package federation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

const (
	// backfillFrom is how many loose ends of a room are named in one request for what was before them.
	backfillFrom = 10
	// backfillServers is how many servers are asked until one knows.
	backfillServers = 5
	// maxBackfilled bounds the events taken from one response.
	maxBackfilled = 500
	// gapPause is how long an event that nobody could tell is not asked for again. Clients come to the start of what is
	// known of a room again and again.
	gapPause = 10 * time.Minute
	// gapsPaused bounds the events that are remembered for that, on this process.
	gapsPaused = 10_000
)

// Backfill implements room.Remote. It asks the servers of the room, those with the most users first, and returns with what
// the first tells that has something new.
//
// Spec: server-server API, "Backfilling and retrieving missing events" (v1.19).
func (m *RemoteRooms) Backfill(ctx context.Context, roomID string, from []string, limit int) (int, error) {
	key := "backfill " + roomID + " " + strings.Join(from, " ")
	return once(ctx, m, key, func(ctx context.Context) (int, error) { return m.backfill(ctx, roomID, from, limit) })
}

func (m *RemoteRooms) backfill(ctx context.Context, roomID string, from []string, limit int) (int, error) {
	r, err := m.store.Room(ctx, roomID)
	if err != nil {
		return 0, fmt.Errorf("find room %s: %w", roomID, err)
	}
	if head, err := m.store.Head(ctx, r.NID); err != nil || head.Partial {
		// The states that older events need are as large as the one that is being fetched.
		return 0, err
	}
	paused := m.pausedGaps()
	if from == nil {
		if from, err = storage.OpenGaps(ctx, m.cfg.DB, r.NID, paused, backfillFrom); err != nil {
			return 0, err
		}
	}
	from = slices.DeleteFunc(slices.Clone(from), func(id string) bool { return slices.Contains(paused, id) })
	if len(from) == 0 {
		return 0, nil
	}
	servers, err := m.otherServers(ctx, r)
	if err != nil {
		return 0, err
	}
	limit = min(limit, maxBackfilled)
	for _, server := range servers {
		raws, err := m.cfg.Client.Backfill(ctx, server, roomID, from, limit)
		if err == nil {
			var n int
			raws = raws[:min(len(raws), maxBackfilled)]
			if n, err = m.takeHistory(ctx, server, r, from, raws); err == nil && n > 0 {
				return n, nil
			}
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		m.log.Info().Err(err).Str("room_id", roomID).Str("destination", server).Msg("server does not tell what was before")
	}
	for _, id := range from {
		m.gaps.Set(id, m.cfg.Now().Add(gapPause))
	}
	return 0, nil
}

// pausedGaps returns the events that are not to be asked for now.
func (m *RemoteRooms) pausedGaps() []string {
	out := []string{}
	now := m.cfg.Now()
	for id := range m.gaps.Keys() {
		if until, ok := m.gaps.GetIfPresent(id); ok && until.After(now) {
			out = append(out, id)
		} else {
			m.gaps.Invalidate(id)
		}
	}
	return out
}

// otherServers returns servers of a room to ask about it.
func (m *RemoteRooms) otherServers(ctx context.Context, r *store.Room) ([]string, error) {
	all, err := m.store.Servers(ctx, r.NID)
	if err != nil {
		return nil, fmt.Errorf("list servers of %s: %w", r.ID, err)
	}
	out := make([]string, 0, backfillServers)
	for _, s := range all {
		if s != m.cfg.Signer.ServerName && len(out) < backfillServers {
			out = append(out, s)
		}
	}
	return out, nil
}

// takeHistory checks and writes the events that lead up to those in from, and returns how many are new in their place.
func (m *RemoteRooms) takeHistory(ctx context.Context, server string, r *store.Room, from []string, raws []json.RawMessage) (int, error) {
	events, err := m.ingest.CheckAll(ctx, r.Version, r.ID, raws)
	if err != nil {
		return 0, err
	}
	events = ancestors(events, from)
	// First without a place, which gives them numbers below zero: they are no news.
	stored, err := m.ingest.StoreOutliers(ctx, []string{server}, r.Version, r.ID, events)
	if err != nil {
		return 0, err
	}
	have := make(map[string]bool, len(stored))
	for _, e := range stored {
		have[e.ID()] = true
	}
	slices.SortStableFunc(events, func(a, b *event.Event) int { return cmp.Compare(a.Depth(), b.Depth()) })
	n := 0
	for _, e := range events {
		if !have[e.ID()] {
			continue
		}
		placed, err := m.placeHistory(ctx, server, r, e)
		switch {
		case err == nil && placed:
			n++
		case err == nil:
		case refused(err):
			m.log.Info().Err(err).Str("room_id", r.ID).Str("event_id", e.ID()).Str("destination", server).Msg("event of the past dropped")
		default:
			return n, err
		}
	}
	return n, nil
}

// ancestors returns those of the events that are named in from or that lead up to them. Others may be from the room's
// future, and would have no effect if they came as history.
func ancestors(events []*event.Event, from []string) []*event.Event {
	byID := make(map[string]*event.Event, len(events))
	for _, e := range events {
		byID[e.ID()] = e
	}
	var out []*event.Event
	for todo := slices.Clone(from); len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if e := byID[id]; e != nil {
			delete(byID, id)
			out = append(out, e)
			todo = append(todo, e.PrevEvents()...)
		}
	}
	return out
}

// placeHistory writes one such event, and reports whether it was not there before. Where the events before it are missing,
// the state is taken as the server says it was.
func (m *RemoteRooms) placeHistory(ctx context.Context, server string, r *store.Room, e *event.Event) (bool, error) {
	rec := writer.Received{Event: e, History: true}
	var missing *writer.MissingEventsError
	for range maxAttempts {
		results, err := m.cfg.Writer.Receive(ctx, r.ID, rec)
		if !errors.As(err, &missing) {
			return err == nil && !results[0].Duplicate && !results[0].Rejected, err
		}
		if len(missing.Auth) > 0 {
			if err := m.ingest.fetchAuth(ctx, server, r, e, missing.Auth); err != nil {
				return false, err
			}
		}
		if len(missing.Prev) > 0 {
			if rec.StateBefore, err = m.ingest.stateBefore(ctx, server, r, e); err != nil {
				return false, err
			}
		}
	}
	return false, errNoWay.Wrap(missing)
}

// EventAt returns the event of a room nearest to a time, in a direction, as the other servers of the room know it. The
// event can be read here then.
//
// Errors: M_NOT_FOUND where no server knows one.
//
// Spec: server-server API, "GET /timestamp_to_event/{roomId}" (v1.19).
func (m *RemoteRooms) EventAt(ctx context.Context, roomID string, ts int64, forwards bool) (*room.EventAt, error) {
	r, err := m.store.Room(ctx, roomID)
	if err != nil {
		return nil, fmt.Errorf("find room %s: %w", roomID, err)
	}
	servers, err := m.otherServers(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, server := range servers {
		at, err := m.cfg.Client.TimestampToEvent(ctx, server, roomID, ts, forwards)
		var e *event.Event
		if err == nil {
			e, err = m.fetchPlaced(ctx, server, r, at.EventID)
		}
		if err == nil && (e.OriginServerTS() < ts) == forwards && e.OriginServerTS() != ts {
			err = fmt.Errorf("%w: the event is on the other side of the time", errBadResponse)
		}
		if err == nil {
			return &room.EventAt{EventID: e.ID(), TS: e.OriginServerTS()}, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m.log.Info().Err(err).Str("room_id", roomID).Str("destination", server).Msg("server does not tell an event by its time")
	}
	return nil, mxerr.NotFound.WithMessage("No other server knows an event in that direction")
}

// fetchPlaced returns an event of a room that has its place there, from another server where it is not here.
func (m *RemoteRooms) fetchPlaced(ctx context.Context, server string, r *store.Room, eventID string) (*event.Event, error) {
	stored, err := m.store.PlacedByID(ctx, []string{eventID})
	if err != nil {
		return nil, fmt.Errorf("find event %s: %w", eventID, err)
	}
	if s := stored[0]; s != nil && s.RoomNID == r.NID && s.Flags == 0 {
		return s.Event, nil
	}
	found, err := m.ingest.fetchEvents(ctx, []string{server}, r.Version, r.ID, []string{eventID})
	if err != nil {
		return nil, err
	}
	head, err := m.store.Head(ctx, r.NID)
	if err != nil {
		return nil, fmt.Errorf("read head of %s: %w", r.ID, err)
	}
	if len(found) == 0 || found[0].Depth() >= head.Depth {
		// What is not behind the end of the room comes by itself.
		return nil, errNoWay
	}
	e := found[0]
	if _, err := m.ingest.StoreOutliers(ctx, []string{server}, r.Version, r.ID, found); err != nil {
		return nil, err
	}
	placed, err := m.placeHistory(ctx, server, r, e)
	if err == nil && !placed {
		err = errNoWay
	}
	return e, err
}
