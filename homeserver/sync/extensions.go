package sync

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/filter"
	"github.com/weft-im/weft/homeserver/token"
	"github.com/weft-im/weft/storage"
)

// maxToDevice is how many messages to a device one response has.
const maxToDevice = 100

// meet notes a change of somebody else's membership in a room the user is in.
func (b *builder) meet(e *entry) {
	if b.s.cfg.Presence == nil && b.s.cfg.Devices == nil || *e.row.StateKey == b.q.userID {
		return
	}
	switch {
	case e.row.Membership == event.MembershipJoin && e.row.PrevMembership != event.MembershipJoin:
		b.people.Joined = append(b.people.Joined, *e.row.StateKey)
	case e.row.Membership != event.MembershipJoin && e.row.PrevMembership == event.MembershipJoin:
		b.people.Left = append(b.people.Left, *e.row.StateKey)
	}
}

// fillExtensions fills what other parts of the server have to say.
func (b *builder) fillExtensions(ctx context.Context) error {
	c := &b.s.cfg
	if c.Presence != nil || c.Devices != nil {
		if err := b.fillPeople(ctx); err != nil {
			return err
		}
	}
	if c.Presence != nil && !b.q.f.Presence.MatchesNone() && b.q.f.Presence.AllowsType("m.presence") {
		events, err := c.Presence.Presence(ctx, b.q.userID, b.rangeOf(token.Presence), b.people)
		if err != nil {
			return fmt.Errorf("read presence: %w", err)
		}
		for _, e := range events {
			if f := &b.q.f.Presence; f.MatchesAll() || f.Match(presenceSubject(e)) {
				b.presence = append(b.presence, e)
			}
		}
	}
	if c.ToDevice != nil && b.q.deviceID != "" {
		messages, upTo, err := c.ToDevice.Messages(ctx, b.q.userID, b.q.deviceID, b.rangeOf(token.ToDevice), maxToDevice)
		if err != nil {
			return fmt.Errorf("read messages to the device: %w", err)
		}
		b.toDevice = messages
		b.snap.next = b.snap.next.With(token.ToDevice, upTo)
	}
	if c.Devices != nil {
		var err error
		if b.changed, b.left, err = c.Devices.Changes(ctx, b.q.userID, b.rangeOf(token.DeviceLists), b.people); err != nil {
			return fmt.Errorf("read changes of devices: %w", err)
		}
		if b.q.deviceID != "" {
			if b.keys, err = c.Devices.Keys(ctx, b.q.userID, b.q.deviceID); err != nil {
				return fmt.Errorf("read counts of keys: %w", err)
			}
		}
	}
	return nil
}

// fillPeople completes the list of people the user has come to share rooms with, or no longer does.
func (b *builder) fillPeople(ctx context.Context) error {
	b.people.Initial = b.q.initial
	if b.q.initial {
		return nil
	}
	var joined, left []storage.RoomNID
	for _, j := range b.jobs {
		switch {
		case j.left && j.only == 0:
			left = append(left, j.nid)
		case j.newlyJoined:
			joined = append(joined, j.nid)
		}
	}
	for _, ask := range []struct {
		rooms []storage.RoomNID
		to    *[]string
	}{{joined, &b.people.Joined}, {left, &b.people.Left}} {
		if len(ask.rooms) == 0 {
			continue
		}
		users, err := storage.SyncMembers(ctx, b.s.cfg.DB, ask.rooms)
		if err != nil {
			return err
		}
		*ask.to = append(*ask.to, users...)
	}
	if !b.snap.tailed {
		if err := b.meetFromStorage(ctx); err != nil {
			return err
		}
	}
	for _, list := range []*[]string{&b.people.Joined, &b.people.Left} {
		slices.Sort(*list)
		*list = slices.DeleteFunc(slices.Compact(*list), func(u string) bool { return u == b.q.userID })
	}
	return nil
}

// meetFromStorage is meet for rooms whose rows are not in the tail. What people were before is not looked up: somebody
// who only changed their name counts as joined anew.
func (b *builder) meetFromStorage(ctx context.Context) error {
	var rooms []storage.RoomNID
	for _, vr := range b.snap.rooms {
		if vr.membership == storage.MembershipJoin {
			rooms = append(rooms, vr.room.nid)
		}
	}
	rows, err := storage.SyncMemberEvents(ctx, b.s.cfg.DB, rooms, b.bounds())
	if err != nil {
		return err
	}
	nids := make([]storage.EventNID, len(rows))
	for i, r := range rows {
		nids[i] = r.EventNID
	}
	events, err := b.s.cfg.Store.Events(ctx, nids)
	if err != nil {
		return fmt.Errorf("read changes of members: %w", err)
	}
	for _, e := range events {
		if e == nil {
			continue
		}
		key, _ := e.StateKey()
		switch e.Membership() {
		case event.MembershipJoin:
			b.people.Joined = append(b.people.Joined, key)
		case event.MembershipLeave, event.MembershipBan:
			b.people.Left = append(b.people.Left, key)
		}
	}
	return nil
}

// fillCounts fills the unread counts of joined rooms.
func (b *builder) fillCounts(ctx context.Context) error {
	if b.s.cfg.Unread == nil {
		return nil
	}
	ids := map[string]*job{}
	for _, j := range b.jobs {
		if !j.left {
			ids[j.id] = j
		}
	}
	if len(ids) == 0 {
		return nil
	}
	counts, err := b.s.cfg.Unread.Unread(ctx, b.q.userID, slices.Sorted(maps.Keys(ids)))
	if err != nil {
		return fmt.Errorf("read unread counts: %w", err)
	}
	for id, c := range counts {
		if j := ids[id]; j != nil {
			j.counts = c
		}
	}
	return nil
}

func presenceSubject(e []byte) filter.Subject {
	return filter.Subject{Type: "m.presence", Sender: stringAt(e, "sender"), Content: e}
}
