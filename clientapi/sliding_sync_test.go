package clientapi_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestSlidingSyncForms(t *testing.T) {
	t.Parallel()
	a := newSyncAPI(t)
	stable := `{"lists":{"a":{"timeline_limit":1,"required_state":{"include":[{}],"lazy_members":true},"range":[0,9]}},"extensions":{"account_data":{"enabled":true}}}`
	code, res := a.do("alice", http.MethodPost, "/v4/sync", stable)
	if code != http.StatusOK || res.Get("pos").Str == "" || res.Get("lists.a.count").Raw != "0" || !res.Get("extensions.account_data.global").IsArray() || res.Get("lists.a.ops").Exists() {
		t.Fatalf("answer %d %s", code, res.Raw)
	}
	next := strings.Replace(stable, "{", fmt.Sprintf(`{"pos":%q,`, res.Get("pos").Str), 1)
	if code, res := a.do("alice", http.MethodPost, "/v4/sync", next); code != http.StatusOK {
		t.Errorf("the next request: %d %s", code, res.Raw)
	}
	if code, res := a.do("bob", http.MethodPost, "/v4/sync", next); code != http.StatusBadRequest || res.Get("errcode").Str != "M_UNKNOWN_POS" {
		t.Errorf("with the pos of somebody else: %d %s", code, res.Raw)
	}

	const path = "/unstable/org.matrix.simplified_msc3575/sync"
	unstable := `{"conn_id":"c","lists":{"a":{"timeline_limit":1,"required_state":[["m.room.member","$ME"],["m.room.member","$LAZY"],["*",""]],"ranges":[[0,9]]}}}`
	code, res = a.do("alice", http.MethodPost, path+"?timeout=0", unstable)
	if code != http.StatusOK || !res.Get("lists.a.ops").IsArray() {
		t.Fatalf("answer %d %s", code, res.Raw)
	}
	if code, res := a.do("alice", http.MethodPost, path+"?pos="+url.QueryEscape(res.Get("pos").Str), unstable); code != http.StatusOK {
		t.Errorf("the next request: %d %s", code, res.Raw)
	}
}

func TestSlidingSyncBadInput(t *testing.T) {
	t.Parallel()
	a := newSyncAPI(t)
	list := func(body string) string { return `{"lists":{"a":` + body + `}}` }
	many := strings.Repeat(`"%d":{"timeline_limit":1,"required_state":{}},`, 101)
	args := make([]any, 101)
	for i := range args {
		args[i] = i
	}
	many = strings.TrimSuffix(fmt.Sprintf(many, args...), ",")
	for name, tc := range map[string]struct{ body, errcode string }{
		"no JSON":                {`{`, "M_NOT_JSON"},
		"no object":              {`[]`, "M_BAD_JSON"},
		"lists of another type":  {`{"lists":[]}`, "M_BAD_JSON"},
		"no limit":               {list(`{"required_state":{}}`), "M_BAD_JSON"},
		"no required_state":      {list(`{"timeline_limit":1}`), "M_BAD_JSON"},
		"odd required_state":     {list(`{"timeline_limit":1,"required_state":[]}`), "M_BAD_JSON"},
		"negative limit":         {list(`{"timeline_limit":-1,"required_state":{}}`), "M_INVALID_PARAM"},
		"negative range":         {list(`{"timeline_limit":1,"required_state":{},"range":[-1,2]}`), "M_INVALID_PARAM"},
		"range backwards":        {list(`{"timeline_limit":1,"required_state":{},"range":[3,2]}`), "M_INVALID_PARAM"},
		"presence there is not":  {`{"set_presence":"away"}`, "M_INVALID_PARAM"},
		"negative timeout":       {`{"timeout":-1}`, "M_INVALID_PARAM"},
		"too many lists":         {`{"lists":{` + many + `}}`, "M_INVALID_PARAM"},
		"too many subscriptions": {`{"room_subscriptions":{` + many + `}}`, "M_INVALID_PARAM"},
		"long conn_id":           {`{"conn_id":"` + strings.Repeat("c", 300) + `"}`, "M_INVALID_PARAM"},
		"empty pos":              {`{"pos":""}`, "M_UNKNOWN_POS"},
		"odd pos":                {`{"pos":"s1_5"}`, "M_UNKNOWN_POS"},
		"pos of no connection":   {`{"pos":"c9.9.s1_5"}`, "M_UNKNOWN_POS"},
	} {
		if code, res := a.do("alice", http.MethodPost, "/v4/sync", tc.body); code != http.StatusBadRequest || res.Get("errcode").Str != tc.errcode {
			t.Errorf("%s: %d %s, want 400 %s", name, code, res.Raw, tc.errcode)
		}
	}
	const path = "/unstable/org.matrix.simplified_msc3575/sync"
	for name, body := range map[string]string{
		"lazy of another type":   list(`{"timeline_limit":1,"required_state":[["m.room.name","$LAZY"]]}`),
		"required_state objects": list(`{"timeline_limit":1,"required_state":{}}`),
	} {
		if code, res := a.do("alice", http.MethodPost, path, body); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s, want 400", name, code, res.Raw)
		}
	}
	if code, res := a.do("", http.MethodPost, "/v4/sync", `{}`); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", code, res.Raw)
	}
}
