package e2e

import (
	"encoding/json"
	"testing"

	"github.com/weft-im/weft/clientapi"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/homeservertest"
)

// An initial /sync has m.push_rules, also of who never changed a rule; a later one has it after a change, whichever process
// made the change.
func TestPushRulesInSync(t *testing.T) {
	t.Parallel()
	c := homeservertest.NewCluster(t, homeservertest.ClusterConfig{
		Workers: []homeservertest.Worker{{Name: "worker1"}},
		Parts: func(core *homeserver.Core) homeserver.Config {
			return core.Process([]homeserver.Group{
				clientapi.Registration(core.Accounts), clientapi.PushRules(core.Push), clientapi.Sync(core.Sync),
			})
		},
	})
	var user struct {
		Token string `json:"access_token"`
	}
	c.Main().Call(t, "POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": "bob", "password": "secret", "auth": map[string]string{"type": "m.login.dummy"},
	}, &user)
	since := map[string]string{}
	// sync returns whether the rule .m.rule.master is on, and whether there were any rules.
	sync := func(process string) (master, found bool) {
		t.Helper()
		var out struct {
			NextBatch   string `json:"next_batch"`
			AccountData struct {
				Events []struct {
					Type    string
					Content struct {
						Global map[string][]struct {
							RuleID  string `json:"rule_id"`
							Enabled bool
						}
					}
				}
			} `json:"account_data"`
		}
		path := "/_matrix/client/v3/sync"
		if token := since[process]; token != "" {
			path += "?since=" + token
		}
		c.Process(process).Call(t, "GET", path, user.Token, nil, &out)
		since[process] = out.NextBatch
		for _, e := range out.AccountData.Events {
			if e.Type != "m.push_rules" {
				continue
			}
			for _, r := range e.Content.Global["override"] {
				if r.RuleID == ".m.rule.master" {
					return r.Enabled, true
				}
			}
		}
		return false, false
	}
	for _, p := range c.Names() {
		if master, found := sync(p); !found || master {
			t.Errorf("initial sync on %s: rules found %v, master on %v; want them, and it off", p, found, master)
		}
		if _, found := sync(p); found {
			t.Errorf("sync on %s shows rules that have not changed", p)
		}
	}
	on := true
	for _, p := range c.Names() {
		c.Process(p).Call(t, "PUT", "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled", user.Token,
			map[string]bool{"enabled": on}, &json.RawMessage{})
		for _, q := range c.Names() {
			if master, found := sync(q); !found || master != on {
				t.Errorf("sync on %s after a change on %s: rules found %v, master on %v; want them, and it %v", q, p, found, master, on)
			}
		}
		on = !on
	}
}
