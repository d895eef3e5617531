package pushers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	gosync "sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/task"
	"github.com/weft-im/weft/internal/iprange"
	"github.com/weft-im/weft/storage"
)

// Unread counts what users have not read. push.Unread does.
type Unread interface {
	// UnreadRooms returns in how many rooms there is something a user was notified of and has not read.
	UnreadRooms(ctx context.Context, user storage.UserNID) (int64, error)
}

// RunnerConfig holds what a Runner needs.
type RunnerConfig struct {
	// DB is the database. Required.
	DB *storage.DB
	// Store knows rooms and events. Required.
	Store *store.Store
	// Pushers takes away those that a gateway rejects. Required.
	Pushers *Service
	// Unread counts for badges. Required.
	Unread Unread
	// Committed returns the event up to which all events are known to be committed, and whether there are some after it of
	// which that will be known in a moment. Required.
	Committed func() (upTo storage.EventNID, more bool)
	// Addresses are those that may be connected to. Defaults to all.
	Addresses *iprange.Filter
	// Concurrency bounds the pushers sent for at once. Defaults to 32.
	Concurrency int
	// Timeout bounds one request to a gateway. Defaults to 10 seconds.
	Timeout time.Duration
	// FirstRetry is how long it is until the first retry; each later one takes twice as long, up to LastRetry. They default
	// to 1 second and 1 hour.
	FirstRetry, LastRetry time.Duration
	// Patience is how long a gateway may fail before what waits for it is given up. Defaults to 24 hours.
	Patience time.Duration
	// Log is silent by default.
	Log zerolog.Logger
}

func (c RunnerConfig) withDefaults() RunnerConfig {
	def := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	def(&c.Timeout, 10*time.Second)
	def(&c.FirstRetry, time.Second)
	def(&c.LastRetry, time.Hour)
	def(&c.Patience, 24*time.Hour)
	if c.Concurrency == 0 {
		c.Concurrency = 32
	}
	if c.Addresses == nil {
		c.Addresses = &iprange.Filter{}
	}
	return c
}

// Runner sends notifications to push gateways. Any number of processes may run one: what is to be sent is queued in the
// database, once, in the order of the events, and each claims the pushers it sends for. A pusher's notifications are sent
// one after the other. One is taken from the queue after the gateway has answered, so that none is lost when a process
// dies; it may then be sent again, which gateways tell by its event id.
type Runner struct {
	cfg     RunnerConfig
	gateway *gateway
	wake    task.Wake
	waits   int // rounds that waited for events to be known as committed; of Run

	mu     gosync.Mutex
	badges map[string]struct{}
}

// NewRunner makes a Runner. It does no I/O.
func NewRunner(cfg RunnerConfig) (*Runner, error) {
	if cfg.DB == nil || cfg.Store == nil || cfg.Pushers == nil || cfg.Unread == nil || cfg.Committed == nil {
		return nil, errors.New("pushers: RunnerConfig.DB, Store, Pushers, Unread and Committed are required")
	}
	cfg = cfg.withDefaults()
	return &Runner{
		cfg: cfg, gateway: newGateway(cfg.Addresses, cfg.Timeout), wake: task.NewWake(), badges: make(map[string]struct{}),
	}, nil
}

// Wake says that there are new events.
func (r *Runner) Wake() { r.wake.Up() }

// Read says that users have read something, so that their badges change.
func (r *Runner) Read(userIDs ...string) {
	r.mu.Lock()
	for _, u := range userIDs {
		r.badges[u] = struct{}{}
	}
	r.mu.Unlock()
	r.Wake()
}

const (
	// hold is how long a claim lasts without word of the process: longer than one request.
	hold = time.Minute
	// idle is how long to wait where nothing is due, in case a wake-up was missed.
	idle = 30 * time.Second
	// soon is how long it takes until it is known whether events are committed. It doubles while that is not so, as it is
	// when a writer of events is away.
	soon = 10 * time.Millisecond
)

// Run sends until ctx is done and requests that are under way have ended.
func (r *Runner) Run(ctx context.Context) error {
	defer r.gateway.close()
	r.mention(ctx)
	var wg gosync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, r.cfg.Concurrency)
	task.Poll(ctx, r.wake, func() time.Duration {
		wait, err := r.round(ctx, slots, func(c storage.PushClaim) {
			wg.Go(func() {
				r.serve(ctx, c)
				<-slots
				r.wake.Up()
			})
		})
		if err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn().Err(err).Msg("Push notifications wait for the database")
			wait = time.Second
		}
		return wait
	})
	return nil
}

// mention says once what does not happen.
func (r *Runner) mention(ctx context.Context) {
	if n, err := storage.CountEmailPushers(ctx, r.cfg.DB); err == nil && n > 0 {
		r.cfg.Log.Warn().Int64("count", n).Msg("Pushers of kind email are kept, but e-mail is not sent")
	}
}

// round queues what is new and starts to send for pushers that are due. It returns when to look again.
func (r *Runner) round(ctx context.Context, slots chan struct{}, start func(c storage.PushClaim)) (time.Duration, error) {
	upTo, more := r.cfg.Committed()
	for {
		reached, _, err := storage.QueuePushes(ctx, r.cfg.DB, upTo)
		if err != nil {
			return 0, err
		}
		if reached >= upTo {
			break
		}
	}
	if err := r.queueBadges(ctx); err != nil {
		return 0, err
	}
	free := cap(slots) - len(slots)
	if free == 0 {
		return idle, nil // One that ends makes room for the next.
	}
	claims, err := storage.ClaimPushers(ctx, r.cfg.DB, free, hold)
	if err != nil {
		return 0, err
	}
	for _, c := range claims {
		slots <- struct{}{}
		start(c)
	}
	next, err := storage.NextPush(ctx, r.cfg.DB)
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return 0, err
	case more:
		r.waits++
		return soon << min(r.waits, 6), nil
	}
	r.waits = 0
	switch {
	case err != nil:
		return idle, nil
	case len(claims) == free:
		return idle, nil
	}
	return min(max(next, 10*time.Millisecond), idle), nil
}

func (r *Runner) queueBadges(ctx context.Context) error {
	r.mu.Lock()
	badges := r.badges
	r.badges = make(map[string]struct{})
	r.mu.Unlock()
	if len(badges) == 0 {
		return nil
	}
	users := slices.Collect(maps.Keys(badges))
	_, err := storage.QueueBadges(ctx, r.cfg.DB, users)
	if err != nil {
		r.Read(users...)
	}
	return err
}

// serve sends what a claimed pusher has to send. Once ctx is done it ends after the request that is under way.
func (r *Runner) serve(ctx context.Context, c storage.PushClaim) {
	work := context.WithoutCancel(ctx)
	err := r.drain(ctx, work, c)
	var failed *gatewayError
	switch {
	case errors.As(err, &failed):
		retry := r.cfg.FirstRetry << min(c.Failures, 30)
		if retry <= 0 || retry > r.cfg.LastRetry {
			retry = r.cfg.LastRetry
		}
		gaveUp, err := storage.PushFailed(work, r.cfg.DB, c, retry, r.cfg.Patience)
		if err != nil {
			r.cfg.Log.Warn().Err(err).Msg("A push notification could not be put off")
			return
		}
		r.cfg.Log.Info().Err(failed).Str("user_id", failed.userID).Str("app_id", failed.appID).Dur("retry_in", retry).Bool("gave_up", gaveUp).
			Msg("Push gateway failed")
		if gaveUp {
			err = storage.ReleasePusher(work, r.cfg.DB, c, true)
		}
		r.warn(err)
	case err != nil:
		r.warn(err)
		r.warn(storage.ReleasePusher(work, r.cfg.DB, c, false))
	}
}

func (r *Runner) warn(err error) {
	if err != nil {
		r.cfg.Log.Warn().Err(err).Msg("Push notifications were interrupted")
	}
}

// gatewayError is a failure of a gateway, as opposed to one of the database.
type gatewayError struct {
	userID, appID string
	err           error
}

func (e *gatewayError) Error() string { return e.err.Error() }
func (e *gatewayError) Unwrap() error { return e.err }

// atOnce is how much is read from the queue at a time.
const atOnce = 50

// drain sends what is queued until nothing is left, and gives the claim back.
func (r *Runner) drain(ctx, work context.Context, c storage.PushClaim) error {
	for ctx.Err() == nil {
		p, userID, queued, err := storage.QueuedPushes(work, r.cfg.DB, c.PusherNID, atOnce)
		if errors.Is(err, storage.ErrNotFound) {
			return storage.ReleasePusher(work, r.cfg.DB, c, true)
		}
		if err != nil {
			return err
		}
		if len(queued) == 0 {
			break
		}
		t, err := newTarget(&p)
		if err != nil {
			return err
		}
		for _, q := range queued {
			if ctx.Err() != nil {
				break
			}
			rejected, err := r.send(work, t, &p, userID, q)
			if err != nil {
				return err
			}
			if rejected {
				r.cfg.Log.Info().Str("user_id", userID).Str("app_id", p.AppID).Msg("Push gateway rejected a pushkey, its pusher is removed")
				if err := r.cfg.Pushers.Delete(work, userID, p.AppID, p.Pushkey); err != nil {
					return err
				}
				return storage.ReleasePusher(work, r.cfg.DB, c, true)
			}
			held, err := storage.PushSentOff(work, r.cfg.DB, c, q.EventNID, hold)
			if err != nil || !held {
				return err
			}
		}
	}
	return storage.ReleasePusher(work, r.cfg.DB, c, false)
}

// send sends one notification and reports whether the gateway rejects the pushkey.
func (r *Runner) send(ctx context.Context, t *target, p *storage.Pusher, userID string, q storage.QueuedPush) (rejected bool, err error) {
	unread, err := r.cfg.Unread.UnreadRooms(ctx, p.UserNID)
	if err != nil {
		return false, err
	}
	n := t.badge(unread)
	if q.EventNID != 0 {
		if n, err = r.about(ctx, t, userID, q, unread); err != nil || n == nil {
			return false, err
		}
	}
	keys, err := r.gateway.post(ctx, t.url, n)
	if err != nil {
		return false, &gatewayError{userID: userID, appID: p.AppID, err: err}
	}
	for _, k := range keys {
		if k == p.Pushkey {
			return true, nil
		}
	}
	return false, nil
}

// about makes the notification of an event, nil for one that is not to be heard of any more.
func (r *Runner) about(ctx context.Context, t *target, userID string, q storage.QueuedPush, unread int64) (*notification, error) {
	if q.Redacted {
		return nil, nil
	}
	events, err := r.cfg.Store.Events(ctx, []storage.EventNID{q.EventNID})
	if err != nil {
		return nil, fmt.Errorf("read the event to notify of: %w", err)
	}
	e := events[0]
	if e == nil || e.RedactedBecause != nil {
		return nil, nil
	}
	var roomName, roomAlias, senderName string
	if !t.eventIDOnly {
		stats, err := r.cfg.Store.Stats(ctx, []storage.RoomNID{e.RoomNID})
		if err != nil {
			return nil, fmt.Errorf("read the name of a room: %w", err)
		}
		if stats[0] != nil {
			roomName, roomAlias = stats[0].Name, stats[0].CanonicalAlias
		}
		sender, err := r.cfg.Store.Memberships(ctx, e.RoomNID, []storage.UserNID{e.SenderNID})
		if err != nil {
			return nil, fmt.Errorf("read the name of a sender: %w", err)
		}
		if sender[0] != nil {
			senderName = sender[0].DisplayName
		}
	}
	return t.about(e.Event, userID, unread, q.Actions, roomName, roomAlias, senderName), nil
}
