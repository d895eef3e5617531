package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// viewRoom is a room in a user's view.
type viewRoom struct {
	room       *room
	membership storage.Membership // invite, join or knock
	nid        int64              // the m.room.member event that says so
}

// view is an active user: the rooms they are in, and the requests that wait for something to happen there. The hub's lock
// guards it.
type view struct {
	userID string
	// rooms are the rooms in which the user is joined, invited or knocking, ordered by room id. The slice is never
	// changed, only replaced, so that snapshots may share it.
	rooms []viewRoom
	// loaded is closed when rooms is there, or err says why not.
	loaded chan struct{}
	err    error
	// early are the member rows that arrived before rooms was there.
	early   []earlyRow
	dropped bool

	waiters int
	waiting map[*waiter]struct{}
	used    time.Time

	// What the user's account data says: whom they ignore, which rooms are direct messages, the tags of their rooms.
	ignored remembered[map[string]bool]
	direct  remembered[map[string]bool]
	tags    remembered[map[string][]string]
}

// remembered is something read from the database that is good until it is forgotten.
type remembered[T any] struct {
	gen   atomic.Int64 // how often it has been forgotten
	value atomic.Pointer[reading[T]]
}

// reading is what was read while the count of a remembered stood at gen.
type reading[T any] struct {
	gen   int64
	value T
}

// forget has the next get read anew.
func (r *remembered[T]) forget() { r.gen.Add(1) }

// get returns what is remembered, or what read says.
func (r *remembered[T]) get(read func() (T, error)) (T, error) {
	gen := r.gen.Load()
	if v := r.value.Load(); v != nil && v.gen == gen {
		return v.value, nil
	}
	value, err := read()
	if err == nil {
		r.value.Store(&reading[T]{gen, value})
	}
	return value, err
}

type earlyRow struct {
	room *room
	e    *entry
}

// forget drops what is remembered of account data that has changed.
func (v *view) forget(dataType string, global bool) {
	switch {
	case global && dataType == ignoredUsersType:
		v.ignored.forget()
	case global && dataType == directType:
		v.direct.forget()
	case !global && dataType == tagsType:
		v.tags.forget()
	}
}

// waiter is a request that waits.
type waiter struct{ ch chan struct{} }

// wake lets the user's waiting requests look again. The hub's lock is held.
func (v *view) wake() {
	for w := range v.waiting {
		select {
		case w.ch <- struct{}{}:
		default:
		}
	}
}

// wait registers a waiter; the returned function takes it out.
func (h *hub) wait(v *view) (*waiter, func()) {
	w := &waiter{make(chan struct{}, 1)}
	h.mu.Lock()
	v.waiters++
	v.waiting[w] = struct{}{}
	h.mu.Unlock()
	return w, func() {
		h.mu.Lock()
		v.waiters--
		delete(v.waiting, w)
		v.used = time.Now()
		h.mu.Unlock()
	}
}

func compareRooms(vr viewRoom, id string) int {
	switch {
	case vr.room.id < id:
		return -1
	case vr.room.id > id:
		return 1
	}
	return 0
}

// showsRoom reports whether a view holds the rooms in which a user has this membership.
func showsRoom(m storage.Membership) bool {
	return m == storage.MembershipJoin || m == storage.MembershipInvite || m == storage.MembershipKnock
}

// member takes a row that changes the user's place in a room. The hub's lock is held.
//
// Rows of two writers arrive in any order. Where a row that puts the user into a room comes after rows with higher numbers,
// one of these may have been how the user left, of which the view keeps nothing: only the database knows.
func (v *view) member(h *hub, r *room, e *entry) {
	m := storage.MembershipOf(e.row.Membership)
	if showsRoom(m) && h.pos[token.Events].Max() > e.nid {
		h.drop(v)
		return
	}
	select {
	case <-v.loaded:
		v.apply(h, r, e.nid, m)
	default:
		v.early = append(v.early, earlyRow{r, e})
	}
}

// apply changes the user's place in a room, unless it is known from a later event.
func (v *view) apply(h *hub, r *room, nid int64, m storage.Membership) {
	i, ok := slices.BinarySearchFunc(v.rooms, r.id, compareRooms)
	if ok && v.rooms[i].nid >= nid {
		return
	}
	vr := viewRoom{room: r, membership: m, nid: nid}
	switch {
	case showsRoom(m) && ok:
		v.rooms = slices.Clone(v.rooms)
		v.rooms[i] = vr
	case showsRoom(m):
		v.rooms = slices.Insert(slices.Clip(v.rooms), i, vr)
	case ok:
		v.rooms = slices.Delete(slices.Clone(v.rooms), i, i+1)
	}
	if m == storage.MembershipJoin {
		r.views[v] = struct{}{}
	} else {
		delete(r.views, v)
		h.release(r)
	}
}

// view returns the view of a user, loaded from the database where the user was not active.
func (s *Service) view(ctx context.Context, userID string) (*view, error) {
	for {
		h := s.hub
		h.mu.Lock()
		for st := range token.Streams {
			h.start(st)
		}
		v := h.views[userID]
		if v == nil {
			v = &view{userID: userID, loaded: make(chan struct{}), waiting: map[*waiter]struct{}{}}
			v.used = time.Now()
			h.sweep(v.used)
			h.views[userID] = v
			h.mu.Unlock()
			return v, s.load(ctx, v)
		}
		v.used = time.Now()
		h.mu.Unlock()
		select {
		case <-v.loaded:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if v.err == nil {
			return v, nil
		}
		// The request that loaded it may just have been given up by its client.
		if !errors.Is(v.err, context.Canceled) && !errors.Is(v.err, context.DeadlineExceeded) {
			return nil, v.err
		}
	}
}

// load fills a view. Rows that arrive meanwhile are kept and applied to what the database said.
func (s *Service) load(ctx context.Context, v *view) error {
	rows, err := s.readView(ctx, v.userID)
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	defer close(v.loaded)
	if err != nil {
		v.err = err
		h.drop(v)
		return err
	}
	v.rooms = make([]viewRoom, 0, len(rows))
	for _, row := range rows {
		r := h.room(row.RoomID, row.RoomNID)
		v.rooms = append(v.rooms, viewRoom{r, row.Membership, int64(row.EventNID)})
		if row.Membership == storage.MembershipJoin && !v.dropped {
			r.views[v] = struct{}{}
		}
	}
	slices.SortFunc(v.rooms, func(a, b viewRoom) int { return compareRooms(a, b.room.id) })
	for _, early := range v.early {
		// The room may have been released and made anew since.
		r := h.room(early.room.id, early.room.nid)
		v.apply(h, r, early.e.nid, storage.MembershipOf(early.e.row.Membership))
	}
	v.early = nil
	return nil
}

// readView reads a user's rooms, and waits until this process has seen every event that the answer rests on: what a
// response says of a room must not be ahead of its token.
func (s *Service) readView(ctx context.Context, userID string) ([]storage.SyncRoom, error) {
	rows, err := storage.SyncRooms(ctx, s.cfg.DB, userID)
	if err != nil {
		return nil, err
	}
	seen := s.cfg.Replication.Position(token.Events.String())
	for _, row := range rows {
		if row.EventNID <= 0 {
			continue
		}
		writer, ok := s.cfg.WriterIDs.WriterName(int(row.WriterNID))
		if !ok || seen.Covers(writer, int64(row.EventNID)) {
			continue
		}
		if err := s.cfg.Replication.WaitFor(ctx, token.Events.String(), writer, int64(row.EventNID)); err != nil {
			return nil, fmt.Errorf("wait for the membership of %s: %w", userID, err)
		}
		seen = s.cfg.Replication.Position(token.Events.String())
	}
	return rows, nil
}
