package writer

import (
	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/storage"
)

// tally adds up what the events of one room in one transaction do to the tables of current state: the last change of
// each piece counts.
type tally struct {
	room    storage.RoomNID
	store   *store.Store
	state   map[storage.StateKeyNID]storage.EventNID
	members map[storage.UserNID]storage.Member
	gone    map[storage.UserNID]bool
	stats   storage.RoomStatsChange
	changed bool
}

func newTally(room storage.RoomNID, s *store.Store) *tally {
	return &tally{room: room, store: s, stats: storage.RoomStatsChange{RoomNID: room}}
}

// add adds an event, which has the given place in the events stream.
func (t *tally) add(p *pending, place storage.EventNID) {
	if t.state == nil {
		t.state = make(map[storage.StateKeyNID]storage.EventNID)
		t.members = make(map[storage.UserNID]storage.Member)
		t.gone = make(map[storage.UserNID]bool)
	}
	t.changed = true
	for i := range p.changes {
		ch := &p.changes[i]
		switch {
		case ch.old == nil && ch.new != nil:
			t.stats.StateEvents++
		case ch.old != nil && ch.new == nil:
			t.stats.StateEvents--
		}
		t.state[ch.key] = 0
		if ch.new != nil {
			t.state[ch.key] = ch.new.nid
		}
		if ch.tuple.Type == event.TypeMember {
			t.addMember(ch, place)
		} else if ch.tuple.StateKey == "" {
			t.addShown(ch)
		}
	}
}

func (t *tally) addMember(ch *change, place storage.EventNID) {
	local := t.store.IsLocal(ch.tuple.StateKey)
	if ch.old != nil {
		t.count(ch.old.event.Membership(), local, -1)
	}
	user := ch.user
	if ch.new == nil {
		t.gone[user] = true
		delete(t.members, user)
		return
	}
	t.count(ch.new.event.Membership(), local, 1)
	m := storage.MembershipOf(ch.new.event.Membership())
	if m == 0 {
		// No rule lets such an event into the state.
		return
	}
	joined := t.members[user].JoinedNID
	if m == storage.MembershipJoin && (ch.old == nil || ch.old.event.Membership() != event.MembershipJoin) {
		joined = place
	}
	content := ch.new.event.Content()
	delete(t.gone, user)
	t.members[user] = storage.Member{
		RoomNID: t.room, UserNID: user, Membership: m, EventNID: ch.new.nid, SenderNID: ch.new.senderNID, IsLocal: local,
		DisplayName: store.Text(content, "displayname"), AvatarURL: store.Text(content, "avatar_url"), JoinedNID: joined,
	}
}

func (t *tally) count(membership string, local bool, by int) {
	switch membership {
	case event.MembershipJoin:
		t.stats.Joined += by
		if local {
			t.stats.LocalJoined += by
		}
	case event.MembershipInvite:
		t.stats.Invited += by
	}
}

// addShown notes what the room shows of itself.
func (t *tally) addShown(ch *change) {
	var content []byte
	if ch.new != nil {
		content = ch.new.event.Content()
	}
	s := &t.stats.Shown
	set := func(bit int, field *string, key string) {
		t.stats.Set |= bit
		*field = store.Text(content, key)
	}
	switch ch.tuple.Type {
	case event.TypeCreate:
		set(storage.StatsCreate, &s.RoomType, "type")
		s.Creator, s.Federate = "", true
		if ch.new != nil {
			s.Creator = ch.new.event.Sender()
			s.Federate = gjson.GetBytes(content, `m\.federate`).Type != gjson.False
		}
	case "m.room.name":
		set(storage.StatsName, &s.Name, "name")
	case "m.room.topic":
		set(storage.StatsTopic, &s.Topic, "topic")
	case "m.room.avatar":
		set(storage.StatsAvatarURL, &s.AvatarURL, "url")
	case "m.room.canonical_alias":
		set(storage.StatsCanonicalAlias, &s.CanonicalAlias, "alias")
	case event.TypeJoinRules:
		set(storage.StatsJoinRule, &s.JoinRule, "join_rule")
	case "m.room.guest_access":
		set(storage.StatsGuestAccess, &s.GuestAccess, "guest_access")
	case event.TypeHistoryVisibility:
		set(storage.StatsHistoryVisibility, &s.HistoryVisibility, "history_visibility")
	case "m.room.encryption":
		set(storage.StatsEncryption, &s.Encryption, "algorithm")
	}
}

func (t *tally) finish(eb *storage.EventBatch) {
	if !t.changed {
		return
	}
	for key, nid := range t.state {
		eb.State = append(eb.State, storage.CurrentState{RoomNID: t.room, StateKeyNID: key, EventNID: nid})
	}
	for _, m := range t.members {
		eb.Members = append(eb.Members, m)
	}
	for user := range t.gone {
		eb.Gone = append(eb.Gone, storage.Member{RoomNID: t.room, UserNID: user})
	}
	eb.Stats = append(eb.Stats, t.stats)
}
