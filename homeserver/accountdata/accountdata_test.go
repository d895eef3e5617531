package accountdata_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/accountdata"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/streams"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	anna = "@anna:test"
	room = "!room:test"
)

// heard are the rows that reached a process.
type heard struct {
	mu   sync.Mutex
	rows []string
}

func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.rows
	h.rows = nil
	return out
}

type process struct {
	*streamstest.Process
	*accountdata.Service
	heard *heard
	ids   *storage.StreamIDs
}

// newCluster is a main process and a worker, of which writer writes the stream.
func newCluster(t *testing.T, writer string) (*streamstest.Cluster, []*process) {
	t.Helper()
	cluster := streamstest.New(t, map[string][]string{"account_data": {writer}}, "worker")
	if _, err := storage.InternUsers(t.Context(), cluster.DB, []string{anna, "@bert:test"}); err != nil {
		t.Fatal(err)
	}
	var out []*process
	for _, p := range cluster.Processes {
		ids := p.IDsIf(t, "account_data")
		s, err := accountdata.New(accountdata.Config{DB: p.DB, Client: p.Client, Writers: p.Writers, RPC: p.RPC, IDs: ids})
		if err != nil {
			t.Fatal(err)
		}
		h := &heard{}
		s.Handle(func(_ context.Context, u replication.Update[streams.AccountDataRow]) {
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, r := range u.Rows {
				roomID := "global"
				if r.Value.RoomID != nil {
					roomID = *r.Value.RoomID
				}
				h.rows = append(h.rows, r.Value.UserID+" "+roomID+" "+r.Value.DataType)
			}
		})
		out = append(out, &process{p, s, h, ids})
	}
	cluster.Start(t)
	return cluster, out
}

// settle waits until all processes have seen what the writer wrote.
func settle(t *testing.T, all []*process, writer string) {
	t.Helper()
	for _, w := range all {
		if w.ids == nil {
			continue
		}
		for _, p := range all {
			if err := p.Client.WaitFor(t.Context(), "account_data", writer, w.ids.Position()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAccountDataOnAnyProcess(t *testing.T) {
	t.Parallel()
	for _, writer := range []string{"master", "worker"} {
		for asked := range 2 {
			t.Run(fmt.Sprintf("writer %s, process %d", writer, asked), func(t *testing.T) {
				t.Parallel()
				_, all := newCluster(t, writer)
				p, ctx := all[asked], t.Context()
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				want := func(roomID, dataType, content string) {
					t.Helper()
					for _, p := range all {
						got, err := p.Get(ctx, anna, roomID, dataType)
						if content == "" {
							if mx, ok := mxerr.As(err); !ok || mx.Code != "M_NOT_FOUND" {
								t.Errorf("%s: %s is %s, %v, want nothing", p.Name, dataType, got, err)
							}
						} else if err != nil || string(got) != content {
							t.Errorf("%s: %s is %s, %v, want %s", p.Name, dataType, got, err, content)
						}
					}
				}
				must(p.Put(ctx, anna, "", "org.test", json.RawMessage(`{"a":1.50,"b":"\u0000"}`)))
				must(p.Put(ctx, anna, "", "org.test", json.RawMessage(`{"a":2}`)))
				must(p.Put(ctx, anna, room, "org.test", json.RawMessage(`{"room":true}`)))
				want("", "org.test", `{"a":2}`)
				want(room, "org.test", `{"room":true}`)
				want("!other:test", "org.test", "")

				must(p.SetTag(ctx, anna, room, "m.favourite", json.RawMessage(`{"order":0.5}`)))
				must(p.SetTag(ctx, anna, room, "u.work", json.RawMessage(`{}`)))
				must(p.DeleteTag(ctx, anna, room, "m.favourite"))
				must(p.DeleteTag(ctx, anna, room, "u.none")) // nothing to tell
				want(room, "m.tag", `{"tags":{"u.work":{}}}`)

				must(p.Delete(ctx, anna, "", "org.test"))
				must(p.Put(ctx, anna, room, "org.test", json.RawMessage(` { } `)))
				want("", "org.test", "")
				want(room, "org.test", "")

				settle(t, all, writer)
				rows := []string{
					anna + " global org.test", anna + " global org.test", anna + " " + room + " org.test",
					anna + " " + room + " m.tag", anna + " " + room + " m.tag", anna + " " + room + " m.tag",
					anna + " global org.test", anna + " " + room + " org.test",
				}
				for _, p := range all {
					if diff := cmp.Diff(rows, p.heard.take()); diff != "" {
						t.Errorf("%s heard (-want +got):\n%s", p.Name, diff)
					}
				}
			})
		}
	}
}

// What /sync reads: everything at first, then what changed, removals included.
func TestSnapshotAndChanges(t *testing.T) {
	t.Parallel()
	cluster, all := newCluster(t, "master")
	p, ctx := all[0], t.Context()
	users, err := storage.LookupUsers(ctx, cluster.DB, []string{anna})
	if err != nil {
		t.Fatal(err)
	}
	put := func(user, roomID, dataType, content string) int64 {
		t.Helper()
		if err := p.Put(ctx, user, roomID, dataType, json.RawMessage(content)); err != nil {
			t.Fatal(err)
		}
		return p.ids.Position()
	}
	put(anna, "", "one", `{"n":1}`)
	put("@bert:test", "", "one", `{"n":1}`)
	since := put(anna, room, "two", `{"n":2}`)
	put(anna, "", "one", `{}`)
	now := put(anna, "!b:test", "three", `{"n":3}`)
	later := put(anna, "", "four", `{"n":4}`)
	show := func(ds []storage.AccountData, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		out := []string{}
		for _, d := range ds {
			out = append(out, fmt.Sprintf("%s %s %s %v", d.RoomID, d.Type, d.Content, d.Deleted))
		}
		return out
	}
	for name, tc := range map[string]struct{ got, want []string }{
		"everything": {
			show(storage.AccountDataSnapshot(ctx, cluster.DB, users[0].NID, nil)),
			[]string{` four {"n":4} false`, `!b:test three {"n":3} false`, `!room:test two {"n":2} false`},
		},
		"global and one room": {
			show(storage.AccountDataSnapshot(ctx, cluster.DB, users[0].NID, []string{"", room})),
			[]string{` four {"n":4} false`, `!room:test two {"n":2} false`},
		},
		"changes": {
			show(storage.AccountDataChanges(ctx, cluster.DB, users[0].NID, since, now)),
			[]string{` one {} true`, `!b:test three {"n":3} false`},
		},
		"nothing new": {show(storage.AccountDataChanges(ctx, cluster.DB, users[0].NID, later, later)), []string{}},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	updates, err := storage.AccountDataUpdates(ctx, cluster.DB, "master", since, later, 2)
	if err != nil || len(updates) != 2 || updates[0].Type != "one" || updates[1].UserID != anna {
		t.Errorf("updates are %+v, %v", updates, err)
	}
}

func TestAccountDataRefuses(t *testing.T) {
	t.Parallel()
	_, all := newCluster(t, "worker")
	ctx := t.Context()
	obj := json.RawMessage(`{"a":1}`)
	for _, p := range all {
		for name, tc := range map[string]struct {
			err    error
			status int
			code   string
		}{
			"fully read":         {p.Put(ctx, anna, room, "m.fully_read", obj), 405, "M_BAD_JSON"},
			"push rules":         {p.Put(ctx, anna, "", "m.push_rules", obj), 405, "M_BAD_JSON"},
			"remove push rules":  {p.Delete(ctx, anna, "", "m.push_rules"), 405, "M_BAD_JSON"},
			"no room":            {p.Put(ctx, anna, "room", "a", obj), 400, "M_INVALID_PARAM"},
			"alias":              {p.Put(ctx, anna, "#a:test", "a", obj), 400, "M_INVALID_PARAM"},
			"empty type":         {p.Put(ctx, anna, "", "", obj), 400, "M_INVALID_PARAM"},
			"long type":          {p.Put(ctx, anna, "", strings.Repeat("a", 256), obj), 400, "M_INVALID_PARAM"},
			"nul in type":        {p.Put(ctx, anna, "", "a\x00", obj), 400, "M_INVALID_PARAM"},
			"nobody":             {p.Put(ctx, "@nobody:test", "", "a", obj), 404, "M_NOT_FOUND"},
			"long tag":           {p.SetTag(ctx, anna, room, strings.Repeat("a", 256), obj), 400, "M_INVALID_PARAM"},
			"empty tag":          {p.SetTag(ctx, anna, room, "", obj), 400, "M_INVALID_PARAM"},
			"order is text":      {p.SetTag(ctx, anna, room, "u.x", json.RawMessage(`{"order":"0.5"}`)), 400, "M_BAD_JSON"},
			"order is too large": {p.SetTag(ctx, anna, room, "u.x", json.RawMessage(`{"order":1.5}`)), 400, "M_INVALID_PARAM"},
			"tag without room":   {p.SetTag(ctx, anna, "", "u.x", obj), 400, "M_INVALID_PARAM"},
		} {
			mx, ok := mxerr.As(tc.err)
			if !ok || mx.Status != tc.status || mx.Code != tc.code {
				t.Errorf("%s: %s: got %v, want %d %s", p.Name, name, tc.err, tc.status, tc.code)
			}
		}
	}
	settle(t, all, "worker")
	for _, p := range all {
		if rows := p.heard.take(); len(rows) != 0 {
			t.Errorf("%s heard %v", p.Name, rows)
		}
	}
}

func TestTagsOfManyAtOnce(t *testing.T) {
	t.Parallel()
	_, all := newCluster(t, "master")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := all[i%2].SetTag(t.Context(), anna, room, fmt.Sprintf("u.%d", i), json.RawMessage(`{}`)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tags, err := all[0].Tags(t.Context(), anna, room)
	if err != nil || len(tags) != 20 {
		t.Errorf("%d tags, %v, want 20: some were lost", len(tags), err)
	}
}

func TestCopyRoomSettings(t *testing.T) {
	t.Parallel()
	_, all := newCluster(t, "master")
	p, ctx := all[1], t.Context()
	for _, err := range []error{
		p.SetTag(ctx, anna, room, "m.favourite", json.RawMessage(`{"order":0.1}`)),
		p.Put(ctx, anna, "", "m.direct", json.RawMessage(`{"@bert:test":["`+room+`"],"@carl:test":["!x:test"]}`)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := p.CopyRoomSettings(ctx, anna, room, "!new:test"); err != nil {
			t.Fatal(err)
		}
	}
	tags, err := p.Tags(ctx, anna, "!new:test")
	if err != nil || string(tags["m.favourite"]) != `{"order":0.1}` {
		t.Errorf("tags are %v, %v", tags, err)
	}
	direct, err := p.Get(ctx, anna, "", "m.direct")
	if want := `{"@bert:test":["!room:test","!new:test"],"@carl:test":["!x:test"]}`; err != nil || string(direct) != want {
		t.Errorf("m.direct is %s, %v, want %s", direct, err, want)
	}
	if err := p.CopyRoomSettings(ctx, "@bert:test", room, "!new:test"); err != nil {
		t.Errorf("somebody without settings: %v", err)
	}
}
