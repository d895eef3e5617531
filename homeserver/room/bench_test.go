package room_test

import (
	"fmt"
	"testing"

	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
)

func BenchmarkMessages(b *testing.B) {
	k := roomtest.New(b, nil)
	alice := k.User("alice")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	for i := range 200 {
		k.Say(alice, id, fmt.Sprint(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Rooms.Messages(b.Context(), alice, id, room.MessagesRequest{Limit: 100, Backwards: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSend(b *testing.B) {
	k := roomtest.New(b, nil)
	alice := k.User("alice")
	id := k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	b.ReportAllocs()
	for b.Loop() {
		k.Say(alice, id, "hello")
	}
}

func BenchmarkCreate(b *testing.B) {
	k := roomtest.New(b, nil)
	alice := k.User("alice")
	b.ReportAllocs()
	for b.Loop() {
		k.Create(alice, room.CreateRequest{Preset: room.PresetPublicChat})
	}
}
