package federation

import (
	"context"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/store"
	"github.com/weft-im/weft/homeserver/view"
	"github.com/weft-im/weft/storage"
)

// shown returns events of a room as a server in it may see them: whole, or redacted where the history visibility keeps
// their content from everybody on that server. It costs a few lookups in the distinct states of the events.
//
// Spec: client-server API, "Room History Visibility" (v1.19); a server sees what one of its users may.
func (in *Inbound) shown(ctx context.Context, r *store.Room, server string, events []*store.Event) ([]*event.Event, error) {
	out := make([]*event.Event, len(events))
	lookups := make([]store.StateLookup, len(events))
	for i, e := range events {
		out[i] = e.Event
		lookups[i] = store.StateLookup{Root: e.StateRoot, Tuples: []event.Tuple{{Type: event.TypeHistoryVisibility}}}
	}
	visibility, err := in.store.StateBatch(ctx, lookups)
	if err != nil {
		return nil, fmt.Errorf("read history visibility: %w", err)
	}
	var closed []int
	for i, e := range events {
		// Of a change of the visibility, the looser of the two counts.
		if e.Flags&store.Outlier == 0 && hides(visibility[i][0]) && (!e.Is(event.TypeHistoryVisibility, "") || hides(e)) {
			closed = append(closed, i)
		}
	}
	if len(closed) == 0 {
		return out, nil
	}
	users, err := storage.ListServerUsers(ctx, in.cfg.DB, r.NID, server, maxWitnesses)
	if err != nil {
		return nil, err
	}
	closed = slices.DeleteFunc(closed, func(i int) bool {
		e := events[i]
		return admits(e, visibilityOf(visibility[i][0]) == view.Invited) && event.ServerName(stateKey(e)) == server
	})
	// As a rule one of the first has been there all the time.
	for size := firstWitnesses; len(closed) > 0 && len(users) > 0; size = len(users) {
		n := min(size, len(users))
		if closed, err = in.stillClosed(ctx, events, visibility, closed, users[:n]); err != nil {
			return nil, err
		}
		users = users[n:]
	}
	for _, i := range closed {
		out[i] = out[i].Redacted()
	}
	return out, nil
}

// firstWitnesses are how many of a server's users are asked about first, maxWitnesses how many at most.
const (
	firstWitnesses = 20
	maxWitnesses   = 1000
)

// stillClosed returns those of the closed events at which none of the users was where the visibility wants them.
func (in *Inbound) stillClosed(ctx context.Context, events []*store.Event, visibility [][]*store.Event, closed []int, users []string) ([]int, error) {
	tuples := make([]event.Tuple, len(users))
	for i, u := range users {
		tuples[i] = event.Tuple{Type: event.TypeMember, StateKey: u}
	}
	lookups := make([]store.StateLookup, len(closed))
	for n, i := range closed {
		lookups[n] = store.StateLookup{Root: events[i].StateRoot, Tuples: tuples}
	}
	members, err := in.store.StateBatch(ctx, lookups)
	if err != nil {
		return nil, fmt.Errorf("read memberships: %w", err)
	}
	var still []int
	for n, i := range closed {
		invited := visibilityOf(visibility[i][0]) == view.Invited
		if !slices.ContainsFunc(members[n], func(m *store.Event) bool { return m != nil && admits(m, invited) }) {
			still = append(still, i)
		}
	}
	return still, nil
}

// admits reports whether a membership opens the history, also to those who are invited where invited is set.
func admits(e *store.Event, invited bool) bool {
	m := e.Membership()
	return m == event.MembershipJoin || invited && m == event.MembershipInvite
}

func stateKey(e *store.Event) string {
	sk, _ := e.StateKey()
	return sk
}

// visibilityOf returns the history visibility that an event sets, shared where there is none.
func visibilityOf(e *store.Event) string {
	if e == nil {
		return view.Shared
	}
	return gjson.GetBytes(e.Content(), "history_visibility").Str
}

// hides reports whether a history visibility keeps events from servers that were not in the room.
func hides(e *store.Event) bool {
	v := visibilityOf(e)
	return v == view.Invited || v == view.Joined
}
