package push

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/homeserver/writer"
	"github.com/weft-im/weft/storage"
)

// server is one process that writes rooms and counts what is unread.
type server struct {
	t      *testing.T
	db     *storage.DB
	rooms  *streamstest.Rooms
	push   *Service
	unread *Unread
}

func newServer(t *testing.T) *server {
	t.Helper()
	cluster := streamstest.New(t, nil)
	p := cluster.Processes[0]
	e, err := NewEvaluator(EvaluatorConfig{DB: cluster.DB, ServerName: streamstest.ServerName})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, db: cluster.DB, rooms: p.Rooms(t, func(c *writer.Config) { c.Notifier, c.IdleLanes = e, 2 })}
	s.push, err = New(Config{DB: p.DB, Store: s.rooms.Store, Client: p.Client, Writers: p.Writers, RPC: p.RPC, IDs: p.IDs(t, stream), Evaluator: e})
	if err != nil {
		t.Fatal(err)
	}
	s.unread = NewUnread(cluster.DB, s.rooms.Store)
	cluster.Start(t)
	return s
}

func (s *server) member(room, user, membership, name string) string {
	s.t.Helper()
	c, _ := json.Marshal(map[string]string{"membership": membership, "displayname": name})
	return s.rooms.SendDraft(room, writer.Draft{Type: event.TypeMember, Sender: user, StateKey: &user, Content: c})
}

// receipt marks a room as read by a user.
func (s *server) receipt(room, user, kind, thread, eventID string, number int64) {
	s.t.Helper()
	ctx := s.t.Context()
	r, err := s.rooms.Store.Room(ctx, room)
	if err != nil {
		s.t.Fatal(err)
	}
	u, err := s.rooms.Store.UserNID(ctx, user)
	if err != nil {
		s.t.Fatal(err)
	}
	e, err := s.rooms.Store.Event(ctx, eventID)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = storage.PutReceipts(ctx, s.db, []storage.Receipt{{
		RoomNID: r.NID, Type: kind, UserNID: u, ThreadID: thread, EventID: eventID, EventNID: e.NID, StreamID: number, WriterNID: 1, Data: json.RawMessage(`{}`),
	}})
	if err != nil {
		s.t.Fatal(err)
	}
}

// A model keeps a row for each event and user, which is what the tables avoid.
type model struct {
	rules   map[string]*custom
	names   map[string]string
	joined  map[string]int // since which event
	rows    []row
	read    map[string]map[string]int // by user and thread, "all" for the room
	threads []string                  // of the events
	hops    []int                     // of the events to their threads' roots
}

type row struct {
	user, thread      string
	at                int
	notify, highlight bool
	redacted          bool
}

func (m *model) unread(user string) sync.RoomCounts {
	var c sync.RoomCounts
	since, ok := m.joined[user]
	if !ok {
		return c
	}
	for _, r := range m.rows {
		if r.user != user || r.redacted || r.at <= since || r.at <= m.read[user]["all"] || r.at <= m.read[user][r.thread] {
			continue
		}
		n := sync.Counts{}
		if r.notify {
			n.Notification++
		}
		if r.highlight {
			n.Highlight++
		}
		c.Total.Notification += n.Notification
		c.Total.Highlight += n.Highlight
		if r.thread == "" {
			c.Main.Notification += n.Notification
			c.Main.Highlight += n.Highlight
			continue
		}
		if c.Threads == nil {
			c.Threads = map[string]sync.Counts{}
		}
		t := c.Threads[r.thread]
		t.Notification += n.Notification
		t.Highlight += n.Highlight
		c.Threads[r.thread] = t
	}
	return c
}

// TestUnreadAgainstModel sends events, reads, joins, leaves, redacts and changes rules at random, and compares each user's
// counts with those of a model that keeps a row for everybody.
func TestUnreadAgainstModel(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ctx := t.Context()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	users := []string{"@anna:test", "@bert:test", "@carl:test", "@dora:test", "@emil:test", "@fred:test"}
	m := &model{rules: map[string]*custom{}, names: map[string]string{}, joined: map[string]int{}, read: map[string]map[string]int{}}
	roomID := s.rooms.Create("@host:test")
	m.joined["@host:test"] = 0
	all := append([]string{"@host:test"}, users...)
	for _, u := range all {
		m.rules[u], m.read[u] = &custom{}, map[string]int{}
	}
	var ids []string // of the events, by number; receipts point at them
	var redactable []int
	ids, m.threads, m.hops = append(ids, ""), append(m.threads, ""), append(m.hops, 0)
	compiler := newCompiler()
	// took notes an event in the model.
	took := func(id, sender, thread string, hops int) {
		e, err := s.rooms.Store.Event(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		at := len(ids)
		ids, m.threads, m.hops = append(ids, id), append(m.threads, thread), append(m.hops, hops)
		levels := event.NewPowerLevels(made(t, event.TypeCreate, `{"room_version":"11"}`, stateKey(""), from("@host:test")), nil)
		v := newFacts(e.Event, &Context{Members: int64(len(m.joined)), Levels: levels})
		for user := range m.joined {
			if user == sender {
				continue
			}
			who := newPerson(user, m.names[user])
			if e := compiler.program(m.rules[user], user).in(roomID).run(v, &who); e.notify {
				m.rows = append(m.rows, row{user: user, thread: thread, at: at, notify: true, highlight: e.highlight})
			}
		}
		if e.Type() != event.TypeMember {
			m.read[sender][thread] = at
			redactable = append(redactable, at)
		}
	}
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	inside := func() []string {
		var in []string
		for _, u := range all {
			if _, ok := m.joined[u]; ok {
				in = append(in, u)
			}
		}
		return in
	}
	words := []string{"hello", "anna", "Bert", "@room", "cake", "cakewalk", "the boss", "fred:test", "nothing", "Ünï"}
	edits := func(user string) edit {
		notify, loud := rawList(`"notify"`), rawList(`"notify"`, jsonHighlight)
		choices := []edit{
			put(Room, roomID, Draft{}),
			{Op: opDelete, Kind: Room, RuleID: roomID},
			put(Content, "cake", Draft{Pattern: ptr("cake*"), Actions: loud}),
			{Op: opDelete, Kind: Content, RuleID: "cake"},
			put(Content, "hello", Draft{Pattern: ptr("hello"), Actions: rawList()}),
			{Op: opDelete, Kind: Content, RuleID: "hello"},
			put(Sender, "@host:test", Draft{Actions: rawList()}),
			{Op: opDelete, Kind: Sender, RuleID: "@host:test"},
			put(Override, "few", Draft{Actions: loud, Conditions: rawList(`{"kind":"room_member_count","is":"<4"}`)}),
			{Op: opDelete, Kind: Override, RuleID: "few"},
			{Op: opEnable, Kind: Override, RuleID: RuleMaster},
			{Op: opDisable, Kind: Override, RuleID: RuleMaster},
			{Op: opDisable, Kind: Underride, RuleID: ".m.rule.message"},
			{Op: opEnable, Kind: Underride, RuleID: ".m.rule.message"},
			{Op: opActions, Kind: Underride, RuleID: ".m.rule.message", Draft: Draft{Actions: notify}},
			{Op: opDisable, Kind: Override, RuleID: ".m.rule.is_user_mention"},
		}
		e := choices[rnd.IntN(len(choices))]
		e.UserID = user
		return e
	}
	for step := range 250 {
		what := ""
		in := inside()
		switch n := rnd.IntN(20); {
		case n < 9: // A message.
			hops := 0
			sender, thread, content := pick(in), "", map[string]any{"msgtype": "m.text", "body": pick(words) + " " + pick(words)}
			if rnd.IntN(3) == 0 && len(ids) > 3 {
				at := 1 + rnd.IntN(len(ids)-1)
				if m.threads[at] == "" {
					thread, hops = ids[at], 1
					content["m.relates_to"] = map[string]string{"rel_type": "m.thread", "event_id": thread}
				} else if m.hops[at] == 1 {
					thread, hops = m.threads[at], 2
					content["m.relates_to"] = map[string]string{"rel_type": "m.reference", "event_id": ids[at]}
				}
			}
			switch rnd.IntN(4) {
			case 0:
				content["m.mentions"] = map[string]any{"user_ids": []string{pick(all), pick(all)}}
			case 1:
				content["m.mentions"] = map[string]any{"room": true}
			}
			b, _ := json.Marshal(content)
			took(s.rooms.Send(roomID, sender, string(b)), sender, thread, hops)
			what = sender + " sends " + string(b)
		case n < 11: // Somebody comes, goes, or takes another name.
			user := pick(users)
			if _, ok := m.joined[user]; ok && rnd.IntN(2) == 0 {
				took(s.member(roomID, user, "leave", ""), user, "", 0)
				delete(m.joined, user)
				what = user + " leaves"
				break
			}
			name := pick([]string{"", "The Boss", "Ünï", "hello", user[1:3]})
			took(s.member(roomID, user, "join", name), user, "", 0)
			if _, ok := m.joined[user]; !ok {
				m.joined[user] = len(ids) - 1
			}
			m.names[user] = name
			what = user + " is now " + name
		case n < 15: // Somebody reads.
			user, at := pick(in), 1
			if len(ids) < 2 {
				continue
			}
			at += rnd.IntN(len(ids) - 1)
			kind, thread, where := pick([]string{"m.read", "m.read.private"}), "", "all"
			if rnd.IntN(2) == 0 {
				thread, where = m.threads[at], m.threads[at]
				if thread == "" {
					thread = mainThread
				}
			}
			s.receipt(roomID, user, kind, thread, ids[at], int64(step+1))
			m.read[user][where] = max(m.read[user][where], at)
			what = fmt.Sprint(user, " reads ", at, " in ", where)
		case n < 17: // A redaction.
			if len(redactable) == 0 {
				continue
			}
			i := rnd.IntN(len(redactable))
			at := redactable[i]
			redactable = slices.Delete(redactable, i, i+1)
			target, err := s.rooms.Store.Event(ctx, ids[at])
			if err != nil {
				t.Fatal(err)
			}
			sender := target.Sender()
			if _, ok := m.joined[sender]; !ok {
				continue
			}
			id := s.rooms.SendDraft(roomID, writer.Draft{Type: event.TypeRedaction, Sender: sender, Redacts: ids[at], Content: json.RawMessage(`{"redacts":"` + ids[at] + `"}`)})
			m.hops[at] = 0 // It relates to nothing any more.
			for j := range m.rows {
				m.rows[j].redacted = m.rows[j].redacted || m.rows[j].at == at
			}
			took(id, sender, "", 0)
			what = fmt.Sprint("redaction of ", at)
		default:
			user := pick(all)
			e := edits(user)
			if _, err := m.rules[user].apply(&e); err != nil {
				continue
			}
			if err := s.push.edit(ctx, &e); err != nil {
				t.Fatal(err)
			}
			what = fmt.Sprint(user, " ", e.Op, " ", e.RuleID)
		}
		for _, user := range all {
			got, err := s.unread.Unread(ctx, user, []string{roomID, "!unknown:test"})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m.unread(user), got[roomID]); diff != "" {
				t.Fatalf("step %d, %s: counts of %s (-want +got):\n%s", step, what, user, diff)
			}
		}
	}
	if len(m.rows) < 50 {
		t.Errorf("there were %d notifications, so the test shows little", len(m.rows))
	}
}
