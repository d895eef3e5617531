package event_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"github.com/weft-im/weft/homeserver/event"
)

// A room of version 12 begins with an event without a room id: its own id becomes that of the room.
func ExampleBuild() {
	version, _ := event.LookupVersion(event.DefaultVersion)
	signer := event.Signer{
		ServerName: "example.org", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
	}
	empty, alice := "", "@alice:example.org"
	create, err := event.Build(version, event.Draft{
		Sender: alice, Type: event.TypeCreate, StateKey: &empty, Content: json.RawMessage(`{"room_version":"12"}`),
		Depth: 1, OriginServerTS: 1700000000000,
	}, signer)
	if err != nil {
		fmt.Println(err)
		return
	}
	join, err := event.Build(version, event.Draft{
		RoomID: create.RoomID(), Sender: alice, Type: event.TypeMember, StateKey: &alice,
		Content: json.RawMessage(`{"membership":"join"}`), PrevEvents: []string{create.ID()},
		Depth: 2, OriginServerTS: 1700000000001,
	}, signer)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(create.RoomID())
	fmt.Println(event.Authorise(join, event.NewAuthMap(create)))
	// Output:
	// !37iwD-DyT01UTC3QaO2Ot9nDS1G-rmVcGz0DYMPzG6c
	// <nil>
}
