package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// taken is what a JoinSink was given.
type taken struct{ state, auth []string }

func (k *taken) sink() JoinSink {
	return JoinSink{
		State:     func(e json.RawMessage) error { k.state = append(k.state, string(e)); return nil },
		AuthChain: func(e json.RawMessage) error { k.auth = append(k.auth, string(e)); return nil },
	}
}

func TestDecodeSendJoin(t *testing.T) {
	t.Parallel()
	const whole = ` { "origin" : "a.example", "auth_chain":[{"a":"]}\"\\"},{"b":[1,{"c":null}]} ] ,"state" : [ {"s":1} ], "event":{"e":1},
		"members_omitted":true,"servers_in_room":["a","b"],"x":[[[]]],"y":"z","n":-1.5e3,"t":true } `
	for _, test := range []struct {
		name, body string
		wrapped    bool
		ok         bool
	}{
		{"whole", whole, false, true},
		{"wrapped", "[200," + whole + "]", true, true},
		{"least", `{"state":[],"auth_chain":[]}`, false, true},
		{"null event and servers", `{"state":[],"auth_chain":[],"event":null,"servers_in_room":null}`, false, true},
		{"empty", ``, false, false},
		{"array", `[]`, false, false},
		{"wrapped by nothing", whole, true, false},
		{"wrapped short", `[200]`, true, false},
		{"no state", `{"auth_chain":[]}`, false, false},
		{"no auth chain", `{"state":[]}`, false, false},
		{"state twice", `{"state":[],"auth_chain":[],"state":[]}`, false, false},
		{"state of another type", `{"state":{},"auth_chain":[]}`, false, false},
		{"cut off", whole[:len(whole)-20], false, false},
		{"cut off in an event", `{"state":[{"a":`, false, false},
		{"comma too much", `{"state":[{},],"auth_chain":[]}`, false, false},
		{"no comma", `{"state":[{}{}],"auth_chain":[]}`, false, false},
		{"bad event", `{"state":[{"a":}],"auth_chain":[]}`, false, false},
		{"mixed brackets", `{"state":[{"a":[}]],"auth_chain":[]}`, false, false},
		{"key of another type", `{1:2,"state":[],"auth_chain":[]}`, false, false},
		{"no UTF-8", "{\"state\":[{\"a\":\"\xff\"}],\"auth_chain\":[]}", false, false},
		{"servers of another type", `{"state":[],"auth_chain":[],"servers_in_room":[1]}`, false, false},
		{"event too long", `{"state":[{"a":"` + strings.Repeat("x", maxJoinMember) + `"}],"auth_chain":[]}`, false, false},
		{"member too long", `{"state":[],"auth_chain":[],"x":"` + strings.Repeat("x", maxJoinMember) + `"}`, false, false},
		{"key too long", `{"state":[],"auth_chain":[],"` + strings.Repeat("x", maxKey) + `":1}`, false, false},
		{"number too long", `{"state":[],"auth_chain":[],"x":` + strings.Repeat("1", 100) + `}`, false, false},
	} {
		var k taken
		// Readers may give a byte at a time.
		out, sinkErr, err := decodeSendJoin(iotest.OneByteReader(strings.NewReader(test.body)), test.wrapped, k.sink())
		if sinkErr != nil || (err == nil) != test.ok {
			t.Errorf("%s: %v, %v", test.name, sinkErr, err)
		}
		if test.name != "whole" && test.name != "wrapped" || err != nil {
			continue
		}
		if got, want := fmt.Sprint(k.state, k.auth), fmt.Sprint([]string{`{"s":1}`}, []string{`{"a":"]}\"\\"}`, `{"b":[1,{"c":null}]}`}); got != want {
			t.Errorf("%s: took %s, want %s", test.name, got, want)
		}
		if out.Origin != "a.example" || string(out.Event) != `{"e":1}` || !out.MembersOmitted || fmt.Sprint(out.ServersInRoom) != "[a b]" {
			t.Errorf("%s: %+v", test.name, out)
		}
	}
}

func TestSinkEndsSendJoin(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	// The rest is not even read.
	body := io.MultiReader(strings.NewReader(`{"state":[{},{},`), iotest.ErrReader(errors.New("read on")))
	n := 0
	_, sinkErr, err := decodeSendJoin(body, false, JoinSink{State: func(json.RawMessage) error {
		if n++; n == 2 {
			return full
		}
		return nil
	}})
	if !errors.Is(sinkErr, full) || err == nil || n != 2 {
		t.Errorf("%v, %v, took %d", sinkErr, err, n)
	}
}

func FuzzSendJoin(f *testing.F) {
	f.Add([]byte(`{"origin":"a","auth_chain":[{"a":1}],"state":[{"b":"\"]"}],"event":{},"members_omitted":false,"servers_in_room":["x"]}`), false)
	f.Add([]byte(`[200, {"auth_chain":[], "state":[]}]`), true)
	f.Add([]byte(`{"state":null,"auth_chain":[]}`), false)
	f.Fuzz(func(t *testing.T, body []byte, wrapped bool) {
		var k taken
		out, _, err := decodeSendJoin(bytes.NewReader(body), wrapped, k.sink())
		// encoding/json reads the same out of what is JSON as a whole, where no name stands twice or in another case.
		whole := body
		if wrapped {
			var parts []json.RawMessage
			if json.Unmarshal(body, &parts) != nil || len(parts) < 2 {
				return
			}
			whole = parts[1]
		}
		var want struct {
			State     []json.RawMessage `json:"state"`
			AuthChain []json.RawMessage `json:"auth_chain"`
		}
		if err != nil || json.Unmarshal(whole, &want) != nil || bytes.Count(bytes.ToLower(whole), []byte("state")) != 1 ||
			bytes.Count(bytes.ToLower(whole), []byte("auth_chain")) != 1 || bytes.Contains(whole, []byte(`\u`)) {
			return
		}
		if out == nil || len(k.state) != len(want.State) || len(k.auth) != len(want.AuthChain) {
			t.Fatalf("%q gave %d and %d events, not %d and %d", body, len(k.state), len(k.auth), len(want.State), len(want.AuthChain))
		}
		for i := range want.State {
			if string(want.State[i]) != k.state[i] {
				t.Fatalf("%q gave %s, not %s", body, k.state[i], want.State[i])
			}
		}
	})
}
