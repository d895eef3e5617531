package sync

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// bumpTypes are the events that move a room up in a client's list (MSC4186).
var bumpTypes = []string{
	event.TypeCreate, "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite", "m.poll.start", "m.beacon_info",
	"org.matrix.msc3381.poll.start", "org.matrix.msc3672.beacon_info",
}

// bumpAmong bounds how far back the last of them is looked for.
const bumpAmong = 200

// slidingBuilder makes one response of sliding sync, out of jobs like those of /sync.
type slidingBuilder struct {
	*builder
	req *SlidingRequest
	// was is what the client had been sent at its position, nil on a new connection; next what it will have been.
	was, next *slidingState

	rooms  []*slidingRoom
	byRoom map[string]*slidingRoom
	counts map[string]slidingCount
	shapes map[storage.RoomNID]roomShape
	direct map[string]bool
}

// slidingCount is what a list comes to: how many rooms it has, and which of them are in range.
type slidingCount struct {
	rooms int
	ids   []string
}

// slidingNews is what a response says of a room.
type slidingNews struct {
	// fresh says that the client is to learn the room from nothing; send that there is something to say.
	fresh, send bool
	// more says that more of the state is wanted than was.
	more     bool
	job      *job
	stripped *stripped
	// name and avatar are the events that changed them, nil where nothing did.
	name, avatar *store.Event
	heroes       []*store.Event
	bump         storage.EventNID
	live         int
}

func newSlidingBuilder(s *Service, q *query, req *SlidingRequest, snap *snapshot, was *slidingState) *slidingBuilder {
	b := &slidingBuilder{
		builder: &builder{s: s, q: q, snap: snap, byID: map[string]*job{}}, req: req, was: was,
		next: &slidingState{rooms: map[storage.RoomNID]sentRoom{}, gone: map[storage.RoomNID]goneRoom{}},
	}
	if was != nil {
		b.next.rooms, b.next.gone = maps.Clone(was.rooms), maps.Clone(was.gone)
	}
	b.within = func(id string) bool { return b.byRoom[id] != nil && b.byRoom[id].asked }
	return b
}

func (b *slidingBuilder) build(ctx context.Context) error {
	if err := b.planRooms(ctx); err != nil {
		return err
	}
	if err := b.match(ctx); err != nil {
		return err
	}
	for _, r := range b.rooms {
		b.plan(r)
	}
	for _, step := range []func(context.Context) error{
		b.readTimelines, b.readStates, b.fillData, b.fillStripped, b.fillSummaries, b.fillNames,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	for _, r := range b.rooms {
		b.settle(r)
	}
	if b.req.Unstable {
		return b.fillCounts(ctx)
	}
	return nil
}

// plan decides what is to be read of a room.
func (b *slidingBuilder) plan(r *slidingRoom) {
	nid := r.room.nid
	sent, known := b.next.rooms[nid]
	if c := r.change; c != nil && (c.before != storage.MembershipJoin || c.outs > 0) {
		known = false
		delete(b.next.rooms, nid)
	}
	if !r.asked {
		if known && b.missed(r) {
			delete(b.next.rooms, nid)
		}
		return
	}
	switch {
	case r.gone != nil:
		if !r.gone.told {
			b.planGoneRoom(r)
		}
	case r.membership != storage.MembershipJoin:
		if !known {
			b.planAsked(r)
		}
	case !known:
		r.fresh = true
		r.job = b.slidingJob(r)
		r.job.fresh, r.job.full, r.job.query = true, true, true
	default:
		entries := b.snap.news[r.room.id]
		news := len(entries) > 0 || !b.snap.tailed && r.recent > b.snap.since.Get(token.Events).Floor()
		further := r.limit > sent.limit
		r.more = r.wanted.beyond(sent.wanted)
		if !news && !further && !r.more {
			return
		}
		r.job = b.slidingJob(r)
		r.job.joined, r.job.entries, r.job.query = true, entries, !b.snap.tailed
		if further {
			// The events before those the client has may be from before the user joined.
			r.job.expanded, r.job.query, r.job.joined = true, true, false
		}
	}
}

func (b *slidingBuilder) slidingJob(r *slidingRoom) *job {
	j := b.job(r.room.id, r.room.nid)
	j.memberNID, j.limit, j.lazy = storage.EventNID(r.viewRoom.nid), r.limit, r.wanted.lazyMembers()
	return j
}

// planAsked takes a room the user is invited to or knocks at.
func (b *slidingBuilder) planAsked(r *slidingRoom) {
	r.fresh = true
	r.stripped = &stripped{id: r.room.id, nid: r.room.nid, eventNID: storage.EventNID(r.viewRoom.nid)}
	if r.membership == storage.MembershipInvite {
		b.invites = append(b.invites, r.stripped)
	} else {
		b.knocks = append(b.knocks, r.stripped)
	}
}

// planGoneRoom takes a room the user is no longer in.
func (b *slidingBuilder) planGoneRoom(r *slidingRoom) {
	r.fresh = true
	j := b.slidingJob(r)
	r.job = j
	j.left, j.fresh, j.last, j.lazy = true, true, r.gone.eventNID, false
	if r.gone.inside {
		j.full, j.query = true, true
	} else {
		j.only, j.joined = r.gone.eventNID, true
	}
}

// missed reports whether a room that no rule wants has changed in a way that the client would have been told of.
func (b *slidingBuilder) missed(r *slidingRoom) bool {
	if b.snap.tailed && len(b.snap.news[r.room.id]) > 0 || !b.snap.tailed && r.recent > b.snap.since.Get(token.Events).Floor() {
		return true
	}
	return len(b.snap.receipts[r.room.id]) > 0
}

// fillData fills the extensions.
func (b *slidingBuilder) fillData(ctx context.Context) error {
	if b.req.Receipts != nil || b.req.Typing != nil {
		if err := b.fillReceipts(ctx); err != nil {
			return err
		}
	}
	if b.req.AccountData == nil {
		return nil
	}
	if err := b.pushRules(ctx); err != nil {
		return err
	}
	var fresh []string
	if b.was == nil {
		fresh = append(fresh, "")
	}
	for _, r := range b.rooms {
		if r.fresh && b.req.AccountData.takes(r) {
			fresh = append(fresh, r.room.id)
		}
	}
	rows, err := b.accountRows(ctx, fresh, false)
	if err != nil {
		return fmt.Errorf("read account data: %w", err)
	}
	for _, row := range rows {
		if row.RoomID == "" {
			b.accountData = append(b.accountData, accountEvent(row.Type, row.Content))
		} else if r := b.byRoom[row.RoomID]; r == nil || !r.asked {
			if r != nil {
				delete(b.next.rooms, r.room.nid) // it will be sent again with all its data
			}
		} else if j := b.job(row.RoomID, r.room.nid); j != nil {
			j.data = append(j.data, accountEvent(row.Type, row.Content))
		}
	}
	return nil
}

// fillNames fills in what else a response says of rooms: heroes and the last proper event.
func (b *slidingBuilder) fillNames(ctx context.Context) error {
	var nids []storage.EventNID
	var fresh []storage.RoomNID
	for _, r := range b.rooms {
		if r.job == nil {
			continue
		}
		if r.fresh && !r.job.left {
			fresh = append(fresh, r.room.nid)
		}
		if r.job.summary != nil {
			for _, h := range r.job.summary.heroes {
				nids = append(nids, h.EventNID)
			}
		}
	}
	events, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return fmt.Errorf("read heroes: %w", err)
	}
	bumps := map[storage.RoomNID]storage.EventNID{}
	if len(fresh) > 0 {
		rows, err := storage.LastOfTypes(ctx, b.s.cfg.DB, fresh, bumpTypes, bumpAmong)
		if err != nil {
			return err
		}
		for _, row := range rows {
			bumps[row.RoomNID] = row.EventNID
		}
	}
	for _, r := range b.rooms {
		if r.job != nil && r.job.summary != nil {
			n := len(r.job.summary.heroes)
			r.heroes, events = events[:n:n], events[n:]
		}
		r.bump = b.bumpOf(r, bumps)
	}
	b.direct, err = b.directRooms(ctx)
	return err
}

// bumpOf returns the place of a room in a client's list, 0 where it has not changed.
func (b *slidingBuilder) bumpOf(r *slidingRoom, bumps map[storage.RoomNID]storage.EventNID) storage.EventNID {
	switch {
	case r.fresh && (r.job == nil || r.job.left):
		return storage.EventNID(r.viewRoom.nid)
	case r.fresh && bumps[r.room.nid] != 0:
		return bumps[r.room.nid]
	case r.fresh:
		return storage.EventNID(r.viewRoom.nid) // when the user joined
	case r.job == nil:
		return 0
	}
	var last storage.EventNID
	for _, e := range r.job.entries {
		if slices.Contains(bumpTypes, e.row.Type) {
			last = max(last, storage.EventNID(e.nid))
		}
	}
	for _, it := range r.job.timeline {
		if slices.Contains(bumpTypes, it.ev.Type()) {
			last = max(last, it.ev.NID)
		}
	}
	return last
}

// settle decides whether there is anything to say of a room, and notes what the client will have been sent.
func (b *slidingBuilder) settle(r *slidingRoom) {
	if !r.asked {
		return
	}
	nid := r.room.nid
	j := r.job
	if r.stripped != nil && r.stripped.events == nil {
		return // an invite of somebody the user ignores
	}
	r.send = r.fresh || j != nil && (len(j.timeline) > 0 || j.limited || len(j.state) > 0 || r.name != nil || r.avatar != nil || j.summary != nil)
	if r.gone != nil {
		g := *r.gone
		g.told = true
		if b.next.gone[nid] = g; !g.forced {
			delete(b.next.gone, nid)
		}
		return
	}
	sent := sentRoom{wanted: r.wanted, limit: r.limit}
	if old, ok := b.next.rooms[nid]; ok && !r.fresh && (j == nil || !j.limited && !j.expanded) {
		sent.limit = max(sent.limit, old.limit)
	}
	if _, ok := b.next.rooms[nid]; ok || r.fresh {
		b.next.rooms[nid] = sent
	}
	if j == nil {
		return
	}
	since := b.snap.since.Get(token.Events)
	for i := len(j.timeline) - 1; b.was != nil && i >= 0; i-- {
		writer, _ := b.s.cfg.WriterIDs.WriterName(int(j.timeline[i].ev.WriterNID))
		if since.Covers(writer, int64(j.timeline[i].ev.NID)) {
			break
		}
		r.live++
	}
}

// empty reports whether the response has nothing to say.
func (b *slidingBuilder) empty() bool {
	if b.was == nil || b.req.AccountData != nil && len(b.accountData) > 0 {
		return false
	}
	for _, r := range b.rooms {
		if r.send || b.hasData(r) {
			return false
		}
	}
	return true
}

// hasData reports whether an extension says something of a room.
func (b *slidingBuilder) hasData(r *slidingRoom) bool {
	j := b.byID[r.room.id]
	return j != nil && (j.typing != nil && b.req.Typing.takes(r) || len(b.receiptsOf(r, j)) > 0 || len(j.data) > 0 && b.req.AccountData.takes(r))
}

// receiptsOf returns the receipts to send of a room. Of a room that is new to the client these are the user's own, and
// those of events it is sent.
func (b *slidingBuilder) receiptsOf(r *slidingRoom, j *job) []receipt {
	if !b.req.Receipts.takes(r) {
		return nil
	}
	if !r.fresh {
		return j.receipts
	}
	return slices.DeleteFunc(slices.Clone(j.receipts), func(x receipt) bool {
		return x.userID != b.q.userID && !slices.ContainsFunc(j.timeline, func(it item) bool { return it.ev.ID() == x.eventID })
	})
}

// textOf returns a string of an event's content, nil where it is not one or empty.
func textOf(e *store.Event, path string) *string {
	if e == nil {
		return nil
	}
	if v := gjson.GetBytes(e.Content(), path); v.Type == gjson.String && v.Str != "" {
		return &v.Str
	}
	return nil
}
