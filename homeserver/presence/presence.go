// Package presence keeps who is online: the presence stream, which lives in the memory of its one writer and is written
// down in the database some seconds later.
//
// The writer (main process, or the instance stream_writers names) puts together what the devices of a user say and what
// the user does, and publishes a row when the outcome changes for others, not each time somebody syncs. Any other process
// tells it which devices sync (USER_SYNC commands), hands requests on to it, and keeps what it hears over the stream in
// memory, for /sync. Rows of other servers' users are in the stream too.
//
//	/sync ──► tracker ──USER_SYNC, call──► writer ──presence stream──► known ──► /sync, federation sender
//	PUT status ─────────call──────────────►   │
//	other servers ──────call──────────────►   └──► database
//
// Tokens count from the writer's start in milliseconds since the epoch, so that a writer that has restarted, or another
// that has taken over, is ahead of any token that was given out before.
//
// Spec: client-server API, "Presence" (v1.19).
package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/mxrpc"
	"github.com/weft-im/weft/homeserver/ratelimit"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/rpc"
	"github.com/weft-im/weft/replication/wire"
	"github.com/weft-im/weft/storage"
)

// maxChanges bounds the events of one response that the database is asked for.
const maxChanges = 2000

// Config holds what a Service needs.
type Config struct {
	// ServerName is the name of this server. Required.
	ServerName string
	// DB is the database. Required.
	DB *storage.DB
	// Client follows the streams, and publishes presence where this process writes it. It must not run yet. Required.
	Client *replication.Client
	// Writers says which process writes the stream. Required.
	Writers *replication.Writers
	// RPC reaches it. Required.
	RPC *rpc.Node
	// Limits limits how often a user's syncs may change their presence ("rc_presence.per_user"). Without it they may.
	Limits *ratelimit.Limiter
	// Untracked leaves the syncs of users out of it: presence is then what clients say at the presence endpoint.
	Untracked bool
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Service is presence in one process. It implements sync.Presence. It is safe for concurrent use.
type Service struct {
	cfg      Config
	follower *replication.Follower[streams.PresenceRow]
	writer   *writer // nil unless this process writes the stream
	tracker  *tracker
	known    known
	interest *interest
	started  atomic.Int64 // which start of the writer was last heard of
	onChange []func(ctx context.Context, c Changes)
}

var _ sync.Presence = (*Service)(nil)

// stream is the stream's name.
const stream = "presence"

var (
	setMethod     = rpc.Method[setRequest, setReply]{Name: "presence_set_state", Repeatable: true}
	statesMethod  = rpc.Method[[]deviceState, struct{}]{Name: "presence_sync_states", Repeatable: true}
	receiveMethod = rpc.Method[[]Remote, struct{}]{Name: "presence_receive", Repeatable: true}
	getMethod     = rpc.Method[[]string, []streams.PresenceRow]{Name: "presence_get", Repeatable: true}
	updatesMethod = rpc.Method[int64, updatesReply]{Name: "presence_updates", Repeatable: true}
)

type setRequest struct {
	UserID    string  `json:"user_id"`
	DeviceID  string  `json:"device_id"`
	Presence  string  `json:"presence"`
	StatusMsg *string `json:"status_msg"`
}

type setReply struct {
	// Token is the place of the stream that shows the change.
	Token int64 `json:"token"`
}

// Remote is what another server says of one of its users.
type Remote struct {
	UserID string `json:"user_id"`
	// Presence is Online, Unavailable or Offline.
	Presence string `json:"presence"`
	// StatusMsg is nil where there is no message.
	StatusMsg *string `json:"status_msg,omitempty"`
	// LastActiveAgoMS is how long ago the user did something, nil where that was not said.
	LastActiveAgoMS *int64 `json:"last_active_ago,omitempty"`
	CurrentlyActive bool   `json:"currently_active,omitempty"`
}

type updatesReply struct {
	// Started tells one start of the writer from another.
	Started int64 `json:"started"`
	// Whole says that what was asked for begins before Forgotten, so that users who are not in Rows are offline.
	Whole     bool                                   `json:"whole"`
	Forgotten int64                                  `json:"forgotten"`
	Rows      []replication.Row[streams.PresenceRow] `json:"rows"`
}

// New makes the service, has cfg.Client follow the stream (and publish it where this process is its writer), and
// registers its methods with cfg.RPC. It does no I/O.
func New(cfg Config) (*Service, error) {
	if cfg.ServerName == "" || cfg.DB == nil || cfg.Client == nil || cfg.Writers == nil || cfg.RPC == nil {
		return nil, errors.New("presence: Config.ServerName, DB, Client, Writers and RPC are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Log = cfg.Log.With().Str("component", "presence").Logger()
	s := &Service{cfg: cfg, interest: newInterest(cfg.DB), known: known{users: map[string]entry{}}}
	s.tracker = &tracker{
		client: cfg.Client, tell: s.tellStates, now: cfg.Now, log: cfg.Log, wake: make(chan struct{}, 1),
		allow:   func(userID string) bool { return cfg.Limits.Allow("rc_presence.per_user", userID) == nil },
		devices: map[deviceKey]*syncing{}, states: map[deviceKey]string{},
	}
	events, err := replication.Follow(cfg.Client, streams.Events(), replication.FollowConfig[*streams.EventRow]{
		OnGap: func(context.Context, string, int64, int64) { s.interest.forgetAll() },
	})
	if err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	events.Handle(s.interest.onEvents)
	s.follower, err = replication.Follow(cfg.Client, streams.Presence(), replication.FollowConfig[streams.PresenceRow]{
		Source: s.source,
		OnGap:  func(_ context.Context, writer string, _, upTo int64) { s.known.forget(writer, upTo) },
	})
	if err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	s.follower.Handle(s.onUpdate)
	if cfg.Writers.Writes(stream) {
		if err := s.write(events); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// write makes this process the stream's writer.
func (s *Service) write(events *replication.Follower[*streams.EventRow]) error {
	var err error
	if s.writer, err = newWriter(s.cfg.Client, s.cfg.DB, s.cfg.ServerName, s.cfg.Now, s.cfg.Log); err != nil {
		return fmt.Errorf("presence: %w", err)
	}
	w := s.writer
	s.tracker.local = w
	mxrpc.Register(s.cfg.RPC, setMethod, w.set)
	mxrpc.Register(s.cfg.RPC, statesMethod, func(ctx context.Context, r []deviceState) (struct{}, error) {
		return struct{}{}, w.apply(ctx, stateNotices(r))
	})
	mxrpc.Register(s.cfg.RPC, receiveMethod, func(ctx context.Context, r []Remote) (struct{}, error) {
		return struct{}{}, w.receive(ctx, r)
	})
	mxrpc.Register(s.cfg.RPC, getMethod, func(_ context.Context, ids []string) ([]streams.PresenceRow, error) { return w.get(ids), nil })
	mxrpc.Register(s.cfg.RPC, updatesMethod, func(_ context.Context, after int64) (updatesReply, error) { return w.updates(after), nil })
	err = errors.Join(
		replication.OnCommand(s.cfg.Client, func(_ context.Context, c wire.UserSync) {
			kind := noticeStopped
			if c.Syncing {
				kind = noticeSyncing
			}
			w.tell(notice{kind: kind, instance: c.InstanceID, userID: c.UserID, deviceID: c.DeviceID, ts: c.LastSyncMS})
		}),
		replication.OnCommand(s.cfg.Client, func(_ context.Context, c wire.ClearUserSync) {
			w.tell(notice{kind: noticeCleared, instance: c.InstanceID})
		}),
	)
	if err != nil || s.cfg.Untracked {
		return err
	}
	return s.watch(events)
}

// watch has the writer see what people do: the messages they send, and what they read.
func (s *Service) watch(events *replication.Follower[*streams.EventRow]) error {
	suffix := ":" + s.cfg.ServerName
	events.Handle(func(_ context.Context, u replication.Update[*streams.EventRow]) {
		if u.CaughtUp {
			return // that was some time ago
		}
		for _, r := range u.Rows {
			if e := r.Value; e.StateKey == nil && strings.HasSuffix(e.Sender, suffix) {
				s.writer.tell(notice{kind: noticeActive, userID: e.Sender, ts: e.ReceivedTS})
			}
		}
	})
	receipts, err := replication.Follow(s.cfg.Client, streams.Receipts(), replication.FollowConfig[streams.ReceiptsRow]{})
	if err != nil {
		return fmt.Errorf("presence: %w", err)
	}
	receipts.Handle(func(_ context.Context, u replication.Update[streams.ReceiptsRow]) {
		if u.CaughtUp {
			return
		}
		now := s.cfg.Now().UnixMilli()
		for _, r := range u.Rows {
			if strings.HasSuffix(r.Value.UserID, suffix) {
				s.writer.tell(notice{kind: noticeActive, userID: r.Value.UserID, ts: now})
			}
		}
	})
	return nil
}

func stateNotices(states []deviceState) []notice {
	out := make([]notice, len(states))
	for i, r := range states {
		out[i] = notice{kind: noticeState, userID: r.UserID, deviceID: r.DeviceID, state: r.State}
	}
	return out
}

// Run looks after the time and tells the writer who syncs here, until ctx is done.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.tracker.run(ctx) })
	if s.writer != nil {
		g.Go(func() error { return s.writer.run(ctx) })
	}
	return g.Wait()
}

// Syncing implements sync.Presence. A sync that names "offline" says nothing of its user.
func (s *Service) Syncing(_ context.Context, userID, deviceID, state string) (done func()) {
	if s.cfg.Untracked || state == Offline {
		return func() {}
	}
	return s.tracker.begin(userID, deviceID, state)
}

// Check returns M_BAD_JSON for a state there is not.
func Check(state string) error {
	switch state {
	case Online, Unavailable, Offline:
		return nil
	}
	return mxerr.BadJSON.WithMessage("presence must be online, unavailable or offline")
}

// Set is a user's own word on how they are. The message is taken away where statusMsg is nil, and of those who are
// offline there is none. It is M_BAD_JSON for a state there is not.
func (s *Service) Set(ctx context.Context, who *requester.Requester, state string, statusMsg *string) error {
	if err := Check(state); err != nil {
		return err
	}
	if state == Offline {
		statusMsg = nil
	}
	if who.ShadowBanned {
		return nil
	}
	r := setRequest{UserID: who.UserID, DeviceID: who.DeviceID, Presence: state, StatusMsg: statusMsg}
	owner := s.cfg.Writers.Owner(stream, who.UserID)
	var reply setReply
	var err error
	if s.writer != nil {
		reply, err = s.writer.set(ctx, r)
	} else {
		reply, err = mxrpc.Call(ctx, s.cfg.RPC, owner, setMethod, r)
	}
	if err != nil {
		return err
	}
	// So that the user's next request here sees it. What is late does no harm.
	if err := s.follower.WaitFor(ctx, owner, reply.Token); err != nil {
		s.cfg.Log.Debug().Err(err).Msg("a change of presence has not come back yet")
	}
	return ctx.Err()
}

// Get returns how a user is, as the requester may see it: their own presence, and that of users they share a room with,
// M_FORBIDDEN of others.
func (s *Service) Get(ctx context.Context, who *requester.Requester, userID string) (*Status, error) {
	if who.UserID != userID {
		shared, err := storage.ShareRoom(ctx, s.cfg.DB, who.UserID, userID)
		if err != nil {
			return nil, err
		}
		if !shared {
			return nil, mxerr.Forbidden.WithMessage("You are not allowed to see their presence.")
		}
	}
	found, err := s.Statuses(ctx, []string{userID})
	if err != nil {
		return nil, err
	}
	st, ok := found[userID]
	if !ok {
		return &Status{UserID: userID, State: Offline}, nil
	}
	if st.CurrentlyActive && s.writer == nil {
		// Only the writer knows when exactly the user was last active. Where it cannot be asked, what is known is true.
		rows, err := mxrpc.Call(ctx, s.cfg.RPC, s.cfg.Writers.Owner(stream, userID), getMethod, []string{userID})
		if err == nil && len(rows) == 1 {
			st = statusOf(&rows[0])
		}
	}
	return &st, nil
}

// Statuses returns how users are, without those who were never seen.
func (s *Service) Statuses(ctx context.Context, userIDs []string) (map[string]Status, error) {
	out := make(map[string]Status, len(userIDs))
	if s.writer != nil {
		for _, r := range s.writer.get(userIDs) {
			out[r.UserID] = statusOf(&r)
		}
	}
	var missing []string
	for _, id := range userIDs {
		if _, ok := out[id]; ok {
			continue
		}
		if r, ok := s.known.get(id); ok {
			out[id] = statusOf(&r)
		} else {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	// They are not in memory because they have been offline for long, or because this process has just started.
	rows, err := storage.GetPresence(ctx, s.cfg.DB, missing)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		r := rowOf(&rows[i])
		out[r.UserID] = statusOf(&r)
	}
	return out, nil
}

// Receive takes in what other servers say of their users. The caller has checked that each is of the server that says
// so; states there are not, and users of this server, are passed over.
func (s *Service) Receive(ctx context.Context, updates []Remote) error {
	updates = slices.DeleteFunc(slices.Clone(updates), func(r Remote) bool {
		return r.Presence != Online && r.Presence != Unavailable && r.Presence != Offline ||
			strings.HasSuffix(r.UserID, ":"+s.cfg.ServerName)
	})
	if len(updates) == 0 {
		return nil
	}
	if s.writer != nil {
		return s.writer.receive(ctx, updates)
	}
	_, err := mxrpc.Call(ctx, s.cfg.RPC, s.cfg.Writers.Owner(stream, ""), receiveMethod, updates)
	return err
}

// Handle has fn called with each update of the stream, after Statuses shows it. Of users of this server a row comes when
// other servers are to be told: when something has changed, and now and then where nothing does.
func (s *Service) Handle(fn func(ctx context.Context, u replication.Update[streams.PresenceRow])) {
	s.follower.Handle(fn)
}

// Changes are what one update of the stream has changed for clients.
type Changes struct {
	// Writer and Token are the place in the stream.
	Writer string
	Token  int64
	// Users are whose presence looks different now.
	Users []string
}

// HandleChanges has fn called with each update of the stream, also one that changes nothing for clients. Call it before
// the client runs.
func (s *Service) HandleChanges(fn func(ctx context.Context, c Changes)) {
	s.onChange = append(s.onChange, fn)
}

func (s *Service) onUpdate(ctx context.Context, u replication.Update[streams.PresenceRow]) {
	c := Changes{Writer: u.Writer, Token: u.Token, Users: s.known.take(u)}
	for _, fn := range s.onChange {
		fn(ctx, c)
	}
}

// Rooms returns the rooms that any of the users is joined to, each once.
func (s *Service) Rooms(ctx context.Context, userIDs []string) ([]storage.RoomNID, error) {
	rooms, err := s.interest.of(ctx, userIDs)
	if err != nil {
		return nil, err
	}
	var all []storage.RoomNID
	for _, r := range rooms {
		all = append(all, r...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Presence implements sync.Presence.
func (s *Service) Presence(ctx context.Context, userID string, r sync.Range, p sync.People) ([]json.RawMessage, error) {
	users, err := s.seenBy(ctx, userID, r, p)
	if err != nil || len(users) == 0 {
		return nil, err
	}
	statuses, err := s.Statuses(ctx, users)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now().UnixMilli()
	out := make([]json.RawMessage, 0, len(statuses))
	for _, id := range users {
		st, ok := statuses[id]
		if !ok || p.Initial && st.State == Offline {
			continue
		}
		e, err := st.event(now)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// seenBy returns the users whose presence a response to the user shows, each once.
func (s *Service) seenBy(ctx context.Context, userID string, r sync.Range, p sync.People) ([]string, error) {
	if p.Initial {
		return s.sharers(ctx, userID, s.known.here())
	}
	changed, ok := s.known.changed(r.Since)
	var users []string
	switch {
	case !ok:
		rows, err := storage.PresenceChanges(ctx, s.cfg.DB, userID, r.Since.Max(), maxChanges)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			users = append(users, rows[i].UserID)
		}
	case len(changed) > 0:
		slices.Sort(changed)
		changed = slices.Compact(changed)
		rooms, err := s.interest.of(ctx, append(slices.Clone(changed), userID))
		if err != nil {
			return nil, err
		}
		for _, id := range changed {
			if id == userID || share(rooms[id], rooms[userID]) {
				users = append(users, id)
			}
		}
	}
	// People new to the user who are offline and have long been are no news.
	for _, id := range p.Joined {
		if _, ok := s.known.get(id); ok {
			users = append(users, id)
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// sharers returns those of others who share a room with a user, and the user.
func (s *Service) sharers(ctx context.Context, userID string, others []string) ([]string, error) {
	if len(others) == 0 {
		return nil, nil
	}
	users, err := storage.Sharers(ctx, s.cfg.DB, userID, others)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(users, userID) && slices.Contains(others, userID) {
		users = append(users, userID)
	}
	slices.Sort(users)
	return users, nil
}

// tellStates hands the states that syncs name to the writer.
func (s *Service) tellStates(ctx context.Context, states []deviceState) error {
	if s.writer != nil {
		return s.writer.apply(ctx, stateNotices(states))
	}
	_, err := mxrpc.Call(ctx, s.cfg.RPC, s.cfg.Writers.Owner(stream, ""), statesMethod, states)
	return err
}

func (s *Service) updates(ctx context.Context, writer string, after int64) (updatesReply, error) {
	if s.writer != nil && writer == s.cfg.Client.Instance() {
		return s.writer.updates(after), nil
	}
	return mxrpc.Call(ctx, s.cfg.RPC, writer, updatesMethod, after)
}
