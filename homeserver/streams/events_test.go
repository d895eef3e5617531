package streams

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEventRowRoundTrip(t *testing.T) {
	t.Parallel()
	sk := "@ü\"\\\n:example.com"
	rows := map[string]*EventRow{
		"state": {
			RoomNID: 1, SenderNID: 2, StateKeyNID: 3, TargetNID: 4, RoomID: "!r:example.com", RoomVersion: "12", EventID: "$e",
			Type: "m.room.member", Sender: "@a:example.com", StateKey: &sk, Membership: "join", PrevMembership: "invite", Flags: 4,
			Current: true, StateReset: true, Outbound: true, StateRoot: []byte{0, 1, 0xff}, AuthDepth: 7, ReceivedTS: 1700000000000,
			JSON: []byte(`{"type":"m.room.member"}`),
		},
		"message": {EventID: "$m", TxnDevice: "DEV", TxnID: "m1", Redacts: "$x", StateRoot: []byte{}},
	}
	for name, want := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Events().Codec
			data, err := c.AppendRow(nil, want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.DecodeRow(data)
			if err != nil {
				t.Fatalf("decode %s: %v", data, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("row changed on its way (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEventRowMalformed(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "null", "[]", `["ev"]`, `["ev",[]]`, `["state",["$e"]]`, `{"0":"ev"}`} {
		if row, err := Events().Codec.DecodeRow([]byte(data)); err == nil {
			t.Errorf("row %s was read as %+v", data, row)
		}
	}
}

func FuzzEventRow(f *testing.F) {
	c := Events().Codec
	seed, _ := c.AppendRow(nil, &EventRow{EventID: "$e", JSON: []byte("{}")})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		row, err := c.DecodeRow(data)
		if err != nil {
			return
		}
		if _, err := c.AppendRow(nil, row); err != nil {
			t.Errorf("row %q cannot be written again: %v", data, err)
		}
	})
}
