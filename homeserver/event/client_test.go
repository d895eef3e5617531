package event

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestAppendClient(t *testing.T) {
	t.Parallel()
	v := version(t, "11")
	r := newTestRoom(t, v)
	e := r.build(r.draft("@alice:a", "org.\"x", ptr("k\n"), map[string]any{"a": 1}))
	head := fmt.Sprintf(`{"content":{"a":1},"event_id":"%s","origin_server_ts":1003,"room_id":"!room:a","sender":"@alice:a","state_key":"k\n","type":"org.\"x"`, e.ID())
	for _, c := range []struct {
		name string
		o    ClientOptions
		want string
	}{
		{"plain", ClientOptions{}, head + `}`},
		{"age", ClientOptions{NowTS: 1500}, head + `,"unsigned":{"age":497}}`},
		{"extra only", ClientOptions{ExtraUnsigned: []byte(`"x":1`)}, head + `,"unsigned":{"x":1}}`},
		{
			"everything",
			ClientOptions{
				NowTS: 1003, TransactionID: `t"1`, Membership: "join", PrevContent: json.RawMessage(`{"p":1}`), PrevSender: "@b:b",
				ReplacesState: "$old", RedactedBecause: json.RawMessage(`{"r":1}`), Relations: json.RawMessage(`{"m.thread":{}}`),
				ExtraUnsigned: []byte(`"x":1,"y":2`),
			},
			head + `,"unsigned":{"age":0,"m.relations":{"m.thread":{}},"membership":"join","prev_content":{"p":1},"prev_sender":"@b:b","redacted_because":{"r":1},"replaces_state":"$old","transaction_id":"t\"1","x":1,"y":2}}`,
		},
		{
			"without room",
			ClientOptions{OmitRoomID: true},
			fmt.Sprintf(`{"content":{"a":1},"event_id":"%s","origin_server_ts":1003,"sender":"@alice:a","state_key":"k\n","type":"org.\"x"}`, e.ID()),
		},
		{"stripped", ClientOptions{Stripped: true, NowTS: 1500}, `{"content":{"a":1},"sender":"@alice:a","state_key":"k\n","type":"org.\"x"}`},
	} {
		got := AppendClient([]byte("["), e, c.o)
		if string(got) != "["+c.want || !json.Valid(got[1:]) {
			t.Errorf("%s: got  %s\nwant [%s", c.name, got, c.want)
		}
	}
}

func TestAppendClientRedaction(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v *Version) {
		r := newTestRoom(t, v)
		d := r.draft("@alice:a", TypeRedaction, nil, map[string]any{"a": 1, "z": 2})
		d.Redacts = "$target:a"
		e := r.build(d)
		got := decode(t, AppendClient(nil, e, ClientOptions{}))
		content, _ := got["content"].(map[string]any)
		if got["redacts"] != "$target:a" || content["redacts"] != "$target:a" || len(content) != 3 {
			t.Errorf("redacts is not in both places: %v", got)
		}
		if got["room_id"] != r.id || got["event_id"] != e.ID() {
			t.Errorf("ids are not in %v", got)
		}
	})
}
