package push

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/storage"
)

const (
	nothing   = ""
	notifies  = "notify"
	highlight = "highlight"
)

func (e effect) String() string {
	switch {
	case e.highlight:
		return highlight
	case e.notify:
		return notifies
	}
	return nothing
}

func message(body string) string {
	b, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": body})
	return string(b)
}

// TestDefaults sends events to anna, who has changed nothing.
func TestDefaults(t *testing.T) {
	t.Parallel()
	type more = func(*event.Draft)
	for name, tc := range map[string]struct {
		typ, content string
		more         []more
		members      int64
		want         string
		sound        string
	}{
		"message":                {typ: "m.room.message", content: message("hello"), members: 3, want: notifies},
		"message of two":         {typ: "m.room.message", content: message("hello"), members: 2, want: notifies, sound: "default"},
		"encrypted":              {typ: "m.room.encrypted", content: `{}`, members: 3, want: notifies},
		"encrypted of two":       {typ: "m.room.encrypted", content: `{}`, members: 2, want: notifies, sound: "default"},
		"call":                   {typ: "m.call.invite", content: `{}`, members: 3, want: notifies, sound: "ring"},
		"notice":                 {typ: "m.room.message", content: `{"msgtype":"m.notice","body":"anna"}`, members: 2},
		"reaction":               {typ: "m.reaction", content: `{}`, members: 2},
		"unknown type":           {typ: "m.something", content: `{}`, members: 2},
		"edit":                   {typ: "m.room.message", content: `{"body":"x","m.relates_to":{"rel_type":"m.replace"},"m.mentions":{}}`, members: 2},
		"edit that mentions":     {typ: "m.room.message", content: `{"body":"x","m.relates_to":{"rel_type":"m.replace"},"m.mentions":{"user_ids":["@anna:test"]}}`, members: 2, want: highlight, sound: "default"},
		"mention":                {typ: "m.room.message", content: `{"body":"x","m.mentions":{"user_ids":["@bert:test","@anna:test"]}}`, members: 3, want: highlight, sound: "default"},
		"mention of another":     {typ: "m.room.message", content: `{"body":"anna","m.mentions":{"user_ids":["@bert:test"]}}`, members: 3, want: notifies},
		"mention, no list":       {typ: "m.room.message", content: `{"body":"x","m.mentions":{"user_ids":"@anna:test"}}`, members: 3, want: notifies},
		"room mention":           {typ: "m.room.message", content: `{"body":"x","m.mentions":{"room":true}}`, members: 3, want: highlight},
		"room mention, string":   {typ: "m.room.message", content: `{"body":"x","m.mentions":{"room":"true"}}`, members: 3, want: notifies},
		"room mention, no power": {typ: "m.room.message", content: `{"body":"x","m.mentions":{"room":true}}`, more: []more{from("@carl:test")}, members: 3, want: notifies},
		"name":                   {typ: "m.room.message", content: message("Is ANNA Bell! here"), members: 3, want: highlight, sound: "default"},
		"name in a word":         {typ: "m.room.message", content: message("joanna bell!"), members: 3, want: notifies},
		"localpart":              {typ: "m.room.message", content: message("hi Anna!"), members: 3, want: highlight, sound: "default"},
		"user id":                {typ: "m.room.message", content: message("hi @anna:test"), members: 3, want: highlight, sound: "default"},
		"localpart, m.mentions":  {typ: "m.room.message", content: `{"msgtype":"m.text","body":"hi anna","m.mentions":{}}`, members: 3, want: notifies},
		"@room":                  {typ: "m.room.message", content: message("to @Room, all"), members: 3, want: highlight},
		"@rooms":                 {typ: "m.room.message", content: message("to @rooms"), members: 3, want: notifies},
		"@room, no power":        {typ: "m.room.message", content: message("to @room"), more: []more{from("@carl:test")}, members: 3, want: notifies},
		"tombstone":              {typ: "m.room.tombstone", content: `{}`, more: []more{stateKey("")}, members: 3, want: highlight},
		"tombstone, no state":    {typ: "m.room.tombstone", content: `{}`, members: 3},
		"tombstone, key":         {typ: "m.room.tombstone", content: `{}`, more: []more{stateKey("x")}, members: 3},
		"server acl":             {typ: "m.room.server_acl", content: `{"body":"anna"}`, more: []more{stateKey("")}, members: 3},
		"invite":                 {typ: "m.room.member", content: `{"membership":"invite"}`, more: []more{stateKey(anna)}, members: 3, want: notifies, sound: "default"},
		"invite of another":      {typ: "m.room.member", content: `{"membership":"invite"}`, more: []more{stateKey("@x:test")}, members: 3},
		"kick":                   {typ: "m.room.member", content: `{"membership":"leave"}`, more: []more{stateKey(anna)}, members: 3},
		"poll":                   {typ: "org.matrix.msc3381.poll.start", content: `{}`, members: 3, want: notifies},
		"body is no string":      {typ: "m.room.message", content: `{"body":{"anna":1},"m.mentions":3}`, members: 3, want: notifies},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newCompiler().program(nil, anna).in(room)
			who := newPerson(anna, "Anna Bell!")
			got := p.run(newFacts(made(t, tc.typ, tc.content, tc.more...), inRoom(t, tc.members)), &who)
			if got.String() != tc.want {
				t.Errorf("got %q %s, want %q", got, got.actions, tc.want)
			}
			if has := strings.Contains(got.actions, `{"set_tweak":"sound","value":"`+tc.sound+`"}`); has != (tc.sound != "") {
				t.Errorf("actions %s, want the sound %q", got.actions, tc.sound)
			}
		})
	}
}

// TestConditions tries single conditions on one event.
func TestConditions(t *testing.T) {
	t.Parallel()
	e := made(t, "m.room.topic", `{"topic":"Lunch plans","body":"An exciting triple-whammy, über alles","n":7,"yes":true,"nil":null,
		"list":["a",1,null,true,["x"],{"y":1}],"a.b":{"c\\d":"deep"},"lines":"one\ntwo"}`, stateKey(""))
	for in, want := range map[string]bool{
		`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`:                     true,
		`{"kind":"event_match","key":"content.topic","pattern":"LUNCH PLANS"}`:                true,
		`{"kind":"event_match","key":"content.topic","pattern":"lunch"}`:                      false,
		`{"kind":"event_match","key":"content.topic","pattern":"*lan?"}`:                      true,
		`{"kind":"event_match","key":"content.topic","pattern":"*lans?"}`:                     false,
		`{"kind":"event_match","key":"content.topic","pattern":"[lL]unch*"}`:                  false,
		`{"kind":"event_match","key":"content.lines","pattern":"one*two"}`:                    true,
		`{"kind":"event_match","key":"content.n","pattern":"*"}`:                              false,
		`{"kind":"event_match","key":"content.nil","pattern":"*"}`:                            false,
		`{"kind":"event_match","key":"content.none","pattern":"*"}`:                           false,
		`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`:                      true,
		`{"kind":"event_match","key":"content.body","pattern":"exciting"}`:                    true,
		`{"kind":"event_match","key":"content.body","pattern":"excit"}`:                       false,
		`{"kind":"event_match","key":"content.body","pattern":"excit*"}`:                      true,
		`{"kind":"event_match","key":"content.body","pattern":"xciting"}`:                     false,
		`{"kind":"event_match","key":"content.body","pattern":"ÜBER"}`:                        true,
		`{"kind":"event_match","key":"content.body","pattern":"?ber a???s"}`:                  true,
		`{"kind":"event_match","key":"content.body","pattern":""}`:                            false,
		`{"kind":"event_match","key":"content.body","pattern":"*"}`:                           true,
		`{"kind":"event_match","key":"content.body","pattern":3}`:                             false,
		`{"kind":"event_match","key":"content.body"}`:                                         false,
		`{"kind":"event_match","pattern":"*"}`:                                                false,
		`{"kind":"event_match","key":"type","pattern":"m.room.topic"}`:                        true,
		`{"kind":"event_match","key":"type","pattern":"m?room?topic"}`:                        true,
		`{"kind":"event_match","key":"sender","pattern":"@bert:*"}`:                           true,
		`{"kind":"event_match","key":"room_id","pattern":"!room:*"}`:                          true,
		`{"kind":"event_match","key":"room_id","pattern":"!other:*"}`:                         false,
		`{"kind":"event_match","key":"state_key","pattern":""}`:                               true,
		`{"kind":"event_match","key":"content.a\\.b.c\\\\d","pattern":"deep"}`:                true,
		`{"kind":"event_match","key":"content.a.b","pattern":"*"}`:                            false,
		`{"kind":"event_match","key":"content","pattern":"*"}`:                                false,
		`{"kind":"event_match","key":"content.topic","pattern":"` + strings.Repeat("*", 5000): false,
		`{"kind":"event_property_is","key":"content.n","value":7}`:                            true,
		`{"kind":"event_property_is","key":"content.n","value":"7"}`:                          false,
		`{"kind":"event_property_is","key":"content.n","value":7.5}`:                          false,
		`{"kind":"event_property_is","key":"content.yes","value":true}`:                       true,
		`{"kind":"event_property_is","key":"content.yes","value":1}`:                          false,
		`{"kind":"event_property_is","key":"content.yes","value":"true"}`:                     false,
		`{"kind":"event_property_is","key":"content.nil","value":null}`:                       true,
		`{"kind":"event_property_is","key":"content.none","value":null}`:                      false,
		`{"kind":"event_property_is","key":"content.none"}`:                                   false,
		`{"kind":"event_property_is","key":"content.topic","value":"lunch plans"}`:            false,
		`{"kind":"event_property_is","key":"content.topic","value":"Lunch plans"}`:            true,
		`{"kind":"event_property_is","key":"content.list","value":["a"]}`:                     false,
		`{"kind":"event_property_contains","key":"content.list","value":"a"}`:                 true,
		`{"kind":"event_property_contains","key":"content.list","value":1}`:                   true,
		`{"kind":"event_property_contains","key":"content.list","value":null}`:                true,
		`{"kind":"event_property_contains","key":"content.list","value":true}`:                true,
		`{"kind":"event_property_contains","key":"content.list","value":false}`:               false,
		`{"kind":"event_property_contains","key":"content.list","value":"A"}`:                 false,
		`{"kind":"event_property_contains","key":"content.list","value":"x"}`:                 false,
		`{"kind":"event_property_contains","key":"content.topic","value":"Lunch plans"}`:      false,
		`{"kind":"event_property_contains","key":"content.list","value":{"y":1}}`:             false,
		`{"kind":"contains_display_name"}`:                                                    true,
		`{"kind":"room_member_count","is":"10"}`:                                              true,
		`{"kind":"room_member_count","is":"==10"}`:                                            true,
		`{"kind":"room_member_count","is":"<10"}`:                                             false,
		`{"kind":"room_member_count","is":"<=10"}`:                                            true,
		`{"kind":"room_member_count","is":">9"}`:                                              true,
		`{"kind":"room_member_count","is":">=11"}`:                                            false,
		`{"kind":"room_member_count","is":"=10"}`:                                             false,
		`{"kind":"room_member_count","is":"+10"}`:                                             false,
		`{"kind":"room_member_count","is":""}`:                                                false,
		`{"kind":"room_member_count","is":"<"}`:                                               false,
		`{"kind":"room_member_count","is":10}`:                                                false,
		`{"kind":"room_member_count"}`:                                                        false,
		`{"kind":"sender_notification_permission","key":"room"}`:                              true,
		`{"kind":"sender_notification_permission"}`:                                           false,
		`{"kind":"org.example.unknown"}`:                                                      false,
		`{}`:                                                                                  false,
	} {
		t.Run(in[:min(len(in), 100)], func(t *testing.T) {
			t.Parallel()
			p := single(in)
			who := newPerson(anna, "triple")
			if got := p.in(room).run(newFacts(e, inRoom(t, 10)), &who); got.notify != want {
				t.Errorf("holds is %t, want %t", got.notify, want)
			}
		})
	}
}

func TestActions(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]effect{
		``:                                   {},
		`"dont_notify"`:                      {},
		`"coalesce"`:                         {},
		`{"set_tweak":"highlight"}`:          {},
		`"notify"`:                           {true, false, `["notify"]`},
		`"coalesce" "notify"`:                {true, false, `["notify"]`},
		`"notify" {"set_tweak":"x"}`:         {true, false, `["notify",{"set_tweak":"x"}]`},
		`"notify" {"set_tweak":"sound"}`:     {true, false, `["notify",{"set_tweak":"sound"}]`},
		`"notify" {"set_tweak":"highlight"}`: {true, true, `["notify",{"set_tweak":"highlight"}]`},
		`"notify" {"set_tweak":"highlight","value":true}`:  {true, true, `["notify",{"set_tweak":"highlight","value":true}]`},
		`"notify" {"set_tweak":"highlight","value":false}`: {true, false, `["notify",{"set_tweak":"highlight","value":false}]`},
	} {
		if got := effectOf(rawList(strings.Fields(in)...)); got != want {
			t.Errorf("%s: got %+v, want %+v", in, got, want)
		}
	}
}

// changed is what edits make of a user's rules.
func changed(t testing.TB, userID string, edits ...edit) *custom {
	t.Helper()
	c := &custom{}
	for _, e := range edits {
		e.UserID = userID
		if _, err := c.apply(&e); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func put(k Kind, id string, d Draft) edit {
	if d.Actions == nil {
		d.Actions = rawList()
	}
	return edit{Op: opPut, Kind: k, RuleID: id, Draft: d}
}

func ptr(s string) *string { return &s }

// People whose rules come to the same in a room share a subject there, whatever they are called; others do not.
func TestSubjects(t *testing.T) {
	t.Parallel()
	ring := rawList(`"notify"`, `{"set_tweak":"sound","value":"ring"}`)
	subject := func(userID string, edits ...edit) storage.PushSubject {
		return subjectOf(newCompiler().program(changed(t, userID, edits...), userID).in(room).shared().text())
	}
	plain := subject(anna)
	for name, tc := range map[string]struct {
		edits []edit
		same  bool
	}{
		"nothing":             {nil, true},
		"another room":        {[]edit{put(Room, "!other:test", Draft{})}, true},
		"another room's rule": {[]edit{put(Override, "x", Draft{Conditions: rawList(`{"kind":"event_match","key":"room_id","pattern":"!oth*"}`)})}, true},
		"this room":           {[]edit{put(Room, room, Draft{})}, false},
		"keyword":             {[]edit{put(Content, "x", Draft{Pattern: ptr("cake"), Actions: ring})}, true},
		"sender":              {[]edit{put(Sender, "@carl:test", Draft{})}, true},
		"condition":           {[]edit{put(Override, "x", Draft{Conditions: rawList(`{"kind":"event_match","key":"type","pattern":"a"}`)})}, true},
		"everything":          {[]edit{put(Override, "x", Draft{Conditions: rawList()})}, false},
		"default off":         {[]edit{{Op: opDisable, Kind: Underride, RuleID: ".m.rule.message"}}, false},
		"default's sound":     {[]edit{{Op: opActions, Kind: Underride, RuleID: ".m.rule.message", Draft: Draft{Actions: ring}}}, false},
		"master":              {[]edit{{Op: opEnable, Kind: Override, RuleID: RuleMaster}}, false},
	} {
		one, two := subject(bert, tc.edits...), subject("@carl:test", tc.edits...)
		if one != two {
			t.Errorf("%s: the same rules are subjects %d and %d", name, one, two)
		}
		if (one == plain) != tc.same {
			t.Errorf("%s: same as who has changed nothing is %t, want %t", name, one == plain, tc.same)
		}
	}
	for name, edits := range map[string][]edit{
		"master":     {{Op: opEnable, Kind: Override, RuleID: RuleMaster}},
		"everything": {put(Override, "x", Draft{Conditions: rawList()})},
		"this room":  {put(Override, "x", Draft{Conditions: rawList(`{"kind":"event_property_is","key":"room_id","value":"` + room + `"}`)})},
	} {
		if got := subject(anna, edits...); got != subjectNone {
			t.Errorf("%s off: subject %d, want that of never", name, got)
		}
	}
	if plain >= storage.PushDefault {
		t.Errorf("a subject made from text is %d, want below those with a meaning", plain)
	}
}

// What is shared and the whole come to the same unless one of the rules left out, or a test for the user, matches.
func TestSharedAgreesWithWhole(t *testing.T) {
	t.Parallel()
	rules := changed(t, anna,
		put(Content, "cake", Draft{Pattern: ptr("cake*"), Actions: rawList(`"notify"`, jsonHighlight)}),
		put(Sender, "@carl:test", Draft{}),
		put(Override, "few", Draft{Conditions: rawList(`{"kind":"room_member_count","is":"<3"}`)}),
		edit{Op: opDisable, Kind: Underride, RuleID: ".m.rule.call"},
	)
	p := newCompiler().program(rules, anna).in(room)
	shared := p.shared()
	who := newPerson(anna, "Anna Bell")
	for body, differs := range map[string]bool{"hello": false, "a cakewalk": true, "dear anna": true, "Anna bell": true, "@room": false} {
		v := newFacts(made(t, "m.room.message", message(body)), inRoom(t, 5))
		if got := p.run(v, &who) != shared.run(v, nil); got != differs {
			t.Errorf("%q: differs is %t, want %t", body, got, differs)
		}
	}
	carls := newFacts(made(t, "m.room.message", message("hello"), from("@carl:test")), inRoom(t, 5))
	if p.run(carls, &who).notify || !shared.run(carls, nil).notify {
		t.Error("the rule for a sender is not left out of what is shared")
	}
}

func BenchmarkRun(b *testing.B) {
	rules := changed(b, anna, put(Content, "cake", Draft{Pattern: ptr("cake*"), Actions: rawList(`"notify"`)}), put(Sender, "@carl:test", Draft{}))
	p := newCompiler().program(rules, anna).in(room)
	room := inRoom(b, 10000)
	e := made(b, "m.room.message", message(strings.Repeat("words of a usual message ", 8)))
	who := newPerson(anna, "Anna Bell")
	b.Run("facts", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.run(newFacts(e, room), &who)
		}
	})
	b.Run("another user", func(b *testing.B) {
		b.ReportAllocs()
		v := newFacts(e, room)
		for b.Loop() {
			p.run(v, &who)
		}
	})
	b.Run("compile", func(b *testing.B) {
		b.ReportAllocs()
		c := newCompiler()
		for b.Loop() {
			c.program(rules, anna).in("!room:test")
		}
	})
}

// Patterns and texts that are made to be slow are not.
func BenchmarkHostilePattern(b *testing.B) {
	text := strings.Repeat("a", 64<<10)
	for name, pattern := range map[string]string{
		"stars":     strings.Repeat("a*", 1000) + "b",
		"questions": strings.Repeat("a?", 30) + "b",
		"long":      strings.Repeat("a", maxPattern-1) + "b",
	} {
		b.Run(name, func(b *testing.B) {
			g := newGlob(pattern)
			for b.Loop() {
				if g.matchWords(text) || g.matchAll(text) {
					b.Fatal("matches")
				}
			}
		})
	}
}

func ExampleDefaults() {
	for _, r := range Defaults("@anna:example.org").Override[:2] {
		fmt.Println(r.ID, r.Enabled, len(r.Actions))
	}
	// Output:
	// .m.rule.master false 0
	// .m.rule.suppress_notices true 0
}
