package writer

import (
	"context"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// Notifier decides whom events notify. *push.Evaluator is one.
type Notifier interface {
	// Audience returns the users of this server who are in a room, as the database has it. A room that is being made is
	// fresh: it has nobody.
	Audience(ctx context.Context, room *store.Room, fresh bool) (Audience, error)
}

// Audience is the users of this server who are in a room, as the events of its lane have made it. It belongs to the lane.
type Audience interface {
	// Prepare reads what Notify is going to need: what has changed of the rules of those in the room, and the rules of
	// guests, who are about to join or be invited.
	Prepare(ctx context.Context, guests []storage.UserNID) error
	// Notify says whom an event notifies, and takes in what it does to people's places.
	Notify(n Notice) Notified
}

// Notice is an event with what its evaluation needs to know.
type Notice struct {
	Event *event.Event
	// Levels are the power levels.
	Levels *event.PowerLevels
	// Target is the user an m.room.member event is about.
	Target storage.UserNID
	// Members are the changes of people's places that the event brings.
	Members []MemberChange
}

// MemberChange is a change of a user's place in a room, or of what the user is called there.
type MemberChange struct {
	UserNID           storage.UserNID
	UserID            string
	DisplayName       string
	WasJoined, Joined bool
}

// Notified is what an event does. Room, event and thread of its parts are the writer's to fill in.
type Notified struct {
	Counts []storage.PushCount
	Groups []storage.PushGroup
}

// notify has the push rules evaluated for the events of a request, which is otherwise built. It is the last step that can
// fail: what it tells the audience cannot be taken back.
func (l *lane) notify(ctx context.Context, w *work, events []*pending) error {
	if l.w.cfg.Notifier == nil || len(events) == 0 {
		return nil
	}
	if l.audience == nil {
		var err error
		if l.audience, err = l.w.cfg.Notifier.Audience(ctx, l.room, l.newRoom != nil); err != nil {
			return err
		}
	}
	recs, err := l.pieces(ctx, w, []event.Tuple{{Type: event.TypeCreate}, {Type: event.TypePowerLevels}})
	if err != nil {
		return err
	}
	levels := event.NewPowerLevels(eventOf(recs[0]), eventOf(recs[1]))
	var guests []storage.UserNID
	for _, p := range events {
		if p.target != 0 && l.w.cfg.Store.IsLocal(stateKey(p.rec.event)) && p.rec.event.Membership() == event.MembershipInvite {
			guests = append(guests, p.target)
		}
		for _, c := range p.memberChanges() {
			if c.Joined && !c.WasJoined && l.w.cfg.Store.IsLocal(c.UserID) {
				guests = append(guests, c.UserNID)
			}
		}
		if p.thread, _, err = event.Thread(p.rec.event, "", func(id string) (*event.Event, error) { return l.findEventHere(ctx, id) }); err != nil {
			return err
		}
	}
	if err := l.audience.Prepare(ctx, guests); err != nil {
		return err
	}
	for _, p := range events {
		p.notified = l.audience.Notify(Notice{Event: p.rec.event, Levels: levels, Target: p.target, Members: p.memberChanges()})
		if p.upgrade || p.rec.flags.Hidden() || len(p.unlocks) > 0 {
			// Not new, or not to be seen.
			p.notified.Counts = nil
			continue
		}
		p.sent = p.rec.event.Type() != event.TypeMember && l.w.cfg.Store.IsLocal(p.rec.event.Sender())
	}
	return nil
}

// notifyGuest has the push rules evaluated for an invite to a room that this server is not in.
func (l *lane) notifyGuest(ctx context.Context, p *pending) error {
	if l.w.cfg.Notifier == nil || p.rec.event.Membership() != event.MembershipInvite {
		return nil
	}
	audience, err := l.w.cfg.Notifier.Audience(ctx, l.room, false)
	if err != nil {
		return err
	}
	if err := audience.Prepare(ctx, []storage.UserNID{p.target}); err != nil {
		return err
	}
	p.notified = audience.Notify(Notice{Event: p.rec.event, Levels: event.NewPowerLevels(nil, nil), Target: p.target})
	return nil
}

// findEventHere is findEvent for events of the lane's room.
func (l *lane) findEventHere(ctx context.Context, id string) (*event.Event, error) {
	e, err := l.findEvent(ctx, id)
	if err != nil || e == nil || e.RoomID() != l.roomID {
		return nil, err
	}
	return e, nil
}

// memberChanges are the changes that concern people's places.
func (p *pending) memberChanges() []MemberChange {
	var out []MemberChange
	for i := range p.changes {
		ch := &p.changes[i]
		if ch.tuple.Type != event.TypeMember {
			continue
		}
		c := MemberChange{UserNID: ch.user, UserID: ch.tuple.StateKey}
		c.WasJoined = ch.old != nil && ch.old.event.Membership() == event.MembershipJoin
		if ch.new != nil && ch.new.event.Membership() == event.MembershipJoin {
			c.Joined, c.DisplayName = true, store.Text(ch.new.event.Content(), "displayname")
		}
		out = append(out, c)
	}
	return out
}

func eventOf(r *record) *event.Event {
	if r == nil {
		return nil
	}
	return r.event
}

func stateKey(e *event.Event) string {
	key, _ := e.StateKey()
	return key
}

// addNotified lays out what an event does for those it notifies.
func (c *committer) addNotified(eb *storage.EventBatch, room *store.Room, p *pending) {
	eb.PushCounts = append(eb.PushCounts, p.pushCounts(room)...)
	for _, g := range p.notified.Groups {
		g.RoomNID, g.EventNID = room.NID, p.rec.nid
		eb.PushGroups = append(eb.PushGroups, g)
	}
	if p.sent {
		eb.PushSent = append(eb.PushSent, storage.PushSent{RoomNID: room.NID, EventNID: p.rec.nid, UserNID: p.rec.senderNID, Thread: p.thread})
	}
}

func (p *pending) pushCounts(room *store.Room) []storage.PushCount {
	for i := range p.notified.Counts {
		n := &p.notified.Counts[i]
		n.RoomNID, n.EventNID, n.Thread = room.NID, p.rec.nid, p.thread
	}
	return p.notified.Counts
}
