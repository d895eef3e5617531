package push

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"github.com/weft-im/weft/homeserver/event"
)

const (
	anna = "@anna:test"
	bert = "@bert:test"
	room = "!room:test"
)

// made builds an event of bert's. more are extra members of the draft.
func made(t testing.TB, typ, content string, more ...func(*event.Draft)) *event.Event {
	t.Helper()
	v, ok := event.LookupVersion("11")
	if !ok {
		t.Fatal("no room version 11")
	}
	d := event.Draft{RoomID: room, Sender: bert, Type: typ, Content: json.RawMessage(content), OriginServerTS: 1, Depth: 2}
	for _, m := range more {
		m(&d)
	}
	e, err := event.Build(v, d, event.Signer{ServerName: "test", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func stateKey(k string) func(*event.Draft) { return func(d *event.Draft) { d.StateKey = &k } }
func from(user string) func(*event.Draft)  { return func(d *event.Draft) { d.Sender = user } }

// inRoom is the context of a room of n members in which bert may notify all.
func inRoom(t testing.TB, n int64) *Context {
	t.Helper()
	create := made(t, event.TypeCreate, `{"room_version":"11"}`, stateKey(""), from(bert))
	power := made(t, event.TypePowerLevels, `{"users":{"@bert:test":50,"@carl:test":49}}`, stateKey(""), from(bert))
	return &Context{Members: n, Levels: event.NewPowerLevels(create, power)}
}

func rawList(parts ...string) []json.RawMessage { return raw(parts...) }

// single is the program of one rule that notifies under one condition, in room.
func single(condition string) program {
	r := Rule{ID: "x", Enabled: true, Actions: rawList(`"notify"`), Conditions: rawList(condition)}
	tests, ok := r.tests(Override, anna)
	if !ok {
		return nil
	}
	return program{{tests: tests, effect: effectOf(r.Actions), own: true}}.in(room)
}
