package sync

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

// slidingRoom is a room of the user, as a connection of sliding sync sees it.
type slidingRoom struct {
	viewRoom
	// recent orders the rooms.
	recent int64
	// gone is set where the user is no longer in the room.
	gone *goneRoom
	// change is what happened to the user's place in the room since the last position, nil for nothing.
	change *change

	// lists are the lists that the room is in the range of; asked says that it is in one, or subscribed to.
	lists             []string
	asked, subscribed bool
	limit             int
	wanted            wanted

	slidingNews
}

// ask adds a rule that wants the room.
func (r *slidingRoom) ask(c RoomConfig) {
	r.asked = true
	r.limit = max(r.limit, c.TimelineLimit)
	r.wanted = r.wanted.add(c.RequiredState)
}

// takes reports whether an extension is for the room.
func (e *SlidingExtension) takes(r *slidingRoom) bool {
	if e == nil || !r.asked {
		return false
	}
	if r.subscribed && (e.Rooms == nil || slices.Contains(e.Rooms, "*") || slices.Contains(e.Rooms, r.room.id)) {
		return true
	}
	return len(r.lists) > 0 && (e.Lists == nil || slices.Contains(e.Lists, "*") ||
		slices.ContainsFunc(r.lists, func(name string) bool { return slices.Contains(e.Lists, name) }))
}

// planRooms makes the list of the user's rooms, the most recently active first.
func (b *slidingBuilder) planRooms(ctx context.Context) error {
	b.byRoom = make(map[string]*slidingRoom, len(b.snap.rooms))
	for i, vr := range b.snap.rooms {
		r := &slidingRoom{viewRoom: vr, recent: b.snap.recent[i]}
		b.rooms = append(b.rooms, r)
		b.byRoom[vr.room.id] = r
		delete(b.next.gone, vr.room.nid)
	}
	if b.was == nil {
		if err := b.findForced(ctx); err != nil {
			return fmt.Errorf("find rooms the user was made to leave: %w", err)
		}
	} else {
		changes, err := b.changes(ctx)
		if err != nil {
			return err
		}
		if err := b.noteChanges(ctx, changes); err != nil {
			return err
		}
	}
	for _, g := range b.next.gone {
		if g.told && !g.forced {
			continue
		}
		r := &slidingRoom{viewRoom: viewRoom{room: &room{id: g.id, nid: g.nid}, membership: g.membership, nid: int64(g.eventNID)}, recent: int64(g.eventNID), gone: &g}
		b.rooms = append(b.rooms, r)
		b.byRoom[g.id] = r
	}
	slices.SortFunc(b.rooms, func(x, y *slidingRoom) int {
		return cmp.Or(cmp.Compare(y.recent, x.recent), cmp.Compare(x.room.id, y.room.id))
	})
	return nil
}

// noteChanges notes what happened to the user's place in rooms, and which rooms they are no longer in.
func (b *slidingBuilder) noteChanges(ctx context.Context, changes []*change) error {
	var out []*change
	var nids []storage.EventNID
	for _, c := range changes {
		if r := b.byRoom[c.roomID]; r != nil {
			r.change = c
		} else if c.after == storage.MembershipLeave || c.after == storage.MembershipBan {
			out, nids = append(out, c), append(nids, c.eventNID)
		}
	}
	if len(out) == 0 {
		return nil
	}
	events, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return err
	}
	for i, c := range out {
		_, sent := b.next.rooms[c.nid]
		delete(b.next.rooms, c.nid)
		inside := c.before == storage.MembershipJoin || c.joined
		forced := inside && events[i] != nil && events[i].Sender() != b.q.userID
		if sent || forced {
			b.next.gone[c.nid] = goneRoom{id: c.roomID, nid: c.nid, eventNID: c.eventNID, membership: c.after, inside: inside, forced: forced}
		}
	}
	return nil
}

// findForced finds the rooms that the user was in until others made them leave.
func (b *slidingBuilder) findForced(ctx context.Context) error {
	rooms, err := b.leftRooms(ctx, false)
	if err != nil {
		return err
	}
	for _, r := range rooms {
		if r.inside && b.byRoom[r.RoomID] == nil {
			b.next.gone[r.RoomNID] = goneRoom{
				id: r.RoomID, nid: r.RoomNID, eventNID: r.EventNID, membership: r.Membership, inside: true, forced: true,
			}
		}
	}
	return nil
}

// match finds out which rooms the rules of the request want.
func (b *slidingBuilder) match(ctx context.Context) error {
	b.counts = map[string]slidingCount{}
	for _, name := range slices.Sorted(maps.Keys(b.req.Lists)) {
		l := b.req.Lists[name]
		keep, err := b.filter(ctx, &l.Filters)
		if err != nil {
			return fmt.Errorf("filter rooms: %w", err)
		}
		var c slidingCount
		for _, r := range b.rooms {
			if !keep(r) {
				continue
			}
			i := c.rooms
			c.rooms++
			if l.Ranges != nil && !slices.ContainsFunc(l.Ranges, func(p [2]int) bool { return p[0] <= i && i <= p[1] }) {
				continue
			}
			r.ask(b.capped(l.RoomConfig))
			r.lists = append(r.lists, name)
			if b.req.Unstable {
				c.ids = append(c.ids, r.room.id)
			}
		}
		b.counts[name] = c
	}
	for id, c := range b.req.Subscriptions {
		if r := b.byRoom[id]; r != nil {
			r.ask(b.capped(c))
			r.subscribed = true
		}
	}
	return nil
}

// capped returns a room config within the server's bounds.
func (b *slidingBuilder) capped(c RoomConfig) RoomConfig {
	c.TimelineLimit = min(c.TimelineLimit, b.s.cfg.MaxTimelineLimit)
	return c
}

// filter returns what tells the rooms that pass the filters of a list.
func (b *slidingBuilder) filter(ctx context.Context, f *SlidingFilters) (func(*slidingRoom) bool, error) {
	var direct, children map[string]bool
	var tags map[string][]string
	var shapes map[storage.RoomNID]roomShape
	var err error
	if f.IsDM != nil {
		if direct, err = b.directRooms(ctx); err != nil {
			return nil, err
		}
	}
	if f.Tags != nil || f.NotTags != nil {
		if tags, err = b.roomTags(ctx); err != nil {
			return nil, err
		}
	}
	if f.Spaces != nil {
		if children, err = b.childrenOf(ctx, f.Spaces); err != nil {
			return nil, err
		}
	}
	if f.IsEncrypted != nil || f.RoomTypes != nil || f.NotRoomTypes != nil {
		if shapes, err = b.roomShapes(ctx); err != nil {
			return nil, err
		}
	}
	hasTag := func(r *slidingRoom, wanted []string) bool {
		return slices.ContainsFunc(tags[r.room.id], func(t string) bool { return slices.Contains(wanted, t) })
	}
	hasType := func(r *slidingRoom, types []*string) bool {
		is := shapes[r.room.nid].roomType
		return slices.ContainsFunc(types, func(t *string) bool { return t == nil && is == "" || t != nil && *t == is })
	}
	return func(r *slidingRoom) bool {
		switch {
		case f.IsDM != nil && direct[r.room.id] != *f.IsDM,
			f.IsInvited != nil && (r.membership == storage.MembershipInvite) != *f.IsInvited,
			f.IsEncrypted != nil && shapes[r.room.nid].encrypted != *f.IsEncrypted,
			f.Spaces != nil && !children[r.room.id],
			f.RoomTypes != nil && !hasType(r, f.RoomTypes),
			f.NotRoomTypes != nil && hasType(r, f.NotRoomTypes),
			f.Tags != nil && !hasTag(r, f.Tags),
			f.NotTags != nil && hasTag(r, f.NotTags):
			return false
		}
		return true
	}, nil
}

// directRooms returns the rooms that the user calls direct messages.
func (b *slidingBuilder) directRooms(ctx context.Context) (map[string]bool, error) {
	return b.snap.view.direct.get(func() (map[string]bool, error) {
		content, err := b.s.globalData(ctx, b.q.userID, directType)
		if err != nil {
			return nil, err
		}
		rooms := map[string]bool{}
		gjson.ParseBytes(content).ForEach(func(_, ids gjson.Result) bool {
			ids.ForEach(func(_, id gjson.Result) bool {
				rooms[id.Str] = true
				return true
			})
			return true
		})
		return rooms, nil
	})
}

// roomTags returns the tags of the user's rooms.
func (b *slidingBuilder) roomTags(ctx context.Context) (map[string][]string, error) {
	return b.snap.view.tags.get(func() (map[string][]string, error) {
		user, err := b.s.cfg.Store.UserNID(ctx, b.q.userID)
		if err != nil {
			return nil, err
		}
		rows, err := storage.RoomAccountDataOfType(ctx, b.s.cfg.DB, user, tagsType)
		if err != nil {
			return nil, err
		}
		tags := make(map[string][]string, len(rows))
		for _, r := range rows {
			gjson.GetBytes(r.Content, "tags").ForEach(func(name, _ gjson.Result) bool {
				tags[r.RoomID] = append(tags[r.RoomID], name.Str)
				return true
			})
		}
		return tags, nil
	})
}

// childrenOf returns the rooms that are children of one of the spaces the user is joined to.
func (b *slidingBuilder) childrenOf(ctx context.Context, spaces []string) (map[string]bool, error) {
	var nids []storage.RoomNID
	for _, id := range spaces {
		if r := b.byRoom[id]; r != nil && r.gone == nil && r.membership == storage.MembershipJoin {
			nids = append(nids, r.room.nid)
		}
	}
	out := map[string]bool{}
	if len(nids) == 0 {
		return out, nil
	}
	rows, err := storage.SpaceChildren(ctx, b.s.cfg.DB, nids)
	if err != nil {
		return nil, err
	}
	events := make([]storage.EventNID, len(rows))
	for i, r := range rows {
		events[i] = r.NID
	}
	found, err := b.s.cfg.Store.Events(ctx, events)
	if err != nil {
		return nil, err
	}
	for i, e := range found {
		// A child that names no server has been taken out.
		if e != nil && gjson.GetBytes(e.Content(), "via").IsArray() {
			out[rows[i].Child] = true
		}
	}
	return out, nil
}

// roomShape is what filters ask of a room's state.
type roomShape struct {
	encrypted bool
	roomType  string
}

// roomShapes returns the shapes of the user's rooms. Of those on other servers it is known what came with the invite.
func (b *slidingBuilder) roomShapes(ctx context.Context) (map[storage.RoomNID]roomShape, error) {
	if b.shapes != nil {
		return b.shapes, nil
	}
	nids := make([]storage.RoomNID, len(b.rooms))
	for i, r := range b.rooms {
		nids[i] = r.room.nid
	}
	stats, err := b.s.cfg.Store.Stats(ctx, nids)
	if err != nil {
		return nil, err
	}
	shapes := make(map[storage.RoomNID]roomShape, len(nids))
	var asked []storage.EventNID
	for i, st := range stats {
		r := b.rooms[i]
		if r.gone == nil && r.membership != storage.MembershipJoin {
			asked = append(asked, storage.EventNID(r.viewRoom.nid))
		}
		if st != nil {
			shapes[nids[i]] = roomShape{st.Encryption != "", st.RoomType}
		}
	}
	b.shapes = shapes
	if len(asked) == 0 {
		return shapes, nil
	}
	stripped, err := b.s.cfg.Store.Stripped(ctx, asked)
	if err != nil {
		return nil, err
	}
	for _, r := range b.rooms {
		raw := stripped[storage.EventNID(r.viewRoom.nid)]
		if raw == nil {
			continue
		}
		var shape roomShape
		gjson.ParseBytes(raw).ForEach(func(_, e gjson.Result) bool {
			switch e.Get("type").Str {
			case event.TypeCreate:
				shape.roomType = e.Get("content.type").Str
			case "m.room.encryption":
				shape.encrypted = true
			}
			return true
		})
		shapes[r.room.nid] = shape
	}
	return shapes, nil
}
