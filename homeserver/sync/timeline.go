package sync

import (
	"context"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/store"
	eventview "github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// contentFactor is how many more events are read than a timeline holds when only their content tells which pass.
const contentFactor = 5

var visibilityTuple = event.Tuple{Type: event.TypeHistoryVisibility}

// fillTimelines fills timelines and state sections.
func (b *builder) fillTimelines(ctx context.Context) error {
	if err := b.readTimelines(ctx); err != nil {
		return err
	}
	if err := b.fillStates(ctx); err != nil {
		return fmt.Errorf("read states: %w", err)
	}
	return nil
}

// readTimelines fills the timelines.
func (b *builder) readTimelines(ctx context.Context) error {
	if err := b.queryTimelines(ctx); err != nil {
		return fmt.Errorf("read timelines: %w", err)
	}
	for _, j := range b.jobs {
		if !j.query && j.only == 0 {
			if err := b.tailTimeline(ctx, j); err != nil {
				return fmt.Errorf("read the timeline of %s: %w", j.id, err)
			}
		}
	}
	if err := b.lookUp(ctx); err != nil {
		return fmt.Errorf("look up state of timelines: %w", err)
	}
	for _, j := range b.jobs {
		if j.query || j.only != 0 {
			b.show(j)
		}
	}
	return b.bundle(ctx)
}

// queryTimelines reads the events of the rooms whose timeline is not in the tail.
func (b *builder) queryTimelines(ctx context.Context) error {
	f := &b.q.f.Room.Timeline
	var ranges []storage.SyncRange
	byNID := map[storage.RoomNID]*job{}
	var nids []storage.EventNID
	for _, j := range b.jobs {
		switch {
		case j.only != 0:
			nids = append(nids, j.only)
		case j.query && f.AllowsRoom(j.id) && !f.MatchesNone():
			limit := j.limit + 1
			if f.NeedsContent() {
				limit *= contentFactor
			}
			ranges = append(ranges, storage.SyncRange{RoomNID: j.nid, All: j.fresh || j.expanded, Last: j.last, Limit: limit})
			byNID[j.nid] = j
		}
	}
	only := len(nids)
	var rows []storage.SyncEvent
	if len(ranges) > 0 {
		sf, err := b.sqlFilter(ctx, f)
		if err != nil {
			return err
		}
		if rows, err = storage.SyncTimelines(ctx, b.s.cfg.DB, ranges, b.bounds(), sf); err != nil {
			return err
		}
		for _, r := range rows {
			nids = append(nids, r.EventNID)
		}
	}
	if len(nids) == 0 {
		return nil
	}
	events, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return err
	}
	for i, j := 0, 0; i < only; j++ {
		if job := b.jobs[j]; job.only != 0 {
			if e := events[i]; e != nil {
				job.events = []*store.Event{e}
			}
			i++
		}
	}
	for i, r := range rows {
		e := events[only+i]
		if e == nil {
			return fmt.Errorf("event %d: %w", r.EventNID, storage.ErrNotFound)
		}
		if j := byNID[r.RoomNID]; !f.NeedsContent() || f.Match(subject(e)) {
			j.events = append(j.events, e)
		}
	}
	for _, j := range byNID {
		if n := len(j.events); n > j.limit {
			j.limited = true
			j.events = j.events[n-j.limit:]
		}
		// What the client had of the room, if anything, does not lead up to this timeline.
		j.limited = j.limited || j.newlyJoined
	}
	return nil
}

// bundle adds to the events of timelines with a gap before them what relates to them: the client has not seen it go by.
//
// Spec: client-server API, "Aggregations of child events" (v1.19).
func (b *builder) bundle(ctx context.Context) error {
	var of []*item
	var events []eventview.Event
	for _, j := range b.jobs {
		if !j.limited {
			continue
		}
		for i := range j.timeline {
			if it := &j.timeline[i]; !it.ev.IsState() {
				of, events = append(of, it), append(events, eventview.Event{Event: it.ev, Related: true})
			}
		}
	}
	who := eventview.Viewer{UserID: b.q.userID, DeviceID: b.q.deviceID, Ignored: b.q.ignored}
	if err := b.s.views.Bundle(ctx, b.s.cfg.DB, who, events, eventview.Format{OmitRoomID: true, NowTS: b.q.nowTS}); err != nil {
		return fmt.Errorf("bundle relations: %w", err)
	}
	for i, it := range of {
		it.relations = events[i].Relations
	}
	return nil
}

// sqlFilter returns what the database can check of a timeline's filter.
func (b *builder) sqlFilter(ctx context.Context, f *filter.Events) (storage.SyncFilter, error) {
	var sf storage.SyncFilter
	sf.Types, sf.NotTypes = f.LikeTypes()
	allowed, denied := f.Senders()
	ignored := make([]string, 0, len(b.q.ignored))
	for u := range b.q.ignored {
		ignored = append(ignored, u)
	}
	all := append(append(append([]string(nil), allowed...), denied...), ignored...)
	if len(all) == 0 {
		return sf, nil
	}
	users, err := b.s.cfg.Store.UserNIDs(ctx, all)
	if err != nil {
		return sf, err
	}
	if allowed != nil {
		sf.Senders = users[:len(allowed):len(allowed)]
	}
	if len(denied) > 0 {
		sf.NotSenders = users[len(allowed) : len(allowed)+len(denied)]
	}
	if len(ignored) > 0 {
		sf.NotSenderOfMessages = users[len(allowed)+len(denied):]
	}
	return sf, nil
}

func subject(e *store.Event) filter.Subject {
	return filter.Subject{RoomID: e.RoomID(), Type: e.Type(), Sender: e.Sender(), Content: e.Content()}
}

// tailTimeline makes the timeline of a room from rows of the tail. The user was joined all along.
func (b *builder) tailTimeline(ctx context.Context, j *job) error {
	shown, err := b.shown(ctx, j)
	if err != nil {
		return err
	}
	if n := len(shown); n > j.limit {
		j.limited = true
		shown = shown[n-j.limit:]
	}
	if len(shown) > 0 {
		j.timeline = make([]item, len(shown))
		j.first = storage.EventNID(shown[0].nid)
	}
	for i, e := range shown {
		r, err := b.s.rendered(ctx, e)
		if err != nil {
			return err
		}
		j.timeline[i] = item{ev: r.ev, made: r, membership: event.MembershipJoin}
		if e.isMember() && *e.row.StateKey == b.q.userID {
			j.timeline[i].membership = e.row.Membership
		}
	}
	for _, e := range j.entries {
		if e.isMember() {
			j.members = true
			b.meet(e)
		}
	}
	return nil
}

// shown returns the rows of a room that pass the timeline's filter.
func (b *builder) shown(ctx context.Context, j *job) ([]*entry, error) {
	f := &b.q.f.Room.Timeline
	if f.MatchesAll() && len(b.q.ignored) == 0 {
		return j.entries, nil
	}
	var out []*entry
	for _, e := range j.entries {
		if e.row.StateKey == nil && b.q.ignored[e.row.Sender] {
			continue
		}
		s := filter.Subject{RoomID: j.id, Type: e.row.Type, Sender: e.row.Sender}
		if f.NeedsContent() {
			r, err := b.s.rendered(ctx, e)
			if err != nil {
				return nil, err
			}
			s.Content = r.ev.Content()
		}
		if f.Match(s) {
			out = append(out, e)
		}
	}
	return out, nil
}

// lookUp reads, for all rooms together, what the timelines need of the state before their first event: what state events
// replaced, who may see the events, and the members that are loaded lazily.
func (b *builder) lookUp(ctx context.Context) error {
	var lookups []store.StateLookup
	var jobs []*job
	for _, j := range b.jobs {
		var first *store.Event
		switch {
		case len(j.events) > 0:
			first = j.events[0]
		case len(j.timeline) > 0:
			first = j.timeline[0].ev
		default:
			continue
		}
		j.first = first.NID
		seen := map[event.Tuple]bool{}
		for _, e := range j.events {
			if e.IsState() {
				seen[e.Tuple()] = true
			}
		}
		if j.full {
			// Rows of the tail know what they replaced; here it is asked what the state was before them all.
			for _, it := range j.timeline {
				if it.ev.IsState() {
					seen[it.ev.Tuple()] = true
				}
			}
		}
		if !j.joined {
			seen[visibilityTuple] = true
			seen[memberTuple(b.q.userID)] = true
		}
		if j.lazy && !j.left {
			b.wantSenders(j, seen)
		}
		if len(seen) == 0 || first.StateRoot == (store.Root{}) {
			continue
		}
		l := store.StateLookup{Root: first.StateRoot, Tuples: make([]event.Tuple, 0, len(seen))}
		for t := range seen {
			l.Tuples = append(l.Tuples, t)
		}
		lookups, jobs = append(lookups, l), append(jobs, j)
	}
	if len(lookups) == 0 {
		return nil
	}
	found, err := b.s.cfg.Store.StateBatch(ctx, lookups)
	if err != nil {
		return err
	}
	for i, l := range lookups {
		jobs[i].atStart = make(map[event.Tuple]*store.Event, len(l.Tuples))
		for k, t := range l.Tuples {
			if e := found[i][k]; e != nil {
				jobs[i].atStart[t] = e
			}
		}
	}
	return b.assumeSenders(ctx, jobs)
}

// wantSenders adds the members a device that loads them lazily needs for a timeline and may not have.
func (b *builder) wantSenders(j *job, seen map[event.Tuple]bool) {
	want := func(e *store.Event) {
		if j.full || b.q.redundant || !b.hasMember(j, e.Sender()) {
			seen[memberTuple(e.Sender())] = true
		}
	}
	for _, e := range j.events {
		want(e)
	}
	for _, it := range j.timeline {
		want(it.ev)
	}
}

func memberTuple(userID string) event.Tuple {
	return event.Tuple{Type: event.TypeMember, StateKey: userID}
}

// show makes the timeline of a room from events of the database: walks through them with the state that decides who may
// see them, and drops those the user may not.
func (b *builder) show(j *job) {
	at := j.atStart
	if at == nil {
		at = map[event.Tuple]*store.Event{}
	}
	j.atStart = nil
	for _, e := range j.events {
		it := item{ev: e, membership: event.MembershipJoin}
		visible := true
		own := e.Is(event.TypeMember, b.q.userID)
		if !j.joined {
			visible, it.membership = b.visible(j, e, at)
		} else if own {
			it.membership = e.Membership()
		}
		if e.IsState() {
			it.prev = at[e.Tuple()]
		}
		if visible || own {
			if j.timeline == nil {
				j.timeline = make([]item, 0, len(j.events))
				j.atStart = make(map[event.Tuple]*store.Event, len(at))
				for t, x := range at {
					j.atStart[t] = x
				}
			}
			j.timeline = append(j.timeline, it)
		}
		if e.IsState() {
			at[e.Tuple()] = e
			if e.Type() == event.TypeMember {
				j.members = true
			}
		}
	}
	if j.atStart == nil {
		j.atStart = at
	}
	j.events = nil
}

// visible reports whether the user may see an event, and their membership once it had happened. at holds the state
// before it.
//
// Spec: client-server API, "Room History Visibility" (v1.19).
func (b *builder) visible(j *job, e *store.Event, at map[event.Tuple]*store.Event) (bool, string) {
	before := sight{visibilityOf(at[visibilityTuple]), membershipOf(at[memberTuple(b.q.userID)])}
	after := before
	switch {
	case e.Is(event.TypeHistoryVisibility, ""):
		after.visibility = visibilityOf(e)
	case e.Is(event.TypeMember, b.q.userID):
		after.membership = membershipOf(e)
	}
	// Whoever is asking is in the room or was joined at the end: what was shared before that is theirs to see.
	shared := before.visibility == "shared" || after.visibility == "shared"
	return before.allows() || after.allows() || shared, after.membership
}

// sight is what decides who may see an event.
type sight struct{ visibility, membership string }

func (p sight) allows() bool {
	return p.visibility == "world_readable" || p.membership == event.MembershipJoin ||
		p.visibility == "invited" && p.membership == event.MembershipInvite
}

func visibilityOf(e *store.Event) string {
	if e != nil {
		switch s := gjson.GetBytes(e.Content(), "history_visibility").Str; s {
		case "world_readable", "invited", "joined":
			return s
		}
	}
	return "shared"
}

func membershipOf(e *store.Event) string {
	if e != nil {
		if m := e.Membership(); m != "" {
			return m
		}
	}
	return event.MembershipLeave
}
