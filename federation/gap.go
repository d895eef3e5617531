package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

const (
	// missingLimit is how many events are asked for to fill a gap. A gap that is wider is bridged by the state behind it.
	missingLimit = 20
	// maxAttempts bounds how often one event is tried again after what it lacked was fetched.
	maxAttempts = 4
	// wholeState is the share of a state, one in so many, above which it is fetched whole and not event by event.
	wholeState = 10
)

// errNoWay says that an event cannot be placed with what other servers tell.
var errNoWay = mxerr.Forbidden.WithMessage("The events that this event refers to cannot be had")

// refused reports whether an error is about an event, and not about this server.
func refused(err error) bool {
	var missing *writer.MissingEventsError
	if errors.As(err, &missing) {
		return true
	}
	mx, ok := mxerr.As(err)
	return ok && mx.Status < 500
}

// Receive writes checked events of one room, which a server sent, in their order. What they refer to and is not here is
// asked of that server. An event that cannot be placed is dropped and logged; the others are written, be it as rejected
// ones. It returns how many of the events need no further work. The error is about this server or ctx: then the rest may
// be tried again.
func (g *Ingest) Receive(ctx context.Context, origin string, r *store.Room, events []*event.Event) (done int, err error) {
	return g.receive(ctx, origin, r, events, true)
}

// receive is Receive of events that a server pushed, or that were asked for.
func (g *Ingest) receive(ctx context.Context, origin string, r *store.Room, events []*event.Event, pushed bool) (done int, err error) {
	for done < len(events) {
		received := make([]writer.Received, len(events)-done)
		for i, e := range events[done:] {
			received[i].Event = e
		}
		results, err := g.cfg.Writer.Receive(ctx, r.ID, received...)
		done += len(results)
		if err == nil {
			break
		}
		if done == len(events) {
			return done, fmt.Errorf("receive events of %s: %w", r.ID, err)
		}
		e := events[done]
		var missing *writer.MissingEventsError
		if errors.As(err, &missing) {
			err = g.complete(ctx, origin, r, e, missing, pushed)
		}
		switch {
		case err == nil:
		case refused(err):
			g.log.Info().Err(err).Str("room_id", r.ID).Str("event_id", e.ID()).Str("origin", origin).Msg("event of another server dropped")
		default:
			return done, err
		}
		done++
	}
	return done, nil
}

// complete fetches what an event lacks, and writes it. The events before it come first: among them, as a rule, are its
// auth events.
//
// An event that was pushed must be connected to the room by the events before it: whoever sends it can tell them. Only
// at the far end of what was asked for is the state taken as the server says it was.
func (g *Ingest) complete(ctx context.Context, origin string, r *store.Room, e *event.Event, missing *writer.MissingEventsError, pushed bool) error {
	rec := writer.Received{Event: e}
	filled := !pushed
	for range maxAttempts {
		gap, err := g.hasGap(ctx, r, e)
		switch {
		case err != nil:
		case gap && !filled:
			filled = true
			err = g.fill(ctx, origin, r, e)
		case gap && pushed:
			err = errNoWay.Wrap(missing)
		case gap && rec.StateBefore == nil:
			rec.StateBefore, err = g.stateBefore(ctx, origin, r, e)
		default:
			err = g.fetchAuth(ctx, origin, r, e, missing.Auth)
		}
		if err != nil {
			return err
		}
		if _, err = g.cfg.Writer.Receive(ctx, r.ID, rec); !errors.As(err, &missing) {
			return err
		}
	}
	return errNoWay.Wrap(missing)
}

// hasGap reports whether events before another are missing.
func (g *Ingest) hasGap(ctx context.Context, r *store.Room, e *event.Event) (bool, error) {
	prevs, err := g.store.PlacedByID(ctx, e.PrevEvents())
	if err != nil {
		return false, fmt.Errorf("look up prev_events: %w", err)
	}
	return slices.ContainsFunc(prevs, func(p *store.Event) bool { return !inPlace(r, p) }), nil
}

// inPlace reports whether an event is there and has its place in a room.
func inPlace(r *store.Room, e *store.Event) bool {
	return e != nil && e.RoomNID == r.NID && e.Flags&store.Outlier == 0
}

// fill asks for the events between the end of the room and an event, and writes those that come. That some do not is no
// error here.
func (g *Ingest) fill(ctx context.Context, origin string, r *store.Room, e *event.Event) error {
	head, err := g.store.Head(ctx, r.NID)
	if err != nil {
		return fmt.Errorf("read head of %s: %w", r.ID, err)
	}
	ends, err := g.store.Events(ctx, head.Extremities)
	if err != nil {
		return fmt.Errorf("read extremities of %s: %w", r.ID, err)
	}
	q := MissingEvents{Earliest: make([]string, 0, len(ends)), Latest: []string{e.ID()}, Limit: missingLimit}
	for _, x := range ends {
		if x != nil {
			q.Earliest = append(q.Earliest, x.ID())
		}
	}
	raws, err := g.cfg.Servers.GetMissingEvents(ctx, origin, r.ID, q)
	if err != nil {
		return g.unanswered(ctx, err, origin, r, e.ID())
	}
	events, err := g.CheckAll(ctx, r.Version, r.ID, raws)
	if err != nil {
		return err
	}
	events = slices.DeleteFunc(events, func(x *event.Event) bool { return x.ID() == e.ID() })
	slices.SortStableFunc(events, func(a, b *event.Event) int { return cmp.Compare(a.Depth(), b.Depth()) })
	if len(events) > missingLimit {
		events = events[len(events)-missingLimit:]
	}
	_, err = g.receive(ctx, origin, r, events, false)
	return err
}

// unanswered logs that a server did not tell what it was asked, which is no error unless ctx has ended.
func (g *Ingest) unanswered(ctx context.Context, err error, server string, r *store.Room, eventID string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	g.log.Info().Err(err).Str("destination", server).Str("room_id", r.ID).Str("event_id", eventID).Msg("server does not tell of the events before another")
	return nil
}

// fetchAuth stores the auth chain of an event. ids are those of its auth_events that are missing.
func (g *Ingest) fetchAuth(ctx context.Context, origin string, r *store.Room, e *event.Event, ids []string) error {
	var chain []*event.Event
	raws, err := g.cfg.Servers.EventAuth(ctx, origin, r.ID, e.ID())
	if err != nil {
		err = g.unanswered(ctx, err, origin, r, e.ID())
	} else {
		chain, err = g.CheckAll(ctx, r.Version, r.ID, raws)
	}
	if err != nil {
		return err
	}
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		return slices.ContainsFunc(chain, func(x *event.Event) bool { return x.ID() == id })
	})
	single, err := g.fetchEvents(ctx, []string{origin}, r.Version, r.ID, ids)
	if err != nil {
		return err
	}
	_, err = g.StoreOutliers(ctx, []string{origin}, r.Version, r.ID, append(chain, single...))
	return err
}

// stateBefore works out the state before an event whose prev_events are not all here, and stores what belongs to it. It
// returns the ids of its events.
func (g *Ingest) stateBefore(ctx context.Context, server string, r *store.Room, e *event.Event) ([]string, error) {
	prevs, err := g.store.PlacedByID(ctx, e.PrevEvents())
	if err != nil {
		return nil, fmt.Errorf("look up prev_events: %w", err)
	}
	states := make([]roomState, len(prevs))
	for i, p := range prevs {
		if inPlace(r, p) {
			states[i], err = g.stateAfter(ctx, p)
		} else {
			states[i], err = g.remoteState(ctx, server, r, e.PrevEvents()[i])
		}
		if err != nil {
			return nil, err
		}
	}
	state, err := g.resolve(ctx, r, states)
	if err != nil {
		return nil, err
	}
	nids := make([]storage.EventNID, 0, len(state))
	for _, nid := range state {
		nids = append(nids, nid)
	}
	events, err := g.store.Events(ctx, nids)
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", r.ID, err)
	}
	ids := make([]string, 0, len(events))
	for _, s := range events {
		if s != nil {
			ids = append(ids, s.ID())
		}
	}
	return ids, nil
}

// stateAfter returns the state after an event that has its place in the room.
func (g *Ingest) stateAfter(ctx context.Context, e *store.Event) (roomState, error) {
	entries, err := g.store.StateEntries(ctx, e.StateRoot, nil)
	if err != nil {
		return nil, fmt.Errorf("read state before %s: %w", e.ID(), err)
	}
	s := make(roomState, len(entries)+1)
	for _, x := range entries {
		s[x.Key] = x.Event
	}
	s.apply(e)
	return s, nil
}

// remoteState asks a server for the state after an event that is not here, and stores it.
func (g *Ingest) remoteState(ctx context.Context, server string, r *store.Room, eventID string) (roomState, error) {
	told, err := g.cfg.Servers.StateIDs(ctx, server, r.ID, eventID)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errNoWay.Wrap(err)
	}
	stateIDs := told.PDUIDs
	want := slices.Concat(stateIDs, told.AuthChainIDs, []string{eventID})
	slices.Sort(want)
	want = slices.Compact(want)
	missing, err := g.unknown(ctx, want)
	if err != nil {
		return nil, err
	}
	if err := g.fetchState(ctx, server, r, eventID, want, missing); err != nil {
		return nil, err
	}
	stored, err := g.store.EventsByID(ctx, append(stateIDs, eventID))
	if err != nil {
		return nil, fmt.Errorf("look up state events: %w", err)
	}
	last := stored[len(stored)-1]
	if last == nil || last.RoomNID != r.NID {
		return nil, errNoWay
	}
	s := make(roomState, len(stored))
	absent := 0
	for _, e := range stored[:len(stored)-1] {
		if e == nil || e.RoomNID != r.NID {
			absent++
			continue
		}
		s.apply(e)
	}
	// Old rooms hold events that nobody can verify any more; a state of which most is missing is none.
	if absent > 0 {
		g.log.Warn().Str("room_id", r.ID).Str("event_id", eventID).Int("count", absent).Msg("state events could not be had")
	}
	if 2*absent > len(stateIDs) {
		return nil, errNoWay
	}
	create, err := g.store.StateKeyNIDs(ctx, []event.Tuple{{Type: event.TypeCreate}})
	if err != nil {
		return nil, fmt.Errorf("look up state key: %w", err)
	}
	if s[create[0]] == 0 && last.Type() != event.TypeCreate {
		return nil, errNoWay
	}
	s.apply(last)
	return s, nil
}

// unknown returns those of the events that are not stored.
func (g *Ingest) unknown(ctx context.Context, ids []string) ([]string, error) {
	stored, err := g.store.EventsByID(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up events: %w", err)
	}
	var missing []string
	for i, e := range stored {
		if e == nil {
			missing = append(missing, ids[i])
		}
	}
	return missing, nil
}

// fetchState stores the missing events of a state: one by one where they are few, the whole state otherwise.
func (g *Ingest) fetchState(ctx context.Context, server string, r *store.Room, eventID string, want, missing []string) error {
	var events []*event.Event
	if len(missing) > wholeState && len(missing)*wholeState > len(want) {
		told, err := g.cfg.Servers.State(ctx, server, r.ID, eventID)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return errNoWay.Wrap(err)
		}
		if events, err = g.CheckAll(ctx, r.Version, r.ID, append(told.PDUs, told.AuthChain...)); err != nil {
			return err
		}
		// The event itself is no part of the state before it.
		missing = slices.DeleteFunc(missing, func(id string) bool { return id != eventID })
	}
	missing = missing[:min(len(missing), maxChase)]
	single, err := g.fetchEvents(ctx, []string{server}, r.Version, r.ID, missing)
	if err != nil {
		return err
	}
	_, err = g.StoreOutliers(ctx, []string{server}, r.Version, r.ID, append(events, single...))
	return err
}
