package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
)

// verifyWorkers is how many events of one list are checked at once: most of the time goes into waiting for keys.
const verifyWorkers = 8

// maxChase bounds the events that are asked for one by one to complete one list.
const maxChase = 500

// EventWriter writes events of other servers. *writer.Writer is one.
type EventWriter interface {
	// Receive writes events to a room in their order.
	Receive(ctx context.Context, roomID string, events ...writer.Received) ([]writer.Result, error)
	// StoreOutliers stores events that others refer to.
	StoreOutliers(ctx context.Context, version *event.Version, roomID string, events []*event.Event) error
}

// EventServers asks other servers for events. *Client does.
type EventServers interface {
	// GetEvent returns one event.
	GetEvent(ctx context.Context, server, eventID string) (json.RawMessage, error)
	// GetMissingEvents returns events between those of q.Earliest and those of q.Latest.
	GetMissingEvents(ctx context.Context, server, roomID string, q MissingEvents) ([]json.RawMessage, error)
	// StateIDs returns the ids of the state before an event, and of its auth chain.
	StateIDs(ctx context.Context, server, roomID, eventID string) (*RoomStateIDs, error)
	// State returns the state before an event, and its auth chain.
	State(ctx context.Context, server, roomID, eventID string) (*RoomState, error)
	// EventAuth returns the auth chain of an event.
	EventAuth(ctx context.Context, server, roomID, eventID string) ([]json.RawMessage, error)
}

// IngestConfig holds what an Ingest needs.
type IngestConfig struct {
	// Store reads rooms and events. Required.
	Store *store.Store
	// Writer writes events. Required.
	Writer EventWriter
	// Keys finds the keys that events are signed with. Required.
	Keys event.KeyRing
	// Servers is asked for what is missing. Required.
	Servers EventServers
	// Log is silent by default.
	Log zerolog.Logger
}

// Ingest takes in events of other servers: it checks them, fetches what they refer to, and hands them to the writers of
// their rooms. It is safe for concurrent use.
//
// Spec: server-server API, "PDUs" (v1.19).
type Ingest struct {
	cfg   IngestConfig
	store *store.Store
	log   zerolog.Logger
}

// NewIngest checks the configuration. It does no I/O.
func NewIngest(cfg IngestConfig) (*Ingest, error) {
	if cfg.Store == nil || cfg.Writer == nil || cfg.Keys == nil || cfg.Servers == nil {
		return nil, errors.New("federation: IngestConfig: Store, Writer, Keys and Servers are required")
	}
	return &Ingest{cfg: cfg, store: cfg.Store, log: cfg.Log.With().Str("component", "federation_ingest").Logger()}, nil
}

// Check parses an event of another server and checks its hash and signatures; of one whose hash does not match the
// redacted form is returned.
//
// Errors: M_BAD_JSON, M_TOO_LARGE or M_INVALID_PARAM for what is no event of the version, M_FORBIDDEN for a signature
// that is missing or wrong.
func (g *Ingest) Check(ctx context.Context, v *event.Version, raw json.RawMessage) (*event.Event, error) {
	e, err := parseEvent(v, raw)
	if err != nil {
		return nil, err
	}
	return e, g.verify(ctx, e)
}

// parseEvent parses an event, with Matrix errors.
func parseEvent(v *event.Version, raw []byte) (*event.Event, error) {
	if len(raw) == 0 {
		return nil, mxerr.BadJSON.WithMessage("The event is missing")
	}
	e, err := event.Parse(v, raw)
	switch {
	case err == nil:
		return e, nil
	case errors.Is(err, event.ErrTooLarge):
		return nil, mxerr.TooLarge.WithMessage(err.Error()).Wrap(err)
	default:
		return nil, mxerr.BadJSON.WithMessage(err.Error()).Wrap(err)
	}
}

// verify checks the signatures of an event.
func (g *Ingest) verify(ctx context.Context, e *event.Event) error {
	err := e.VerifySignatures(ctx, g.cfg.Keys)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return badSignature(err)
}

// badSignature says that an event is not signed as it should be.
func badSignature(err error) error { return mxerr.Forbidden.WithMessage(err.Error()).Wrap(err) }

// CheckAll is Check of the events of one room. What fails is left out and logged; the order is kept, and of two that are
// the same the first. Events that are stored already were checked then.
func (g *Ingest) CheckAll(ctx context.Context, v *event.Version, roomID string, raws []json.RawMessage) ([]*event.Event, error) {
	events := make([]*event.Event, 0, len(raws))
	ids := make([]string, 0, len(raws))
	seen := make(map[string]bool, len(raws))
	for _, raw := range raws {
		e, err := parseEvent(v, raw)
		if err == nil && e.RoomID() != roomID {
			err = mxerr.InvalidParam.WithMessage("The event is of another room")
		}
		if err != nil {
			g.log.Warn().Err(err).Str("room_id", roomID).Msg("event of another server dropped")
			continue
		}
		if !seen[e.ID()] {
			seen[e.ID()] = true
			events, ids = append(events, e), append(ids, e.ID())
		}
	}
	stored, err := g.store.EventsByID(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up events: %w", err)
	}
	bad := make([]bool, len(events))
	eg, ectx := errgroup.WithContext(ctx)
	eg.SetLimit(verifyWorkers)
	for i, e := range events {
		if stored[i] != nil {
			// In room versions 1 and 2 the id says nothing about the content.
			events[i], bad[i] = stored[i].Event, stored[i].RoomID() != roomID
			continue
		}
		eg.Go(func() error {
			err := g.verify(ectx, e)
			if err != nil && ectx.Err() == nil {
				bad[i] = true
				g.log.Warn().Err(err).Str("room_id", roomID).Str("event_id", e.ID()).Msg("event of another server dropped")
			}
			return ectx.Err()
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	good := events[:0]
	for i, e := range events {
		if !bad[i] {
			good = append(good, e)
		}
	}
	return good, nil
}

// StoreOutliers stores checked events of a room without a place in it: a state, an auth chain. What their auth_events
// name and is neither among them nor here is asked of the given servers; events whose auth chain stays incomplete are
// left out. It returns those of the events that are stored, in no particular order.
func (g *Ingest) StoreOutliers(ctx context.Context, servers []string, v *event.Version, roomID string, events []*event.Event) ([]*event.Event, error) {
	byID := make(map[string]*event.Event, len(events))
	for _, e := range events {
		byID[e.ID()] = e
	}
	known := make(map[string]bool)
	chased := 0
	for {
		missing, err := g.unknownAuth(ctx, v, roomID, byID, known)
		if err != nil {
			return nil, err
		}
		if len(missing) == 0 || chased >= maxChase {
			break
		}
		missing = missing[:min(len(missing), maxChase-chased)]
		chased += len(missing)
		found, err := g.fetchEvents(ctx, servers, v, roomID, missing)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			break
		}
		for _, e := range found {
			byID[e.ID()] = e
		}
	}
	complete := completeChains(v, roomID, byID, known)
	if dropped := len(byID) - len(complete); dropped > 0 {
		g.log.Warn().Str("room_id", roomID).Int("count", dropped).Msg("events without complete auth chain left out")
	}
	if len(complete) == 0 {
		return nil, nil
	}
	if err := g.cfg.Writer.StoreOutliers(ctx, v, roomID, complete); err != nil {
		return nil, fmt.Errorf("store outliers of %s: %w", roomID, err)
	}
	return complete, nil
}

// createID returns the id of the m.room.create event of a room whose id follows from it, "" otherwise.
func createID(v *event.Version, roomID string) string {
	if !v.RoomIDFromCreate {
		return ""
	}
	return "$" + roomID[1:]
}

// unknownAuth returns the auth_events that are neither among events nor stored, and notes in known those that are stored.
func (g *Ingest) unknownAuth(ctx context.Context, v *event.Version, roomID string, events map[string]*event.Event, known map[string]bool) ([]string, error) {
	ask := make(map[string]bool)
	for _, e := range events {
		for _, a := range e.AuthEvents() {
			if events[a] == nil && !known[a] {
				ask[a] = true
			}
		}
	}
	if c := createID(v, roomID); c != "" && events[c] == nil && !known[c] {
		ask[c] = true
	}
	if len(ask) == 0 {
		return nil, nil
	}
	ids := make([]string, 0, len(ask))
	for id := range ask {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	stored, err := g.store.EventsByID(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("look up auth events: %w", err)
	}
	var missing []string
	for i, s := range stored {
		if s != nil {
			known[ids[i]] = true
		} else {
			missing = append(missing, ids[i])
		}
	}
	return missing, nil
}

// completeChains returns the events whose auth chains are complete within themselves and what is known, auth events
// first. Events that stand in a circle never are.
func completeChains(v *event.Version, roomID string, events map[string]*event.Event, known map[string]bool) []*event.Event {
	open := make(map[string]int, len(events)) // auth events that are not complete yet
	waiting := make(map[string][]*event.Event, len(events))
	var ready []*event.Event
	create := createID(v, roomID)
	for id, e := range events {
		needs := e.AuthEvents()
		if create != "" && id != create {
			needs = append(slices.Clone(needs), create)
		}
		for _, a := range needs {
			if !known[a] {
				open[id]++
				waiting[a] = append(waiting[a], e)
			}
		}
		if open[id] == 0 {
			ready = append(ready, e)
		}
	}
	for i := 0; i < len(ready); i++ {
		for _, e := range waiting[ready[i].ID()] {
			if open[e.ID()]--; open[e.ID()] == 0 {
				ready = append(ready, e)
			}
		}
	}
	return ready
}

// fetchEvents asks servers for single events of a room and returns those that were found and are good. It is an error
// only if ctx ends.
func (g *Ingest) fetchEvents(ctx context.Context, servers []string, v *event.Version, roomID string, ids []string) ([]*event.Event, error) {
	found := make([]*event.Event, len(ids))
	eg, ectx := errgroup.WithContext(ctx)
	eg.SetLimit(verifyWorkers)
	for i, id := range ids {
		eg.Go(func() error {
			for _, server := range servers {
				raw, err := g.cfg.Servers.GetEvent(ectx, server, id)
				var e *event.Event
				if err == nil {
					e, err = g.Check(ectx, v, raw)
				}
				if err == nil && (e.ID() != id || e.RoomID() != roomID) {
					err = mxerr.InvalidParam.WithMessage("Another event than the one asked for")
				}
				if ectx.Err() != nil {
					return ectx.Err()
				}
				if err == nil {
					found[i] = e
					return nil
				}
				g.log.Info().Err(err).Str("room_id", roomID).Str("event_id", id).Str("destination", server).Msg("event could not be fetched")
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(e *event.Event) bool { return e == nil }), nil
}
