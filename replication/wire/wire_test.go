package wire_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/weft-im/weft/replication/wire"
)

// lines are the forms of the protocol; each is written as it was read.
var lines = []struct {
	line string
	cmd  wire.Command
}{
	{"SERVER example.com", wire.Server{ServerName: "example.com"}},
	{`RDATA events persister1 57 ["ev",{"event_id":"$a b"}]`, wire.RData{Stream: "events", Instance: "persister1", Token: 57, Row: `["ev",{"event_id":"$a b"}]`}},
	{`RDATA caches master batch ["f",["k"],1]`, wire.RData{Stream: "caches", Instance: "master", Batch: true, Row: `["f",["k"],1]`}},
	{"POSITION events persister1 55 57", wire.Position{Stream: "events", Instance: "persister1", Prev: 55, Token: 57}},
	{"ERROR no such stream", wire.Error{Text: "no such stream"}},
	{"PING 1700000000000", wire.Ping{Text: "1700000000000"}},
	{"PING", wire.Ping{}},
	{"NAME generic worker 1", wire.ClientName{Client: "generic worker 1"}},
	{"REPLICATE", wire.Replicate{}},
	{"REPLICATE events typing", wire.Replicate{Streams: []string{"events", "typing"}}},
	{"USER_SYNC w1 @a:x DEVICE start 1700000000000", wire.UserSync{InstanceID: "w1", UserID: "@a:x", DeviceID: "DEVICE", Syncing: true, LastSyncMS: 1700000000000}},
	{"USER_SYNC w1 @a:x a device end end 5", wire.UserSync{InstanceID: "w1", UserID: "@a:x", DeviceID: "a device end", LastSyncMS: 5}},
	{"USER_SYNC w1 @a:x None end 5", wire.UserSync{InstanceID: "w1", UserID: "@a:x", LastSyncMS: 5}},
	{"CLEAR_USER_SYNC w1", wire.ClearUserSync{InstanceID: "w1"}},
	{"FEDERATION_ACK sender1 12", wire.FederationAck{Instance: "sender1", Token: 12}},
	{`LOCK_RELEASED ["w1","new_event","!a:x\n"]`, wire.LockReleased{Instance: "w1", Lock: "new_event", Key: "!a:x\n"}},
	{"NEW_ACTIVE_TASK abc", wire.NewActiveTask{TaskID: "abc"}},
	{"CANCEL_TASK abc", wire.CancelTask{TaskID: "abc"}},
	{"REMOTE_SERVER_UP other.example", wire.RemoteServerUp{Server: "other.example"}},
	{`USER_IP @a:x ["syt_x","::1","Agent \"1\"","DEV",17]`, wire.UserIP{UserID: "@a:x", AccessToken: "syt_x", IP: "::1", UserAgent: `Agent "1"`, DeviceID: "DEV", LastSeenMS: 17}},
	{`USER_IP @a:x ["t","::1","",null,17]`, wire.UserIP{UserID: "@a:x", AccessToken: "t", IP: "::1", LastSeenMS: 17}},
	{"REMOVE_PUSHER app key @a:x", wire.RemovePusher{AppID: "app", PushKey: "key", UserID: "@a:x"}},
}

func TestForms(t *testing.T) {
	t.Parallel()
	for _, tc := range lines {
		got, err := wire.Parse(tc.line + "\r\n")
		if err != nil || !reflect.DeepEqual(got, tc.cmd) {
			t.Errorf("Parse(%q) = %#v, %v, want %#v", tc.line, got, err, tc.cmd)
		}
		if line, err := wire.Format(tc.cmd); err != nil || line != tc.line {
			t.Errorf("Format(%#v) = %q, %v, want %q", tc.cmd, line, err, tc.line)
		}
	}
	// The form of before there were device ids.
	got, err := wire.Parse("USER_SYNC w1 @a:x start 5")
	if want := (wire.UserSync{InstanceID: "w1", UserID: "@a:x", Syncing: true, LastSyncMS: 5}); err != nil || got != want {
		t.Errorf("got %#v, %v, want %#v", got, err, want)
	}
}

func TestEveryCommandHasACase(t *testing.T) {
	t.Parallel()
	have := make(map[string]bool)
	for _, tc := range lines {
		have[tc.cmd.Name()] = true
	}
	for _, name := range strings.Fields("SERVER RDATA POSITION ERROR PING NAME REPLICATE USER_SYNC CLEAR_USER_SYNC FEDERATION_ACK " +
		"USER_IP REMOTE_SERVER_UP LOCK_RELEASED NEW_ACTIVE_TASK CANCEL_TASK REMOVE_PUSHER") {
		if !have[name] {
			t.Errorf("no case for %s", name)
		}
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"", " ", "rdata events w 1 {}", "SERVER", "SERVER a b", "RDATA", "RDATA events", "RDATA events w", "RDATA events w 1", "RDATA events w 1 ",
		"RDATA  w 1 {}", "RDATA events w -1 {}", "RDATA events w +1 {}", "RDATA events w 1.5 {}", "RDATA events w x {}",
		"RDATA events w 9223372036854775808 {}", "RDATA events w 1 {}\nRDATA events w 2 {}", "POSITION events w 1", "POSITION events w 1 2 3",
		"POSITION events w 1 -2", "POSITION events w  2", "POSITION events w\tx 1 2", "NAME", "REPLICATE a  b",
		"USER_SYNC", "USER_SYNC w", "USER_SYNC w @a:x", "USER_SYNC w @a:x start", "USER_SYNC w @a:x DEV begin 5", "USER_SYNC w @a:x DEV start x",
		"USER_SYNC w @a:x  start 5", "CLEAR_USER_SYNC", "CLEAR_USER_SYNC a b", "FEDERATION_ACK s", "FEDERATION_ACK s x", "FEDERATION_ACK s 1 2",
		"LOCK_RELEASED", "LOCK_RELEASED []", `LOCK_RELEASED ["a","b"]`, `LOCK_RELEASED ["a","b","c","d"]`, `LOCK_RELEASED {"a":1}`, "LOCK_RELEASED [1,2,3]",
		"NEW_ACTIVE_TASK", "CANCEL_TASK a b", "REMOTE_SERVER_UP", "USER_IP", "USER_IP @a:x", "USER_IP @a:x []", `USER_IP @a:x [1,"","","",1]`,
		`USER_IP @a:x ["t","","","","1"]`, "REMOVE_PUSHER a b", "REMOVE_PUSHER a  b", "REMOVE_PUSHER a b c d",
	} {
		if cmd, err := wire.Parse(line); err == nil {
			t.Errorf("Parse(%q) = %#v, want an error", line, cmd)
		}
	}
	var unknown *wire.UnknownCommandError
	if _, err := wire.Parse("FROBNICATE 1"); !errors.As(err, &unknown) || unknown.Name != "FROBNICATE" {
		t.Errorf("got %v, want an UnknownCommandError", err)
	}
	for _, cmd := range []wire.Command{
		wire.Server{},
		wire.Server{ServerName: "a b"},
		wire.RData{Stream: "s", Instance: "w"},
		wire.RData{Stream: "s", Instance: "w", Token: -1, Row: "{}"},
		wire.RData{Stream: "s", Instance: "w", Row: "{\n}"},
		wire.RData{Instance: "w", Row: "{}"},
		wire.Position{Stream: "s", Instance: "w x"},
		wire.Position{Stream: "s", Instance: "w", Prev: -1},
		wire.Error{Text: "a\nb"},
		wire.ClientName{},
		wire.Replicate{Streams: []string{""}},
		wire.UserSync{UserID: "@a:x"},
		wire.UserSync{InstanceID: "w", UserID: "@a:x", DeviceID: "a\nb"},
		wire.FederationAck{Token: 1},
		wire.UserIP{},
		wire.RemovePusher{AppID: "a", PushKey: "b"},
		wire.NewActiveTask{},
		wire.CancelTask{TaskID: "\t"},
	} {
		if line, err := wire.Format(cmd); err == nil {
			t.Errorf("Format(%#v) = %q, want an error", cmd, line)
		}
	}
}

func TestChannels(t *testing.T) {
	t.Parallel()
	for _, tc := range lines {
		want := "example.com"
		switch tc.cmd.(type) {
		case wire.RData, wire.Position:
			want += "/" + strings.Fields(tc.line)[1]
		case wire.UserIP:
			want += "/USER_IP"
		}
		if got := wire.Channel("example.com", tc.cmd); got != want {
			t.Errorf("channel of %q is %q, want %q", tc.line, got, want)
		}
		if got, ok := wire.LineChannel("example.com", tc.line); !ok || got != want {
			t.Errorf("channel of the line %q is %q, want %q", tc.line, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tc := range lines {
		f.Add(tc.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cmd, err := wire.Parse(line)
		if err != nil {
			if cmd != nil {
				t.Errorf("Parse(%q) gave both %#v and %v", line, cmd, err)
			}
			return
		}
		out, err := wire.Format(cmd)
		if err != nil {
			t.Fatalf("Parse(%q) = %#v, which cannot be formatted: %v", line, cmd, err)
		}
		again, err := wire.Parse(out)
		if err != nil || !reflect.DeepEqual(again, cmd) {
			t.Fatalf("%q was read as %#v, written as %q and read as %#v, %v", line, cmd, out, again, err)
		}
		if _, ok := wire.LineChannel("s", out); !ok {
			t.Errorf("%q has no channel", out)
		}
	})
}
