package sync

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

// builder makes one response. It first finds out which rooms have something to say, then fills them in together: each
// step costs a fixed number of statements whatever the number of rooms.
type builder struct {
	s    *Service
	q    *query
	snap *snapshot
	// within, if not nil, says which rooms may have a job.
	within func(roomID string) bool

	jobs    []*job // rooms of the join and leave sections
	byID    map[string]*job
	invites []*stripped
	knocks  []*stripped

	accountData []json.RawMessage
	presence    []json.RawMessage
	toDevice    []json.RawMessage
	changed     []string // device_lists
	left        []string
	keys        DeviceKeys
	people      People

	eventsUpTo *replication.Position // see upTo
}

// job is one room of the join or the leave section.
type job struct {
	id   string
	nid  storage.RoomNID
	left bool
	// fresh says that the client is to learn the room from nothing: initial sync, newly joined.
	fresh bool
	// newlyJoined is fresh in a sync that is not initial.
	newlyJoined bool
	// full asks for all state.
	full bool
	// expanded asks for a timeline that begins before what the client has seen.
	expanded bool
	// last, if not 0, is the last event the user may see: the end of their membership.
	last storage.EventNID
	// memberNID is the user's own member event.
	memberNID storage.EventNID
	// joined says that the user was joined at each event the room can show.
	joined bool
	// limit is how many events the timeline has at most. lazy says that members come with what they sent.
	limit int
	lazy  bool

	// entries are the rows to show, where they are in the tail.
	entries []*entry
	// query says that the timeline comes from the database: events are then what came.
	query  bool
	events []*store.Event
	// only, if not 0, is the one event there is to show: how an invite ended.
	only storage.EventNID

	timeline []item
	limited  bool
	// first is the number of the first event of the timeline before any was left out as not visible; atStart is what was
	// looked up in the state before the first one that is shown.
	first   storage.EventNID
	atStart map[event.Tuple]*store.Event
	// state is the state section.
	state []item
	// members says that somebody's membership changed or is new, so that the summary may have.
	members  bool
	summary  *summary
	typing   *typingState
	receipts []receipt
	data     []json.RawMessage
	counts   RoomCounts
}

func (b *builder) build(ctx context.Context) error {
	b.byID = map[string]*job{}
	var err error
	if b.q.initial {
		err = b.planInitial(ctx)
	} else {
		err = b.planIncremental(ctx)
	}
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		b.fillTimelines, b.fillAccountData, b.fillReceipts, b.fillStripped, b.fillExtensions,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	b.jobs = slices.DeleteFunc(b.jobs, (*job).nothing)
	if err := b.holdBack(ctx); err != nil {
		return err
	}
	if err := b.fillSummaries(ctx); err != nil {
		return err
	}
	return b.fillCounts(ctx)
}

// nothing reports whether the room has nothing to say.
func (j *job) nothing() bool {
	return !j.fresh && !j.full && !j.left && len(j.timeline) == 0 && !j.limited && len(j.state) == 0 && j.typing == nil &&
		len(j.receipts) == 0 && len(j.data) == 0
}

// empty reports whether the response has nothing to say.
func (b *builder) empty() bool {
	return len(b.jobs) == 0 && len(b.invites) == 0 && len(b.knocks) == 0 && len(b.accountData) == 0 &&
		len(b.presence) == 0 && len(b.toDevice) == 0 && len(b.changed) == 0 && len(b.left) == 0
}

// job returns the job of a room, made if need be, or nil where the filter leaves the room out.
func (b *builder) job(id string, nid storage.RoomNID) *job {
	if j := b.byID[id]; j != nil {
		return j
	}
	if !b.q.f.Room.AllowsRoom(id) || b.within != nil && !b.within(id) {
		return nil
	}
	j := &job{id: id, nid: nid, limit: b.q.limit, lazy: b.q.lazy}
	b.byID[id] = j
	b.jobs = append(b.jobs, j)
	return j
}

// allows reports whether a section with this filter may show a room.
func (b *builder) allows(id string, f *filter.Events) bool {
	return f.AllowsRoom(id) && (b.within == nil || b.within(id))
}

// planInitial takes all rooms.
func (b *builder) planInitial(ctx context.Context) error {
	for _, vr := range b.snap.rooms {
		b.planCurrent(vr, true)
	}
	return b.planLeft(ctx)
}

// planCurrent takes a room the user is in, invited to or knocks at. fresh says that the client does not know it.
func (b *builder) planCurrent(vr viewRoom, fresh bool) {
	if vr.membership != storage.MembershipJoin {
		if b.q.f.Room.AllowsRoom(vr.room.id) {
			st := &stripped{id: vr.room.id, nid: vr.room.nid, eventNID: storage.EventNID(vr.nid)}
			if vr.membership == storage.MembershipInvite {
				b.invites = append(b.invites, st)
			} else {
				b.knocks = append(b.knocks, st)
			}
		}
		return
	}
	j := b.job(vr.room.id, vr.room.nid)
	if j == nil {
		return
	}
	j.memberNID = storage.EventNID(vr.nid)
	if fresh {
		j.fresh, j.full, j.query, j.newlyJoined = true, true, true, !b.q.initial
	}
}

// planLeft takes the rooms the user has left, where the filter asks for them, and in any case in an initial sync those
// that somebody else has put them out of: they would not hear of it otherwise.
func (b *builder) planLeft(ctx context.Context) error {
	own := b.q.f.Room.IncludeLeave
	if !own && !b.q.initial {
		return nil
	}
	rooms, err := b.leftRooms(ctx, own)
	if err != nil {
		return err
	}
	for _, r := range rooms {
		if b.byID[r.RoomID] != nil {
			continue
		}
		j := b.job(r.RoomID, r.RoomNID)
		if j == nil {
			continue
		}
		j.left, j.fresh, j.last, j.memberNID = true, b.q.initial, r.EventNID, r.EventNID
		if !r.inside {
			// The user was never inside, or not at the end: an invite they turned down shows nothing of the room.
			j.only, j.joined = r.EventNID, true
			continue
		}
		j.full, j.query = true, true
	}
	return nil
}

// leftRoom is a room that the user has left or is banned from. inside says that they were joined before.
type leftRoom struct {
	storage.SyncRoom
	inside bool
}

// leftRooms returns the rooms that the user has left and not forgotten: those that somebody else has put them out of, and
// with own those they have left themselves.
func (b *builder) leftRooms(ctx context.Context, own bool) ([]leftRoom, error) {
	rooms, err := storage.SyncLeftRooms(ctx, b.s.cfg.DB, b.q.userID)
	if err != nil || len(rooms) == 0 {
		return nil, err
	}
	nids := make([]storage.EventNID, len(rooms))
	for i, r := range rooms {
		nids[i] = r.EventNID
	}
	ends, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return nil, err
	}
	var out []leftRoom
	var lookups []store.StateLookup
	for i, r := range rooms {
		writer, _ := b.s.cfg.WriterIDs.WriterName(int(r.WriterNID))
		if ends[i] == nil || !own && ends[i].Sender() == b.q.userID ||
			r.EventNID > 0 && !b.snap.now.Get(token.Events).Covers(writer, int64(r.EventNID)) {
			continue
		}
		out = append(out, leftRoom{SyncRoom: r})
		lookups = append(lookups, store.StateLookup{Root: ends[i].StateRoot, Tuples: []event.Tuple{memberTuple(b.q.userID)}})
	}
	before, err := b.s.cfg.Store.StateBatch(ctx, lookups)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].inside = len(before[i]) == 1 && membershipOf(before[i][0]) == event.MembershipJoin
	}
	return out, nil
}

// change is what happened to the user's place in one room between since and now.
type change struct {
	roomID        string
	nid           storage.RoomNID
	before, after storage.Membership
	// eventNID is the last event.
	eventNID storage.EventNID
	// outs counts the events that left the user outside; joined and asked say that they were joined, or invited or
	// knocking, at some point in between.
	outs          int
	joined, asked bool
}

// planIncremental takes the rooms with news.
func (b *builder) planIncremental(ctx context.Context) error {
	changes, err := b.changes(ctx)
	if err != nil {
		return err
	}
	byRoom := make(map[string]*change, len(changes))
	for _, c := range changes {
		byRoom[c.roomID] = c
	}
	whole, err := b.becameWhole(ctx)
	if err != nil {
		return err
	}
	for _, vr := range b.snap.rooms {
		c := byRoom[vr.room.id]
		switch {
		case vr.membership != storage.MembershipJoin:
			if c != nil || b.q.FullState {
				b.planCurrent(vr, false)
			}
		case c != nil && (c.before != storage.MembershipJoin || c.outs > 0) || whole[vr.room.id]:
			b.planCurrent(vr, true)
		default:
			b.planKnown(vr)
		}
	}
	for _, c := range changes {
		b.planGone(c)
	}
	if b.q.FullState {
		return b.planLeft(ctx)
	}
	return nil
}

// planKnown takes a room that the client knows, if there is anything new in it.
func (b *builder) planKnown(vr viewRoom) {
	entries := b.snap.news[vr.room.id]
	if b.snap.tailed && len(entries) == 0 && !b.q.FullState {
		return
	}
	j := b.job(vr.room.id, vr.room.nid)
	if j == nil {
		return
	}
	j.memberNID, j.joined, j.full = storage.EventNID(vr.nid), true, b.q.FullState
	j.entries, j.query = entries, !b.snap.tailed
}

// planGone takes a room the user has left.
func (b *builder) planGone(c *change) {
	if c.after != storage.MembershipLeave && c.after != storage.MembershipBan {
		return
	}
	inside := c.before == storage.MembershipJoin || c.joined
	asked := c.before == storage.MembershipInvite || c.before == storage.MembershipKnock || c.asked
	if !inside && !asked && c.after != storage.MembershipBan {
		return // somebody who was gone all the time
	}
	j := b.job(c.roomID, c.nid)
	if j == nil {
		return
	}
	j.left, j.last, j.memberNID = true, c.eventNID, c.eventNID
	switch {
	case !inside:
		j.only, j.joined = c.eventNID, true
	case c.before == storage.MembershipJoin:
		j.joined = c.outs == 1
		j.query = !b.snap.tailed
		for _, e := range b.snap.news[c.roomID] {
			if storage.EventNID(e.nid) <= j.last {
				j.entries = append(j.entries, e)
			}
		}
		if !j.joined {
			// In between the user was outside, and may not see everything. The database path knows how to tell.
			j.entries, j.query = nil, true
		}
	default:
		j.fresh, j.full, j.newlyJoined, j.query = true, true, true, true
	}
}

// changes returns what happened to the user's place in rooms, one change a room, in the order of the last events.
func (b *builder) changes(ctx context.Context) ([]*change, error) {
	if b.snap.tailed {
		// They come in order of arrival, in which those of two writers may be swapped.
		slices.SortFunc(b.snap.own, func(x, y *entry) int { return cmp.Compare(x.nid, y.nid) })
		byRoom := map[string]*change{}
		for _, e := range b.snap.own {
			c := byRoom[e.row.RoomID]
			if c == nil {
				c = &change{roomID: e.row.RoomID, nid: storage.RoomNID(e.row.RoomNID), before: storage.MembershipOf(e.row.PrevMembership)}
				byRoom[c.roomID] = c
			}
			c.add(storage.MembershipOf(e.row.Membership), storage.EventNID(e.nid))
		}
		return sortedChanges(byRoom), nil
	}
	keys, err := b.s.cfg.Store.StateKeyNIDs(ctx, []event.Tuple{{Type: event.TypeMember, StateKey: b.q.userID}})
	if err != nil || keys[0] == 0 {
		return nil, err
	}
	rows, err := storage.SyncMemberChanges(ctx, b.s.cfg.DB, keys[0], b.bounds())
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	var firsts []storage.MemberPlace
	seen := map[storage.RoomNID]bool{}
	nids := make([]storage.EventNID, 0, 2*len(rows))
	for _, r := range rows {
		nids = append(nids, r.EventNID)
		if !seen[r.RoomNID] {
			seen[r.RoomNID] = true
			firsts = append(firsts, storage.MemberPlace{RoomNID: r.RoomNID, StateKeyNID: keys[0], Before: r.EventNID})
		}
	}
	before, err := storage.MembersBefore(ctx, b.s.cfg.DB, firsts)
	if err != nil {
		return nil, err
	}
	events, err := b.s.cfg.Store.Events(ctx, append(nids, before...))
	if err != nil {
		return nil, err
	}
	byNID := map[storage.RoomNID]*change{}
	for i, p := range firsts {
		if e := events[len(rows)+i]; e != nil {
			byNID[p.RoomNID] = &change{roomID: e.RoomID(), nid: p.RoomNID, before: storage.MembershipOf(e.Membership())}
		}
	}
	byRoom := map[string]*change{}
	for i, r := range rows {
		e := events[i]
		if e == nil {
			return nil, fmt.Errorf("member event %d: %w", r.EventNID, storage.ErrNotFound)
		}
		c := byNID[r.RoomNID]
		if c == nil {
			c = &change{roomID: e.RoomID(), nid: r.RoomNID}
			byNID[r.RoomNID] = c
		}
		byRoom[c.roomID] = c
		c.add(storage.MembershipOf(e.Membership()), r.EventNID)
	}
	return sortedChanges(byRoom), nil
}

func (c *change) add(m storage.Membership, nid storage.EventNID) {
	c.after, c.eventNID = m, nid
	switch m {
	case storage.MembershipJoin:
		c.joined = true
		return
	case storage.MembershipInvite, storage.MembershipKnock:
		c.asked = true
	}
	c.outs++
}

func sortedChanges(byRoom map[string]*change) []*change {
	return slices.SortedFunc(maps.Values(byRoom), func(a, b *change) int { return int(a.eventNID - b.eventNID) })
}

// bounds returns what the response covers of the events stream, for the database.
func (b *builder) bounds() storage.SyncBounds {
	since, now := b.snap.since.Get(token.Events), b.snap.now.Get(token.Events)
	out := storage.SyncBounds{After: storage.EventNID(since.Floor()), Level: storage.EventNID(now.Floor()), Max: storage.EventNID(now.Max())}
	ahead := now.Writers()
	for w := range since.Writers() {
		ahead[w] = 0
	}
	for w := range ahead {
		nid, ok := b.s.cfg.WriterIDs.WriterID(w)
		if !ok {
			continue // it has no rows: they carry the number
		}
		out.Writers = append(out.Writers, storage.WriterNID(nid))
		out.Since = append(out.Since, storage.EventNID(since.Get(w)))
		out.UpTo = append(out.UpTo, storage.EventNID(now.Get(w)))
	}
	return out
}
