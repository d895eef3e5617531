package federation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/lease"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/storage"
	"github.com/weft-im/weft/storage/statetree"
)

const (
	// storeAtOnce is how many events of a state are checked and stored at once.
	storeAtOnce = 500
	// resyncsAtOnce bounds the rooms whose states are fetched at once.
	resyncsAtOnce = 4
	// resyncServers bounds the servers that are asked in one attempt.
	resyncServers = 20
	// singly is up to how many missing events of a state are asked for one by one, where they are few beside those that are
	// stored (see wholeState).
	singly = 200
)

// StateCompleter makes the states of rooms whole. *fullstate.Service is one.
type StateCompleter interface {
	// Complete makes the state of a room whole, given the state before the join by which it was entered.
	Complete(ctx context.Context, p *storage.PartialRoom, state []statetree.Entry) error
}

// ResyncConfig holds what a Resync needs.
type ResyncConfig struct {
	// Client calls the other servers. Required.
	Client *Client
	// Ingest checks and stores events. Required.
	Ingest *Ingest
	// DB is the database. Required.
	DB *storage.DB
	// Store reads rooms and events. Required.
	Store *store.Store
	// States makes states whole. Required.
	States StateCompleter
	// Leases has one process of all do it. Without it this one does.
	Leases *lease.Manager
	// Interval is how often rooms are looked for that other processes have entered. Defaults to 3 seconds.
	Interval time.Duration
	// MinRetry and MaxRetry bound the time until a room is tried again that no server helped with. They default to 5
	// seconds and 10 minutes.
	MinRetry, MaxRetry time.Duration
	// Log is silent by default.
	Log zerolog.Logger
}

func (c ResyncConfig) withDefaults() ResyncConfig {
	c.Interval = cmp.Or(c.Interval, 3*time.Second)
	c.MinRetry = cmp.Or(c.MinRetry, 5*time.Second)
	c.MaxRetry = cmp.Or(c.MaxRetry, 10*time.Minute)
	return c
}

// Resync fetches the members of rooms that were entered without them, one process for all. What it has fetched is stored
// as it comes, so that the next attempt, on whatever process, goes on from there.
//
// Spec: server-server API, "PUT /send_join", omit_members (v1.19).
type Resync struct {
	cfg  ResyncConfig
	log  zerolog.Logger
	wake task.Wake

	mu      sync.Mutex
	running map[storage.RoomNID]bool
	failed  map[storage.RoomNID]failure
}

// failure is how often a room was tried in vain, and when it is tried again.
type failure struct {
	join  storage.EventNID
	count int
	until time.Time
}

// NewResync checks the configuration. It does no I/O.
func NewResync(cfg ResyncConfig) (*Resync, error) {
	cfg = cfg.withDefaults()
	if cfg.Client == nil || cfg.Ingest == nil || cfg.DB == nil || cfg.Store == nil || cfg.States == nil {
		return nil, errors.New("federation: ResyncConfig: Client, Ingest, DB, Store and States are required")
	}
	return &Resync{
		cfg: cfg, log: cfg.Log.With().Str("component", "resync").Logger(), wake: task.NewWake(),
		running: make(map[storage.RoomNID]bool), failed: make(map[storage.RoomNID]failure),
	}, nil
}

// Wake has rooms looked for that were entered just now. It does not block.
func (r *Resync) Wake() { r.wake.Up() }

// Name is the component's name in logs and errors.
func (r *Resync) Name() string { return "resync" }

// Run fetches what is missing until ctx is done.
func (r *Resync) Run(ctx context.Context) error {
	if r.cfg.Leases == nil {
		return r.run(ctx)
	}
	return r.cfg.Leases.Hold(ctx, "resync", func(ctx context.Context, _ int64) error { return r.run(ctx) })
}

func (r *Resync) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	task.Poll(ctx, r.wake, func() time.Duration {
		rooms, err := storage.ListPartialRooms(ctx, r.cfg.DB)
		if err != nil && ctx.Err() == nil {
			r.log.Warn().Err(err).Msg("rooms without members could not be listed")
		}
		for i := range rooms {
			if p := &rooms[i]; r.claim(p) {
				wg.Go(func() { r.attempt(ctx, p) })
			}
		}
		return r.cfg.Interval
	})
	return nil
}

// claim reports whether a room is to be worked on now.
func (r *Resync) claim(p *storage.PartialRoom) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.failed[p.RoomNID]
	if r.running[p.RoomNID] || len(r.running) >= resyncsAtOnce || f.join == p.JoinNID && time.Now().Before(f.until) {
		return false
	}
	r.running[p.RoomNID] = true
	return true
}

// attempt works on a room once.
func (r *Resync) attempt(ctx context.Context, p *storage.PartialRoom) {
	start := time.Now()
	err := r.complete(ctx, p)
	r.mu.Lock()
	delete(r.running, p.RoomNID)
	f := r.failed[p.RoomNID]
	if f.join != p.JoinNID {
		f = failure{join: p.JoinNID}
	}
	if err == nil {
		delete(r.failed, p.RoomNID)
	} else {
		wait := min(r.cfg.MinRetry<<min(f.count, 16), r.cfg.MaxRetry)
		f.count++
		f.until = time.Now().Add(wait)
		r.failed[p.RoomNID] = f
	}
	r.mu.Unlock()
	switch {
	case err == nil:
		r.log.Info().Int64("room", int64(p.RoomNID)).Dur("duration", time.Since(start)).Msg("members of a room are known")
		r.Wake()
	case ctx.Err() == nil:
		r.log.Warn().Err(err).Int64("room", int64(p.RoomNID)).Int("attempts", f.count).Msg("members of a room could not be fetched")
	}
}

// errNobody says that no server told the state of a room.
var errNobody = errors.New("no server of the room tells its state")

// complete fetches the state of a room and makes it whole.
func (r *Resync) complete(ctx context.Context, p *storage.PartialRoom) error {
	if !p.FullRoot.IsZero() {
		return r.cfg.States.Complete(ctx, p, nil)
	}
	room, err := r.cfg.Store.RoomByNID(ctx, p.RoomNID)
	if err != nil {
		return err
	}
	stats, err := storage.GetRoomStats(ctx, r.cfg.DB, []storage.RoomNID{p.RoomNID})
	if err != nil {
		return err
	}
	if len(stats) == 0 || stats[0].LocalJoined == 0 {
		// Nobody is there to see it, and nobody else tells those who have left.
		return errNobody
	}
	joins, err := r.cfg.Store.Events(ctx, []storage.EventNID{p.JoinNID})
	if err != nil {
		return err
	}
	if joins[0] == nil {
		return fmt.Errorf("join of room %s: %w", room.ID, storage.ErrNotFound)
	}
	self := r.cfg.Client.ServerName()
	tried := map[string]bool{self: true}
	for _, server := range append([]string{p.Via}, p.Servers...) {
		if tried[server] || len(tried) > resyncServers {
			continue
		}
		tried[server] = true
		state, err := r.before(ctx, server, room, joins[0].Event)
		if err == nil {
			return r.cfg.States.Complete(ctx, p, state)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.log.Info().Err(err).Str("room_id", room.ID).Str("destination", server).Msg("server does not tell the state of a room")
	}
	return errNobody
}

// before stores the state before a join as a server tells it, and returns it. As a rule that is the one after the event
// that the join follows, which servers know that have not heard of the join.
func (r *Resync) before(ctx context.Context, server string, room *store.Room, join *event.Event) ([]statetree.Entry, error) {
	if prev := join.PrevEvents(); len(prev) == 1 {
		state, err := r.fetch(ctx, server, room, prev[0], true)
		if err == nil || answered(err) == nil {
			return state, err
		}
	}
	return r.fetch(ctx, server, room, join.ID(), false)
}

// fetch stores the state before an event, or after it, as a server tells it, and returns it.
func (r *Resync) fetch(ctx context.Context, server string, room *store.Room, eventID string, after bool) ([]statetree.Entry, error) {
	told, err := r.cfg.Client.StateIDs(ctx, server, room.ID, eventID)
	if err != nil {
		return nil, err
	}
	want := slices.Concat(told.AuthChainIDs, told.PDUIDs)
	if after {
		want = append(want, eventID)
	}
	missing, err := r.missing(ctx, want)
	if err != nil {
		return nil, err
	}
	if len(missing) > singly || len(missing)*wholeState >= len(want) {
		if err := r.fetchWhole(ctx, server, room, eventID); err != nil {
			return nil, err
		}
		if missing, err = r.missing(ctx, missing); err != nil {
			return nil, err
		}
	}
	// Some that are left may be such as nobody can verify any more.
	missing = missing[:min(len(missing), singly)]
	found, err := r.cfg.Ingest.fetchEvents(ctx, []string{server}, room.Version, room.ID, missing)
	if err != nil {
		return nil, err
	}
	if _, err := r.cfg.Ingest.StoreOutliers(ctx, []string{server}, room.Version, room.ID, found); err != nil {
		return nil, err
	}
	if !after {
		return r.entries(ctx, room, told.PDUIDs)
	}
	if missing, err = r.missing(ctx, []string{eventID}); err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, errNoWay
	}
	return r.entries(ctx, room, append(slices.Clone(told.PDUIDs), eventID))
}

// missing returns those of the events that are not stored.
func (r *Resync) missing(ctx context.Context, ids []string) ([]string, error) {
	var out []string
	for part := range slices.Chunk(ids, storeAtOnce) {
		rows, err := storage.StateRows(ctx, r.cfg.DB, part)
		if err != nil {
			return nil, err
		}
		have := make(map[string]bool, len(rows))
		for _, row := range rows {
			have[row.EventID] = true
		}
		for _, id := range part {
			if !have[id] {
				out = append(out, id)
			}
		}
	}
	return out, nil
}

// fetchWhole fetches a state with its auth chain in one response, which may be too large for the memory, and stores it.
func (r *Resync) fetchWhole(ctx context.Context, server string, room *store.Room, eventID string) error {
	s, err := newSpool()
	if err != nil {
		return err
	}
	defer func() { _ = s.close() }()
	if err := r.cfg.Client.StreamState(ctx, server, room.ID, eventID, JoinSink{State: s.add, AuthChain: s.add}); err != nil {
		return err
	}
	// Events are stored after those that authorise them, in whatever order they come: what has to wait is kept for another
	// round.
	for s.n > 0 {
		later, err := newSpool()
		if err != nil {
			return err
		}
		err = s.chunks(storeAtOnce, func(raws []json.RawMessage) error { return r.storePart(ctx, room, raws, later) })
		if err != nil || later.n >= s.n {
			return errors.Join(err, later.close())
		}
		if err := s.close(); err != nil {
			return errors.Join(err, later.close())
		}
		s = later
	}
	return nil
}

// storePart stores those of the events whose auth chains are complete, and keeps the others for later.
func (r *Resync) storePart(ctx context.Context, room *store.Room, raws []json.RawMessage, later *spool) error {
	events, err := r.cfg.Ingest.CheckAll(ctx, room.Version, room.ID, raws)
	if err != nil {
		return err
	}
	byID := make(map[string]*event.Event, len(events))
	for _, e := range events {
		byID[e.ID()] = e
	}
	known := make(map[string]bool)
	if _, err := r.cfg.Ingest.unknownAuth(ctx, room.Version, room.ID, byID, known); err != nil {
		return err
	}
	complete := completeChains(room.Version, room.ID, byID, known)
	if len(complete) > 0 {
		if err := r.cfg.Ingest.cfg.Writer.StoreOutliers(ctx, room.Version, room.ID, complete); err != nil {
			return fmt.Errorf("store a part of the state of %s: %w", room.ID, err)
		}
	}
	for _, e := range complete {
		delete(byID, e.ID())
	}
	for _, e := range events {
		if byID[e.ID()] != nil {
			if err := later.add(e.JSON()); err != nil {
				return err
			}
		}
	}
	return nil
}

// entries returns a state by number. Of events of one piece the last counts.
func (r *Resync) entries(ctx context.Context, room *store.Room, ids []string) ([]statetree.Entry, error) {
	state := make(map[storage.StateKeyNID]storage.EventNID, len(ids))
	for part := range slices.Chunk(ids, storeAtOnce) {
		rows, err := storage.StateRows(ctx, r.cfg.DB, part)
		if err != nil {
			return nil, err
		}
		byID := make(map[string]*storage.StateRow, len(rows))
		for i := range rows {
			byID[rows[i].EventID] = &rows[i]
		}
		for _, id := range part {
			row := byID[id]
			if row == nil || row.RoomNID != room.NID || row.StateKeyNID == 0 || store.Flags(row.Flags)&store.Rejected != 0 {
				continue
			}
			state[row.StateKeyNID] = row.NID
		}
	}
	create, err := r.cfg.Store.StateKeyNIDs(ctx, []event.Tuple{{Type: event.TypeCreate}})
	if err != nil {
		return nil, err
	}
	if state[create[0]] == 0 || 2*len(state) < len(ids) {
		return nil, errNoWay
	}
	out := make([]statetree.Entry, 0, len(state))
	for key, nid := range state {
		out = append(out, statetree.Entry{Key: int64(key), Value: int64(nid)})
	}
	return out, nil
}
