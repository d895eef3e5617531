package federation

import (
	"encoding/json"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
)

const (
	// maxJoinMembers is how many members of a room are taken from the response to a join. Those of larger rooms are fetched
	// while people use the room, also where the server does not know that it may leave them out.
	maxJoinMembers = 2000
	// maxChainBytes bounds the auth chains that are kept of such a response. What is missing is asked for.
	maxChainBytes = 64 << 20
)

// joinResponse collects the events of the response to a join.
type joinResponse struct {
	// needed are the members whose events the join itself needs.
	needed map[string]bool
	state  []json.RawMessage
	// members are how many members are among them, left how many were left out, of the servers in servers.
	members, left int
	servers       []string
	known         map[string]bool

	chain      []json.RawMessage
	chainBytes int
}

func newJoinResponse(join *event.Event) *joinResponse {
	r := &joinResponse{needed: make(map[string]bool), known: make(map[string]bool)}
	for _, t := range join.AuthTuples() {
		if t.Type == event.TypeMember {
			r.needed[t.StateKey] = true
		}
	}
	return r
}

func (r *joinResponse) sink() JoinSink {
	return JoinSink{
		State: func(e json.RawMessage) error {
			r.addState(e)
			return nil
		},
		AuthChain: func(e json.RawMessage) error {
			if r.chainBytes += len(e); r.chainBytes <= maxChainBytes {
				r.chain = append(r.chain, e)
			}
			return nil
		},
	}
}

func (r *joinResponse) addState(e json.RawMessage) {
	f := gjson.GetManyBytes(e, "type", "state_key", "content.membership")
	if f[0].Str == event.TypeMember && !r.needed[f[1].Str] {
		if server := event.ServerName(f[1].Str); f[2].Str == event.MembershipJoin && !r.known[server] && len(r.servers) < maxJoinServers {
			r.known[server] = true
			r.servers = append(r.servers, server)
		}
		if r.members >= maxJoinMembers {
			r.left++
			return
		}
		r.members++
	}
	r.state = append(r.state, e)
}

// chainOf returns the events of the auth chain that lead up to the given ones: all of them, unless members were left out.
func (r *joinResponse) chainOf(v *event.Version, events []*event.Event) []json.RawMessage {
	if r.left == 0 {
		return r.chain
	}
	type link struct {
		raw  json.RawMessage
		auth []string
	}
	links := make(map[string]link, len(r.chain))
	for _, raw := range r.chain {
		if e, err := event.Parse(v, raw); err == nil {
			// The names would keep the whole event in memory.
			auth := make([]string, 0, len(e.AuthEvents()))
			for _, a := range e.AuthEvents() {
				auth = append(auth, strings.Clone(a))
			}
			links[strings.Clone(e.ID())] = link{raw, auth}
		}
	}
	var todo []string
	for _, e := range events {
		todo = append(todo, e.AuthEvents()...)
	}
	var out []json.RawMessage
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if l, ok := links[id]; ok {
			delete(links, id)
			out = append(out, l.raw)
			todo = append(todo, l.auth...)
		}
	}
	return out
}
