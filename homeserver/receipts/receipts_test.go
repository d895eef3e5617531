package receipts_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/accountdata"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/receipts"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	anna = "@anna:test"
	bert = "@bert:test"
)

type process struct {
	*streamstest.Process
	*receipts.Service
	data  *accountdata.Service
	rooms *streamstest.Rooms
	ids   *storage.StreamIDs

	mu    sync.Mutex
	heard []string
}

func (p *process) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.heard
	p.heard = nil
	return out
}

// newCluster is a main process, which writes events, and a worker. Rooms' receipts are written by writers.
func newCluster(t *testing.T, writers ...string) []*process {
	t.Helper()
	cluster := streamstest.New(t, map[string][]string{"receipts": writers}, "worker")
	var out []*process
	for _, sp := range cluster.Processes {
		p := &process{Process: sp, rooms: sp.Rooms(t), ids: sp.IDsIf(t, "receipts")}
		var err error
		p.data, err = accountdata.New(accountdata.Config{
			DB: sp.DB, Client: sp.Client, Writers: sp.Writers, RPC: sp.RPC, IDs: sp.IDsIf(t, "account_data"),
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Service, err = receipts.New(receipts.Config{
			DB: sp.DB, Rooms: p.rooms.Store, Markers: p.data, Client: sp.Client, Writers: sp.Writers, RPC: sp.RPC, IDs: p.ids,
		})
		if err != nil {
			t.Fatal(err)
		}
		p.Handle(func(_ context.Context, u replication.Update[streams.ReceiptsRow]) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, r := range u.Rows {
				thread := "-"
				if r.Value.ThreadID != nil {
					thread = *r.Value.ThreadID
				}
				if gjson.GetBytes(r.Value.Data, "ts").Int() == 0 {
					t.Errorf("row without time: %s", r.Value.Data)
				}
				p.heard = append(p.heard, strings.Join([]string{r.Value.RoomID, r.Value.ReceiptType, r.Value.UserID, r.Value.EventID, thread}, " "))
			}
		})
		out = append(out, p)
	}
	cluster.Start(t)
	return out
}

func settle(t *testing.T, all []*process) {
	t.Helper()
	for _, w := range all {
		if w.ids == nil {
			continue
		}
		for _, p := range all {
			if err := p.Client.WaitFor(t.Context(), "receipts", w.Name, w.ids.Position()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func as(userID string) *requester.Requester { return &requester.Requester{UserID: userID} }

func ptr(s string) *string { return &s }

// Whichever process is asked, and whichever writes the room's receipts, the outcome and what everybody hears is the same.
func TestReceiptsOnAnyProcess(t *testing.T) {
	t.Parallel()
	for _, writers := range [][]string{{"master"}, {"worker"}, {"master", "worker"}} {
		for asked := range 2 {
			t.Run(fmt.Sprintf("writers %v, process %d", writers, asked), func(t *testing.T) {
				t.Parallel()
				all := newCluster(t, writers...)
				main, p, ctx := all[0].rooms, all[asked], t.Context()
				room := main.Create(anna, bert)
				var events []string
				for i := range 4 {
					events = append(events, main.Send(room, anna, fmt.Sprintf(`{"body":"%d"}`, i)))
				}
				set := func(user string, m ...receipts.Marker) {
					t.Helper()
					if err := p.Set(ctx, as(user), room, m...); err != nil {
						t.Fatal(err)
					}
				}
				set(bert, receipts.Marker{Type: receipts.Read, EventID: events[1]})
				set(bert, receipts.Marker{Type: receipts.Read, EventID: events[1]}) // where it is
				set(bert, receipts.Marker{Type: receipts.Read, EventID: events[0]}) // backwards
				set(bert, receipts.Marker{Type: receipts.ReadPrivate, EventID: events[0]})
				set(bert, receipts.Marker{Type: receipts.Read, EventID: events[0], ThreadID: ptr("main")}) // of its own
				set(bert, receipts.Marker{Type: receipts.Read, EventID: events[2]})
				set(bert,
					receipts.Marker{Type: receipts.FullyRead, EventID: events[3]},
					receipts.Marker{Type: receipts.Read, EventID: events[3]},
					receipts.Marker{Type: receipts.ReadPrivate, EventID: events[2]})
				set(bert, receipts.Marker{Type: receipts.FullyRead, EventID: events[1]}) // backwards
				set(bert)

				settle(t, all)
				row := func(kind string, event int, thread string) string {
					return strings.Join([]string{room, kind, bert, events[event], thread}, " ")
				}
				want := []string{
					row("m.read", 1, "-"), row("m.read.private", 0, "-"), row("m.read", 0, "main"), row("m.read", 2, "-"),
					row("m.read", 3, "-"), row("m.read.private", 2, "-"),
				}
				for _, p := range all {
					if diff := cmp.Diff(want, p.take()); diff != "" {
						t.Errorf("%s heard (-want +got):\n%s", p.Name, diff)
					}
				}
				if got, err := p.data.Get(ctx, bert, room, "m.fully_read"); err != nil || gjson.GetBytes(got, "event_id").Str != events[3] {
					t.Errorf("read marker is %s, %v, want %s", got, err, events[3])
				}

				// Everybody sees the public ones, their owner all of them.
				r, err := p.rooms.Store.Room(ctx, room)
				if err != nil {
					t.Fatal(err)
				}
				nids, err := p.rooms.Store.UserNIDs(ctx, []string{anna, bert})
				if err != nil {
					t.Fatal(err)
				}
				for i, want := range []int{2, 3} {
					got, err := storage.ReceiptsInRooms(ctx, p.DB, []storage.RoomNID{r.NID}, nids[i], 0, 1<<60)
					if err != nil || len(got) != want {
						t.Errorf("viewer %d sees %d receipts, %v, want %d", i, len(got), err, want)
					}
				}
				if own, err := storage.ReceiptsOfUser(ctx, p.DB, nids[1], nil); err != nil || len(own) != 3 {
					t.Errorf("own receipts are %+v, %v, want three", own, err)
				}
			})
		}
	}
}

func TestReceiptsRefuse(t *testing.T) {
	t.Parallel()
	all := newCluster(t, "worker")
	main := all[0].rooms
	room, other := main.Create(anna, bert), main.Create(anna)
	event, elsewhere := main.Send(room, anna, `{"body":"x"}`), main.Send(other, anna, `{"body":"x"}`)
	root := main.Send(room, anna, `{"body":"root"}`)
	inThread := main.Send(room, anna, `{"body":"x","m.relates_to":{"rel_type":"m.thread","event_id":"`+root+`"}}`)
	reaction := main.Send(room, anna, `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+inThread+`","key":"a"}}`)
	for _, p := range all {
		for name, tc := range map[string]struct {
			user, room string
			marker     receipts.Marker
			status     int
			code       string
		}{
			"unknown room":           {bert, "!none:test", receipts.Marker{Type: "m.read", EventID: event}, 403, "M_FORBIDDEN"},
			"not a member":           {bert, other, receipts.Marker{Type: "m.read", EventID: elsewhere}, 403, "M_FORBIDDEN"},
			"unknown user":           {"@none:test", room, receipts.Marker{Type: "m.read", EventID: event}, 403, "M_FORBIDDEN"},
			"unknown type":           {bert, room, receipts.Marker{Type: "m.write", EventID: event}, 400, "M_INVALID_PARAM"},
			"no event id":            {bert, room, receipts.Marker{Type: "m.read", EventID: "x"}, 400, "M_INVALID_PARAM"},
			"nul in event id":        {bert, room, receipts.Marker{Type: "m.read", EventID: "$x\x00"}, 400, "M_INVALID_PARAM"},
			"unknown event":          {bert, room, receipts.Marker{Type: "m.read", EventID: "$unknown"}, 404, "M_NOT_FOUND"},
			"event of another room":  {anna, room, receipts.Marker{Type: "m.read", EventID: elsewhere}, 404, "M_NOT_FOUND"},
			"empty thread":           {bert, room, receipts.Marker{Type: "m.read", EventID: event, ThreadID: ptr("")}, 400, "M_INVALID_PARAM"},
			"thread that is no id":   {bert, room, receipts.Marker{Type: "m.read", EventID: event, ThreadID: ptr("x")}, 400, "M_INVALID_PARAM"},
			"another thread":         {bert, room, receipts.Marker{Type: "m.read", EventID: event, ThreadID: &root}, 400, "M_INVALID_PARAM"},
			"thread event in main":   {bert, room, receipts.Marker{Type: "m.read", EventID: inThread, ThreadID: ptr("main")}, 400, "M_INVALID_PARAM"},
			"reaction to it in main": {bert, room, receipts.Marker{Type: "m.read", EventID: reaction, ThreadID: ptr("main")}, 400, "M_INVALID_PARAM"},
			"thread of a marker":     {bert, room, receipts.Marker{Type: "m.fully_read", EventID: event, ThreadID: ptr("main")}, 400, "M_INVALID_PARAM"},
		} {
			err := p.Set(t.Context(), as(tc.user), tc.room, tc.marker)
			mx, ok := mxerr.As(err)
			if !ok || mx.Status != tc.status || mx.Code != tc.code {
				t.Errorf("%s: %s: got %v, want %d %s", p.Name, name, err, tc.status, tc.code)
			}
		}
		for name, m := range map[string]receipts.Marker{
			"root in main":          {Type: "m.read", EventID: root, ThreadID: ptr("main")},
			"root in its thread":    {Type: "m.read", EventID: root, ThreadID: &root},
			"event in its thread":   {Type: "m.read", EventID: inThread, ThreadID: &root},
			"reaction in thread":    {Type: "m.read", EventID: reaction, ThreadID: &root},
			"unthreaded in thread":  {Type: "m.read", EventID: inThread},
			"private in the thread": {Type: "m.read.private", EventID: inThread, ThreadID: &root},
		} {
			if err := p.Set(t.Context(), as(bert), room, m); err != nil {
				t.Errorf("%s: %s: %v", p.Name, name, err)
			}
		}
	}
}

// Receipts of other servers' users may be for events that are not here.
func TestReceive(t *testing.T) {
	t.Parallel()
	all := newCluster(t, "worker")
	main, p, ctx := all[0].rooms, all[0], t.Context()
	room := main.Create(anna, bert)
	event := main.Send(room, anna, `{"body":"x"}`)
	const remote = "@carl:elsewhere"
	batch := func(rs ...receipts.Receipt) {
		t.Helper()
		if err := p.Receive(ctx, rs); err != nil {
			t.Fatal(err)
		}
	}
	batch(
		receipts.Receipt{RoomID: room, Type: "m.read", UserID: remote, EventID: "$unknown1", TS: 1},
		receipts.Receipt{RoomID: "!none:test", Type: "m.read", UserID: remote, EventID: event, TS: 1},
		receipts.Receipt{RoomID: room, Type: "m.read.private", UserID: remote, EventID: event, TS: 1},
		receipts.Receipt{RoomID: room, Type: "m.read", UserID: "carl", EventID: event, TS: 1},
	)
	batch(receipts.Receipt{RoomID: room, Type: "m.read", UserID: remote, EventID: "$unknown2", TS: 2})
	batch(
		receipts.Receipt{RoomID: room, Type: "m.read", UserID: remote, EventID: event, TS: 3},
		receipts.Receipt{RoomID: room, Type: "m.read", UserID: remote, EventID: event, TS: 3, ThreadID: "main"},
		receipts.Receipt{RoomID: room, Type: "m.read", UserID: remote, EventID: "$unknown3", TS: 3, ThreadID: "main"},
	)
	batch(receipts.Receipt{RoomID: room, Type: "m.read", UserID: remote, EventID: "$unknown4", TS: 4})
	settle(t, all)
	row := func(event, thread string) string {
		return strings.Join([]string{room, "m.read", remote, event, thread}, " ")
	}
	want := []string{row("$unknown1", "-"), row("$unknown2", "-"), row(event, "-"), row(event, "main")}
	for _, p := range all {
		if diff := cmp.Diff(want, p.take()); diff != "" {
			t.Errorf("%s heard (-want +got):\n%s", p.Name, diff)
		}
	}
	if ups, err := storage.ReceiptUpdates(ctx, p.DB, "worker", 0, 1<<60, 100); err != nil || len(ups) != 2 || ups[0].RoomID != room || ups[0].UserID != remote {
		t.Errorf("rows to catch up with are %+v, %v", ups, err)
	}
}
