package presence

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

const (
	// gather is how long changes are put together before they are published. The first after a quiet time goes at once.
	gather = 100 * time.Millisecond
	// saveEvery is how far what is written down may lie behind.
	saveEvery = 5 * time.Second
	// keepOffline is how long users who are offline stay in memory.
	keepOffline = 10 * time.Minute
	// saveTimeout bounds the last save of a process that stops.
	saveTimeout = 5 * time.Second
)

// writer is the truth about presence. It lives in the process that writes the stream.
type writer struct {
	db        *storage.DB
	server    string
	publisher *replication.Publisher[streams.PresenceRow]
	now       func() time.Time
	log       zerolog.Logger
	wake      chan struct{} // there is something for run to do

	mu        sync.Mutex
	started   int64
	token     int64
	forgotten int64 // users whose last change is at or below it may be missing
	users     map[string]*user
	due       dueHeap
	notices   []notice            // for run to apply
	dirty     map[string]struct{} // to be published
	flushedAt time.Time
	unsaved   map[string]struct{}
	savedAt   time.Time
	pruneAt   int64
}

// notice is one thing said of a user of this server.
type notice struct {
	kind     noticeKind
	instance string // where a device syncs
	userID   string
	deviceID string
	state    string
	ts       int64
}

type noticeKind uint8

const (
	noticeState   noticeKind = iota // a sync names a state
	noticeSyncing                   // a device has begun to sync, or goes on
	noticeStopped                   // a device no longer syncs
	noticeCleared                   // nobody syncs with an instance any more
	noticeActive                    // the user did something
)

func newWriter(c *replication.Client, db *storage.DB, server string, now func() time.Time, log zerolog.Logger) (*writer, error) {
	start := now().UnixMilli()
	w := &writer{
		db: db, server: server, now: now, log: log, wake: make(chan struct{}, 1),
		started: start, token: start, forgotten: start, pruneAt: start + keepOffline.Milliseconds(),
		users: map[string]*user{}, dirty: map[string]struct{}{}, unsaved: map[string]struct{}{},
	}
	var err error
	w.publisher, err = replication.NewPublisher(c, streams.Presence(), replication.PublisherConfig{
		Position: start,
		// Another instance has written the stream before this one (or will after): tokens must grow all the same.
		OnForeignPosition: func(token int64) int64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.token = max(w.token, token)
			return w.token
		},
	})
	if err != nil {
		return nil, fmt.Errorf("publish presence: %w", err)
	}
	return w, nil
}

// load takes up who was not offline when the process before this one stopped. The clients of this server's users have
// offlineAfter to show up.
func (w *writer) load(ctx context.Context) error {
	known, err := storage.ListPresence(ctx, w.db)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now().UnixMilli()
	for i := range known {
		u := w.adopt(&known[i], now)
		if !u.remote && len(u.devices) == 0 {
			u.devices = map[string]*device{"": {state: u.row.State, lastSync: now}}
		}
		w.schedule(u, u.settle(now))
		w.dirty[u.row.UserID] = struct{}{}
	}
	return w.flush(true)
}

// adopt puts a user among the users as they were written down, unless they are there. w.mu is held.
func (w *writer) adopt(p *storage.Presence, now int64) *user {
	u := w.users[p.UserID]
	if u == nil {
		u = &user{row: rowOf(p), published: rowOf(p), token: p.StreamID, keptTS: now, remote: !strings.HasSuffix(p.UserID, ":"+w.server)}
		w.users[p.UserID] = u
	}
	return u
}

// prepare brings users into memory, with what is written down of them.
func (w *writer) prepare(ctx context.Context, ids []string) error {
	w.mu.Lock()
	var missing []string
	for _, id := range ids {
		if w.users[id] == nil {
			missing = append(missing, id)
		}
	}
	w.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	missing = slices.Compact(missing)
	known, err := storage.GetPresence(ctx, w.db, missing)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now().UnixMilli()
	for i := range known {
		w.adopt(&known[i], now)
	}
	for _, id := range missing {
		w.adopt(&storage.Presence{UserID: id}, now)
	}
	return nil
}

// tell takes in notices without waiting; run applies them.
func (w *writer) tell(notices ...notice) {
	w.mu.Lock()
	w.notices = append(w.notices, notices...)
	w.mu.Unlock()
	w.signal()
}

func (w *writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// apply takes in notices now.
func (w *writer) apply(ctx context.Context, notices []notice) error {
	ids := make([]string, 0, len(notices))
	for _, n := range notices {
		// Somebody who does something without being online stays as they are.
		if n.kind == noticeState || n.kind == noticeSyncing {
			ids = append(ids, n.userID)
		}
	}
	if err := w.prepare(ctx, ids); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now().UnixMilli()
	for _, n := range notices {
		if n.kind == noticeCleared {
			w.clear(n.instance, now)
			continue
		}
		u := w.users[n.userID]
		if u == nil || u.remote {
			continue
		}
		switch n.kind {
		case noticeState:
			u.set(n.deviceID, n.state, now, false)
		case noticeSyncing:
			d := u.device(n.deviceID)
			if d.syncing == nil {
				d.syncing = map[string]int64{}
			}
			d.syncing[n.instance] = now + syncingFor.Milliseconds()
			d.lastSync = now
		case noticeStopped:
			if d := u.devices[n.deviceID]; d != nil {
				delete(d.syncing, n.instance)
				d.lastSync = max(d.lastSync, min(n.ts, now))
			}
		case noticeActive:
			u.act(min(n.ts, now))
		}
		w.review(u, now)
	}
	return w.flush(false)
}

// clear forgets who syncs with an instance. w.mu is held.
func (w *writer) clear(instance string, now int64) {
	for _, u := range w.users {
		changed := false
		for _, d := range u.devices {
			if _, ok := d.syncing[instance]; ok {
				delete(d.syncing, instance)
				d.lastSync, changed = now, true
			}
		}
		if changed {
			w.review(u, now)
		}
	}
}

// review works out how a user is and notes what is to be told. w.mu is held.
func (w *writer) review(u *user, now int64) {
	w.schedule(u, u.settle(now))
	if u.news(now) {
		w.dirty[u.row.UserID] = struct{}{}
	} else {
		delete(w.dirty, u.row.UserID)
	}
}

// schedule has a user looked at again at a time. w.mu is held.
func (w *writer) schedule(u *user, at int64) {
	if at == u.dueAt {
		return
	}
	u.dueAt = at
	if at != 0 {
		heap.Push(&w.due, due{at, u.row.UserID})
		if w.due[0].at == at {
			w.signal()
		}
	}
}

// flush publishes what changed, unless it was done a moment ago: then run will, except where urgent. w.mu is held, so
// that rows are published in the order of their tokens.
func (w *writer) flush(urgent bool) error {
	if len(w.dirty) == 0 {
		return nil
	}
	at := w.now()
	if !urgent && at.Sub(w.flushedAt) < gather {
		w.signal()
		return nil
	}
	now := at.UnixMilli()
	rows := make([]replication.Row[streams.PresenceRow], 0, len(w.dirty))
	for _, id := range slices.Sorted(maps.Keys(w.dirty)) {
		u := w.users[id]
		if u == nil {
			continue
		}
		w.token++
		if !u.remote {
			u.row.LastFederationUpdateTS = now
		}
		u.published, u.token, u.keptTS = u.row, w.token, now
		w.schedule(u, u.settle(now))
		rows = append(rows, replication.Row[streams.PresenceRow]{Token: w.token, Value: u.row})
		w.unsaved[id] = struct{}{}
	}
	clear(w.dirty)
	w.flushedAt = at
	return w.publisher.Publish(w.token, rows...)
}

// set is a user's own word, which is published at once. It returns the place of the stream that shows it.
func (w *writer) set(ctx context.Context, r setRequest) (setReply, error) {
	if err := w.prepare(ctx, []string{r.UserID}); err != nil {
		return setReply{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if u := w.users[r.UserID]; u != nil && !u.remote {
		now := w.now().UnixMilli()
		u.set(r.DeviceID, r.Presence, now, true)
		u.row.StatusMsg = r.StatusMsg
		w.review(u, now)
	}
	err := w.flush(true)
	return setReply{Token: w.token}, err
}

// receive takes in what other servers say of their users.
func (w *writer) receive(ctx context.Context, updates []Remote) error {
	ids := make([]string, len(updates))
	for i, r := range updates {
		ids[i] = r.UserID
	}
	if err := w.prepare(ctx, ids); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now().UnixMilli()
	for _, r := range updates {
		u := w.users[r.UserID]
		if u == nil || !u.remote {
			continue
		}
		u.row.State, u.row.StatusMsg, u.row.CurrentlyActive = r.Presence, r.StatusMsg, r.CurrentlyActive && r.Presence == Online
		u.row.LastFederationUpdateTS = now
		if r.LastActiveAgoMS != nil {
			u.row.LastActiveTS = max(now-max(*r.LastActiveAgoMS, 0), 0)
		}
		w.unsaved[r.UserID] = struct{}{}
		w.review(u, now)
	}
	return w.flush(false)
}

// get returns how users are, of those who are in memory.
func (w *writer) get(ids []string) []streams.PresenceRow {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]streams.PresenceRow, 0, len(ids))
	for _, id := range ids {
		if u := w.users[id]; u != nil && u.token > 0 {
			out = append(out, u.row)
		}
	}
	return out
}

// updates returns the users whose presence changed after a token, in the order of their last changes.
func (w *writer) updates(after int64) updatesReply {
	w.mu.Lock()
	defer w.mu.Unlock()
	reply := updatesReply{Started: w.started, Forgotten: w.forgotten, Whole: after < w.forgotten, Rows: []replication.Row[streams.PresenceRow]{}}
	for _, u := range w.users {
		if u.token > after {
			reply.Rows = append(reply.Rows, replication.Row[streams.PresenceRow]{Token: u.token, Value: u.published})
		}
	}
	slices.SortFunc(reply.Rows, func(a, b replication.Row[streams.PresenceRow]) int { return int(a.Token - b.Token) })
	return reply
}

// run applies notices, looks after the time, publishes and writes down, until ctx is done; then it writes down the rest.
func (w *writer) run(ctx context.Context) error {
	if err := storage.Retry(ctx, storage.RetryPolicy{}, w.load); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("presence: %w", err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			// The process stops: what is not written down would be lost with it.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
			defer cancel()
			return w.save(ctx, true)
		case <-w.wake:
		case <-timer.C:
		}
		next, err := w.step(ctx)
		if err != nil {
			return fmt.Errorf("presence: %w", err)
		}
		timer.Stop()
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// step does what there is to do and returns how long it is until there is more, 0 for never.
func (w *writer) step(ctx context.Context) (time.Duration, error) {
	w.mu.Lock()
	notices := w.notices
	w.notices = nil
	w.mu.Unlock()
	if len(notices) > 0 {
		if err := w.apply(ctx, notices); err != nil && ctx.Err() == nil {
			w.log.Warn().Err(err).Int("count", len(notices)).Msg("presence of some users could not be looked up")
		}
	}
	if err := w.save(ctx, false); err != nil && ctx.Err() == nil {
		w.log.Warn().Err(err).Msg("presence could not be written down yet")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.now()
	now := at.UnixMilli()
	for len(w.due) > 0 && w.due[0].at <= now {
		d := heap.Pop(&w.due).(due)
		if u := w.users[d.userID]; u != nil && u.dueAt == d.at {
			u.dueAt = 0
			w.review(u, now)
		}
	}
	if at.Sub(w.flushedAt) >= gather {
		if err := w.flush(true); err != nil {
			return 0, err
		}
	}
	w.prune(now)
	var next time.Duration
	sooner := func(d time.Duration) {
		if d = max(d, time.Millisecond); next == 0 || d < next {
			next = d
		}
	}
	if len(w.due) > 0 {
		sooner(time.UnixMilli(w.due[0].at).Sub(at))
	}
	if len(w.dirty) > 0 {
		sooner(gather - at.Sub(w.flushedAt))
	}
	if len(w.unsaved) > 0 {
		sooner(saveEvery - at.Sub(w.savedAt))
	}
	return next, nil
}

// save writes down what changed, every saveEvery or where it must be now.
func (w *writer) save(ctx context.Context, must bool) error {
	w.mu.Lock()
	at := w.now()
	if len(w.unsaved) == 0 || !must && at.Sub(w.savedAt) < saveEvery {
		w.mu.Unlock()
		return nil
	}
	rows := make([]storage.Presence, 0, len(w.unsaved))
	for id := range w.unsaved {
		if u := w.users[id]; u != nil {
			rows = append(rows, stored(&u.row, u.token))
		}
	}
	taken := w.unsaved
	w.unsaved, w.savedAt = map[string]struct{}{}, at
	w.mu.Unlock()
	err := storage.PutPresence(ctx, w.db, rows)
	if err != nil {
		w.mu.Lock()
		maps.Copy(w.unsaved, taken)
		w.mu.Unlock()
	}
	return err
}

// prune forgets users who have been offline for long and are written down. w.mu is held.
func (w *writer) prune(now int64) {
	if now < w.pruneAt {
		return
	}
	w.pruneAt = now + keepOffline.Milliseconds()/2
	for id, u := range w.users {
		_, unsaved := w.unsaved[id]
		_, dirty := w.dirty[id]
		if u.row.State == Offline && len(u.devices) == 0 && !unsaved && !dirty && now-u.keptTS > keepOffline.Milliseconds() {
			w.forgotten = max(w.forgotten, u.token)
			delete(w.users, id)
		}
	}
}

// dueHeap is a heap of the times at which users are looked at. Entries are not taken out when a user's time changes: they
// are passed over.
type dueHeap []due

type due struct {
	at     int64
	userID string
}

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(due)) }

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
