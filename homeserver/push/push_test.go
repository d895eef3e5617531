package push_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/push"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/streams/streamstest"
	"github.com/weft-im/weft/homeserver/sync"
	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const anna = "@anna:test"

type process struct {
	*streamstest.Process
	*push.Service
	ids *storage.StreamIDs
}

func newCluster(t *testing.T, writer string) []*process {
	t.Helper()
	cluster := streamstest.New(t, map[string][]string{"push_rules": {writer}}, "worker")
	if _, err := storage.InternUsers(t.Context(), cluster.DB, []string{anna}); err != nil {
		t.Fatal(err)
	}
	var all []*process
	for _, p := range cluster.Processes {
		st, err := store.New(store.Config{DB: p.DB, ServerName: "test"})
		if err != nil {
			t.Fatal(err)
		}
		var ids *storage.StreamIDs
		if p.Name == writer {
			ids = p.IDs(t, "push_rules")
		}
		s, err := push.New(push.Config{DB: p.DB, Store: st, Client: p.Client, Writers: p.Writers, RPC: p.RPC, IDs: ids})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &process{p, s, ids})
	}
	cluster.Start(t)
	return all
}

func raw(parts ...string) []json.RawMessage {
	out := []json.RawMessage{}
	for _, p := range parts {
		out = append(out, json.RawMessage(p))
	}
	return out
}

// ids are the user's own rules of a kind in order, those switched off with a minus.
func ids(rs *push.Ruleset, k push.Kind) []string {
	out := []string{}
	for _, r := range rs.Of(k) {
		if r.Default {
			continue
		}
		id := r.ID
		if !r.Enabled {
			id = "-" + id
		}
		out = append(out, id)
	}
	return out
}

// Rules change the same way whether the process asked writes the stream or not, and both see them at once.
func TestRulesOnAnyProcess(t *testing.T) {
	t.Parallel()
	for _, writer := range []string{"master", "worker"} {
		for asked := range 2 {
			t.Run(fmt.Sprintf("writer %s, process %d", writer, asked), func(t *testing.T) {
				t.Parallel()
				all := newCluster(t, writer)
				p, ctx := all[asked], t.Context()
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				quiet := raw(`"dont_notify"`)
				put := func(id, before, after string) {
					t.Helper()
					must(p.PutRule(ctx, anna, push.Override, id, push.Draft{Actions: quiet, Before: before, After: after}))
				}
				put("a", "", "")
				put("b", "", "")
				put("c", "", "a")
				put("d", "c", "")
				must(p.Enable(ctx, anna, push.Override, "a", false))
				put("a", "", "") // keeps its place, and stays off
				put("b", "c", "a")
				must(p.DeleteRule(ctx, anna, push.Override, "d"))
				must(p.SetActions(ctx, anna, push.Underride, ".m.rule.message", raw()))
				must(p.Enable(ctx, anna, push.Override, push.RuleMaster, true))
				must(p.PutRule(ctx, anna, push.Room, "!old:test", push.Draft{Actions: quiet}))
				must(p.PutRule(ctx, anna, push.Override, "!old:test", push.Draft{
					Actions: quiet, Conditions: raw(`{"kind":"event_match","key":"room_id","pattern":"!old:test"}`),
				}))
				for range 2 {
					must(p.CopyRoomSettings(ctx, anna, "!old:test", "!new:test"))
				}
				for _, q := range all {
					rs, err := q.Rules(ctx, anna)
					must(err)
					if diff := cmp.Diff([]string{"!new:test", "!old:test", "-a", "b", "c"}, ids(rs, push.Override)); diff != "" {
						t.Errorf("%s: override rules (-want +got):\n%s", q.Name, diff)
					}
					if diff := cmp.Diff([]string{"!new:test", "!old:test"}, ids(rs, push.Room)); diff != "" {
						t.Errorf("%s: room rules (-want +got):\n%s", q.Name, diff)
					}
					if first := rs.Override[0]; first.ID != push.RuleMaster || !first.Enabled {
						t.Errorf("%s: the first rule is %+v, want the master rule, enabled", q.Name, first)
					}
					if r := rs.Find(push.Underride, ".m.rule.message"); len(r.Actions) != 0 {
						t.Errorf("%s: actions of .m.rule.message are %s, want none", q.Name, r.Actions)
					}
					if r := rs.Find(push.Override, "!new:test"); len(r.Conditions) != 1 || !strings.Contains(string(r.Conditions[0]), "!new:test") {
						t.Errorf("%s: the copied rule is for %s", q.Name, r.Conditions)
					}
					if r := rs.Find(push.Room, "!new:test"); string(r.Actions[0]) != `"dont_notify"` {
						t.Errorf("%s: actions are %s, want them as they were sent", q.Name, r.Actions)
					}
				}
				// A sync after the change has the rules, one after that does not.
				w := all[0]
				if writer == "worker" {
					w = all[1]
				}
				must(p.Client.WaitFor(ctx, "push_rules", writer, w.ids.Position()))
				now := p.Position()
				for name, tc := range map[string]struct {
					since replication.Position
					want  bool
				}{"initial": {replication.Position{}, true}, "before": {replication.NewPosition(1), true}, "after": {now, false}} {
					got, err := push.ForSync{Service: p.Service}.PushRules(ctx, anna, sync.Range{Since: tc.since, Now: now})
					if err != nil || (got != nil) != tc.want {
						t.Errorf("%s: sync has rules %t, %v, want %t", name, got != nil, err, tc.want)
					}
				}
			})
		}
	}
}

func TestBadRules(t *testing.T) {
	t.Parallel()
	all := newCluster(t, "master")
	ctx := t.Context()
	pattern := "cake"
	ok := push.Draft{Actions: raw(`"notify"`)}
	for name, tc := range map[string]struct {
		run  func(p *process) error
		code string
	}{
		"unknown kind": {func(p *process) error { return p.PutRule(ctx, anna, "postcontent", "x", ok) }, "M_INVALID_PARAM"},
		"server's id":  {func(p *process) error { return p.PutRule(ctx, anna, push.Room, ".m.rule.master", ok) }, "M_INVALID_PARAM"},
		"slash":        {func(p *process) error { return p.PutRule(ctx, anna, push.Room, "a/b", ok) }, "M_INVALID_PARAM"},
		"backslash":    {func(p *process) error { return p.PutRule(ctx, anna, push.Room, `a\b`, ok) }, "M_INVALID_PARAM"},
		"empty id":     {func(p *process) error { return p.PutRule(ctx, anna, push.Room, "", ok) }, "M_INVALID_PARAM"},
		"no actions":   {func(p *process) error { return p.PutRule(ctx, anna, push.Room, "x", push.Draft{}) }, "M_MISSING_PARAM"},
		"no action": {func(p *process) error {
			return p.PutRule(ctx, anna, push.Room, "x", push.Draft{Actions: raw(`"ring"`)})
		}, "M_INVALID_PARAM"},
		"number as action": {func(p *process) error { return p.SetActions(ctx, anna, push.Underride, ".m.rule.call", raw(`1`)) }, "M_INVALID_PARAM"},
		"null actions":     {func(p *process) error { return p.SetActions(ctx, anna, push.Underride, ".m.rule.call", nil) }, "M_MISSING_PARAM"},
		"no pattern":       {func(p *process) error { return p.PutRule(ctx, anna, push.Content, "x", ok) }, "M_MISSING_PARAM"},
		"bad condition": {func(p *process) error {
			return p.PutRule(ctx, anna, push.Override, "x", push.Draft{Actions: raw(), Conditions: raw(`{}`)})
		}, "M_INVALID_PARAM"},
		"condition of room": {func(p *process) error {
			return p.PutRule(ctx, anna, push.Room, "x", push.Draft{Actions: raw(), Conditions: raw(`{"kind":"x"}`)})
		}, "M_INVALID_PARAM"},
		"too large": {func(p *process) error {
			big := strings.Repeat(pattern, 1<<15)
			return p.PutRule(ctx, anna, push.Content, "x", push.Draft{Actions: raw(), Pattern: &big})
		}, "M_TOO_LARGE"},
		"before unknown": {func(p *process) error {
			return p.PutRule(ctx, anna, push.Room, "x", push.Draft{Actions: raw(), Before: "none"})
		}, "M_UNKNOWN"},
		"after default": {func(p *process) error {
			return p.PutRule(ctx, anna, push.Override, "x", push.Draft{Actions: raw(), After: ".m.rule.call"})
		}, "M_UNKNOWN"},
		"delete unknown":   {func(p *process) error { return p.DeleteRule(ctx, anna, push.Room, "x") }, "M_NOT_FOUND"},
		"delete default":   {func(p *process) error { return p.DeleteRule(ctx, anna, push.Override, ".m.rule.master") }, "M_NOT_FOUND"},
		"enable unknown":   {func(p *process) error { return p.Enable(ctx, anna, push.Override, ".m.rule.none", true) }, "M_NOT_FOUND"},
		"actions, kind":    {func(p *process) error { return p.SetActions(ctx, anna, push.Room, ".m.rule.master", raw()) }, "M_NOT_FOUND"},
		"get unknown kind": {func(p *process) error { _, err := p.Rule(ctx, anna, "postcontent", "x"); return err }, "M_NOT_FOUND"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range all {
				mx, ok := mxerr.As(tc.run(p))
				if !ok || mx.Code != tc.code || mx.Status >= 500 {
					t.Errorf("%s: got %v, want %s", p.Name, mx, tc.code)
				}
			}
		})
	}
	rows := 0
	if err := all[0].DB.QueryRow(ctx, `SELECT count(*) FROM push_rules`).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows were written, %v", rows, err)
	}
}
