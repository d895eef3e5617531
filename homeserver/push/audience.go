package push

import (
	"context"
	"slices"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// audience is the users of this server who are in a room, in groups of those whose rules come to the same there. An event
// is evaluated once for each group, and once for each member it may mean something else to: those it mentions by id or
// by a word that is a member's name or keyword, and those with rules for its sender or of other kinds. Who these are is
// found by the words of the event, not by asking each member.
type audience struct {
	evaluator *Evaluator
	room      *store.Room
	seen      int // of Evaluator.changes
	joined    int64
	asking    int // counts events

	members map[storage.UserNID]*member
	byID    map[string]*member
	groups  map[storage.PushSubject]*group
	// tokens and senders are the members an event may mean something to of its own, by a token of their words and by
	// the event's sender. Members in always are asked every time.
	tokens, senders map[string][]*member
	always          map[*member]struct{}
	// unrecorded are the members whose group is not what is stored.
	unrecorded map[*member]struct{}
	// guests are users who are about to join or be invited.
	guests map[storage.UserNID]*member
}

// member is a user in a room.
type member struct {
	nid      storage.UserNID
	person   person
	program  program
	group    *group
	recorded storage.PushSubject
	keys     keys
	asked    int // the number of the last event the member was asked about
}

// group is the members whose shared programs are the same.
type group struct {
	subject storage.PushSubject
	program program
	members int
	effect  effect // of the event in the works
}

// keys are under which a member is found.
type keys struct {
	tokens, senders []string
	always          bool
}

func newAudience(e *Evaluator, room *store.Room) *audience {
	return &audience{
		evaluator: e, room: room, members: make(map[storage.UserNID]*member), byID: make(map[string]*member),
		groups: make(map[storage.PushSubject]*group), tokens: make(map[string][]*member), senders: make(map[string][]*member),
		always: make(map[*member]struct{}), unrecorded: make(map[*member]struct{}), guests: make(map[storage.UserNID]*member),
	}
}

func (a *audience) add(m *member) {
	a.remove(a.members[m.nid])
	a.members[m.nid], a.byID[m.person.userID] = m, m
	subject, shared := a.evaluator.group(m.program)
	if m.group = a.groups[subject]; m.group == nil {
		m.group = &group{subject: subject, program: shared}
		a.groups[subject] = m.group
	}
	m.group.members++
	if m.recorded != subject {
		a.unrecorded[m] = struct{}{}
	}
	m.keys = m.findKeys()
	for _, t := range m.keys.tokens {
		a.tokens[t] = append(a.tokens[t], m)
	}
	for _, s := range m.keys.senders {
		a.senders[s] = append(a.senders[s], m)
	}
	if m.keys.always {
		a.always[m] = struct{}{}
	}
}

// remove takes a member out; m may be nil.
func (a *audience) remove(m *member) {
	if m == nil {
		return
	}
	delete(a.members, m.nid)
	delete(a.byID, m.person.userID)
	delete(a.always, m)
	delete(a.unrecorded, m)
	if m.group.members--; m.group.members == 0 {
		delete(a.groups, m.group.subject)
	}
	drop(a.tokens, m.keys.tokens, m)
	drop(a.senders, m.keys.senders, m)
}

func drop(from map[string][]*member, keys []string, m *member) {
	for _, k := range keys {
		if from[k] = slices.DeleteFunc(from[k], func(o *member) bool { return o == m }); len(from[k]) == 0 {
			delete(from, k)
		}
	}
}

// findKeys returns the keys by which each event is found to which the member's program may come to something else than
// the group's. Events that name the member need none.
func (m *member) findKeys() keys {
	var k keys
	for i := range m.program {
		s := &m.program[i]
		if s.own && len(s.tests) > 0 || slices.ContainsFunc(s.tests, func(t test) bool { return t.personal() }) {
			k.add(s, &m.person)
		}
	}
	slices.Sort(k.tokens)
	k.tokens = slices.Compact(k.tokens)
	return k
}

func (k *keys) add(s *step, who *person) {
	for i := range s.tests {
		t := &s.tests[i]
		token := ""
		switch t.op {
		case opMentionsSelf, opStateKeySelf:
			return
		case opLocalpart:
			token = tokenOf(who.localpart, false)
		case opDisplayName:
			if who.displayName == "" {
				return
			}
			token = tokenOf(who.displayName, false)
		case opWords:
			token = t.glob.token()
		case opIs:
			if t.key == keySender {
				k.senders = append(k.senders, t.value.str)
				return
			}
		}
		if token != "" {
			k.tokens = append(k.tokens, token)
			return
		}
	}
	k.always = true
}

// token returns a token that each text has of which a part matches the pattern, "" where there is no such.
func (g *glob) token() string {
	if g.parts[0].wild {
		return ""
	}
	return tokenOf(g.parts[0].text, len(g.parts) > 1)
}

// Prepare implements writer.Audience.
func (a *audience) Prepare(ctx context.Context, guests []storage.UserNID) error {
	clear(a.guests)
	changed, all, seen := a.evaluator.changes(a.seen)
	var again []storage.UserNID
	if !all {
		for nid := range a.members {
			again = append(again, nid)
		}
	}
	for _, id := range changed {
		if m := a.byID[id]; m != nil {
			again = append(again, m.nid)
		}
	}
	if len(again)+len(guests) > 0 {
		rows, err := storage.PushMembersOf(ctx, a.evaluator.cfg.DB, a.room.NID, append(again, guests...))
		if err != nil {
			return readError(err)
		}
		a.take(rows)
	}
	a.seen = seen
	return nil
}

// take takes over the rules of members and guests. Names and groups of members are as the events before have made them,
// which may not be stored yet.
func (a *audience) take(rows []storage.PushMember) {
	compiled := make(map[string]program)
	for i := range rows {
		m := a.evaluator.member(&rows[i], a.room.ID, compiled)
		old := a.members[m.nid]
		if old == nil {
			a.guests[m.nid] = m
			continue
		}
		m.person, m.recorded = old.person, old.recorded
		a.add(m)
	}
}

// Notify implements writer.Audience.
func (a *audience) Notify(n writer.Notice) writer.Notified {
	var out writer.Notified
	v := newFacts(n.Event, &Context{Members: a.joined, Levels: n.Levels})
	sender := a.byID[n.Event.Sender()]
	a.asking++
	for _, g := range a.groups {
		g.effect = effect{}
		if members := g.members; sender != nil && sender.group == g && members == 1 {
			continue // There is nobody but the sender.
		}
		if g.effect = g.program.run(v, nil); g.effect.notify {
			out.Counts = append(out.Counts, g.effect.count(g.subject, effect{}))
		}
	}
	a.each(v, func(m *member) {
		if m == sender || m.asked == a.asking {
			return
		}
		m.asked = a.asking
		if e := m.program.run(v, &m.person); e != m.group.effect {
			out.Counts = append(out.Counts, e.count(storage.PushSubject(m.nid), m.group.effect))
		}
	})
	if guest := a.guests[n.Target]; guest != nil && n.Event.Membership() == event.MembershipInvite && guest != sender {
		if e := guest.program.run(v, &guest.person); e.notify {
			out.Counts = append(out.Counts, e.count(storage.PushSubject(guest.nid), effect{}))
		}
	}
	for _, c := range n.Members {
		a.change(c)
	}
	for m := range a.unrecorded {
		m.recorded = m.group.subject
		out.Groups = append(out.Groups, storage.PushGroup{UserNID: m.nid, Subject: m.recorded})
	}
	clear(a.unrecorded)
	return out
}

// each calls fn with the members to whom the event may mean something of their own, some more than once.
func (a *audience) each(v *facts, fn func(m *member)) {
	for m := range a.always {
		fn(m)
	}
	for _, m := range a.senders[v.event.Sender()] {
		fn(m)
	}
	for _, id := range v.mentioned {
		if m := a.byID[id]; m != nil {
			fn(m)
		}
	}
	if key, ok := v.event.StateKey(); ok {
		if m := a.byID[key]; m != nil {
			fn(m)
		}
	}
	if v.hasBody && len(a.tokens) > 0 {
		eachToken(v.body, func(token string) bool {
			for _, m := range a.tokens[token] {
				fn(m)
			}
			return true
		})
	}
}

// change takes in what became of a user's place in the room.
func (a *audience) change(c writer.MemberChange) {
	switch {
	case c.Joined && !c.WasJoined:
		a.joined++
	case !c.Joined && c.WasJoined:
		a.joined--
	}
	old := a.members[c.UserNID]
	switch {
	case !c.Joined:
		a.remove(old)
	case !a.evaluator.isLocal(c.UserID):
	case old == nil:
		if guest := a.guests[c.UserNID]; guest != nil {
			guest.person = newPerson(c.UserID, c.DisplayName)
			a.add(guest)
		}
	default:
		m := &member{nid: old.nid, person: newPerson(c.UserID, c.DisplayName), program: old.program, recorded: old.recorded}
		a.add(m)
	}
}

// count is what the effect counts for a subject beside what group does.
func (e effect) count(subject storage.PushSubject, group effect) storage.PushCount {
	c := storage.PushCount{
		Subject: subject, Notify: one(e.notify) - one(group.notify), Highlight: one(e.highlight) - one(group.highlight),
		Effect: storage.PushNotifies*one(e.notify) + storage.PushHighlights*one(e.highlight),
	}
	if e.actions != plainActions {
		c.Actions = e.actions
	}
	return c
}

// plainActions are not stored.
const plainActions = `["notify"]`

func one(b bool) int16 {
	if b {
		return 1
	}
	return 0
}
